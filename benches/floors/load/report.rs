//! What came back.

use std::{collections::BTreeMap, fmt, time::Duration};

use hdrhistogram::Histogram;

use super::Outcome;

/// The longest latency that is told apart from longer ones, in nanoseconds.
const LONGEST: u64 = 600_000_000_000;
/// Significant digits.
const DIGITS: u8 = 3;

/// Counts while requests run.
#[derive(Debug)]
pub(super) struct Tally {
    latencies: Histogram<u64>,
    faults: BTreeMap<String, u64>,
}

impl Tally {
    pub(super) fn new() -> anyhow::Result<Self> {
        let latencies = Histogram::new_with_bounds(1, LONGEST, DIGITS)?;
        Ok(Self { latencies, faults: BTreeMap::new() })
    }

    /// Counts one request: its latency if it had the wanted answer, else what it had instead.
    pub(super) fn count(&mut self, outcome: Result<Outcome, String>, latency: Duration) {
        let fault = match outcome {
            Ok(Outcome { wanted: true, .. }) => {
                let nanos = u64::try_from(latency.as_nanos()).unwrap_or(LONGEST);
                self.latencies.saturating_record(nanos);
                return;
            }
            Ok(Outcome { status, .. }) => format!("status {status}"),
            Err(fault) => fault,
        };
        *self.faults.entry(fault).or_default() += 1;
    }

    pub(super) fn report(self, elapsed: Duration) -> Report {
        Report { latencies: self.latencies, faults: self.faults, elapsed }
    }
}

/// What a run of the generator found.
#[derive(Debug, Clone)]
pub(crate) struct Report {
    latencies: Histogram<u64>,
    /// What came instead of the wanted answer, by status or kind of failure.
    pub(crate) faults: BTreeMap<String, u64>,
    elapsed: Duration,
}

impl Report {
    /// Returns how many requests had the wanted answer.
    pub(crate) fn answered(&self) -> u64 {
        self.latencies.len()
    }

    /// Returns how many had not.
    pub(crate) fn failed(&self) -> u64 {
        self.faults.values().sum()
    }

    /// Returns the wanted answers per second.
    #[expect(clippy::cast_precision_loss, reason = "a count of requests is far below 2^52")]
    pub(crate) fn per_second(&self) -> f64 {
        self.answered() as f64 / self.elapsed.as_secs_f64()
    }

    /// Returns the latency that `quantile` (0 to 1) of the wanted answers kept within.
    pub(crate) fn latency(&self, quantile: f64) -> Duration {
        Duration::from_nanos(self.latencies.value_at_quantile(quantile))
    }
}

impl fmt::Display for Report {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let millis = |quantile| self.latency(quantile).as_secs_f64() * 1e3;
        write!(
            formatter,
            "{} answered, {:.0}/s, latency in ms: p50 {:.3}, p90 {:.3}, p99 {:.3}, p99.9 {:.3}, \
             max {:.3}; {} failed",
            self.answered(),
            self.per_second(),
            millis(0.5),
            millis(0.9),
            millis(0.99),
            millis(0.999),
            millis(1.0),
            self.failed(),
        )?;
        self.faults.iter().try_for_each(|(fault, count)| write!(formatter, ", {count} × {fault}"))
    }
}
