//! The clock of a constant rate.
//!
//! Tokio's timers count whole milliseconds, which is as long as a quick server takes for an answer;
//! a thread that sleeps is woken within some ten microseconds.

use std::{cell::Cell, sync::Arc, thread, time::Duration};

use tokio::{sync::Semaphore, time::Instant};

/// A little later than now, so that the first request is not late already.
const HEAD_START: Duration = Duration::from_millis(10);

/// Hands out what is due, in order.
#[derive(Debug)]
pub(super) struct Pacer {
    due: Arc<Semaphore>,
    first: Instant,
    per_second: u32,
    count: u64,
    next: Cell<u64>,
}

impl Pacer {
    /// Starts the clock: `per_second` for `duration`.
    pub(super) fn start(per_second: u32, duration: Duration) -> Self {
        let count = duration.as_millis().saturating_mul(u128::from(per_second)) / 1000;
        let count = u64::try_from(count).unwrap_or(u64::MAX);
        let first = Instant::now() + HEAD_START;
        let due = Arc::new(Semaphore::new(0));
        let clock = Arc::clone(&due);
        thread::spawn(move || {
            for index in 0..count {
                sleep_until(due_at(first, per_second, index));
                clock.add_permits(1);
            }
            clock.close();
        });
        Self { due, first, per_second, count, next: Cell::new(0) }
    }

    /// Returns the next request and when it is due, at that time or as soon after as is asked;
    /// `None` after the last one.
    pub(super) async fn next(&self) -> Option<(u64, Instant)> {
        // After the last permit the semaphore is closed, and what is left is late already.
        if let Ok(permit) = self.due.acquire().await {
            permit.forget();
        }
        let index = self.next.get();
        if index >= self.count {
            return None;
        }
        self.next.set(index + 1);
        Some((index, due_at(self.first, self.per_second, index)))
    }
}

fn due_at(first: Instant, per_second: u32, index: u64) -> Instant {
    let nanos = u128::from(index) * 1_000_000_000 / u128::from(per_second.max(1));
    first + Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}

#[expect(clippy::disallowed_methods, reason = "the pacer has a thread to itself")]
fn sleep_until(due: Instant) {
    thread::sleep(due.saturating_duration_since(Instant::now()));
}
