//! What the store's writer commits: 64 callers at once, on a real file with fsync on.
#![expect(clippy::unwrap_used, reason = "a bench that cannot go on has failed")]

use std::{sync::Arc, time::Duration};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use soma_contract::{
    Event, EventId, EventType, Ids, Role, SessionId, TenantId,
    ids::{Owner, RandomIds, SystemClock},
    message::{Idempotency, NewMessage},
    model::Usage,
    port::store::{ClaimedTurn, Ending, Transcript, Turns},
    turn::{TurnKind, TurnStatus},
};
use somaagent::adapters::store::sqlite::{Options, SqliteStore};
use tempfile::TempDir;
use tokio::{runtime::Runtime, time::Instant};

const CALLERS: u64 = 64;

struct Bench {
    runtime: Runtime,
    store: Arc<SqliteStore>,
    _dir: TempDir,
}

impl Bench {
    fn new() -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        let dir = TempDir::new_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let clock = Arc::new(SystemClock);
        let store = SqliteStore::open(dir.path(), Options::default(), runtime.handle(), clock);
        let store = Arc::new(runtime.block_on(store).unwrap());
        Self { runtime, store, _dir: dir }
    }

    /// Lets each caller do its part of `count` operations, one after another.
    fn measure<F: Future<Output = ()> + Send>(
        &self,
        count: u64,
        operation: impl Fn(Arc<SqliteStore>, SessionId) -> F + Copy + Send + Sync + 'static,
    ) -> Duration {
        self.runtime.block_on(async {
            let begun = Instant::now();
            let callers: Vec<_> = (0..CALLERS)
                .map(|caller| {
                    let share = count / CALLERS + u64::from(caller < count % CALLERS);
                    let store = Arc::clone(&self.store);
                    self.runtime.spawn(async move {
                        let session = SessionId(RandomIds.draw());
                        for _ in 0..share {
                            operation(Arc::clone(&store), session).await;
                        }
                    })
                })
                .collect();
            for caller in callers {
                caller.await.unwrap();
            }
            begun.elapsed()
        })
    }
}

fn message(session: SessionId) -> NewMessage {
    let id = RandomIds.draw();
    let mut event = Event::new(EventId(id), session, Role::User, EventType::User);
    event.message = "What is the capital of France, and how many people live there?".repeat(4);
    let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".to_owned();
    event.trace_context.0.insert("traceparent".to_owned(), trace);
    NewMessage {
        tenant: TenantId("acme".to_owned()),
        subject: "ann".to_owned(),
        kind: TurnKind::Message,
        event,
        idempotency: Some(Idempotency {
            route: "/v1/session/message".to_owned(),
            key: id.to_string(),
            body_hash: "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
                .to_owned(),
        }),
    }
}

fn ending(claimed: &ClaimedTurn) -> Ending {
    let turn = &claimed.turn;
    let id = EventId::terminal(turn.turn_id, turn.replay);
    let mut event = Event::new(id, turn.session_id, Role::Assistant, EventType::Final);
    event.message = "Paris, with about two million people in the city itself.".repeat(4);
    Ending {
        status: TurnStatus::Done,
        event,
        reason: None,
        memory: Vec::new(),
        usage: Usage { input_tokens: 100, output_tokens: 50 },
        dead_letter: None,
    }
}

async fn accept(store: Arc<SqliteStore>, session: SessionId) {
    store.accept(vec![message(session)]).await.remove(0).unwrap();
}

async fn accept_elsewhere(store: Arc<SqliteStore>, _session: SessionId) {
    accept(store, SessionId(RandomIds.draw())).await;
}

async fn turn(store: Arc<SqliteStore>, session: SessionId) {
    accept(Arc::clone(&store), session).await;
    let owner = Owner("bench".to_owned());
    let claimed = store.claim(&owner, session).await.unwrap().unwrap();
    let (turn_id, epoch) = (claimed.turn.turn_id, claimed.epoch);
    store.end(turn_id, epoch, ending(&claimed)).await.unwrap();
}

fn store(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("store");
    group
        .sample_size(10)
        .measurement_time(Duration::from_secs(8))
        .throughput(Throughput::Elements(1));
    let bench = Bench::new();
    group.bench_function("accept_64_callers", |bencher| {
        bencher.iter_custom(|count| bench.measure(count, accept));
    });
    group.bench_function("accept_64_callers_new_sessions", |bencher| {
        bencher.iter_custom(|count| bench.measure(count, accept_elsewhere));
    });
    let bench = Bench::new();
    group.bench_function("turn_64_callers", |bencher| {
        bencher.iter_custom(|count| bench.measure(count, turn));
    });
    group.finish();
}

criterion_group!(benches, store);
criterion_main!(benches);
