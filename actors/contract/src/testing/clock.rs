//! A clock that moves when told, and ids in a repeatable order.

use std::{
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::locked;
use crate::ids::{Clock, Ids};

/// 2026-01-01T12:00:00Z: noon, so that hours may pass without a new day.
const START: DateTime<Utc> = DateTime::from_timestamp(1_767_268_800, 0).unwrap();

/// A clock that stands still until it is moved.
#[derive(Debug)]
pub struct FakeClock {
    now: Mutex<DateTime<Utc>>,
}

impl FakeClock {
    /// Builds a clock that shows noon of 2026-01-01 (UTC).
    pub const fn new() -> Self {
        Self { now: Mutex::new(START) }
    }

    /// Moves the clock on.
    pub fn advance(&self, by: Duration) {
        *locked(&self.now) += by;
    }

    /// Sets the clock.
    pub fn set(&self, now: DateTime<Utc>) {
        *locked(&self.now) = now;
    }
}

impl Default for FakeClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for FakeClock {
    fn now(&self) -> DateTime<Utc> {
        *locked(&self.now)
    }
}

/// Ids that count up, so that a test's ids are the same in each run.
#[derive(Debug)]
pub struct SeqIds {
    space: u32,
    next: AtomicU64,
}

impl SeqIds {
    /// Builds a source whose first id ends in 1.
    pub const fn new() -> Self {
        Self::in_space(0)
    }

    /// Builds a source whose ids differ from those of every other space.
    pub const fn in_space(space: u32) -> Self {
        Self { space, next: AtomicU64::new(1) }
    }
}

impl Default for SeqIds {
    fn default() -> Self {
        Self::new()
    }
}

impl Ids for SeqIds {
    fn draw(&self) -> Uuid {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        Uuid::from_u128(u128::from(self.space) << 64 | u128::from(number))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clock_stands_still_until_it_is_moved() {
        let clock = FakeClock::new();
        assert_eq!(clock.now().to_rfc3339(), "2026-01-01T12:00:00+00:00");
        clock.advance(Duration::from_secs(90));
        assert_eq!(clock.now().to_rfc3339(), "2026-01-01T12:01:30+00:00");
    }

    #[test]
    fn ids_repeat_in_each_run_and_never_within_one() {
        let (first, second) = (SeqIds::new(), SeqIds::new());
        assert_eq!(first.draw(), second.draw());
        assert_ne!(first.draw(), SeqIds::in_space(1).draw());
    }
}
