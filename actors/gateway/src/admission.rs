//! Whether the backlog has room: a pure decision on a count from the store and what came since.

use std::collections::HashMap;

use soma_contract::{TenantId, message::AcceptError, port::store::Backlog};

use crate::config::Config;

/// How many turns wait: as the store counted them, and what was accepted here since.
///
/// Turns that ended since are not subtracted, so the estimate is never too low; it is counted anew
/// each second, and sooner when it refuses somebody.
#[derive(Debug, Default)]
pub struct Admission {
    counted: Tally,
    since: Tally,
    /// Accepted while a count was under way: it may or may not be in that count.
    during: Tally,
    /// Admitted, its commit not yet answered.
    admitted: Tally,
}

#[derive(Debug, Default)]
struct Tally {
    total: u64,
    tenants: HashMap<TenantId, u64>,
}

impl Tally {
    fn of(&self, tenant: &TenantId) -> u64 {
        self.tenants.get(tenant).copied().unwrap_or_default()
    }

    fn add(&mut self, tenant: &TenantId) {
        self.total += 1;
        match self.tenants.get_mut(tenant) {
            Some(count) => *count += 1,
            None => {
                self.tenants.insert(tenant.clone(), 1);
            }
        }
    }
}

impl Admission {
    /// Admits one more message of a tenant, until [`Self::settle`].
    ///
    /// # Errors
    ///
    /// [`AcceptError::BacklogFull`], with the numbers.
    pub fn admit(&mut self, tenant: &TenantId, config: &Config) -> Result<(), AcceptError> {
        let of_tenant = self.sum(|tally| tally.of(tenant));
        if of_tenant >= config.backlog_per_tenant {
            let limit = config.backlog_per_tenant;
            return Err(AcceptError::BacklogFull { of_tenant: true, queued: of_tenant, limit });
        }
        let total = self.total();
        if total >= config.backlog_total {
            let limit = config.backlog_total;
            return Err(AcceptError::BacklogFull { of_tenant: false, queued: total, limit });
        }
        self.admitted.add(tenant);
        Ok(())
    }

    /// Notes what became of all that was admitted: of these tenants one message each was newly
    /// accepted.
    pub fn settle<'t>(&mut self, accepted: impl Iterator<Item = &'t TenantId>) {
        self.admitted = Tally::default();
        for tenant in accepted {
            self.during.add(tenant);
        }
    }

    /// Returns the estimate of unfinished turns in all.
    pub fn total(&self) -> u64 {
        self.sum(|tally| tally.total)
    }

    /// Returns whether anything was accepted since the last count, so that a new one could differ
    /// for that reason.
    pub fn is_estimate(&self) -> bool {
        self.since.total + self.during.total > 0
    }

    /// Notes that the store is asked for a count now.
    pub fn count_begins(&mut self) {
        let during = std::mem::take(&mut self.during);
        self.since.total += during.total;
        for (tenant, count) in during.tenants {
            *self.since.tenants.entry(tenant).or_default() += count;
        }
    }

    /// Takes the store's count, which has everything that was accepted before it began.
    pub fn counted(&mut self, backlog: Backlog) {
        self.since = Tally::default();
        self.counted =
            Tally { total: backlog.total, tenants: backlog.tenants.into_iter().collect() };
    }

    fn sum(&self, of: impl Fn(&Tally) -> u64) -> u64 {
        of(&self.counted) + of(&self.since) + of(&self.during) + of(&self.admitted)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn tenant(number: u8) -> TenantId {
        TenantId(format!("tenant-{number}"))
    }

    fn config(per_tenant: u64, total: u64) -> Config {
        Config { backlog_per_tenant: per_tenant, backlog_total: total, ..Config::default() }
    }

    fn backlog(total: u64, of_first: u64) -> Backlog {
        Backlog { total, tenants: vec![(tenant(1), of_first)], oldest_ms: 0 }
    }

    #[test]
    fn a_full_tenant_is_refused_and_others_are_not() {
        let mut admission = Admission::default();
        admission.counted(backlog(9, 9));
        let config = config(10, 100);
        assert_eq!(admission.admit(&tenant(1), &config), Ok(()));
        assert_eq!(
            admission.admit(&tenant(1), &config),
            Err(AcceptError::BacklogFull { of_tenant: true, queued: 10, limit: 10 })
        );
        assert_eq!(admission.admit(&tenant(2), &config), Ok(()));
    }

    #[test]
    fn a_full_system_refuses_everybody() {
        let mut admission = Admission::default();
        admission.counted(backlog(20, 1));
        assert_eq!(
            admission.admit(&tenant(2), &config(10, 20)),
            Err(AcceptError::BacklogFull { of_tenant: false, queued: 20, limit: 20 })
        );
    }

    #[test]
    fn what_was_not_stored_does_not_count() {
        let mut admission = Admission::default();
        let config = config(1, 20);
        assert_eq!(admission.admit(&tenant(1), &config), Ok(()));
        admission.settle(std::iter::empty());
        assert_eq!(admission.admit(&tenant(1), &config), Ok(()));
    }

    #[test]
    fn a_new_count_replaces_the_estimate() {
        let mut admission = Admission::default();
        admission.settle([&tenant(1)].into_iter());
        assert!(admission.is_estimate());
        admission.count_begins();
        admission.counted(backlog(0, 0));
        assert!(!admission.is_estimate());
        assert_eq!(admission.total(), 0);
    }

    proptest! {
        #[test]
        fn the_estimate_is_never_below_what_the_store_holds(
            steps in prop::collection::vec((0_u8..5, 0_u8..3), 0..80),
        ) {
            // The store's truth; a count sees what was stored when it began.
            let (mut stored, mut seen_by_count, mut waiting) = (0_u64, None, Vec::new());
            let mut admission = Admission::default();
            for (step, of) in steps {
                match step {
                    0 | 1 => {
                        prop_assert_eq!(admission.admit(&tenant(of), &Config::default()), Ok(()));
                        waiting.push(tenant(of));
                    }
                    2 => {
                        stored += waiting.len() as u64;
                        admission.settle(waiting.iter());
                        waiting.clear();
                    }
                    3 if seen_by_count.is_none() => {
                        admission.count_begins();
                        seen_by_count = Some(stored);
                    }
                    _ => {
                        if let Some(total) = seen_by_count.take() {
                            admission.counted(backlog(total, 0));
                        }
                    }
                }
                prop_assert!(admission.total() >= stored);
            }
        }
    }
}
