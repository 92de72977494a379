//! Tasks on the I/O runtime that end with their owner, and how long they wait between attempts.

use std::time::Duration;

use rand::Rng;
use tokio::{runtime::Handle, task::AbortHandle};

/// The first pause is at most this.
const FIRST: Duration = Duration::from_millis(100);
/// No pause is longer.
const LONGEST: Duration = Duration::from_secs(5);

/// A task that is ended when this is dropped.
#[derive(Debug)]
pub(super) struct Task(AbortHandle);

impl Task {
    /// Starts a task.
    pub(super) fn spawn(handle: &Handle, work: impl Future<Output = ()> + Send + 'static) -> Self {
        Self(handle.spawn(work).abort_handle())
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Attempts to connect since the last that succeeded.
#[derive(Debug, Default)]
pub(super) struct Attempts(u32);

impl Attempts {
    /// Notes that there is a connection.
    pub(super) fn succeeded(&mut self, connection: &str) {
        tracing::info!(connection, "redis is connected");
        self.0 = 0;
    }

    /// Notes that there is none (any more) and returns how long to wait. Only the first failure is
    /// worth a warning.
    pub(super) fn failed(&mut self, connection: &str, reason: &str) -> Duration {
        if self.0 == 0 {
            tracing::warn!(connection, reason, "redis is away; streams show what the store has");
        } else {
            tracing::debug!(connection, reason, "redis is still away");
        }
        let longest = FIRST.saturating_mul(1 << self.0.min(10)).min(LONGEST);
        self.0 = self.0.saturating_add(1);
        // Half of it by chance: replicas do not come back all at once.
        longest.mul_f64(rand::rng().random_range(0.5..1.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_limit_and_begin_anew_after_a_success() {
        let mut attempts = Attempts::default();
        for number in 0..40 {
            let longest = FIRST.saturating_mul(1 << number.min(10)).min(LONGEST);
            let pause = attempts.failed("test", "away");
            assert!(pause >= longest / 2 && pause <= longest, "{number}: {pause:?}");
        }
        attempts.succeeded("test");
        assert!(attempts.failed("test", "away") <= FIRST);
    }
}
