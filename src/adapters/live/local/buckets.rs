//! Token buckets, exact to the nanosecond, in bounded memory.

use std::{collections::HashMap, time::Duration};

use soma_contract::port::live::Admission;
use tokio::time::Instant;

/// Buckets kept before full ones are swept out.
const MAX_BUCKETS: usize = 16_384;
/// The unit of a level: with 10⁻⁹ of a token, a rate per second fills whole units per nanosecond.
const TOKEN: u64 = 1_000_000_000;

/// All buckets that are not full.
#[derive(Debug, Default)]
pub(super) struct Buckets(HashMap<String, Bucket>);

#[derive(Debug, Clone, Copy)]
struct Bucket {
    level: u64,
    per_second: u64,
    burst: u64,
    /// When `level` was true.
    at: Instant,
}

impl Buckets {
    /// Takes one token, or says when there will be one.
    pub(super) fn take(
        &mut self,
        name: &str,
        per_second: u32,
        burst: u32,
        now: Instant,
    ) -> Admission {
        if let Some(bucket) = self.0.get_mut(name) {
            return bucket.take(per_second, burst, now);
        }
        if self.0.len() >= MAX_BUCKETS {
            self.sweep(now);
        }
        let bucket = self.0.entry(name.to_owned()).or_insert_with(|| Bucket::full(burst, now));
        bucket.take(per_second, burst, now)
    }

    /// Forgets full buckets, which changes no answer; with none, the half that was used least
    /// recently, whose callers may burst once more than they should.
    fn sweep(&mut self, now: Instant) {
        self.0.retain(|_, bucket| bucket.level_at(now) < bucket.burst);
        if self.0.len() < MAX_BUCKETS {
            return;
        }
        let mut times: Vec<_> = self.0.values().map(|bucket| bucket.at).collect();
        let (_, median, _) = times.select_nth_unstable(MAX_BUCKETS / 2);
        let median = *median;
        self.0.retain(|_, bucket| bucket.at > median);
    }
}

impl Bucket {
    fn full(burst: u32, at: Instant) -> Self {
        let level = u64::from(burst) * TOKEN;
        Self { level, per_second: 0, burst: level, at }
    }

    fn take(&mut self, per_second: u32, burst: u32, now: Instant) -> Admission {
        self.per_second = u64::from(per_second);
        self.burst = u64::from(burst) * TOKEN;
        self.level = self.level_at(now);
        self.at = self.at.max(now);
        if let Some(rest) = self.level.checked_sub(TOKEN) {
            self.level = rest;
            return Admission::Granted;
        }
        let missing = TOKEN - self.level;
        Admission::Limited(Duration::from_nanos(missing.div_ceil(self.per_second.max(1))))
    }

    fn level_at(&self, now: Instant) -> u64 {
        let passed = now.saturating_duration_since(self.at).as_nanos();
        let filled = u64::try_from(passed).unwrap_or(u64::MAX).saturating_mul(self.per_second);
        self.level.saturating_add(filled).min(self.burst)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_burst_is_granted_and_then_one_token_per_interval() {
        let (mut buckets, start) = (Buckets::default(), Instant::now());
        for _ in 0..3 {
            assert_eq!(buckets.take("a", 3, 3, start), Admission::Granted);
        }
        let wait = Duration::from_nanos(333_333_334);
        assert_eq!(buckets.take("a", 3, 3, start), Admission::Limited(wait));
        let early = start + wait - Duration::from_nanos(1);
        assert_eq!(buckets.take("a", 3, 3, early), Admission::Limited(Duration::from_nanos(1)));
        assert_eq!(buckets.take("a", 3, 3, start + wait), Admission::Granted);
        assert_eq!(buckets.take("b", 3, 3, start), Admission::Granted);
    }

    #[test]
    fn memory_is_bounded_and_full_buckets_go_first() {
        let (mut buckets, start) = (Buckets::default(), Instant::now());
        let later = start + Duration::from_secs(1);
        for number in 0..MAX_BUCKETS / 2 {
            buckets.take(&format!("old {number}"), 1, 1, start);
        }
        for number in 0..MAX_BUCKETS {
            buckets.take(&format!("new {number}"), 1, 1, later);
        }
        assert_eq!(buckets.0.len(), MAX_BUCKETS);
        assert!(buckets.0.keys().all(|name| name.starts_with("new")));
        buckets.take("one more", 1, 1, later);
        assert!(buckets.0.len() <= MAX_BUCKETS);
        assert_eq!(
            buckets.take("one more", 1, 1, later),
            Admission::Limited(Duration::from_secs(1))
        );
    }

    proptest! {
        #[test]
        fn never_more_than_burst_and_rate_allow(
            per_second in 1_u32..50,
            burst in 1_u32..50,
            gaps in prop::collection::vec(0_u64..200_000_000, 1..200),
        ) {
            let (mut buckets, start) = (Buckets::default(), Instant::now());
            let mut granted = 0_u64;
            let mut passed = 0_u64;
            for gap in gaps {
                passed += gap;
                let now = start + Duration::from_nanos(passed);
                let allowed = u64::from(burst) + passed * u64::from(per_second) / TOKEN;
                match buckets.take("a", per_second, burst, now) {
                    Admission::Granted => granted += 1,
                    Admission::Limited(wait) => {
                        prop_assert_eq!(
                            buckets.take("a", per_second, burst, now + wait),
                            Admission::Granted
                        );
                        granted += 1;
                        passed += u64::try_from(wait.as_nanos()).unwrap();
                        let allowed = u64::from(burst) + passed * u64::from(per_second) / TOKEN;
                        prop_assert!(granted <= allowed);
                        continue;
                    }
                }
                prop_assert!(granted <= allowed);
            }
        }
    }
}
