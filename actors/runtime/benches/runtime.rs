//! What supervision costs: a call, a panic, a hang, and ten thousand services.
//!
//! Times of machines differ; what counts is the ratio to the raw actor measured beside it.
#![expect(clippy::expect_used, clippy::indexing_slicing, clippy::panic, reason = "a bench may")]

use std::{future::Future, time::Duration};

use actix::Actor;
use criterion::{Criterion, criterion_group, criterion_main};
use soma_runtime::{
    Answer, CallError, Entry, Fault, Io, Link, Message, Orchestrator, Placement, Registry, Reply,
    RestartPolicy, Running, Scope, Service, ServiceState, Settings, Spec, Threads,
};
use tokio::time::Instant;

const LONG: Duration = Duration::from_mins(1);
const MANY: usize = 10_000;

#[derive(Default)]
struct Echo;

impl Service for Echo {}

struct Ping;

impl Message for Ping {
    type Result = u64;
}

impl Answer<Ping> for Echo {
    fn answer(&mut self, _: Ping, _: &Scope<Self>) -> Reply<u64> {
        Reply::Now(1)
    }
}

struct Die;

impl Message for Die {
    type Result = ();
}

impl Answer<Die> for Echo {
    fn answer(&mut self, _: Die, _: &Scope<Self>) -> Reply<()> {
        panic!("on purpose")
    }
}

struct Raw;

impl Actor for Raw {
    type Context = actix::Context<Self>;
}

struct RawPing;

impl actix::Message for RawPing {
    type Result = u64;
}

impl actix::Handler<RawPing> for Raw {
    type Result = u64;

    fn handle(&mut self, _: RawPing, _: &mut Self::Context) -> u64 {
        1
    }
}

/// Restarts at once, for ever.
fn tireless() -> RestartPolicy {
    let first_delay = Duration::ZERO;
    RestartPolicy { budget: u32::MAX, first_delay, ..RestartPolicy::default() }
}

fn settings(threads: Threads) -> Settings {
    let io = Io::current().expect("a runtime");
    Settings { threads, seed: Some(7), ..Settings::new(io) }
}

async fn launch(spec: impl Into<Entry>, settings: Settings) -> Running {
    Orchestrator::launch(Registry::new([spec.into()]), settings).await.expect("launch")
}

async fn timed<F: Future>(rounds: u64, mut round: impl FnMut() -> F) -> Duration {
    let began = Instant::now();
    for _ in 0..rounds {
        round().await;
    }
    began.elapsed()
}

async fn calls(threads: Threads, rounds: u64) -> Duration {
    let spec = Spec::new("echo", Echo::default);
    let outlet = spec.link().outlet::<Ping>();
    let running = launch(spec, settings(threads)).await;
    let took = timed(rounds, async || outlet.send(Ping).await).await;
    running.stop(LONG).await;
    took
}

async fn raw_calls(threads: Threads, rounds: u64) -> Duration {
    let arbiter = actix_rt::Arbiter::new();
    let raw = match threads {
        Threads::Caller => Raw.start(),
        Threads::PerService => Raw::start_in_arbiter(&arbiter.handle(), |_| Raw),
    };
    let took = timed(rounds, async || raw.send(RawPing).await).await;
    arbiter.stop();
    took
}

fn call(criterion: &mut Criterion) {
    let system = actix_rt::System::new();
    let mut group = criterion.benchmark_group("call");
    for (threads, name) in [(Threads::Caller, "same thread"), (Threads::PerService, "other thread")]
    {
        group.bench_function(format!("raw actix, {name}"), |bencher| {
            bencher.iter_custom(|rounds| system.block_on(raw_calls(threads, rounds)));
        });
        group.bench_function(format!("link, {name}"), |bencher| {
            bencher.iter_custom(|rounds| system.block_on(calls(threads, rounds)));
        });
    }
    group.finish();
}

async fn panics(threads: Threads, rounds: u64) -> Duration {
    let spec = Spec::new("echo", Echo::default).restart(tireless());
    let link = spec.link();
    let running = launch(spec, settings(threads)).await;
    let (die, ping) = (link.outlet::<Die>(), link.outlet::<Ping>());
    let took = timed(rounds, async || {
        let died = die.send(Die).await;
        assert!(matches!(died, Err(CallError::Panicked(_))));
        ping.send(Ping).await.expect("the next incarnation")
    })
    .await;
    running.stop(LONG).await;
    took
}

fn panic(criterion: &mut Criterion) {
    let system = actix_rt::System::new();
    let mut group = criterion.benchmark_group("panic until the next incarnation has answered");
    for (threads, name) in [(Threads::Caller, "same thread"), (Threads::PerService, "other thread")]
    {
        group.bench_function(name, |bencher| {
            bencher.iter_custom(|rounds| system.block_on(panics(threads, rounds)));
        });
    }
    group.finish();
}

const HANG_LIMIT: Duration = Duration::from_millis(100);

/// Measures from the block to the next answer, less the limit.
async fn hang(link: &Link<Echo>, running: &Running) -> Duration {
    let mut events = running.events();
    let began = Instant::now();
    link.inject(Fault::Block(LONG));
    loop {
        let event = events.recv().await.expect("events");
        if event.to == ServiceState::Ready {
            break;
        }
    }
    link.outlet().send(Ping).await.expect("the new thread");
    began.elapsed().saturating_sub(HANG_LIMIT)
}

fn blocked(criterion: &mut Criterion) {
    let system = actix_rt::System::new();
    let mut group = criterion.benchmark_group("blocked service replaced");
    group.sample_size(10).measurement_time(Duration::from_secs(10));
    group.bench_function("time beyond the limit", |bencher| {
        bencher.iter_custom(|rounds| {
            system.block_on(async {
                let spec = Spec::new("echo", Echo::default).restart(tireless());
                let link = spec.link();
                let settings = Settings { hang_limit: HANG_LIMIT, ..settings(Threads::PerService) };
                let running = launch(spec, settings).await;
                let mut beyond = Duration::ZERO;
                for _ in 0..rounds {
                    beyond += hang(&link, &running).await;
                }
                running.stop(LONG).await;
                beyond
            })
        });
    });
    group.finish();
}

fn many() -> Registry {
    Registry::new((0..MANY).map(|number| {
        let spec = Spec::new(format!("echo-{number}"), Echo::default);
        spec.placement(Placement::Shared).into()
    }))
}

fn ten_thousand(criterion: &mut Criterion) {
    let system = actix_rt::System::new();
    let mut group = criterion.benchmark_group("10,000 services");
    group.sample_size(10);
    group.bench_function("declare", |bencher| bencher.iter_with_large_drop(many));
    for (name, part) in [("start", 0), ("probe", 1), ("stop", 2)] {
        group.bench_function(name, |bencher| {
            bencher.iter_custom(|rounds| {
                let mut sum = Duration::ZERO;
                for _ in 0..rounds {
                    sum += system.block_on(lives())[part];
                }
                sum
            });
        });
    }
    group.finish();
}

/// Starts, probes and stops, and returns how long each took.
async fn lives() -> [Duration; 3] {
    let registry = many();
    let settings = settings(Threads::PerService);
    let began = Instant::now();
    let running = Orchestrator::launch(registry, settings).await.expect("launch");
    let start = began.elapsed();
    let began = Instant::now();
    running.health().probe_services().await;
    let probe = began.elapsed();
    let began = Instant::now();
    running.stop(LONG).await;
    [start, probe, began.elapsed()]
}

criterion_group!(benches, call, panic, blocked, ten_thousand);
criterion_main!(benches);
