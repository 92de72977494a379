//! The port's [`Memories`]: writes on their way and the replica.

use std::time::Duration;

use async_trait::async_trait;
use soma_contract::{
    TenantId,
    memory::{Memory, MemoryQuery, MemoryWrite, Recalled},
    port::{
        memory::Receipt,
        store::{Memories, Page, PendingWrite, Shards, StoreResult},
    },
};
use uuid::Uuid;

use super::{
    PostgresStore,
    engine::{read, transact},
    memory_write::{self, Enqueue},
    replica,
};

#[async_trait]
impl Memories for PostgresStore {
    async fn write_memories(&self, writes: Vec<MemoryWrite>) -> StoreResult<Vec<u64>> {
        self.writes.submit_one(Enqueue(writes)).await
    }

    async fn pending_writes(&self, shards: &Shards, limit: u32) -> StoreResult<Vec<PendingWrite>> {
        if shards.held.is_empty() {
            return Ok(Vec::new());
        }
        let now = self.engine.clock.now();
        read!(&self.engine, |c| memory_write::pending(c, now, shards, limit))
    }

    async fn settle_writes(
        &self,
        shards: &Shards,
        delivered: Vec<(i64, Receipt)>,
    ) -> StoreResult<()> {
        if shards.held.is_empty() || delivered.is_empty() {
            return Ok(());
        }
        transact!(&self.engine, "memory", |c, terms| {
            memory_write::settle(c, terms, shards, &delivered)
        })
    }

    async fn postpone_write(
        &self,
        shards: &Shards,
        id: i64,
        error: &str,
        delay: Duration,
    ) -> StoreResult<()> {
        if shards.held.is_empty() {
            return Ok(());
        }
        transact!(&self.engine, "postpone", |c, terms| {
            memory_write::postpone(c, terms, shards, id, error, delay)
        })
    }

    async fn refuse_write(&self, shards: &Shards, id: i64, reason: &str) -> StoreResult<()> {
        if shards.held.is_empty() {
            return Ok(());
        }
        transact!(&self.engine, "refuse_write", |c, terms| {
            memory_write::refuse(c, terms, shards, id, reason)
        })
    }

    async fn replicate(&self, write: MemoryWrite, receipt: Receipt) -> StoreResult<bool> {
        transact!(&self.engine, "replicate", |c, terms| {
            replica::replicate(c, terms, write.clone(), receipt.clone())
        })
    }

    async fn search_memories(
        &self,
        tenant: &TenantId,
        query: &MemoryQuery,
    ) -> StoreResult<Vec<Recalled>> {
        read!(&self.engine, |c| replica::search(c, tenant, query))
    }

    async fn search_pending(
        &self,
        tenant: &TenantId,
        query: &MemoryQuery,
    ) -> StoreResult<Vec<Recalled>> {
        read!(&self.engine, |c| replica::search_pending(c, tenant, query))
    }

    async fn memory(&self, tenant: &TenantId, memory_id: Uuid) -> StoreResult<Memory> {
        read!(&self.engine, |c| replica::memory(c, tenant, memory_id))
    }

    async fn export_memories(
        &self,
        tenant: &TenantId,
        cursor: Option<&str>,
        limit: u32,
    ) -> StoreResult<Page<Memory>> {
        read!(&self.engine, |c| replica::export(c, tenant, cursor, limit))
    }
}
