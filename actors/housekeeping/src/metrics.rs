//! What is shown of the store; where the predecessor had the same figure, under its name.

use prometheus::{Gauge, IntCounter, IntGauge, Registry, core::Collector};
use soma_contract::port::store::{Backlog, Depths};

/// The service's metrics; made once and shared by its incarnations.
#[derive(Debug, Clone)]
pub struct HousekeepingMetrics {
    pub(crate) outbox: IntGauge,
    pub(crate) outbox_age: Gauge,
    pub(crate) memory_writes: IntGauge,
    pub(crate) memory_writes_age: Gauge,
    pub(crate) dead_letters: IntGauge,
    pub(crate) snapshot_age: Gauge,
    pub(crate) turns: IntGauge,
    pub(crate) turns_age: Gauge,
    pub(crate) retired: IntCounter,
}

impl HousekeepingMetrics {
    /// Registers the metrics.
    ///
    /// # Errors
    ///
    /// They are registered already.
    pub fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let count = |name: &str, help: &str| registered(registry, IntGauge::new(name, help)?);
        let age = |name: &str, help: &str| registered(registry, Gauge::new(name, help)?);
        Ok(Self {
            outbox: count("soma_outbox_rows", "Rows of message_outbox.")?,
            outbox_age: age("soma_outbox_oldest_seconds", "The age of the oldest outbox row.")?,
            memory_writes: count("memory_sync_backlog", "Rows of memory_write_outbox.")?,
            memory_writes_age: age(
                "soma_memory_write_oldest_seconds",
                "The age of the oldest memory write that waits.",
            )?,
            dead_letters: count("soma_dead_letters", "Dead letters that were not replayed.")?,
            snapshot_age: age(
                "soma_store_oldest_snapshot_seconds",
                "The age of the oldest open transaction that holds back clean-up.",
            )?,
            turns: count("soma_backlog_turns", "Turns that have not ended.")?,
            turns_age: age("soma_backlog_oldest_seconds", "The age of the oldest queued turn.")?,
            retired: registered(
                registry,
                IntCounter::new("soma_retired_rows_total", "Rows removed for their age.")?,
            )?,
        })
    }

    /// Shows what was found.
    pub(crate) fn show(&self, depths: &Depths, backlog: &Backlog) {
        self.outbox.set(whole(depths.outbox));
        self.outbox_age.set(seconds(depths.outbox_oldest_ms));
        self.memory_writes.set(whole(depths.memory_writes));
        self.memory_writes_age.set(seconds(depths.memory_writes_oldest_ms));
        self.dead_letters.set(whole(depths.dead_letters));
        self.snapshot_age.set(seconds(depths.oldest_snapshot_ms));
        self.turns.set(whole(backlog.total));
        self.turns_age.set(seconds(backlog.oldest_ms));
    }
}

fn whole(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

fn seconds(millis: u64) -> f64 {
    std::time::Duration::from_millis(millis).as_secs_f64()
}

fn registered<M: Collector + Clone + 'static>(
    registry: &Registry,
    metric: M,
) -> Result<M, prometheus::Error> {
    registry.register(Box::new(metric.clone()))?;
    Ok(metric)
}
