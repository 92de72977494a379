//! From where on a person has to know.

use std::{collections::BTreeMap, time::Duration};

use soma_contract::port::store::{Backlog, Depths};

/// Limits; beyond one the service reports degraded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// The age of the oldest open snapshot: it holds back clean-up and makes claims slow.
    pub snapshot_age: Duration,
    /// The age of the oldest outbox row; `None` where the bus keeps its records in the outbox, as
    /// they are then as old as the work that waits.
    pub outbox_age: Option<Duration>,
    /// The age of the oldest memory write.
    pub memory_write_age: Duration,
    /// Turns that wait.
    pub backlog: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            snapshot_age: Duration::from_mins(10),
            outbox_age: None,
            memory_write_age: Duration::from_mins(10),
            backlog: 80_000,
        }
    }
}

/// What may need a person.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Alarm {
    /// Somebody keeps a transaction open.
    OldSnapshot,
    /// Records do not reach the bus.
    OldOutbox,
    /// Memory writes do not reach the memory service.
    OldMemoryWrites,
    /// Soon messages will be refused.
    Backlog,
}

impl Alarm {
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::OldSnapshot => "old_snapshot",
            Self::OldOutbox => "old_outbox",
            Self::OldMemoryWrites => "old_memory_writes",
            Self::Backlog => "backlog",
        }
    }
}

/// Returns what is beyond its limit, and by how much.
pub(crate) fn alarms(
    depths: &Depths,
    backlog: &Backlog,
    limits: &Limits,
) -> BTreeMap<Alarm, String> {
    let old = |alarm, millis: u64, limit: Option<Duration>, what: &str| {
        let age = Duration::from_millis(millis);
        limit
            .filter(|limit| age >= *limit)
            .map(|_| (alarm, format!("{what} for {} s", age.as_secs())))
    };
    let many = (backlog.total >= limits.backlog)
        .then(|| (Alarm::Backlog, format!("{} turns wait to be run", backlog.total)));
    [
        old(
            Alarm::OldSnapshot,
            depths.oldest_snapshot_ms,
            Some(limits.snapshot_age),
            "a transaction of the store has been open",
        ),
        old(
            Alarm::OldOutbox,
            depths.outbox_oldest_ms,
            limits.outbox_age,
            "a record has been waiting for the bus",
        ),
        old(
            Alarm::OldMemoryWrites,
            depths.memory_writes_oldest_ms,
            Some(limits.memory_write_age),
            "a memory write has been waiting for the memory service",
        ),
        many,
    ]
    .into_iter()
    .flatten()
    .collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn each_limit_has_its_alarm() {
        let limits = Limits { outbox_age: Some(Duration::from_mins(1)), ..Limits::default() };
        let quiet = alarms(&Depths::default(), &Backlog::default(), &limits);
        assert!(quiet.is_empty());
        let hour = 3_600_000;
        let depths = Depths {
            outbox_oldest_ms: hour,
            memory_writes_oldest_ms: hour,
            oldest_snapshot_ms: hour,
            ..Depths::default()
        };
        let backlog = Backlog { total: 100_000, ..Backlog::default() };
        let names: Vec<_> =
            alarms(&depths, &backlog, &limits).into_keys().map(Alarm::as_str).collect();
        assert_eq!(names, ["old_snapshot", "old_outbox", "old_memory_writes", "backlog"]);
        let local = Limits { outbox_age: None, ..limits };
        assert!(!alarms(&depths, &backlog, &local).contains_key(&Alarm::OldOutbox));
    }

    proptest! {
        #[test]
        fn more_never_means_fewer_alarms(age in 0_u64..2_000_000, more in 0_u64..2_000_000) {
            let at = |millis| {
                let depths = Depths { oldest_snapshot_ms: millis, ..Depths::default() };
                alarms(&depths, &Backlog::default(), &Limits::default()).len()
            };
            prop_assert!(at(age) <= at(age + more));
        }
    }
}
