//! How turns end: by their owner, by a cancel, by the deletion of their session.

use chrono::{DateTime, Utc};

use super::{rows::Source, state::State};
use crate::{
    compose,
    event::{Event, EventType},
    ids::{EventId, SessionId, TenantId, TurnId},
    memory::{MemoryOp, MemoryWrite},
    port::store::{Appended, CancelOutcome, CancelScope, Ending, StoreError, StoreResult},
    topic::Topic,
    turn::{StepStatus, Turn, TurnStatus},
};

/// Checks that status, type and id of an ending say the same.
fn agrees(turn: &Turn, ending: &Ending) -> StoreResult<()> {
    let event_type = match ending.status {
        TurnStatus::Done => Some(EventType::Final),
        TurnStatus::Failed => Some(EventType::Error),
        TurnStatus::Cancelled => Some(EventType::Cancelled),
        TurnStatus::Queued | TurnStatus::Running | TurnStatus::Waiting => None,
    };
    let event = &ending.event;
    let agrees = Some(event.event_type) == event_type
        && event.event_id == EventId::terminal(turn.turn_id, turn.replay)
        && event.session_id == turn.session_id;
    if agrees {
        return Ok(());
    }
    Err(StoreError::Refused(format!(
        "`{}` does not end turn `{}` as `{}`",
        event.event_type.as_str(),
        turn.turn_id,
        ending.status.as_str()
    )))
}

impl State {
    pub(super) fn end(
        &mut self,
        turn_id: TurnId,
        epoch: u64,
        ending: Ending,
        now: DateTime<Utc>,
    ) -> StoreResult<Appended> {
        if let Some(stored) = self.ended_by(turn_id, epoch, now) {
            return Ok(stored);
        }
        let row = self.fenced(turn_id, epoch)?;
        agrees(&row.turn, &ending)?;
        row.turn.status = ending.status;
        row.turn.reason = ending.reason;
        row.turn.waiting_since = None;
        row.ended_at = Some(now);
        let (tenant, session_id) = (row.turn.tenant.clone(), row.turn.session_id);
        self.withdraw(turn_id);
        let seq = self.append(now, ending.event);
        for write in ending.memory {
            self.write_memory(write, now);
        }
        *self.tokens.entry((tenant, now.date_naive())).or_default() += ending.usage.total();
        if let Some(letter) = ending.dead_letter {
            self.bury(letter, Source::Turn(turn_id), now);
        }
        self.release(session_id, now);
        Ok(self.appended(session_id, seq, now))
    }

    /// Returns what was stored when the owner of this epoch ended the turn.
    fn ended_by(&self, turn_id: TurnId, epoch: u64, now: DateTime<Utc>) -> Option<Appended> {
        let row = self.turn(turn_id)?;
        if !row.turn.status.is_over() || row.epoch != Some(epoch) {
            return None;
        }
        let seq = self.terminal_of(row.turn.event_id)?.seq?;
        Some(self.appended(row.turn.session_id, seq, now))
    }

    pub(super) fn appended(&self, session_id: SessionId, seq: u64, now: DateTime<Utc>) -> Appended {
        Appended { seq, more: self.claimable_turn(session_id, now).is_some() }
    }

    pub(super) fn cancel(
        &mut self,
        tenant: &TenantId,
        session_id: SessionId,
        scope: CancelScope,
        now: DateTime<Utc>,
    ) -> StoreResult<CancelOutcome> {
        self.alive(tenant, session_id)?;
        let mut ended = Vec::new();
        let mut flagged = None;
        for turn_id in self.meant_by(session_id, scope)? {
            self.withdraw(turn_id);
            let Some(row) = self.turn_mut(turn_id) else { continue };
            if row.turn.status == TurnStatus::Running {
                row.turn.cancel_requested = true;
                flagged = Some(turn_id);
            } else {
                ended.extend(self.end_cancelled(turn_id, "cancelled before it ran", now));
            }
        }
        // A turn of the session that nobody asked to cancel may run on.
        let runs = self.sessions.get(&session_id).is_some_and(|row| row.running.is_some());
        if !ended.is_empty() && !runs {
            self.release(session_id, now);
        }
        Ok(match (ended.is_empty(), flagged) {
            (true, None) => CancelOutcome::Nothing,
            (true, Some(turn_id)) => CancelOutcome::Flagged(turn_id),
            (false, None) => CancelOutcome::Ended(ended),
            (false, Some(turn_id)) => CancelOutcome::Both(ended, turn_id),
        })
    }

    fn meant_by(&self, session_id: SessionId, scope: CancelScope) -> StoreResult<Vec<TurnId>> {
        let unfinished =
            self.turns_of(session_id).map(|row| &row.turn).filter(|turn| !turn.status.is_over());
        match scope {
            CancelScope::Lowest => Ok(unfinished.take(1).map(|turn| turn.turn_id).collect()),
            CancelScope::All => Ok(unfinished.map(|turn| turn.turn_id).collect()),
            CancelScope::Of(event_id) => {
                let mut turns = self.turns_of(session_id).map(|row| &row.turn);
                let turn =
                    turns.find(|turn| turn.event_id == event_id).ok_or(StoreError::NotFound)?;
                Ok(if turn.status.is_over() { Vec::new() } else { vec![turn.turn_id] })
            }
        }
    }

    /// Ends a turn that nobody runs; returns its terminal event with its place.
    fn end_cancelled(
        &mut self,
        turn_id: TurnId,
        reason: &str,
        now: DateTime<Utc>,
    ) -> Option<Event> {
        let row = self.turn_mut(turn_id)?;
        row.turn.status = TurnStatus::Cancelled;
        row.turn.reason = Some(reason.to_owned());
        row.turn.waiting_since = None;
        row.epoch = None;
        row.ended_at = Some(now);
        let event = compose::cancelled(&row.turn, row.persona_id.as_deref(), reason);
        let seq = Some(self.append(now, event.clone()));
        Some(Event { seq, ..event })
    }

    /// Takes back the steps of a turn that have not begun, and what asks for them.
    fn withdraw(&mut self, turn_id: TurnId) {
        for row in self.steps.values_mut() {
            if row.step.turn_id == turn_id && row.step.status == StepStatus::Requested {
                row.step.status = StepStatus::Withdrawn;
                row.step.result = serde_json::json!(compose::withdrawn());
                let header = row.step.effect_id.to_string();
                self.outbox.retain(|_, entry| {
                    entry.row.topic != Topic::ToolRequests
                        || entry.row.headers.get("event_id") != Some(&header)
                });
            }
        }
    }

    pub(super) fn delete_session(
        &mut self,
        tenant: &TenantId,
        session_id: SessionId,
        forget_memories: bool,
        now: DateTime<Utc>,
    ) -> StoreResult<()> {
        let row = self
            .sessions
            .get_mut(&session_id)
            .filter(|row| row.session.tenant == *tenant)
            .ok_or(StoreError::NotFound)?;
        if !row.deleted {
            row.deleted = true;
            row.epoch += 1;
            self.drop_content(session_id);
            for turn_id in self.meant_by(session_id, CancelScope::All)? {
                self.end_cancelled(turn_id, "session deleted", now);
            }
            self.release(session_id, now);
        }
        if forget_memories {
            self.forget_session(tenant, session_id, now);
        }
        Ok(())
    }

    fn drop_content(&mut self, session_id: SessionId) {
        self.logs.remove(&session_id);
        self.steps.retain(|_, row| row.step.session_id != session_id);
        self.outbox.retain(|_, entry| {
            entry.row.session_id != session_id || entry.row.topic == Topic::MemoryWal
        });
        self.attachments.retain(|_, (upload, _)| upload.session_id != Some(session_id));
        let turns: Vec<TurnId> = self.turns_of(session_id).map(|row| row.turn.turn_id).collect();
        self.letters.retain(|_, row| !row.letter.turn_id.is_some_and(|id| turns.contains(&id)));
    }

    /// Writes a delete for each memory of the session.
    fn forget_session(&mut self, tenant: &TenantId, session_id: SessionId, now: DateTime<Utc>) {
        for mut memory in self.living_memories(tenant) {
            if memory.session_id != Some(session_id) {
                continue;
            }
            memory.event_id = compose::forgetting(tenant, memory.memory_id, memory.version);
            memory.content.clear();
            memory.metadata.clear();
            memory.written_at = now;
            self.write_memory(MemoryWrite { op: MemoryOp::Delete, memory }, now);
        }
    }
}
