//! What is counted about tools: rate, errors, duration, and how busy the permits are.

use prometheus::{HistogramOpts, HistogramVec, IntCounterVec, IntGauge, Opts, Registry};
use soma_contract::tool::ToolStatus;

/// The executor's metrics; made once and shared by its incarnations.
#[derive(Debug, Clone)]
pub struct ToolMetrics {
    calls: IntCounterVec,
    seconds: HistogramVec,
    put_back: IntCounterVec,
    running: IntGauge,
    permits: IntGauge,
}

impl ToolMetrics {
    /// Registers the metrics.
    ///
    /// # Errors
    ///
    /// They are registered already.
    pub fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let metrics = Self {
            calls: IntCounterVec::new(
                Opts::new("soma_tool_calls_total", "Tool calls that were settled, by outcome."),
                &["tool", "status"],
            )?,
            seconds: HistogramVec::new(
                HistogramOpts::new("soma_tool_call_seconds", "How long tools ran.")
                    .buckets(vec![0.001, 0.005, 0.02, 0.1, 0.5, 1.0, 5.0, 15.0, 60.0]),
                &["tool"],
            )?,
            put_back: IntCounterVec::new(
                Opts::new("soma_tool_put_back_total", "Claimed steps that were put back."),
                &["why"],
            )?,
            running: IntGauge::new("soma_tool_running", "Steps that are claimed and not settled.")?,
            permits: IntGauge::new("soma_tool_permits", "Steps that may run at once.")?,
        };
        registry.register(Box::new(metrics.calls.clone()))?;
        registry.register(Box::new(metrics.seconds.clone()))?;
        registry.register(Box::new(metrics.put_back.clone()))?;
        registry.register(Box::new(metrics.running.clone()))?;
        registry.register(Box::new(metrics.permits.clone()))?;
        Ok(metrics)
    }

    /// Counts a settled call. `tool` is a name of the toolbox, or `unknown`.
    pub(crate) fn settled(&self, tool: &str, status: ToolStatus, execution_ms: u64) {
        self.calls.with_label_values(&[tool, status.as_str()]).inc();
        #[expect(clippy::cast_precision_loss, reason = "a run lasts far less than 2^52 ms")]
        let seconds = execution_ms as f64 / 1_000.0;
        self.seconds.with_label_values(&[tool]).observe(seconds);
    }

    /// Counts a step that was put back.
    pub(crate) fn put_back(&self, why: &str) {
        self.put_back.with_label_values(&[why]).inc();
    }

    /// Tells how many steps run of how many that may.
    pub(crate) fn busy(&self, running: usize, permits: usize) {
        self.running.set(i64::try_from(running).unwrap_or(i64::MAX));
        self.permits.set(i64::try_from(permits).unwrap_or(i64::MAX));
    }
}
