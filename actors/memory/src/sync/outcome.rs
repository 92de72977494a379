//! What follows from the memory service's answers.

use std::{collections::HashMap, time::Duration};

use soma_contract::{
    memory::Memory,
    port::{memory::Receipt, store::PendingWrite},
};

/// The longest wait before a write is delivered again.
const LONGEST: Duration = Duration::from_mins(1);
/// Panics after which a write is a dead letter.
const MAX_PANICS: u32 = 3;

/// How one delivery went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Outcome {
    /// The service has it.
    Taken(Receipt),
    /// It will never take it.
    Refused(String),
    /// Later, perhaps.
    Unavailable(String),
    /// The delivery itself panicked.
    Panicked,
}

/// What is to be done about a batch.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Plan {
    pub(super) settle: Vec<(i64, Receipt)>,
    pub(super) refuse: Vec<(i64, String)>,
    pub(super) postpone: Vec<(i64, String, Duration)>,
}

impl Plan {
    /// Plans; `random` draws from 0 to 1, `panics` counts over passes.
    pub(super) fn of(
        outcomes: Vec<(PendingWrite, Outcome)>,
        panics: &mut HashMap<i64, u32>,
        random: impl Fn() -> f64,
    ) -> Self {
        let mut plan = Self::default();
        for (row, outcome) in outcomes {
            let id = row.id;
            let later = delay(row.attempts, random());
            match outcome {
                Outcome::Taken(receipt) => plan.settle.push((id, receipt)),
                Outcome::Refused(reason) => plan.refuse.push((id, reason)),
                Outcome::Unavailable(reason) => {
                    plan.postpone.push((id, reason, later));
                    continue; // Whatever panicked before may panic again: go on counting.
                }
                Outcome::Panicked => {
                    let count = panics.entry(id).or_default();
                    *count += 1;
                    let reason = "its delivery panicked".to_owned();
                    if *count < MAX_PANICS {
                        plan.postpone.push((id, reason, later));
                        continue;
                    }
                    plan.refuse.push((id, format!("{reason} {MAX_PANICS} times")));
                }
            }
            panics.remove(&id);
        }
        plan
    }

    /// Returns whether anything left the outbox.
    pub(super) const fn moved(&self) -> bool {
        !self.settle.is_empty() || !self.refuse.is_empty()
    }

    /// Returns what is wrong, if something is.
    pub(super) fn fault(&self) -> Option<String> {
        let (_, reason, _) = self.postpone.first()?;
        Some(format!("{} memory writes wait: {reason}", self.postpone.len()))
    }
}

/// Names a delivery: equal for every repetition of it, in any process, at any time.
pub(super) fn key(memory: &Memory) -> String {
    format!("{}/{}/{}", memory.tenant, memory.memory_id, memory.version)
}

/// Returns how long to wait: full jitter below 1 s × 2ⁿ and a minute.
fn delay(attempts: u32, random: f64) -> Duration {
    let most = Duration::from_secs(1).saturating_mul(1 << attempts.min(10)).min(LONGEST);
    most.mul_f64(random.clamp(0.05, 1.0))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use soma_contract::{EventId, testing::sample};
    use uuid::Uuid;

    use super::*;

    fn row(id: i64, attempts: u32) -> PendingWrite {
        let write = sample::put(Uuid::from_u128(1), EventId(Uuid::from_u128(2)), "text");
        PendingWrite { id, write, attempts }
    }

    fn outcome() -> impl Strategy<Value = Outcome> {
        prop_oneof![
            Just(Outcome::Taken(Receipt::default())),
            Just(Outcome::Refused("never".to_owned())),
            Just(Outcome::Unavailable("later".to_owned())),
            Just(Outcome::Panicked),
        ]
    }

    proptest! {
        #[test]
        fn every_row_gets_exactly_one_fate(outcomes in prop::collection::vec(outcome(), 0..30)) {
            let rows = (0..).map(|id| row(id, 0)).zip(outcomes).collect::<Vec<_>>();
            let count = rows.len();
            let mut panics = HashMap::new();
            let plan = Plan::of(rows, &mut panics, || 0.5);
            prop_assert_eq!(plan.settle.len() + plan.refuse.len() + plan.postpone.len(), count);
            prop_assert_eq!(plan.fault().is_some(), !plan.postpone.is_empty());
        }

        #[test]
        fn waits_are_bounded(attempts in any::<u32>(), random in -1.0..2.0_f64) {
            let wait = delay(attempts, random);
            prop_assert!(wait <= LONGEST && wait >= Duration::from_millis(50));
        }
    }

    #[test]
    fn three_panics_of_one_row_end_it_and_being_unavailable_never_does() {
        let mut panics = HashMap::new();
        let mut plan = |outcome: Outcome, attempts| {
            Plan::of(vec![(row(1, attempts), outcome)], &mut panics, || 0.5)
        };
        assert!(!plan(Outcome::Panicked, 0).moved());
        assert!(!plan(Outcome::Unavailable("x".to_owned()), 1_000_000).moved());
        assert!(!plan(Outcome::Panicked, 1).moved());
        assert_eq!(plan(Outcome::Panicked, 2).refuse.len(), 1);
        assert!(!plan(Outcome::Panicked, 0).moved());
    }

    #[test]
    fn a_key_tells_versions_memories_and_tenants_apart() {
        let memory = row(1, 0).write.memory;
        let later = Memory { version: memory.version + 1, ..memory.clone() };
        assert_eq!(key(&memory), key(&memory.clone()));
        assert_ne!(key(&memory), key(&later));
    }
}
