//! The outbox between store and bus.

use std::collections::BTreeSet;

use async_trait::async_trait;

use super::{
    FakeStore,
    rows::{OutboxEntry, Source},
};
use crate::{
    event::TraceContext,
    ids::Owner,
    port::{
        bus::{OutboxRow, Position, Record},
        store::{NewDeadLetter, Outbox, Shards, StoreResult},
    },
    topic::Group,
};

/// The one shard of a store with one owner.
const SHARD: u16 = 0;

/// Returns whether these shards are held: the epoch of an embedded store's shard never changes.
pub(super) fn held(shards: &Shards) -> bool {
    shards.held.contains(&(SHARD, 0))
}

#[async_trait]
impl Outbox for FakeStore {
    async fn hold_shards(&self, _service: &str, _owner: &Owner) -> StoreResult<Shards> {
        self.run("hold_shards", |_, _| Ok(Shards { held: vec![(SHARD, 0)] }))
    }

    async fn outbox(&self, shards: &Shards, limit: u32) -> StoreResult<Vec<OutboxRow>> {
        self.run("outbox", |state, _| {
            let limit = if held(shards) { usize::try_from(limit).unwrap_or(usize::MAX) } else { 0 };
            Ok(state.outbox.values().take(limit).map(|entry| entry.row.clone()).collect())
        })
    }

    async fn delivered(&self, shards: &Shards, ids: &[i64]) -> StoreResult<u64> {
        self.run("delivered", |state, _| {
            if !held(shards) {
                return Ok(0);
            }
            let removed = ids.iter().filter(|id| state.outbox.remove(id).is_some()).count();
            Ok(u64::try_from(removed).unwrap_or(u64::MAX))
        })
    }

    async fn refused(&self, shards: &Shards, id: i64, reason: &str) -> StoreResult<()> {
        self.run("refused", |state, now| {
            if !held(shards) {
                return Ok(());
            }
            if let Some(entry) = state.outbox.remove(&id) {
                let letter = letter_of(&entry, reason);
                state.bury(letter, Source::Row(entry), now);
            }
            Ok(())
        })
    }

    async fn records(&self, group: Group, skip: &[i64], limit: u32) -> StoreResult<Vec<Record>> {
        self.run("records", |state, _| {
            let skip: BTreeSet<i64> = skip.iter().copied().collect();
            let unread = state.outbox.values().filter(|entry| {
                entry.row.topic == group.topic()
                    && !entry.acknowledged.contains(&group)
                    && !skip.contains(&entry.row.id)
            });
            let limit = usize::try_from(limit).unwrap_or(usize::MAX);
            Ok(unread.take(limit).map(|entry| record_of(&entry.row)).collect())
        })
    }

    async fn acknowledge(&self, group: Group, rows: &[i64]) -> StoreResult<()> {
        self.run("acknowledge", |state, _| {
            state.acknowledge_where(group, |row| rows.contains(&row.id));
            Ok(())
        })
    }

    async fn bury(&self, group: Group, letter: NewDeadLetter) -> StoreResult<()> {
        self.run("bury", |state, now| {
            let first =
                letter.event_id.is_none_or(|event_id| state.buried.insert((group, event_id)));
            if first {
                state.bury(letter, Source::Buried, now);
            }
            Ok(())
        })
    }
}

fn letter_of(entry: &OutboxEntry, reason: &str) -> NewDeadLetter {
    let row = &entry.row;
    let event_id = row.headers.get("event_id").and_then(|text| text.parse().ok());
    NewDeadLetter {
        tenant: entry.tenant.clone(),
        topic: row.topic.as_str().to_owned(),
        turn_id: None,
        event_id,
        event: serde_json::from_slice(&row.payload).unwrap_or_default(),
        error: reason.to_owned(),
        attempts: 1,
        trace: TraceContext::default(),
    }
}

fn record_of(row: &OutboxRow) -> Record {
    Record {
        topic: row.topic,
        position: Position::Row(row.id),
        session_id: Some(row.session_id),
        headers: row.headers.clone(),
        payload: row.payload.clone(),
    }
}
