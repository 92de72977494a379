//! Dead letters and their replay.

use chrono::{DateTime, Utc};

use super::{
    rows::{LetterRow, Source},
    state::State,
};
use crate::{
    ids::{TenantId, TurnId},
    port::store::{DeadLetter, NewDeadLetter, Replayed, StoreError, StoreResult},
    turn::{Tries, TurnStatus},
};

impl State {
    /// Adds a dead letter.
    pub(super) fn bury(&mut self, letter: NewDeadLetter, source: Source, now: DateTime<Utc>) {
        let id = self.draw();
        let letter = DeadLetter {
            id,
            tenant: letter.tenant,
            topic: letter.topic,
            turn_id: letter.turn_id,
            event: letter.event,
            error: letter.error,
            attempts: letter.attempts,
            created_at: now,
            replayed_at: None,
            trace: letter.trace,
        };
        self.letters.insert(id, LetterRow { letter, source });
    }

    /// Returns a dead letter that this tenant may see; `None` sees all.
    pub(super) fn letter(&self, tenant: Option<&TenantId>, id: i64) -> StoreResult<&LetterRow> {
        let visible = |row: &&LetterRow| {
            tenant.is_none_or(|tenant| row.letter.tenant.as_ref() == Some(tenant))
        };
        self.letters.get(&id).filter(visible).ok_or(StoreError::NotFound)
    }

    pub(super) fn replay(
        &mut self,
        tenant: Option<&TenantId>,
        id: i64,
        now: DateTime<Utc>,
    ) -> StoreResult<Replayed> {
        let source = self.letter(tenant, id)?.source.clone();
        let replayed = match source {
            Source::Turn(turn_id) => self.replay_turn(turn_id, now),
            Source::Write(write) => {
                let waits = self.writes.values().any(|row| row.write == write);
                let place = (write.memory.tenant.clone(), write.memory.memory_id);
                let newest = self.replica.get(&place).map_or(0, |row| row.write.memory.version);
                if waits || newest >= write.memory.version {
                    Replayed::Already
                } else {
                    self.queue_write(write, now);
                    Replayed::Requeued
                }
            }
            Source::Row(entry) => {
                let already = self.letter(tenant, id)?.letter.replayed_at.is_some();
                if already {
                    Replayed::Already
                } else {
                    self.outbox.insert(entry.row.id, entry);
                    Replayed::Requeued
                }
            }
            Source::Buried => {
                return Err(StoreError::Refused("the record cannot become work".to_owned()));
            }
        };
        if replayed != Replayed::Already
            && let Some(row) = self.letters.get_mut(&id)
        {
            row.letter.replayed_at = Some(now);
        }
        Ok(replayed)
    }

    fn replay_turn(&mut self, turn_id: TurnId, now: DateTime<Utc>) -> Replayed {
        let Some(row) = self.turn_mut(turn_id) else { return Replayed::Already };
        if row.turn.status != TurnStatus::Failed {
            return Replayed::Already;
        }
        row.turn.status = TurnStatus::Queued;
        row.turn.replay += 1;
        row.turn.tries = Tries::default();
        row.turn.reason = None;
        row.turn.cancel_requested = false;
        row.turn.worked_ms = 0;
        row.not_before = None;
        row.ready_at = now;
        row.epoch = None;
        row.ended_at = None;
        Replayed::Turn(row.turn.session_id)
    }
}
