//! Rate limits per subject: shared over replicas by the live port, local while that is down.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use soma_config::RateLimit;
use soma_contract::{access::Caller, port::live::Admission};
use tokio::time::Instant;

use super::{codes, edge::Edge, problem::Problem};

/// The port decides within this, or the local buckets do.
const PATIENCE: Duration = Duration::from_millis(250);
const MAX_BUCKETS: usize = 50_000;

/// Takes one request out of the subject's allowance.
pub(super) async fn admit(edge: &Edge, caller: &Caller) -> Result<(), Problem> {
    let limit = &edge.settings().rate;
    if !limit.is_on() {
        return Ok(());
    }
    let (per_second, burst) = (limit.per_second, limit.burst);
    let bucket = format!("rate/{}/{}", caller.tenant, caller.subject);
    let live = Arc::clone(&edge.parts().live);
    let name = bucket.clone();
    let asked = edge
        .parts()
        .io
        .call(PATIENCE, async move { live.take(&name, per_second, burst).await })
        .await;
    let admission = match asked {
        Ok(Ok(admission)) => admission,
        Ok(Err(_)) | Err(_) => edge.buckets().take(bucket, limit, Instant::now()),
    };
    match admission {
        Admission::Granted => Ok(()),
        Admission::Limited(delay) => Err(Problem::new(
            codes::RATE_LIMITED,
            format!("`{}` may make {} requests a second", caller.subject, limit.per_second),
        )
        .retry_after(delay)),
    }
}

/// Token buckets of this process.
#[derive(Debug, Default)]
pub(super) struct Buckets(Mutex<HashMap<String, Bucket>>);

#[derive(Debug)]
struct Bucket {
    tokens: f64,
    filled: Instant,
}

impl Buckets {
    fn take(&self, name: String, limit: &RateLimit, now: Instant) -> Admission {
        let rate = f64::from(limit.per_second);
        let burst = f64::from(limit.burst.max(1));
        let mut buckets = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if buckets.len() >= MAX_BUCKETS && !buckets.contains_key(&name) {
            // A bucket that is full again has nothing to remember.
            buckets.retain(|_, bucket| bucket.level(rate, now) < burst);
            if buckets.len() >= MAX_BUCKETS {
                return Admission::Limited(Duration::from_secs(1));
            }
        }
        let bucket = buckets.entry(name).or_insert(Bucket { tokens: burst, filled: now });
        bucket.tokens = bucket.level(rate, now).min(burst);
        bucket.filled = now;
        if bucket.tokens >= 1.0 {
            bucket.tokens -= 1.0;
            return Admission::Granted;
        }
        Admission::Limited(Duration::from_secs_f64((1.0 - bucket.tokens) / rate))
    }
}

impl Bucket {
    fn level(&self, rate: f64, now: Instant) -> f64 {
        now.saturating_duration_since(self.filled).as_secs_f64().mul_add(rate, self.tokens)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_gives_its_burst_and_then_its_rate() {
        let buckets = Buckets::default();
        let limit = RateLimit { per_second: 10, burst: 3 };
        let now = Instant::now();
        let take = |at| buckets.take("a".to_owned(), &limit, at);
        for _ in 0..3 {
            assert_eq!(take(now), Admission::Granted);
        }
        assert_eq!(take(now), Admission::Limited(Duration::from_millis(100)));
        assert_eq!(take(now + Duration::from_millis(101)), Admission::Granted);
        assert!(matches!(take(now + Duration::from_millis(102)), Admission::Limited(_)));
        assert_eq!(buckets.take("b".to_owned(), &limit, now), Admission::Granted);
    }
}
