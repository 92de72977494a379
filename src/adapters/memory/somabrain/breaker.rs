//! When a server that fails is left alone. Pure but for the lock.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

/// Failures in a row after which the server is left alone.
const FAILURES: u32 = 3;
/// For how long.
const PAUSE: Duration = Duration::from_secs(15);
/// A server may ask to be left alone for so long at most.
const LONGEST: Duration = Duration::from_mins(2);

/// Counts failures in a row, for one kind of call.
#[derive(Debug, Default)]
pub(super) struct Breaker(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    failures: u32,
    /// Nobody calls before this.
    open_until: Option<Instant>,
}

/// A call that was let through; dropped without an outcome, as when its caller has no more time, it
/// has failed.
#[derive(Debug)]
pub(super) struct Attempt<'a> {
    breaker: &'a Breaker,
    is_over: bool,
}

impl Breaker {
    /// Lets a call through. When the pause is over it lets one through at a time, and the next a
    /// pause later, until one succeeds.
    ///
    /// # Errors
    ///
    /// The server is left alone for so long.
    pub(super) fn attempt(&self, now: Instant) -> Result<Attempt<'_>, Duration> {
        let mut state = self.state();
        if let Some(until) = state.open_until {
            if now < until {
                return Err(until - now);
            }
            state.open_until = Some(now + PAUSE);
        }
        Ok(Attempt { breaker: self, is_over: false })
    }

    fn failed(&self, now: Instant, asked: Option<Duration>) {
        let mut state = self.state();
        state.failures = state.failures.saturating_add(1);
        let pause = match asked {
            Some(asked) => Some(asked.min(LONGEST)),
            None => (state.failures >= FAILURES).then_some(PAUSE),
        };
        if let Some(pause) = pause {
            let until = now + pause;
            state.open_until = Some(state.open_until.map_or(until, |known| known.max(until)));
            if state.failures <= FAILURES {
                tracing::warn!(?pause, "the memory service fails and is left alone");
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Attempt<'_> {
    /// The server works: all is forgotten.
    pub(super) fn succeeded(mut self) {
        self.is_over = true;
        *self.breaker.state() = State::default();
    }

    /// The server does not work; it may have said for how long.
    pub(super) fn failed(mut self, now: Instant, asked: Option<Duration>) {
        self.is_over = true;
        self.breaker.failed(now, asked);
    }
}

impl Drop for Attempt<'_> {
    fn drop(&mut self) {
        if !self.is_over {
            self.breaker.failed(Instant::now(), None);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn fail(breaker: &Breaker, now: Instant) {
        breaker.attempt(now).unwrap().failed(now, None);
    }

    #[test]
    fn three_failures_in_a_row_open_it_for_a_while_and_then_one_call_is_tried() {
        let (breaker, now) = (Breaker::default(), Instant::now());
        fail(&breaker, now);
        fail(&breaker, now);
        breaker.attempt(now).unwrap().succeeded();
        for _ in 0..3 {
            fail(&breaker, now);
        }
        assert_eq!(breaker.attempt(now + SECOND).unwrap_err(), Duration::from_secs(14));
        let later = now + PAUSE;
        let trial = breaker.attempt(later).unwrap();
        assert_eq!(breaker.attempt(later).unwrap_err(), PAUSE, "only one tries");
        trial.failed(later, None);
        assert!(breaker.attempt(later + SECOND).is_err());
        breaker.attempt(later + PAUSE).unwrap().succeeded();
        fail(&breaker, later + PAUSE);
        assert!(breaker.attempt(later + PAUSE).is_ok(), "one failure does not open it again");
    }

    #[test]
    fn a_server_that_asks_for_a_pause_has_it_but_not_for_ever() {
        let (breaker, now) = (Breaker::default(), Instant::now());
        breaker.attempt(now).unwrap().failed(now, Some(40 * SECOND));
        assert_eq!(breaker.attempt(now).unwrap_err(), 40 * SECOND);
        let later = now + 40 * SECOND;
        breaker.attempt(later).unwrap().failed(later, Some(10_000 * SECOND));
        assert_eq!(breaker.attempt(later).unwrap_err(), LONGEST);
    }

    #[test]
    fn a_call_that_is_given_up_has_failed() {
        let (breaker, now) = (Breaker::default(), Instant::now());
        for _ in 0..3 {
            drop(breaker.attempt(now).unwrap());
        }
        assert!(breaker.attempt(now).is_err());
    }
}
