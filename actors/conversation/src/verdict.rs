//! Whether a claimed turn is tried once more, and how long one that waits goes on waiting.

use std::time::Duration;

use chrono::{DateTime, Utc};
use soma_contract::turn::Tries;

use crate::failure::{Code, Failure};

/// The shortest and the longest pause of a turn that waits.
const PAUSE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_mins(1));

/// How often a turn may be tried without progress, and how long it may wait.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Patience {
    /// Claims without progress.
    pub attempts: u32,
    /// Panics of the turn.
    pub panics: u32,
    /// Deaths of the process with this turn as the only suspect.
    pub deaths: u32,
    /// Waiting without interruption for what is out of reach.
    pub waiting: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self { attempts: 5, panics: 3, deaths: 3, waiting: Duration::from_mins(15) }
    }
}

/// Judges a turn before it runs, with the attempt that is about to run already counted.
///
/// # Errors
///
/// It has been tried often enough.
pub fn judge(tries: Tries, patience: &Patience) -> Result<(), Failure> {
    if tries.panics >= patience.panics {
        let reason = format!("the turn panicked {} times", tries.panics);
        return Err(Failure::new(Code::Panicked, reason));
    }
    if tries.deaths >= patience.deaths {
        let reason = format!("the process died {} times over this turn alone", tries.deaths);
        return Err(Failure::new(Code::ProcessDied, reason));
    }
    if tries.attempts > patience.attempts {
        let reason = format!("{} attempts ended without progress", patience.attempts);
        return Err(Failure::new(Code::AttemptsSpent, reason));
    }
    Ok(())
}

/// Decides how long a turn pauses that has met something out of reach. A turn is always tried once
/// more at the end of its patience, so that an outage which has just ended harms nobody.
///
/// # Errors
///
/// It has waited long enough.
pub fn pause(
    waiting_since: Option<DateTime<Utc>>,
    now: DateTime<Utc>,
    asked: Option<Duration>,
    reason: &str,
    patience: &Patience,
) -> Result<Duration, Failure> {
    let waited = waiting_since.map_or(Duration::ZERO, |since| {
        now.signed_duration_since(since).to_std().unwrap_or_default()
    });
    let left = patience.waiting.saturating_sub(waited);
    if left.is_zero() {
        let minutes = patience.waiting.as_secs() / 60;
        let reason = format!("waited {minutes} min in vain: {reason}");
        return Err(Failure::new(Code::Unavailable, reason));
    }
    // The pause is as long as the turn has waited so far, so that it doubles each time.
    let own = waited.clamp(PAUSE.0, PAUSE.1);
    Ok(own.max(asked.unwrap_or_default()).min(left).max(PAUSE.0))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn tries(attempts: u32, panics: u32, deaths: u32) -> Tries {
        Tries { attempts, panics, deaths }
    }

    fn at(seconds: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(1_700_000_000 + seconds, 0).unwrap()
    }

    fn code(tries: Tries) -> Option<Code> {
        judge(tries, &Patience::default()).err().map(|failure| failure.code)
    }

    #[test]
    fn five_attempts_run_and_the_sixth_claim_ends_the_turn() {
        assert_eq!(code(tries(5, 2, 2)), None);
        assert_eq!(code(tries(6, 0, 0)), Some(Code::AttemptsSpent));
    }

    #[test]
    fn three_panics_or_three_lonely_deaths_end_the_turn() {
        assert_eq!(code(tries(4, 3, 0)), Some(Code::Panicked));
        assert_eq!(code(tries(4, 0, 3)), Some(Code::ProcessDied));
    }

    #[test]
    fn pauses_double_from_a_second_to_a_minute() {
        let patience = Patience::default();
        let (mut now, mut pauses) = (0, Vec::new());
        while let Ok(pause) = pause(Some(at(0)), at(now), None, "down", &patience) {
            pauses.push(pause.as_secs());
            now += i64::try_from(pause.as_secs()).unwrap();
        }
        assert_eq!(pauses[..8], [1, 1, 2, 4, 8, 16, 32, 60]);
        assert_eq!(pauses.iter().sum::<u64>(), 15 * 60);
    }

    #[test]
    fn the_endpoint_may_ask_for_more_but_not_for_more_than_is_left() {
        let patience = Patience::default();
        let asked = Some(Duration::from_secs(90));
        assert_eq!(pause(None, at(0), asked, "429", &patience).unwrap().as_secs(), 90);
        assert_eq!(pause(Some(at(0)), at(880), asked, "429", &patience).unwrap().as_secs(), 20);
        let failure = pause(Some(at(0)), at(900), asked, "429", &patience).unwrap_err();
        assert_eq!(failure.code, Code::Unavailable);
        assert!(failure.reason.contains("429"), "{}", failure.reason);
    }

    proptest! {
        #[test]
        fn a_pause_is_never_shorter_than_a_second_nor_endless(
            waited in 0_i64..2_000, asked in prop::option::of(0_u64..5_000),
        ) {
            let patience = Patience::default();
            let asked = asked.map(Duration::from_secs);
            match pause(Some(at(0)), at(waited), asked, "down", &patience) {
                Ok(pause) => {
                    prop_assert!(waited < 900);
                    prop_assert!(pause >= Duration::from_secs(1));
                    prop_assert!(pause <= patience.waiting);
                }
                Err(_) => prop_assert!(waited >= 900),
            }
        }
    }
}
