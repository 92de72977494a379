//! Everything that operators and clients keep besides conversations.

use std::time::Duration;

use async_trait::async_trait;
use chrono::{DateTime, DurationRound, TimeDelta, Utc};
use uuid::Uuid;

use super::{
    FakeStore,
    rows::{KeyRow, page, parse},
    state::State,
};
use crate::{
    access::{ApiKey, StoredKey},
    decide::KeyScope,
    ids::TenantId,
    memory::MemoryOp,
    message::Idempotency,
    persona::Persona,
    port::store::{
        Attachment, DeadLetter, Depths, Page, RecordedAnswer, Registry, Replayed, Retention,
        StoreError, StoreResult,
    },
};

/// How many rows of each kind one call retires.
const RETIRED_AT_ONCE: usize = 1_000;

#[async_trait]
impl Registry for FakeStore {
    async fn dead_letters(
        &self,
        tenant: Option<&TenantId>,
        cursor: Option<&str>,
        limit: u32,
    ) -> StoreResult<Page<DeadLetter>> {
        self.run("dead_letters", |state, _| {
            let before: Option<i64> = parse(cursor)?;
            let letters = state
                .letters
                .values()
                .rev()
                .map(|row| &row.letter)
                .filter(|letter| tenant.is_none() || letter.tenant.as_ref() == tenant)
                .filter(|letter| before.is_none_or(|before| letter.id < before))
                .cloned()
                .collect();
            Ok(page(letters, limit, |letter: &DeadLetter| letter.id.to_string()))
        })
    }

    async fn dead_letter(&self, tenant: Option<&TenantId>, id: i64) -> StoreResult<DeadLetter> {
        self.run("dead_letter", |state, _| Ok(state.letter(tenant, id)?.letter.clone()))
    }

    async fn replay(&self, tenant: Option<&TenantId>, id: i64) -> StoreResult<Replayed> {
        self.run("replay", |state, now| state.replay(tenant, id, now))
    }

    async fn drop_dead_letter(&self, tenant: Option<&TenantId>, id: i64) -> StoreResult<()> {
        self.run("drop_dead_letter", |state, _| {
            state.letter(tenant, id)?;
            state.letters.remove(&id);
            Ok(())
        })
    }

    async fn add_key(&self, key: StoredKey) -> StoreResult<()> {
        self.run("add_key", |state, _| {
            state.api_keys.insert(key.key.key_id.clone(), key);
            Ok(())
        })
    }

    async fn key(&self, key_id: &str) -> StoreResult<StoredKey> {
        self.run("key", |state, _| state.api_keys.get(key_id).cloned().ok_or(StoreError::NotFound))
    }

    async fn keys(&self, tenant: Option<&TenantId>) -> StoreResult<Vec<ApiKey>> {
        self.run("keys", |state, _| {
            let keys = state.api_keys.values().map(|stored| &stored.key);
            let mut keys: Vec<ApiKey> =
                keys.filter(|key| tenant.is_none_or(|id| key.tenant == *id)).cloned().collect();
            keys.sort_by(|one, other| {
                (other.created_at, &other.key_id).cmp(&(one.created_at, &one.key_id))
            });
            Ok(keys)
        })
    }

    async fn revoke_key(&self, tenant: Option<&TenantId>, key_id: &str) -> StoreResult<()> {
        self.run("revoke_key", |state, _| {
            let stored = state
                .api_keys
                .get_mut(key_id)
                .filter(|stored| tenant.is_none_or(|tenant| stored.key.tenant == *tenant));
            stored.ok_or(StoreError::NotFound)?.key.revoked = true;
            Ok(())
        })
    }

    async fn touch_key(&self, key_id: &str) -> StoreResult<()> {
        self.run("touch_key", |state, now| {
            if let Some(stored) = state.api_keys.get_mut(key_id) {
                stored.key.last_used_at = now.duration_trunc(TimeDelta::minutes(1)).ok();
            }
            Ok(())
        })
    }

    async fn personas(&self, tenant: &TenantId) -> StoreResult<Vec<Persona>> {
        self.run("personas", |state, _| {
            let own = state.personas.iter().filter(|((owner, _), _)| owner == tenant);
            Ok(own.map(|(_, persona)| persona.clone()).collect())
        })
    }

    async fn persona(&self, tenant: &TenantId, persona_id: &str) -> StoreResult<Persona> {
        self.run("persona", |state, _| {
            let place = (tenant.clone(), persona_id.to_owned());
            state.personas.get(&place).cloned().ok_or(StoreError::NotFound)
        })
    }

    async fn put_persona(&self, tenant: &TenantId, persona: Persona) -> StoreResult<()> {
        self.run("put_persona", |state, _| {
            state.personas.insert((tenant.clone(), persona.persona_id.clone()), persona);
            Ok(())
        })
    }

    async fn add_attachment(&self, attachment: Attachment, content: Vec<u8>) -> StoreResult<()> {
        self.run("add_attachment", |state, _| {
            state.attachments.entry(attachment.id).or_insert((attachment, content));
            Ok(())
        })
    }

    async fn attachment(&self, tenant: &TenantId, id: Uuid) -> StoreResult<(Attachment, Vec<u8>)> {
        self.run("attachment", |state, _| {
            let stored = state.attachments.get(&id).filter(|(upload, _)| upload.tenant == *tenant);
            stored.cloned().ok_or(StoreError::NotFound)
        })
    }

    async fn recorded_answer(
        &self,
        tenant: &TenantId,
        idempotency: &Idempotency,
    ) -> StoreResult<Option<RecordedAnswer>> {
        self.run("recorded_answer", |state, _| {
            match state.answers.get(&scope(tenant, idempotency)) {
                None => Ok(None),
                Some(row) if row.body_hash == idempotency.body_hash => Ok(Some(row.answer.clone())),
                Some(_) => Err(StoreError::Refused(format!(
                    "key `{}` was used with another body",
                    idempotency.key
                ))),
            }
        })
    }

    async fn record_answer(
        &self,
        tenant: &TenantId,
        idempotency: &Idempotency,
        answer: RecordedAnswer,
    ) -> StoreResult<()> {
        self.run("record_answer", |state, now| {
            let body_hash = idempotency.body_hash.clone();
            let row = KeyRow { body_hash, answer, created_at: now };
            state.answers.entry(scope(tenant, idempotency)).or_insert(row);
            Ok(())
        })
    }

    async fn retire(&self, retention: &Retention) -> StoreResult<u64> {
        self.run("retire", |state, now| Ok(state.retire(retention, now)))
    }

    async fn depths(&self) -> StoreResult<Depths> {
        self.run("depths", |state, now| Ok(state.depths(now)))
    }

    async fn ping(&self) -> StoreResult<()> {
        self.run("ping", |_, _| Ok(()))
    }
}

fn scope(tenant: &TenantId, idempotency: &Idempotency) -> KeyScope {
    (tenant.clone(), idempotency.route.clone(), idempotency.key.clone())
}

/// Removes at most `RETIRED_AT_ONCE` rows that are too old; says how many.
macro_rules! retire {
    ($rows:expr, $too_old:expr) => {{
        let mut removed = 0;
        let too_old = $too_old;
        $rows.retain(|_, row| {
            let goes = removed < RETIRED_AT_ONCE && too_old(row);
            removed += usize::from(goes);
            !goes
        });
        removed
    }};
}

impl State {
    fn retire(&mut self, retention: &Retention, now: DateTime<Utc>) -> u64 {
        let older = |age: Duration| move |then: DateTime<Utc>| then + age < now;
        let key_is_old = older(retention.idempotency);
        let letter_is_old = older(retention.dead_letters);
        let step_is_old = older(retention.done_steps);
        let tombstone_is_old = older(retention.memory_tombstones);
        let turns = &self.turns;
        let mut removed = retire!(self.keys, |row: &KeyRow<_>| key_is_old(row.created_at));
        removed += retire!(self.answers, |row: &KeyRow<_>| key_is_old(row.created_at));
        removed += retire!(self.letters, |row: &super::rows::LetterRow| letter_is_old(
            row.letter.created_at
        ));
        let letters = &self.letters;
        removed += retire!(self.steps, |row: &super::rows::StepRow| {
            let mut turns = turns.values();
            let turn = turns.find(|turn| turn.turn.turn_id == row.step.turn_id);
            let mut letters = letters.values();
            let can_be_replayed =
                letters.any(|row_of_letter| row_of_letter.letter.turn_id == Some(row.step.turn_id));
            turn.and_then(|turn| turn.ended_at).is_some_and(step_is_old) && !can_be_replayed
        });
        removed += retire!(self.replica, |row: &super::rows::ReplicaRow| {
            row.write.op == MemoryOp::Delete && tombstone_is_old(row.applied_at)
        });
        u64::try_from(removed).unwrap_or(u64::MAX)
    }

    fn depths(&self, now: DateTime<Utc>) -> Depths {
        let age = |oldest: Option<DateTime<Utc>>| {
            let age = now - oldest.unwrap_or(now);
            u64::try_from(age.num_milliseconds()).unwrap_or(0)
        };
        let count = |rows: usize| u64::try_from(rows).unwrap_or(u64::MAX);
        let letters = self.letters.values().filter(|row| row.letter.replayed_at.is_none());
        Depths {
            outbox: count(self.outbox.len()),
            outbox_oldest_ms: age(self.outbox.values().map(|entry| entry.row.created_at).min()),
            memory_writes: count(self.writes.len()),
            memory_writes_oldest_ms: age(self.writes.values().map(|row| row.created_at).min()),
            dead_letters: count(letters.count()),
            oldest_snapshot_ms: 0,
        }
    }
}
