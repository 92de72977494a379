//! The gateway on a store in memory: who shares a commit, who is refused, who is told.
#![cfg(test)]

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use soma_contract::{
    Clock, EventId, SessionId, TenantId,
    message::{AcceptError, Accepted, NewMessage},
    port::{
        live::LiveEvent,
        store::{CancelScope, Turns as _},
    },
    testing::{FakeClock, FakeLive, FakeStore, Fault, sample},
};
use soma_gateway::{Accept, Config, Gateway, Metrics, Ports};
use soma_runtime::{Io, Orchestrator, Outlet, Registry, Running, Settings, Spec};
use uuid::Uuid;

const FOREVER: Duration = Duration::from_mins(1);
const SESSION: SessionId = SessionId(Uuid::from_u128(0xA));

/// A gateway with everything around it.
struct House {
    store: Arc<FakeStore>,
    live: Arc<FakeLive>,
    committed: Arc<Mutex<Vec<Accepted>>>,
    metrics: prometheus::Registry,
    accept: Outlet<Accept>,
    running: Running,
}

impl House {
    async fn open(config: Config) -> Self {
        Self::open_with(config, |_| {}).await
    }

    /// Opens a house where `first` is told of commits first.
    async fn open_with(
        config: Config,
        first: impl Fn(&[Accepted]) + Send + Sync + 'static,
    ) -> Self {
        let clock: Arc<dyn Clock> = Arc::new(FakeClock::new());
        let store = Arc::new(FakeStore::new(Arc::clone(&clock)));
        let live = Arc::new(FakeLive::new(clock));
        let committed = Arc::new(Mutex::new(Vec::new()));
        let told = Arc::clone(&committed);
        let ports = Ports {
            store: Arc::<FakeStore>::clone(&store),
            live: Arc::<FakeLive>::clone(&live),
            io: Io::current().unwrap(),
            after_commit: Arc::new(move |accepted| {
                first(accepted);
                told.lock().unwrap().extend_from_slice(accepted);
            }),
        };
        let metrics = prometheus::Registry::new();
        let counters = Metrics::new(&metrics).unwrap();
        let spec = Spec::new("gateway", move || {
            Gateway::new(config.clone(), ports.clone(), counters.clone())
        });
        let accept = spec.link().outlet();
        let registry = Registry::new([spec.into()]);
        let running = Orchestrator::launch(registry, Settings::testing().unwrap()).await.unwrap();
        Self { store, live, committed, metrics, accept, running }
    }

    async fn accept(&self, message: NewMessage) -> Result<Accepted, AcceptError> {
        self.accept.send(Accept(message)).await.unwrap()
    }

    /// Commits, and messages in them.
    fn batches(&self) -> (u64, f64) {
        let families = self.metrics.gather();
        let sizes =
            families.iter().find(|family| family.name() == "gateway_accept_batch_size").unwrap();
        let histogram = sizes.get_metric()[0].get_histogram();
        (histogram.get_sample_count(), histogram.get_sample_sum())
    }
}

fn message(number: u128) -> NewMessage {
    sample::message(SESSION, EventId(Uuid::from_u128(number)), "hi")
}

#[actix_rt::test]
async fn messages_that_arrive_during_a_commit_share_the_next_one() {
    let house = House::open(Config::default()).await;
    let accepted =
        futures::future::join_all((1..=50).map(|number| house.accept(message(number)))).await;
    let mut numbers: Vec<_> = accepted.into_iter().map(|accepted| accepted.unwrap().n).collect();
    numbers.sort_unstable();
    assert_eq!(numbers, (1..=50).collect::<Vec<_>>());
    let (commits, messages) = house.batches();
    assert!(commits <= 3, "{commits} commits");
    assert!((messages - 50.0).abs() < f64::EPSILON);
    assert_eq!(house.committed.lock().unwrap().len(), 50);
    house.running.stop(FOREVER).await;
    let told = house.live.published();
    assert_eq!(told.len(), 50);
    assert!(told.contains(&(SESSION, LiveEvent::Appended { seq: 50 })));
}

#[actix_rt::test]
async fn a_repetition_gets_the_stored_answer_and_wakes_nobody() {
    let house = House::open(Config::default()).await;
    let keyed = |number| sample::keyed(message(number), "key", "hash");
    let (first, second) = tokio::join!(house.accept(keyed(1)), house.accept(keyed(2)));
    let (first, second) = (first.unwrap(), second.unwrap());
    assert_eq!((first.n, second.n), (1, 1));
    assert!(second.replayed && !first.replayed);
    assert_eq!(house.committed.lock().unwrap().len(), 1);
    assert_eq!(house.batches().0, 2);
    house.running.stop(FOREVER).await;
}

#[actix_rt::test]
async fn a_store_that_is_down_is_told_to_the_caller_and_in_the_health() {
    let house = House::open(Config::default()).await;
    house.store.fail_next("accept", Fault::Unavailable);
    house.store.fail_next("accept", Fault::UnknownAfter);
    assert!(matches!(house.accept(message(1)).await, Err(AcceptError::Unavailable(_))));
    assert!(matches!(house.accept(message(1)).await, Err(AcceptError::OutcomeUnknown(_))));
    assert!(house.committed.lock().unwrap().is_empty());
    let again = house.accept(message(1)).await.unwrap();
    assert!(again.replayed, "the commit of unknown outcome had stored it");
    house.running.stop(FOREVER).await;
}

#[actix_rt::test]
async fn a_full_backlog_refuses_the_tenant_and_not_the_others() {
    let house = House::open(Config { backlog_per_tenant: 2, ..Config::default() }).await;
    for number in 1..=2 {
        house.accept(message(number)).await.unwrap();
    }
    let refused = house.accept(message(3)).await.unwrap_err();
    assert_eq!(refused, AcceptError::BacklogFull { of_tenant: true, queued: 2, limit: 2 });
    let mut other = message(4);
    other.tenant = TenantId("other".to_owned());
    other.event.session_id = SessionId(Uuid::from_u128(0xB));
    house.accept(other).await.unwrap();
    house.running.stop(FOREVER).await;
}

#[actix_rt::test]
async fn an_estimate_is_checked_before_it_refuses_somebody() {
    tokio::time::pause();
    let house = House::open(Config { backlog_total: 2, ..Config::default() }).await;
    for number in 1..=2 {
        house.accept(message(number)).await.unwrap();
    }
    // The turns end: the store knows, the gateway's estimate does not.
    let tenant = TenantId::public();
    house.store.cancel(&tenant, SESSION, CancelScope::All).await.unwrap();
    tokio::time::sleep(Duration::from_millis(60)).await;
    house.accept(message(3)).await.unwrap();
    house.running.stop(FOREVER).await;
}

#[actix_rt::test]
async fn a_panic_over_one_batch_fails_that_batch_and_no_other() {
    let panics = AtomicBool::new(true);
    let house = House::open_with(Config { max_batch: 1, ..Config::default() }, move |_| {
        assert!(!panics.swap(false, Ordering::SeqCst), "on purpose");
    })
    .await;
    let (first, second, third) =
        tokio::join!(house.accept(message(1)), house.accept(message(2)), house.accept(message(3)));
    assert!(matches!(first, Err(AcceptError::OutcomeUnknown(_))), "{first:?}");
    assert_eq!((second.unwrap().n, third.unwrap().n), (2, 3));
    assert!(house.accept(message(1)).await.unwrap().replayed, "it had been stored");
    assert_eq!(house.running.tree().find("gateway").unwrap().generation, 1);
    house.running.stop(FOREVER).await;
}
