//! Decisions that were just made: bounded in time and number.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use serde_json::json;
use soma_contract::port::policy::{Action, Decision, PolicyInput};
use tokio::time::Instant;

/// The most decisions that are kept.
const MAX: usize = 4_096;

/// Returns under what a decision is kept, if it is: a tool's arguments hardly ever come twice, and
/// may be large.
pub(super) fn key(input: &PolicyInput) -> Option<String> {
    (input.action != Action::ToolExecute).then(|| json!(input).to_string())
}

/// Decisions by what was asked.
#[derive(Debug)]
pub(super) struct Cache {
    /// How long a decision may be given again.
    life: Duration,
    kept: Mutex<HashMap<String, (Instant, Decision)>>,
}

impl Cache {
    /// Builds an empty cache whose decisions live this long.
    pub(super) fn new(life: Duration) -> Self {
        Self { life, kept: Mutex::default() }
    }

    /// Returns a decision that is young enough.
    pub(super) fn get(&self, key: &str, now: Instant) -> Option<Decision> {
        let kept = self.kept();
        let (made, decision) = kept.get(key)?;
        (now < *made + self.life).then(|| decision.clone())
    }

    /// Keeps a decision. A full cache forgets what is old, and everything if nothing is.
    pub(super) fn put(&self, key: String, decision: Decision, now: Instant) {
        let mut kept = self.kept();
        if kept.len() >= MAX {
            kept.retain(|_, (made, _)| now < *made + self.life);
        }
        if kept.len() >= MAX {
            kept.clear();
        }
        kept.insert(key, (now, decision));
    }

    fn kept(&self) -> MutexGuard<'_, HashMap<String, (Instant, Decision)>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIFE: Duration = Duration::from_secs(2);

    #[test]
    fn a_decision_lives_for_two_seconds() {
        let (cache, now) = (Cache::new(LIFE), Instant::now());
        cache.put("a".into(), Decision::Allow, now);
        assert_eq!(cache.get("a", now + Duration::from_millis(1_999)), Some(Decision::Allow));
        assert_eq!(cache.get("a", now + LIFE), None);
    }

    #[test]
    fn the_cache_is_bounded() {
        let (cache, now) = (Cache::new(LIFE), Instant::now());
        for number in 0..3 * MAX {
            cache.put(number.to_string(), Decision::Allow, now);
            assert!(cache.kept().len() <= MAX);
        }
        assert_eq!(cache.get(&(3 * MAX - 1).to_string(), now), Some(Decision::Allow));
    }
}
