//! `outbox-sync`: carries outbox rows to the bus, in order, at least once.

mod sorting;

use std::sync::Arc;

use fail::fail_point;
use soma_contract::port::{
    bus::{Delivery, OutboxRow},
    store::Shards,
};
use soma_runtime::{Cause, Health, Pass, Worker};
use tokio::time::Instant;

use self::sorting::{Sorted, sort};
use crate::{MemoryConfig, MemoryMetrics, MemoryPorts, OUTBOX_SYNC, shards::Lease};

/// How far the window grows while rows at its beginning cannot be delivered.
const WIDEST: u32 = 16;
/// The most passes of a flush at the end; the stop deadline bounds it as well.
const LAST_PASSES: usize = 100;

/// The relay.
#[derive(Debug)]
pub(crate) struct OutboxSync {
    ports: MemoryPorts,
    config: MemoryConfig,
    metrics: MemoryMetrics,
    lease: Lease,
    /// Times the batch that are read: rows that cannot be delivered must not hide those that can.
    window: u32,
    /// The bus keeps its records in place: until then there is nothing to carry.
    rest_until: Option<Instant>,
    fault: Option<String>,
}

impl OutboxSync {
    pub(crate) const fn new(
        ports: MemoryPorts,
        config: MemoryConfig,
        metrics: MemoryMetrics,
    ) -> Self {
        let lease = Lease::new(OUTBOX_SYNC);
        Self { ports, config, metrics, lease, window: 1, rest_until: None, fault: None }
    }

    /// Publishes the first rows and settles what became of them.
    async fn carry(&mut self) -> Result<Pass, Cause> {
        let shards = self.lease.hold(&self.ports, &self.config).await?;
        let rows = Arc::new(self.read(&shards).await?);
        self.metrics.publish_batch.set(i64::try_from(rows.len()).unwrap_or(i64::MAX));
        if rows.is_empty() {
            (self.window, self.fault) = (1, None);
            return Ok(Pass::Idle);
        }
        let deliveries = self.publish(&rows).await?;
        fail_point!("relay::after_publish");
        let sorted = sort(&rows, &deliveries);
        self.count(&sorted);
        self.settle(&shards, &sorted).await?;
        self.next(sorted, rows.len())
    }

    async fn read(&self, shards: &Arc<Shards>) -> Result<Vec<OutboxRow>, Cause> {
        let (shards, limit) = (Arc::clone(shards), self.config.outbox_batch * self.window);
        let read = |store: Arc<dyn soma_contract::port::store::Store>| async move {
            store.outbox(&shards, limit).await
        };
        self.ports.store(self.config.store_deadline, read).await
    }

    async fn publish(&self, rows: &Arc<Vec<OutboxRow>>) -> Result<Vec<Delivery>, Cause> {
        let timer = self.metrics.publish_seconds.start_timer();
        let (bus, rows) = (Arc::clone(&self.ports.bus), Arc::clone(rows));
        let publish = async move { bus.publish(&rows).await };
        let deliveries = self.ports.io.call(self.config.delivery_deadline, publish).await?;
        timer.observe_duration();
        Ok(deliveries)
    }

    async fn settle(&self, shards: &Arc<Shards>, sorted: &Sorted) -> Result<(), Cause> {
        let deadline = self.config.store_deadline;
        if !sorted.delivered.is_empty() {
            let (shards, ids) = (Arc::clone(shards), sorted.delivered.clone());
            let delivered = |store: Arc<dyn soma_contract::port::store::Store>| async move {
                store.delivered(&shards, &ids).await
            };
            self.ports.store(deadline, delivered).await?;
        }
        for (id, reason) in &sorted.refused {
            tracing::error!(row = id, reason, "the bus refused a record: it is a dead letter");
            let (shards, id, reason) = (Arc::clone(shards), *id, reason.clone());
            let refused = |store: Arc<dyn soma_contract::port::store::Store>| async move {
                store.refused(&shards, id, &reason).await
            };
            self.ports.store(deadline, refused).await?;
        }
        Ok(())
    }

    /// Decides how to go on. Rows that failed are read again from the store.
    fn next(&mut self, sorted: Sorted, rows: usize) -> Result<Pass, Cause> {
        let moved = sorted.delivered.len() + sorted.refused.len();
        if sorted.in_place == rows {
            self.rest_until = Some(Instant::now() + self.config.rest_in_place);
        }
        let Some(fault) = sorted.failed else {
            (self.window, self.fault) = (1, None);
            return Ok(if moved > 0 { Pass::Busy } else { Pass::Idle });
        };
        self.window = (self.window * 2).min(WIDEST);
        if moved == 0 {
            return Err(Cause::new(format!("the bus takes nothing: {fault}")));
        }
        self.fault = Some(fault);
        Ok(Pass::Idle)
    }

    fn count(&self, sorted: &Sorted) {
        for (result, count) in [
            ("success", sorted.delivered.len()),
            ("retry", sorted.retried),
            ("failed", sorted.refused.len()),
        ] {
            self.metrics.published.with_label_values(&[result]).inc_by(count as u64);
        }
    }
}

impl Worker for OutboxSync {
    async fn pass(&mut self) -> Result<Pass, Cause> {
        match self.rest_until {
            Some(until) if Instant::now() < until => Ok(Pass::Idle),
            _ => {
                self.rest_until = None;
                self.carry().await
            }
        }
    }

    fn health(&self) -> Health {
        self.fault.as_ref().map_or_else(Health::ok, |fault| {
            Health::degraded(format!("some records cannot be published: {fault}"))
        })
    }

    async fn stop(&mut self) {
        for _ in 0..LAST_PASSES {
            if !matches!(self.pass().await, Ok(Pass::Busy)) {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests;
