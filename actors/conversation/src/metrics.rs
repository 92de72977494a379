//! What the worker counts.

use std::time::Duration;

use prometheus::{
    Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, Opts, Registry,
    exponential_buckets,
};
use soma_contract::{model::Usage, port::model::ModelError, turn::TurnKind};

use crate::stream::End;

/// The worker's metrics.
#[derive(Debug, Clone)]
pub struct Metrics {
    pub(crate) turns: IntCounterVec,
    pub(crate) turn_seconds: HistogramVec,
    pub(crate) queued_seconds: Histogram,
    pub(crate) model_seconds: HistogramVec,
    pub(crate) tokens: IntCounterVec,
    pub(crate) running: IntGauge,
    pub(crate) sessions: IntGauge,
    pub(crate) records: IntCounterVec,
    pub(crate) dropped_turns: IntCounter,
    pub(crate) recall_failures: IntCounter,
}

impl Metrics {
    /// Registers the metrics.
    ///
    /// # Errors
    ///
    /// One of them is registered already.
    pub fn new(registry: &Registry) -> prometheus::Result<Self> {
        let seconds = |name: &str, help: &str| -> prometheus::Result<HistogramOpts> {
            Ok(HistogramOpts::new(name, help).buckets(exponential_buckets(0.001, 2.0, 20)?))
        };
        let metrics = Self {
            turns: IntCounterVec::new(
                Opts::new("conversation_turns_total", "Claimed turns by what became of them."),
                &["kind", "outcome"],
            )?,
            turn_seconds: HistogramVec::new(
                seconds("conversation_turn_seconds", "How long the last claim of a turn ran.")?,
                &["kind", "outcome"],
            )?,
            queued_seconds: Histogram::with_opts(seconds(
                "conversation_turn_queued_seconds",
                "How long a turn lay between acceptance and first claim.",
            )?)?,
            model_seconds: HistogramVec::new(
                seconds("conversation_model_seconds", "How long a call of the model took.")?,
                &["result"],
            )?,
            tokens: IntCounterVec::new(
                Opts::new("conversation_tokens_total", "Tokens of ended turns."),
                &["direction"],
            )?,
            running: IntGauge::new("conversation_turns_running", "Turns that run now.")?,
            sessions: IntGauge::new("conversation_sessions_live", "Sessions with a child.")?,
            records: IntCounterVec::new(
                Opts::new("conversation_records_total", "Records received, by what they meant."),
                &["meaning"],
            )?,
            dropped_turns: IntCounter::new(
                "conversation_prompt_dropped_turns_total",
                "Earlier turns that did not fit into a prompt.",
            )?,
            recall_failures: IntCounter::new(
                "conversation_recall_failures_total",
                "Turns that went on without the memory.",
            )?,
        };
        metrics.register(registry)?;
        Ok(metrics)
    }

    fn register(&self, registry: &Registry) -> prometheus::Result<()> {
        registry.register(Box::new(self.turns.clone()))?;
        registry.register(Box::new(self.turn_seconds.clone()))?;
        registry.register(Box::new(self.queued_seconds.clone()))?;
        registry.register(Box::new(self.model_seconds.clone()))?;
        registry.register(Box::new(self.tokens.clone()))?;
        registry.register(Box::new(self.running.clone()))?;
        registry.register(Box::new(self.sessions.clone()))?;
        registry.register(Box::new(self.records.clone()))?;
        registry.register(Box::new(self.dropped_turns.clone()))?;
        registry.register(Box::new(self.recall_failures.clone()))
    }

    pub(crate) fn ended(&self, kind: TurnKind, outcome: &str, took: Duration, usage: Usage) {
        self.laid_down(kind, outcome);
        self.turn_seconds.with_label_values(&[name(kind), outcome]).observe(took.as_secs_f64());
        self.tokens.with_label_values(&["input"]).inc_by(usage.input_tokens);
        self.tokens.with_label_values(&["output"]).inc_by(usage.output_tokens);
    }

    pub(crate) fn laid_down(&self, kind: TurnKind, outcome: &str) {
        self.turns.with_label_values(&[name(kind), outcome]).inc();
    }

    pub(crate) fn model_call(&self, end: &End, took: Duration) {
        let result = match end {
            End::Answered(_) => "answered",
            End::Interrupted(..) => "interrupted",
            End::Failed(ModelError::Unavailable { .. }) => "unavailable",
            End::Failed(ModelError::KeyRefused(_)) => "key_refused",
            End::Failed(ModelError::NoSuchModel(_)) => "no_such_model",
            End::Failed(ModelError::Refused(_)) => "refused",
            End::Failed(ModelError::Malformed(_)) => "malformed",
        };
        self.model_seconds.with_label_values(&[result]).observe(took.as_secs_f64());
    }
}

const fn name(kind: TurnKind) -> &'static str {
    match kind {
        TurnKind::Message => "message",
        TurnKind::Tool => "tool",
    }
}
