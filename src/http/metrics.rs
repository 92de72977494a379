//! Rate, errors and duration of requests per route template, and how streams fare.

use prometheus::{
    HistogramOpts, HistogramVec, IntCounterVec, IntGauge, Opts, Registry, exponential_buckets,
};
use std::time::Duration;

/// The metrics of the edge. No label holds an id or a raw path.
#[derive(Debug, Clone)]
pub(super) struct Metrics {
    requests: IntCounterVec,
    seconds: HistogramVec,
    in_flight: IntGauge,
    streams: IntGauge,
    streams_ended: IntCounterVec,
    problems: IntCounterVec,
    accept_retries: IntCounterVec,
}

impl Metrics {
    pub(super) fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let counter = |name: &str, help: &str, labels: &[&str]| {
            let counter = IntCounterVec::new(Opts::new(name, help), labels)?;
            registry.register(Box::new(counter.clone()))?;
            Ok::<_, prometheus::Error>(counter)
        };
        let gauge = |name: &str, help: &str| {
            let gauge = IntGauge::new(name, help)?;
            registry.register(Box::new(gauge.clone()))?;
            Ok::<_, prometheus::Error>(gauge)
        };
        let buckets = exponential_buckets(0.000_5, 2.0, 16)?;
        let seconds = HistogramVec::new(
            HistogramOpts::new("http_request_seconds", "Time to the answer's head")
                .buckets(buckets),
            &["method", "route"],
        )?;
        registry.register(Box::new(seconds.clone()))?;
        Ok(Self {
            requests: counter(
                "http_requests_total",
                "Requests answered",
                &["method", "route", "status"],
            )?,
            seconds,
            in_flight: gauge("http_requests_in_flight", "Requests being answered")?,
            streams: gauge("http_streams_open", "Event streams open")?,
            streams_ended: counter(
                "http_streams_ended_total",
                "Event streams ended, by reason",
                &["reason"],
            )?,
            problems: counter("http_problems_total", "Refusals and failures, by code", &["code"])?,
            accept_retries: counter(
                "http_accept_retries_total",
                "Accepts sent again by the edge, by reason",
                &["reason"],
            )?,
        })
    }

    /// Counts a request as being answered until the guard is dropped.
    pub(super) fn begin(&self) -> InFlight {
        InFlight::of(&self.in_flight)
    }

    /// Counts a stream as open until the guard is dropped.
    pub(super) fn stream(&self) -> InFlight {
        InFlight::of(&self.streams)
    }

    pub(super) fn stream_ended(&self, reason: &str) {
        self.streams_ended.with_label_values(&[reason]).inc();
    }

    pub(super) fn answered(&self, method: &str, route: &str, status: u16, took: Duration) {
        self.requests.with_label_values(&[method, route, status_text(status).as_ref()]).inc();
        self.seconds.with_label_values(&[method, route]).observe(took.as_secs_f64());
    }

    pub(super) fn problem(&self, code: &str) {
        self.problems.with_label_values(&[code]).inc();
    }

    pub(super) fn accept_retried(&self, reason: &str) {
        self.accept_retries.with_label_values(&[reason]).inc();
    }
}

fn status_text(status: u16) -> std::borrow::Cow<'static, str> {
    match status {
        200 => "200".into(),
        202 => "202".into(),
        other => other.to_string().into(),
    }
}

/// Keeps a gauge one higher while it lives.
#[derive(Debug)]
pub(super) struct InFlight(IntGauge);

impl InFlight {
    fn of(gauge: &IntGauge) -> Self {
        gauge.inc();
        Self(gauge.clone())
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.dec();
    }
}
