//! Who runs which turn.

use std::{
    collections::{BTreeMap, HashSet},
    time::Duration,
};

use async_trait::async_trait;
use chrono::{DateTime, Utc};

use super::{FakeStore, rows::StepRow, state::State};
use crate::{
    compose, decide,
    ids::{Owner, SessionId, TenantId, TurnId},
    port::store::{
        Appended, Backlog, Beat, CancelOutcome, CancelScope, ClaimedTurn, Ending, Inherited,
        JournalEntry, LayDown, StoreResult, Turns,
    },
    topic::Group,
    turn::{Step, StepStatus, Tries, TurnStatus},
};

#[async_trait]
impl Turns for FakeStore {
    async fn inherit(&self, _owner: &Owner) -> StoreResult<Inherited> {
        self.run("inherit", |state, now| Ok(state.inherit(now)))
    }

    async fn claim(
        &self,
        owner: &Owner,
        session_id: SessionId,
    ) -> StoreResult<Option<ClaimedTurn>> {
        self.run("claim", |state, now| Ok(state.claim(owner, session_id, now)))
    }

    async fn claimable(&self, idle_for: Duration, limit: u32) -> StoreResult<Vec<SessionId>> {
        self.run("claimable", |state, now| Ok(state.claimable(idle_for, limit, now)))
    }

    async fn beat(&self, turn_id: TurnId, epoch: u64) -> StoreResult<Beat> {
        self.run("beat", |state, _| {
            let row = state.fenced(turn_id, epoch)?;
            Ok(Beat { cancel_requested: row.turn.cancel_requested })
        })
    }

    async fn journal(&self, turn_id: TurnId, epoch: u64, entry: JournalEntry) -> StoreResult<()> {
        self.run("journal", |state, now| state.journal(turn_id, epoch, entry, now))
    }

    async fn steps(&self, turn_id: TurnId) -> StoreResult<Vec<Step>> {
        self.run("steps", |state, _| Ok(state.journal_of(turn_id)))
    }

    async fn end(&self, turn_id: TurnId, epoch: u64, ending: Ending) -> StoreResult<Appended> {
        self.run("end", |state, now| state.end(turn_id, epoch, ending, now))
    }

    async fn lay_down(&self, turn_id: TurnId, epoch: u64, why: LayDown) -> StoreResult<()> {
        self.run("lay_down", |state, now| {
            state.fenced(turn_id, epoch)?;
            state.lay_down(turn_id, &why, now);
            Ok(())
        })
    }

    async fn lay_down_orphans(
        &self,
        owner: &Owner,
        alive: &[TurnId],
    ) -> StoreResult<Vec<SessionId>> {
        self.run("lay_down_orphans", |state, now| {
            let orphans: Vec<(SessionId, TurnId)> = state
                .sessions
                .iter()
                .filter(|(_, row)| row.owner.as_ref() == Some(owner))
                .filter_map(|(session_id, row)| Some((*session_id, row.running?)))
                .filter(|(_, turn_id)| !alive.contains(turn_id))
                .collect();
            for (_, turn_id) in &orphans {
                state.lay_down(*turn_id, &LayDown::Drained, now);
            }
            Ok(orphans.into_iter().map(|(session_id, _)| session_id).collect())
        })
    }

    async fn cancel(
        &self,
        tenant: &TenantId,
        session_id: SessionId,
        scope: CancelScope,
    ) -> StoreResult<CancelOutcome> {
        self.run("cancel", |state, now| state.cancel(tenant, session_id, scope, now))
    }

    async fn backlog(&self) -> StoreResult<Backlog> {
        self.run("backlog", |state, now| Ok(state.backlog(now)))
    }

    async fn tokens_today(&self, tenant: &TenantId) -> StoreResult<u64> {
        self.run("tokens_today", |state, now| {
            Ok(state.tokens.get(&(tenant.clone(), now.date_naive())).copied().unwrap_or(0))
        })
    }
}

impl State {
    fn inherit(&mut self, now: DateTime<Utc>) -> Inherited {
        let mut inherited = Inherited::default();
        let started: HashSet<TurnId> = self
            .steps
            .values()
            .filter(|row| row.step.status == StepStatus::Started)
            .map(|row| row.step.turn_id)
            .collect();
        for row in self.turns.values_mut() {
            if row.turn.status == TurnStatus::Running {
                row.turn.tries = decide::after_death(row.turn.tries, row.suspect);
                row.turn.status = TurnStatus::Queued;
                row.suspect = true;
                row.epoch = None;
                row.ready_at = now;
                inherited.turns += 1;
            } else if !row.turn.status.is_over() && started.contains(&row.turn.turn_id) {
                row.suspect = true;
            }
        }
        let sessions: Vec<SessionId> = self.sessions.keys().copied().collect();
        for session_id in sessions {
            self.release(session_id, now);
            if let Some(session) = self.sessions.get_mut(&session_id) {
                session.epoch += 1;
            }
        }
        for lost in self.lose_steps(now, |_| true) {
            match lost {
                StepStatus::Requested => inherited.steps_again += 1,
                StepStatus::Unknown => inherited.steps_unknown += 1,
                _ => {}
            }
        }
        inherited
    }

    fn claim(
        &mut self,
        owner: &Owner,
        session_id: SessionId,
        now: DateTime<Utc>,
    ) -> Option<ClaimedTurn> {
        let (turn_id, n) = {
            let turn = &self.claimable_turn(session_id, now)?.turn;
            (turn.turn_id, turn.n)
        };
        let session = self.sessions.get_mut(&session_id)?;
        session.epoch += 1;
        session.owner = Some(owner.clone());
        session.running = Some(turn_id);
        let epoch = session.epoch;
        let row = self.turns.get_mut(&(session_id, n))?;
        row.epoch = Some(epoch);
        row.not_before = None;
        row.worked_before = row.turn.worked_ms;
        row.turn.status = TurnStatus::Running;
        row.turn.reason = None;
        row.turn.tries.attempts += 1;
        let turn = row.turn.clone();
        if self.bus_is_local {
            self.acknowledge_where(Group::ConversationWorker, |row| row.session_id == session_id);
        }
        let log = self.logs.get(&session_id)?;
        let event = log.iter().find(|event| event.event_id == turn.event_id)?.clone();
        Some(ClaimedTurn { epoch, event, journal: self.journal_of(turn_id), turn })
    }

    fn claimable(&self, idle_for: Duration, limit: u32, now: DateTime<Utc>) -> Vec<SessionId> {
        let mut waiting: Vec<(DateTime<Utc>, SessionId)> = self
            .sessions
            .iter()
            .filter_map(|(session_id, session)| {
                let row = self.claimable_turn(*session_id, now)?;
                Some((row.ready_at.max(session.free_since), *session_id))
            })
            .filter(|(since, _)| *since + idle_for <= now)
            .collect();
        waiting.sort();
        waiting.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
        waiting.into_iter().map(|(_, session_id)| session_id).collect()
    }

    fn journal(
        &mut self,
        turn_id: TurnId,
        epoch: u64,
        entry: JournalEntry,
        now: DateTime<Utc>,
    ) -> StoreResult<()> {
        let row = self.fenced(turn_id, epoch)?;
        row.turn.worked_ms = row.turn.worked_ms.max(row.worked_before + entry.worked_ms);
        let row = row.clone();
        let steps: Vec<Step> = entry.answer.into_iter().chain(entry.calls).collect();
        let mut news = false;
        for step in steps {
            let key = (turn_id, step.step, step.index);
            if self.step_mut(step.effect_id).is_some() {
                continue;
            }
            news = true;
            if step.status == StepStatus::Requested {
                let record = compose::tool_request_record(&step, Self::place_of(&row));
                self.send(now, &row.turn.tenant, record);
            }
            let place = u64::try_from(self.draw()).unwrap_or(0);
            self.steps.insert(key, StepRow { step, owner: None, place });
        }
        if news {
            let row = self.fenced(turn_id, epoch)?;
            row.turn.tries = Tries::default();
            row.turn.waiting_since = None;
        }
        Ok(())
    }

    /// Returns the steps of a turn, in order.
    pub(super) fn journal_of(&self, turn_id: TurnId) -> Vec<Step> {
        let steps = self.steps.range((turn_id, 0, 0)..=(turn_id, u32::MAX, u32::MAX));
        steps.map(|(_, row)| row.step.clone()).collect()
    }

    fn lay_down(&mut self, turn_id: TurnId, why: &LayDown, now: DateTime<Utc>) {
        let Some(row) = self.turn_mut(turn_id) else { return };
        let laid = decide::lay_down(row.turn.tries, row.turn.waiting_since, why, now);
        row.turn.status = laid.status;
        row.turn.tries = laid.tries;
        row.turn.waiting_since = laid.waiting_since;
        row.turn.reason = laid.reason;
        row.not_before = laid.not_before;
        row.ready_at = laid.not_before.unwrap_or(now);
        row.epoch = None;
        let session_id = row.turn.session_id;
        self.release(session_id, now);
    }

    fn backlog(&self, now: DateTime<Utc>) -> Backlog {
        let mut tenants: BTreeMap<TenantId, u64> = BTreeMap::new();
        let mut oldest = now;
        let unfinished = self.turns.values().filter(|row| !row.turn.status.is_over());
        for row in unfinished {
            *tenants.entry(row.turn.tenant.clone()).or_default() += 1;
            if row.turn.status == TurnStatus::Queued {
                oldest = oldest.min(row.turn.created_at);
            }
        }
        let total = tenants.values().sum();
        let mut tenants: Vec<(TenantId, u64)> = tenants.into_iter().collect();
        tenants.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        let oldest_ms = u64::try_from((now - oldest).num_milliseconds()).unwrap_or(0);
        Backlog { total, tenants, oldest_ms }
    }
}
