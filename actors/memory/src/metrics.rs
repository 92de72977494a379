//! What is counted, under the predecessor's names.

use prometheus::{
    Gauge, Histogram, HistogramOpts, IntCounterVec, IntGauge, Opts, Registry, core::Collector,
};

/// The metrics of the three workers; made once and shared by their incarnations.
#[derive(Debug, Clone)]
pub struct MemoryMetrics {
    pub(crate) published: IntCounterVec,
    pub(crate) publish_seconds: Histogram,
    pub(crate) publish_batch: IntGauge,
    pub(crate) written: IntCounterVec,
    pub(crate) write_seconds: Histogram,
    pub(crate) replicated: IntCounterVec,
    pub(crate) replicate_seconds: Histogram,
    pub(crate) replicate_lag: Gauge,
}

impl MemoryMetrics {
    /// Registers the metrics.
    ///
    /// # Errors
    ///
    /// They are registered already.
    pub fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        Ok(Self {
            published: counter(
                registry,
                "outbox_sync_publish_total",
                "Outbox rows handed to the bus: success, retry, failed (a dead letter).",
            )?,
            publish_seconds: histogram(
                registry,
                "outbox_publish_seconds",
                "How long the bus took for a batch.",
            )?,
            publish_batch: registered(
                registry,
                IntGauge::new("outbox_sync_effective_batch_size", "Rows of the newest batch.")?,
            )?,
            written: counter(
                registry,
                "memory_sync_jobs_total",
                "Memory writes handed to the memory service: ok, retry, failed (a dead letter).",
            )?,
            write_seconds: histogram(
                registry,
                "memory_sync_seconds",
                "How long the memory service took for a batch.",
            )?,
            replicated: counter(
                registry,
                "memory_replicator_events_total",
                "Records of memory.wal: ok, own, error (a dead letter).",
            )?,
            replicate_seconds: histogram(
                registry,
                "memory_replicator_replication_seconds",
                "How long the store took for a foreign record.",
            )?,
            replicate_lag: registered(
                registry,
                Gauge::new("memory_replicator_lag_seconds", "The age of the newest record.")?,
            )?,
        })
    }
}

fn counter(
    registry: &Registry,
    name: &str,
    help: &str,
) -> Result<IntCounterVec, prometheus::Error> {
    registered(registry, IntCounterVec::new(Opts::new(name, help), &["result"])?)
}

fn histogram(registry: &Registry, name: &str, help: &str) -> Result<Histogram, prometheus::Error> {
    registered(registry, Histogram::with_opts(HistogramOpts::new(name, help))?)
}

fn registered<M: Collector + Clone + 'static>(
    registry: &Registry,
    metric: M,
) -> Result<M, prometheus::Error> {
    registry.register(Box::new(metric.clone()))?;
    Ok(metric)
}
