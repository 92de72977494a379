//! What the gateway counts.

use prometheus::{
    Histogram, HistogramOpts, IntCounterVec, IntGauge, Opts, Registry, exponential_buckets,
};
use soma_contract::message::{AcceptError, Accepted};

/// The gateway's metrics.
#[derive(Debug, Clone)]
pub struct Metrics {
    pub(crate) accepts: IntCounterVec,
    pub(crate) batch_size: Histogram,
    pub(crate) commit_seconds: Histogram,
    pub(crate) waiting: IntGauge,
    pub(crate) backlog: IntGauge,
}

impl Metrics {
    /// Registers the metrics.
    ///
    /// # Errors
    ///
    /// One of them is registered already.
    pub fn new(registry: &Registry) -> prometheus::Result<Self> {
        let accepts = IntCounterVec::new(
            Opts::new("gateway_accepts_total", "Messages by how their acceptance ended."),
            &["result"],
        )?;
        let batch_size = Histogram::with_opts(
            HistogramOpts::new("gateway_accept_batch_size", "Messages that shared one commit.")
                .buckets(exponential_buckets(1.0, 2.0, 10)?),
        )?;
        let commit_seconds = Histogram::with_opts(
            HistogramOpts::new("gateway_commit_seconds", "How long one commit took.")
                .buckets(exponential_buckets(0.000_25, 2.0, 16)?),
        )?;
        let waiting =
            IntGauge::new("gateway_accepts_waiting", "Messages that wait for the next commit.")?;
        let backlog =
            IntGauge::new("gateway_backlog_turns", "Unfinished turns, as admission sees them.")?;
        registry.register(Box::new(accepts.clone()))?;
        registry.register(Box::new(batch_size.clone()))?;
        registry.register(Box::new(commit_seconds.clone()))?;
        registry.register(Box::new(waiting.clone()))?;
        registry.register(Box::new(backlog.clone()))?;
        Ok(Self { accepts, batch_size, commit_seconds, waiting, backlog })
    }

    pub(crate) fn count(&self, answer: &Result<Accepted, AcceptError>) {
        self.accepts.with_label_values(&[result_of(answer)]).inc();
    }
}

const fn result_of(answer: &Result<Accepted, AcceptError>) -> &'static str {
    match answer {
        Ok(Accepted { replayed: false, .. }) => "accepted",
        Ok(Accepted { replayed: true, .. }) => "repeated",
        Err(AcceptError::SessionDeleted(_)) => "session_deleted",
        Err(AcceptError::ForeignSession(_)) => "foreign_session",
        Err(AcceptError::KeyReused(_)) => "key_reused",
        Err(AcceptError::EventIdTaken(_)) => "event_id_taken",
        Err(AcceptError::BacklogFull { .. }) => "backlog_full",
        Err(AcceptError::Unavailable(_)) => "unavailable",
        Err(AcceptError::OutcomeUnknown(_)) => "outcome_unknown",
        Err(AcceptError::Refused(_)) => "refused",
    }
}
