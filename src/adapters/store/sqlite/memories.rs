//! The port's [`Memories`]: writes on their way and the replica.

use std::time::Duration;

use async_trait::async_trait;
use futures::FutureExt;
use soma_contract::{
    TenantId,
    memory::{Memory, MemoryQuery, MemoryWrite, Recalled},
    port::{
        memory::Receipt,
        store::{Memories, Page, PendingWrite, Shards, StoreResult},
    },
};
use sqlx::query;
use uuid::Uuid;

use super::{
    SqliteStore,
    memory_write::{self, Enqueue},
    replica,
    row::micros,
    search,
};

#[async_trait]
impl Memories for SqliteStore {
    async fn write_memories(&self, writes: Vec<MemoryWrite>) -> StoreResult<Vec<u64>> {
        self.writer.submit_one(Enqueue(writes)).await
    }

    async fn pending_writes(&self, shards: &Shards, limit: u32) -> StoreResult<Vec<PendingWrite>> {
        if shards.held.is_empty() {
            return Ok(Vec::new());
        }
        let now = self.clock.now();
        Ok(memory_write::pending(&mut *self.reader().await?, now, limit).await?)
    }

    async fn settle_writes(
        &self,
        shards: &Shards,
        delivered: Vec<(i64, Receipt)>,
    ) -> StoreResult<()> {
        if shards.held.is_empty() || delivered.is_empty() {
            return Ok(());
        }
        self.writer
            .write("memory", move |c, terms| {
                async move { memory_write::settle(c, terms, &delivered).await }.boxed()
            })
            .await
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
        let error = error.to_owned();
        self.writer
            .write("postpone", move |c, terms| {
                async move {
                    let sql = "UPDATE memory_write_outbox SET attempts = attempts + 1, \
                               last_error = $2, not_before = $3 WHERE id = $1";
                    let not_before = micros(terms.now + delay);
                    query(sql).bind(id).bind(error).bind(not_before).execute(c).await?;
                    Ok(())
                }
                .boxed()
            })
            .await
    }

    async fn refuse_write(&self, shards: &Shards, id: i64, reason: &str) -> StoreResult<()> {
        if shards.held.is_empty() {
            return Ok(());
        }
        let reason = reason.to_owned();
        self.writer
            .write("refuse_write", move |c, terms| {
                async move { memory_write::refuse(c, terms, id, &reason).await }.boxed()
            })
            .await
    }

    async fn replicate(&self, write: MemoryWrite, receipt: Receipt) -> StoreResult<bool> {
        self.writer
            .write("replicate", move |c, terms| {
                replica::replicate(c, terms, write, receipt).boxed()
            })
            .await
    }

    async fn search_memories(
        &self,
        tenant: &TenantId,
        query: &MemoryQuery,
    ) -> StoreResult<Vec<Recalled>> {
        let (_turn, mut connection) = self.searcher().await?;
        Ok(search::memories(&mut connection, tenant, query).await?)
    }

    async fn search_pending(
        &self,
        tenant: &TenantId,
        query: &MemoryQuery,
    ) -> StoreResult<Vec<Recalled>> {
        let (_turn, mut connection) = self.searcher().await?;
        Ok(search::pending(&mut connection, tenant, query).await?)
    }

    async fn memory(&self, tenant: &TenantId, memory_id: Uuid) -> StoreResult<Memory> {
        Ok(replica::memory(&mut *self.reader().await?, tenant, memory_id).await?)
    }

    async fn export_memories(
        &self,
        tenant: &TenantId,
        cursor: Option<&str>,
        limit: u32,
    ) -> StoreResult<Page<Memory>> {
        Ok(replica::export(&mut *self.reader().await?, tenant, cursor, limit).await?)
    }
}
