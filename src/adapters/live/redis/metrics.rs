//! What is counted about Redis: whether it is there, and what was not told because of it.

use prometheus::{IntCounter, IntGaugeVec, Opts, Registry};

/// The metrics of the live port on Redis.
#[derive(Debug, Clone)]
pub struct LiveMetrics {
    up: IntGaugeVec,
    dropped: IntCounter,
}

impl LiveMetrics {
    /// Registers the metrics.
    ///
    /// # Errors
    ///
    /// They are registered already.
    pub fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let metrics = Self {
            up: IntGaugeVec::new(
                Opts::new("soma_live_up", "Whether a connection to Redis works."),
                &["connection"],
            )?,
            dropped: IntCounter::new(
                "soma_live_dropped_total",
                "Live events and hints that Redis was not told, since it was away or slow.",
            )?,
        };
        registry.register(Box::new(metrics.up.clone()))?;
        registry.register(Box::new(metrics.dropped.clone()))?;
        Ok(metrics)
    }

    /// Tells whether commands can be sent.
    pub(super) fn commands_up(&self, is_up: bool) {
        self.up.with_label_values(&["commands"]).set(i64::from(is_up));
    }

    /// Tells whether channels are heard.
    pub(super) fn channels_up(&self, is_up: bool) {
        self.up.with_label_values(&["channels"]).set(i64::from(is_up));
    }

    /// Counts what was not told.
    pub(super) fn dropped(&self, count: usize) {
        self.dropped.inc_by(u64::try_from(count).unwrap_or(u64::MAX));
    }

    /// Returns how much was not told.
    #[cfg(test)]
    #[cfg(feature = "cluster-tests")]
    pub(super) fn dropped_so_far(&self) -> u64 {
        self.dropped.get()
    }
}
