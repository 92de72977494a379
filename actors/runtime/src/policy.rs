//! How a service is restarted: budget, back-off, and what follows when the budget is spent.

use std::time::Duration;

/// What follows when a service has died more often than its budget allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WhenSpent {
    /// It is parked as `failed` and tried once per [`RestartPolicy::retry`], or by hand.
    Park,
    /// Its supervisor dies of it; at the root the system halts.
    Escalate,
}

/// When and how often a dead service is started again.
///
/// The default is the rule for a service that is not critical: at once, then 0.1 s × 2ⁿ to 10 s
/// with full jitter, five deaths in any 60 s, then parked with one try each 60 s.
#[derive(Debug, Clone, PartialEq)]
pub struct RestartPolicy {
    /// Deaths that may lie within `window`; the next one spends the budget.
    pub budget: u32,
    /// The sliding window in which deaths count.
    pub window: Duration,
    /// The upper bound of the second restart's delay (the first is at once); it doubles from there.
    pub first_delay: Duration,
    /// The bound that delays stop growing at.
    pub max_delay: Duration,
    /// A life of this length clears deaths, delays and the remembered cause.
    pub healthy: Duration,
    /// How long a parked service waits for its next try.
    pub retry: Duration,
    /// What follows when the budget is spent.
    pub when_spent: WhenSpent,
    /// Where set, a hang does not count against the budget, but a second one within this time
    /// spends it.
    pub one_hang_per: Option<Duration>,
}

impl Default for RestartPolicy {
    fn default() -> Self {
        Self {
            budget: 5,
            window: Duration::from_mins(1),
            first_delay: Duration::from_millis(100),
            max_delay: Duration::from_secs(10),
            healthy: Duration::from_mins(1),
            retry: Duration::from_mins(1),
            when_spent: WhenSpent::Park,
            one_hang_per: None,
        }
    }
}

impl RestartPolicy {
    /// The rule for a critical service: `budget` deaths (by default none) are forgiven, one hang
    /// per ten minutes, then the system halts.
    pub fn critical(budget: u32) -> Self {
        Self {
            budget,
            when_spent: WhenSpent::Escalate,
            one_hang_per: Some(Duration::from_mins(10)),
            ..Self::default()
        }
    }

    /// Returns the bound of the delay before restart number `streak` (1 is the first).
    pub(crate) fn delay_bound(&self, streak: u32) -> Duration {
        let Some(doublings) = streak.checked_sub(2) else { return Duration::ZERO };
        let factor = 1_u32.checked_shl(doublings).unwrap_or(u32::MAX);
        self.first_delay.saturating_mul(factor).min(self.max_delay)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_restart_is_at_once_and_delays_double_to_the_bound() {
        let policy = RestartPolicy::default();
        let bounds: Vec<_> = (0..=9).map(|n| policy.delay_bound(n).as_millis()).collect();
        assert_eq!(bounds, [0, 0, 100, 200, 400, 800, 1600, 3200, 6400, 10_000]);
        assert_eq!(policy.delay_bound(u32::MAX), policy.max_delay);
    }
}
