//! `memory-sync`: delivers memory writes to the memory service.

mod outcome;

use std::{collections::HashMap, panic::AssertUnwindSafe, sync::Arc};

use fail::fail_point;
use futures::{FutureExt, StreamExt, stream};
use soma_contract::port::{
    memory::MemoryError,
    store::{PendingWrite, Shards, Store},
};
use soma_runtime::{Cause, Health, Pass, Worker};

use self::outcome::{Outcome, Plan, key};
use crate::{MEMORY_SYNC, MemoryConfig, MemoryMetrics, MemoryPorts, shards::Lease};

/// Delivers what waits.
#[derive(Debug)]
pub(crate) struct MemorySync {
    ports: MemoryPorts,
    config: MemoryConfig,
    metrics: MemoryMetrics,
    lease: Lease,
    /// How often the delivery of a row panicked; forgotten with the incarnation.
    panics: HashMap<i64, u32>,
    fault: Option<String>,
}

impl MemorySync {
    pub(crate) fn new(ports: MemoryPorts, config: MemoryConfig, metrics: MemoryMetrics) -> Self {
        let lease = Lease::new(MEMORY_SYNC);
        Self { ports, config, metrics, lease, panics: HashMap::new(), fault: None }
    }

    async fn pending(&self, shards: &Arc<Shards>) -> Result<Vec<PendingWrite>, Cause> {
        let (shards, limit) = (Arc::clone(shards), self.config.write_batch);
        let pending =
            |store: Arc<dyn Store>| async move { store.pending_writes(&shards, limit).await };
        self.ports.store(self.config.store_deadline, pending).await
    }

    /// Delivers writes at once: they are of different memories, so that none can overtake another.
    async fn deliver(&self, pending: Vec<PendingWrite>) -> Vec<(PendingWrite, Outcome)> {
        let timer = self.metrics.write_seconds.start_timer();
        let outcomes = stream::iter(pending)
            .map(|row| async move {
                let outcome = self.deliver_one(&row).await;
                (row, outcome)
            })
            .buffer_unordered(self.config.deliveries_at_once.max(1))
            .collect()
            .await;
        timer.observe_duration();
        outcomes
    }

    async fn deliver_one(&self, row: &PendingWrite) -> Outcome {
        let (memory, write) = (Arc::clone(&self.ports.memory), row.write.clone());
        let remember = async move { memory.remember(&write, &key(&write.memory)).await };
        let call = self.ports.io.call(self.config.delivery_deadline, remember);
        // A write that makes the adapter panic must not bring down every other one.
        match AssertUnwindSafe(call).catch_unwind().await {
            Ok(Ok(Ok(receipt))) => Outcome::Taken(receipt),
            Ok(Ok(Err(MemoryError::Refused(reason)))) => Outcome::Refused(reason),
            Ok(Ok(Err(MemoryError::Unavailable(reason)))) => Outcome::Unavailable(reason),
            Ok(Err(fault)) => Outcome::Unavailable(fault.to_string()),
            Err(_panic) => Outcome::Panicked,
        }
    }

    async fn settle(&self, shards: &Arc<Shards>, plan: &Plan) -> Result<(), Cause> {
        let deadline = self.config.store_deadline;
        if !plan.settle.is_empty() {
            let (shards, settled) = (Arc::clone(shards), plan.settle.clone());
            let settle =
                |store: Arc<dyn Store>| async move { store.settle_writes(&shards, settled).await };
            self.ports.store(deadline, settle).await?;
        }
        for (id, reason) in &plan.refuse {
            tracing::error!(row = id, reason, "a memory write was refused: it is a dead letter");
            let (shards, id, reason) = (Arc::clone(shards), *id, reason.clone());
            let refuse = |store: Arc<dyn Store>| async move {
                store.refuse_write(&shards, id, &reason).await
            };
            self.ports.store(deadline, refuse).await?;
        }
        for (id, reason, delay) in &plan.postpone {
            let (shards, id, reason, delay) = (Arc::clone(shards), *id, reason.clone(), *delay);
            let postpone = |store: Arc<dyn Store>| async move {
                store.postpone_write(&shards, id, &reason, delay).await
            };
            self.ports.store(deadline, postpone).await?;
        }
        Ok(())
    }

    fn count(&self, plan: &Plan) {
        for (result, count) in [
            ("ok", plan.settle.len()),
            ("retry", plan.postpone.len()),
            ("failed", plan.refuse.len()),
        ] {
            self.metrics.written.with_label_values(&[result]).inc_by(count as u64);
        }
    }
}

impl Worker for MemorySync {
    async fn pass(&mut self) -> Result<Pass, Cause> {
        let shards = self.lease.hold(&self.ports, &self.config).await?;
        let pending = self.pending(&shards).await?;
        if pending.is_empty() {
            return Ok(Pass::Idle);
        }
        let outcomes = self.deliver(pending).await;
        fail_point!("memory::after_remember");
        let plan = Plan::of(outcomes, &mut self.panics, rand::random);
        self.count(&plan);
        self.settle(&shards, &plan).await?;
        fail_point!("memory::after_settle");
        self.fault = plan.fault();
        if plan.moved() {
            // A settled write frees the next one of its memory.
            return Ok(Pass::Busy);
        }
        // Nothing got through: the rest of the backlog would fare no better right now.
        Err(Cause::new(self.fault.clone().unwrap_or_default()))
    }

    fn health(&self) -> Health {
        self.fault.clone().map_or_else(Health::ok, Health::degraded)
    }
}

#[cfg(test)]
mod tests;
