//! Memory writes on their way, and the replica.

use std::{collections::BTreeMap, time::Duration};

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use serde_json::json;
use uuid::Uuid;

use super::{
    FakeStore,
    outbox::held,
    rows::{ReplicaRow, Source, WriteRow, page, parse},
    state::State,
};
use crate::{
    compose, decide,
    event::TraceContext,
    ids::TenantId,
    memory::{Memory, MemoryOp, MemoryQuery, MemoryWrite, Recalled},
    port::{
        memory::Receipt,
        store::{Memories, NewDeadLetter, Page, PendingWrite, Shards, StoreError, StoreResult},
    },
    testing::rank::ranked,
};

#[async_trait]
impl Memories for FakeStore {
    async fn write_memories(&self, writes: Vec<MemoryWrite>) -> StoreResult<Vec<u64>> {
        self.run("write_memories", |state, now| {
            Ok(writes.into_iter().map(|write| state.write_memory(write, now)).collect())
        })
    }

    async fn pending_writes(&self, shards: &Shards, limit: u32) -> StoreResult<Vec<PendingWrite>> {
        self.run("pending_writes", |state, now| {
            let limit = if held(shards) { usize::try_from(limit).unwrap_or(usize::MAX) } else { 0 };
            Ok(state.deliverable(now).into_iter().take(limit).collect())
        })
    }

    async fn settle_writes(
        &self,
        shards: &Shards,
        delivered: Vec<(i64, Receipt)>,
    ) -> StoreResult<()> {
        self.run("settle_writes", |state, now| {
            for (id, receipt) in delivered.into_iter().filter(|_| held(shards)) {
                if let Some(WriteRow { write, .. }) = state.writes.remove(&id) {
                    let record = compose::wal_record(&write, &receipt);
                    let tenant = write.memory.tenant.clone();
                    state.apply(write, now);
                    state.send(now, &tenant, record);
                }
            }
            Ok(())
        })
    }

    async fn postpone_write(
        &self,
        shards: &Shards,
        id: i64,
        _error: &str,
        delay: Duration,
    ) -> StoreResult<()> {
        self.run("postpone_write", |state, now| {
            if let Some(row) = state.writes.get_mut(&id).filter(|_| held(shards)) {
                row.attempts += 1;
                row.not_before = now + delay;
            }
            Ok(())
        })
    }

    async fn refuse_write(&self, shards: &Shards, id: i64, reason: &str) -> StoreResult<()> {
        self.run("refuse_write", |state, now| {
            if !held(shards) {
                return Ok(());
            }
            if let Some(row) = state.writes.remove(&id) {
                let letter = letter_of(&row, reason);
                state.bury(letter, Source::Write(row.write), now);
            }
            Ok(())
        })
    }

    async fn replicate(&self, write: MemoryWrite, _receipt: Receipt) -> StoreResult<bool> {
        self.run("replicate", |state, now| Ok(state.apply(write, now)))
    }

    async fn search_memories(
        &self,
        tenant: &TenantId,
        query: &MemoryQuery,
    ) -> StoreResult<Vec<Recalled>> {
        self.run("search_memories", |state, _| {
            Ok(ranked(state.current(tenant).into_values().filter_map(alive), query))
        })
    }

    async fn search_pending(
        &self,
        tenant: &TenantId,
        query: &MemoryQuery,
    ) -> StoreResult<Vec<Recalled>> {
        self.run("search_pending", |state, _| {
            let pending = state.current(tenant).into_values().filter_map(alive);
            Ok(ranked(pending.filter(|recalled| recalled.pending), query))
        })
    }

    async fn memory(&self, tenant: &TenantId, memory_id: Uuid) -> StoreResult<Memory> {
        self.run("memory", |state, _| {
            let newest = state.current(tenant).remove(&memory_id).and_then(alive);
            newest.map(|recalled| recalled.memory).ok_or(StoreError::NotFound)
        })
    }

    async fn export_memories(
        &self,
        tenant: &TenantId,
        cursor: Option<&str>,
        limit: u32,
    ) -> StoreResult<Page<Memory>> {
        self.run("export_memories", |state, _| {
            let after: Option<Uuid> = parse(cursor)?;
            let memories = state
                .replica
                .values()
                .map(|row| &row.write)
                .filter(|write| write.op == MemoryOp::Put && write.memory.tenant == *tenant)
                .filter(|write| after.is_none_or(|after| write.memory.memory_id > after))
                .map(|write| write.memory.clone())
                .collect();
            Ok(page(memories, limit, |memory: &Memory| memory.memory_id.to_string()))
        })
    }
}

impl State {
    /// Stores a write that waits to be delivered; returns its version.
    pub(super) fn write_memory(&mut self, mut write: MemoryWrite, now: DateTime<Utc>) -> u64 {
        let seen = (write.memory.tenant.clone(), write.memory.event_id);
        if let Some(version) = self.remembered.get(&seen) {
            return *version;
        }
        let counter =
            self.versions.entry((write.memory.tenant.clone(), write.memory.memory_id)).or_default();
        *counter += 1;
        let version = *counter;
        write.memory.version = version;
        self.remembered.insert(seen, version);
        self.queue_write(write, now);
        version
    }

    /// Queues a write that has its version.
    pub(super) fn queue_write(&mut self, write: MemoryWrite, now: DateTime<Utc>) {
        let id = self.draw();
        self.writes.insert(id, WriteRow { write, attempts: 0, not_before: now, created_at: now });
    }

    fn deliverable(&self, now: DateTime<Utc>) -> Vec<PendingWrite> {
        let mut earliest: BTreeMap<(&TenantId, Uuid), i64> = BTreeMap::new();
        for (id, row) in &self.writes {
            let memory = &row.write.memory;
            let place = earliest.entry((&memory.tenant, memory.memory_id)).or_insert(*id);
            let first = self.writes.get(place).map_or(0, |row| row.write.memory.version);
            if memory.version < first {
                *place = *id;
            }
        }
        let mut ids: Vec<i64> = earliest.into_values().collect();
        ids.sort_unstable();
        ids.into_iter()
            .filter_map(|id| Some((id, self.writes.get(&id)?)))
            .filter(|(_, row)| row.not_before <= now)
            .map(|(id, row)| PendingWrite { id, write: row.write.clone(), attempts: row.attempts })
            .collect()
    }

    /// Applies a write to the replica, if it is news there.
    fn apply(&mut self, write: MemoryWrite, now: DateTime<Utc>) -> bool {
        let memory = &write.memory;
        let place = (memory.tenant.clone(), memory.memory_id);
        let event = (memory.tenant.clone(), memory.event_id);
        let stored = self.replica.get(&place).map(|row| row.write.memory.version);
        let seen = self.remembered.contains_key(&event);
        if !decide::replica_takes(stored, seen, memory.version) {
            return false;
        }
        let counter = self.versions.entry(place.clone()).or_default();
        *counter = (*counter).max(memory.version);
        self.remembered.entry(event).or_insert(memory.version);
        self.replica.insert(place, ReplicaRow { write, applied_at: now });
        true
    }

    /// Returns each memory's newest write, and whether that is still on its way.
    fn current(&self, tenant: &TenantId) -> BTreeMap<Uuid, (MemoryWrite, bool)> {
        let settled = self.replica.values().map(|row| (&row.write, false));
        let pending = self.writes.values().map(|row| (&row.write, true));
        let mut newest: BTreeMap<Uuid, (MemoryWrite, bool)> = BTreeMap::new();
        for (write, on_its_way) in settled.chain(pending) {
            let memory = &write.memory;
            let known = newest.get(&memory.memory_id).map(|(write, _)| write.memory.version);
            if memory.tenant == *tenant && known.is_none_or(|known| known < memory.version) {
                newest.insert(memory.memory_id, (write.clone(), on_its_way));
            }
        }
        newest
    }

    /// Returns the memories of a tenant that are not deleted, undelivered ones included.
    pub(super) fn living_memories(&self, tenant: &TenantId) -> Vec<Memory> {
        let living = self.current(tenant).into_values().filter_map(alive);
        living.map(|recalled| recalled.memory).collect()
    }
}

fn alive((write, pending): (MemoryWrite, bool)) -> Option<Recalled> {
    let recalled = Recalled { memory: write.memory, score: 0.0, pending };
    (write.op == MemoryOp::Put).then_some(recalled)
}

fn letter_of(row: &WriteRow, reason: &str) -> NewDeadLetter {
    NewDeadLetter {
        tenant: Some(row.write.memory.tenant.clone()),
        topic: "memory_write_outbox".to_owned(),
        turn_id: None,
        event_id: Some(row.write.memory.event_id),
        event: json!(row.write),
        error: reason.to_owned(),
        attempts: row.attempts + 1,
        trace: TraceContext::default(),
    }
}
