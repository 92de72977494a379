//! Retention, backlog and dead-letter depth, old-snapshot alarm.
//!
//! - **Takes**: nothing; looks at the store every now and then.
//! - **Emits**: gauges, and a log line when something begins or ends to need a person.
//! - **Needs**: Store.
//! - **Keeps**: which alarms are raised and how many dead letters there were, to tell each once.
//! - **On restart**: looks again; raised alarms are told once more.
//! - **On failure**: an unreachable store is a back-off and a degraded report. Nothing waits for
//!   this service: without it rows only stay longer.
//!
//! Invariants:
//!
//! 1. One pass removes a bounded number of rows, in transactions that the store keeps short.
//! 2. An alarm is told when it begins and when it ends, not in between.

mod alarm;
mod metrics;

use std::{collections::BTreeMap, future::Future, sync::Arc, time::Duration};

use soma_contract::port::store::{Backlog, Depths, Retention, Store, StoreResult};
use soma_runtime::{Cause, Health, Io, Nudge, Pace, Pass, Spec, Worker, WorkerService};
use tracing::{info, warn};

use self::alarm::{Alarm, alarms};
pub use self::{alarm::Limits, metrics::HousekeepingMetrics};

/// The service's name.
pub const HOUSEKEEPING: &str = "housekeeping";

/// Times that the store is asked to remove rows in one pass; each removes a bounded number.
const ROUNDS: usize = 20;
/// How long one call of the store may take.
const STORE_DEADLINE: Duration = Duration::from_secs(30);

/// What can be set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HousekeepingConfig {
    /// The time between two looks.
    pub period: Duration,
    /// How long things are kept.
    pub retention: Retention,
    /// From where on a person has to know.
    pub limits: Limits,
}

/// Looks, removes, tells.
#[derive(Debug)]
pub struct Housekeeping {
    store: Arc<dyn Store>,
    io: Io,
    config: HousekeepingConfig,
    metrics: HousekeepingMetrics,
    raised: BTreeMap<Alarm, String>,
    dead_letters: u64,
}

/// Declares the service.
pub fn spec(
    store: Arc<dyn Store>,
    io: Io,
    config: HousekeepingConfig,
    metrics: HousekeepingMetrics,
) -> Spec<WorkerService<Housekeeping>> {
    let build = move || Housekeeping::new(Arc::clone(&store), io.clone(), config, metrics.clone());
    Spec::worker(HOUSEKEEPING, build, Pace::every(config.period), Nudge::new())
}

impl Housekeeping {
    /// Builds the worker; it does nothing before its first pass.
    pub const fn new(
        store: Arc<dyn Store>,
        io: Io,
        config: HousekeepingConfig,
        metrics: HousekeepingMetrics,
    ) -> Self {
        Self { store, io, config, metrics, raised: BTreeMap::new(), dead_letters: 0 }
    }

    async fn retire(&self) -> Result<(), Cause> {
        for _ in 0..ROUNDS {
            let retention = self.config.retention;
            let retired = self.call(|store| async move { store.retire(&retention).await }).await?;
            self.metrics.retired.inc_by(retired);
            if retired == 0 {
                return Ok(());
            }
        }
        Ok(())
    }

    async fn look(&self) -> Result<(Depths, Backlog), Cause> {
        let depths = self.call(|store| async move { store.depths().await }).await?;
        let backlog = self.call(|store| async move { store.backlog().await }).await?;
        Ok((depths, backlog))
    }

    fn tell(&mut self, depths: &Depths, backlog: &Backlog) {
        if depths.dead_letters > self.dead_letters {
            let new = depths.dead_letters - self.dead_letters;
            warn!(new, dead_letters = depths.dead_letters, "there are new dead letters");
        }
        self.dead_letters = depths.dead_letters;
        let now = alarms(depths, backlog, &self.config.limits);
        for (alarm, detail) in &now {
            if !self.raised.contains_key(alarm) {
                warn!(alarm = alarm.as_str(), detail, "something needs attention");
            }
        }
        for alarm in self.raised.keys().filter(|alarm| !now.contains_key(alarm)) {
            info!(alarm = alarm.as_str(), "nothing to worry about any more");
        }
        self.raised = now;
    }

    async fn call<T, F, Fut>(&self, call: F) -> Result<T, Cause>
    where
        F: FnOnce(Arc<dyn Store>) -> Fut,
        Fut: Future<Output = StoreResult<T>> + Send + 'static,
        T: Send + 'static,
    {
        Ok(self.io.call(STORE_DEADLINE, call(Arc::clone(&self.store))).await??)
    }
}

impl Worker for Housekeeping {
    async fn pass(&mut self) -> Result<Pass, Cause> {
        // To look first: what is there counts even where nothing can be removed.
        let (depths, backlog) = self.look().await?;
        self.metrics.show(&depths, &backlog);
        self.tell(&depths, &backlog);
        self.retire().await?;
        Ok(Pass::Idle)
    }

    fn health(&self) -> Health {
        self.raised
            .values()
            .next()
            .map_or_else(Health::ok, |detail| Health::degraded(detail.clone()))
    }
}

#[cfg(test)]
mod tests {
    use soma_contract::{
        Clock, EventId, SessionId,
        port::store::{Outbox, Registry as _, Transcript},
        testing::{FakeClock, FakeStore, sample, store::Fault},
        topic::Group,
    };
    use soma_runtime::HealthStatus;
    use uuid::Uuid;

    use super::*;

    const DAY: Duration = Duration::from_hours(24);

    struct World {
        clock: Arc<FakeClock>,
        store: Arc<FakeStore>,
        metrics: HousekeepingMetrics,
        worker: Housekeeping,
    }

    fn world(limits: Limits) -> World {
        let clock = Arc::new(FakeClock::default());
        let store = Arc::new(FakeStore::new(Arc::clone(&clock) as Arc<dyn Clock>));
        let metrics = HousekeepingMetrics::new(&prometheus::Registry::new()).unwrap();
        let retention = Retention {
            idempotency: DAY,
            dead_letters: DAY,
            inbox: DAY,
            done_steps: DAY,
            memory_tombstones: DAY,
        };
        let config = HousekeepingConfig { period: DAY, retention, limits };
        let io = Io::current().unwrap();
        let worker = Housekeeping::new(Arc::clone(&store) as _, io, config, metrics.clone());
        World { clock, store, metrics, worker }
    }

    async fn bury(world: &World, number: u128) {
        let letter = sample::dead_letter("memory.wal", EventId(Uuid::from_u128(number)), "bad");
        world.store.bury(Group::MemoryReplicator, letter).await.unwrap();
    }

    #[tokio::test]
    async fn what_is_older_than_it_is_kept_goes_and_is_counted() {
        let mut world = world(Limits::default());
        bury(&world, 1).await;
        assert_eq!(world.worker.pass().await, Ok(Pass::Idle));
        assert_eq!(world.metrics.dead_letters.get(), 1);
        assert_eq!(world.metrics.retired.get(), 0);
        world.clock.advance(DAY * 2);
        bury(&world, 2).await;
        assert_eq!(world.worker.pass().await, Ok(Pass::Idle));
        assert_eq!(world.metrics.retired.get(), 1);
        assert_eq!(world.store.depths().await.unwrap().dead_letters, 1);
    }

    #[tokio::test]
    async fn a_backlog_is_shown_and_told_while_it_lasts() {
        let mut world = world(Limits { backlog: 2, ..Limits::default() });
        for number in 1..=2 {
            let session = SessionId(Uuid::from_u128(number));
            let message = sample::message(session, EventId(Uuid::from_u128(number)), "hi");
            world.store.accept(vec![message]).await.remove(0).unwrap();
        }
        world.worker.pass().await.unwrap();
        assert_eq!(world.metrics.turns.get(), 2);
        let health = world.worker.health();
        assert_eq!(health.status, HealthStatus::Degraded);
        assert!(health.detail.unwrap().contains("2 turns"));
        for number in 1..=2 {
            let session = SessionId(Uuid::from_u128(number));
            let tenant = soma_contract::TenantId::public();
            world.store.delete_session(&tenant, session, false).await.unwrap();
        }
        world.worker.pass().await.unwrap();
        assert_eq!(world.worker.health(), Health::ok());
    }

    #[tokio::test]
    async fn a_store_that_does_not_answer_is_a_fault_of_the_pass_alone() {
        let mut world = world(Limits::default());
        world.store.fail_next("depths", Fault::Unavailable);
        assert!(world.worker.pass().await.is_err());
        assert_eq!(world.worker.pass().await, Ok(Pass::Idle));
    }
}
