//! What actix and Tokio do by themselves: the facts that the runtime rests on or makes up for. When
//! an upgrade changes one, its test says which part of the runtime to look at.
#![expect(clippy::disallowed_methods, reason = "what is banned elsewhere is measured here")]

use std::{future::pending, time::Duration};

use actix::{
    Actor, ActorContext, Addr, AsyncContext, AtomicResponse, Context, Handler, MailboxError,
    Message, ResponseActFuture, ResponseFuture, Supervised, Supervisor, WrapFuture,
    dev::{ContextFut, Mailbox, channel},
};
use actix_rt::Arbiter;
use futures::{FutureExt, future::join_all};
use tokio::sync::{mpsc, oneshot};

use crate::support::{Tally, paused};

/// Where a plain actor panics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Handler,
    ActFuture,
    BuildingActFuture,
    Atomic,
    Spawned,
    Awaited,
    Later,
    Interval,
    Started,
}

const PLACES: [Place; 9] = [
    Place::Handler,
    Place::ActFuture,
    Place::BuildingActFuture,
    Place::Atomic,
    Place::Spawned,
    Place::Awaited,
    Place::Later,
    Place::Interval,
    Place::Started,
];

/// A plain actor, without anything of ours.
#[derive(Default)]
struct Plain {
    count: u64,
    panics_at_start: bool,
    ticks: Tally,
}

impl Actor for Plain {
    type Context = Context<Self>;

    fn started(&mut self, _: &mut Self::Context) {
        assert!(!self.panics_at_start, "in started");
    }
}

impl Supervised for Plain {}

#[derive(Message)]
#[rtype(result = "u64")]
struct Count;

impl Handler<Count> for Plain {
    type Result = u64;

    fn handle(&mut self, _: Count, _: &mut Self::Context) -> u64 {
        self.count += 1;
        self.ticks.add();
        self.count
    }
}

#[derive(Message)]
#[rtype(result = "()")]
struct Panic(Place);

impl Handler<Panic> for Plain {
    type Result = ResponseActFuture<Self, ()>;

    fn handle(&mut self, Panic(place): Panic, context: &mut Self::Context) -> Self::Result {
        let fatal = || async { panic!("on purpose") }.into_actor(self);
        match place {
            Place::BuildingActFuture => panic!("on purpose"),
            Place::ActFuture => return Box::pin(fatal()),
            Place::Spawned => {
                context.spawn(fatal());
            }
            Place::Awaited => context.wait(fatal()),
            Place::Later => {
                context.run_later(Duration::from_millis(1), |_, _| panic!("on purpose"));
            }
            Place::Interval => {
                context.run_interval(Duration::from_millis(1), |_, _| panic!("on purpose"));
            }
            Place::Handler | Place::Atomic | Place::Started => {}
        }
        Box::pin(async {}.into_actor(self))
    }
}

#[derive(Message)]
#[rtype(result = "()")]
struct PanicNow;

impl Handler<PanicNow> for Plain {
    type Result = ();

    fn handle(&mut self, _: PanicNow, _: &mut Self::Context) {
        panic!("on purpose");
    }
}

#[derive(Message)]
#[rtype(result = "()")]
struct PanicAtomic;

impl Handler<PanicAtomic> for Plain {
    type Result = AtomicResponse<Self, ()>;

    fn handle(&mut self, _: PanicAtomic, _: &mut Self::Context) -> Self::Result {
        AtomicResponse::new(Box::pin(async { panic!("on purpose") }.into_actor(self)))
    }
}

#[derive(Message)]
#[rtype(result = "()")]
struct PanicUnseen;

impl Handler<PanicUnseen> for Plain {
    type Result = ResponseFuture<()>;

    fn handle(&mut self, _: PanicUnseen, _: &mut Self::Context) -> Self::Result {
        Box::pin(async { panic!("on purpose") })
    }
}

/// Never answers, and tells when it is begun.
#[derive(Message)]
#[rtype(result = "()")]
struct Never(mpsc::UnboundedSender<()>);

impl Handler<Never> for Plain {
    type Result = ResponseActFuture<Self, ()>;

    fn handle(&mut self, Never(begun): Never, _: &mut Self::Context) -> Self::Result {
        begun.send(()).unwrap();
        Box::pin(pending().into_actor(self))
    }
}

/// Counts until the context is restarted.
#[derive(Message)]
#[rtype(result = "()")]
struct TickEachSecond;

impl Handler<TickEachSecond> for Plain {
    type Result = ();

    fn handle(&mut self, _: TickEachSecond, context: &mut Self::Context) {
        let ticks = self.ticks.clone();
        context.run_interval(Duration::from_secs(1), move |_, _| {
            ticks.add();
        });
    }
}

/// Answers what has been counted elsewhere by now.
#[derive(Message)]
#[rtype(result = "u64")]
struct See(Tally);

impl Handler<See> for Plain {
    type Result = u64;

    fn handle(&mut self, See(tally): See, _: &mut Self::Context) -> u64 {
        tally.get()
    }
}

#[derive(Message)]
#[rtype(result = "()")]
struct End;

impl Handler<End> for Plain {
    type Result = ();

    fn handle(&mut self, _: End, context: &mut Self::Context) {
        context.stop();
    }
}

async fn provoke(victim: &Addr<Plain>, place: Place) {
    // Some places answer before they panic.
    let _answer = match place {
        Place::Handler => victim.send(PanicNow).await,
        Place::Atomic => victim.send(PanicAtomic).await,
        _ => victim.send(Panic(place)).await,
    };
}

async fn is_dead(victim: &Addr<Plain>) {
    while victim.connected() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

#[actix_rt::test]
async fn a_panic_ends_its_actor_for_good_and_nothing_else_wherever_it_is() {
    for place in PLACES {
        for supervised in [false, true] {
            let neighbour = Plain::default().start();
            let panics_at_start = place == Place::Started;
            let victim = if supervised {
                Supervisor::start(move |_| Plain { panics_at_start, ..Plain::default() })
            } else {
                Plain { panics_at_start, ..Plain::default() }.start()
            };
            provoke(&victim, place).await;
            is_dead(&victim).await;
            let told = victim.send(Count).await;
            assert!(matches!(told, Err(MailboxError::Closed)), "{place:?}: {told:?}");
            assert_eq!(neighbour.send(Count).await.unwrap(), 1, "{place:?}");
        }
    }
}

#[actix_rt::test]
async fn mail_behind_a_fatal_message_is_lost_with_the_actor() {
    let victim = Plain::default().start();
    let (fatal, behind) = tokio::join!(victim.send(PanicNow), victim.send(Count));
    assert!(matches!(fatal, Err(MailboxError::Closed)));
    assert!(matches!(behind, Err(MailboxError::Closed)));
}

#[actix_rt::test]
async fn nobody_notices_a_panic_in_a_response_future() {
    let victim = Plain::default().start();
    let unseen = victim.send(PanicUnseen).await;
    assert!(matches!(unseen, Err(MailboxError::Closed)), "its sender cannot tell it from a death");
    assert!(victim.connected());
    assert_eq!(victim.send(Count).await.unwrap(), 1);
}

#[actix_rt::test]
async fn actixs_supervisor_restarts_an_orderly_stop_and_keeps_the_state() {
    let victim = Supervisor::start(|_| Plain::default());
    assert_eq!(victim.send(Count).await.unwrap(), 1);
    victim.send(End).await.unwrap();
    assert_eq!(victim.send(Count).await.unwrap(), 2);
}

/// What the runner does with a context of ours, without the runner.
struct Bare {
    address: Addr<Plain>,
    context: ContextFut<Plain, Context<Plain>>,
    ticks: Tally,
}

impl Bare {
    fn new() -> Self {
        let (sender, receiver) = channel::channel(0);
        let ticks = Tally::default();
        let plain = Plain { ticks: ticks.clone(), ..Plain::default() };
        let context = Context::with_receiver(receiver).into_future(plain);
        Self { address: Addr::new(sender), context, ticks }
    }

    /// Polls the context once; true if it panicked.
    async fn turn(&mut self) -> bool {
        let polled = std::panic::AssertUnwindSafe(futures::future::poll_fn(|context| {
            assert!(self.context.poll_unpin(context).is_pending());
            std::task::Poll::Ready(())
        }));
        polled.catch_unwind().await.is_err()
    }
}

#[actix_rt::test]
async fn a_context_whose_panic_was_caught_can_be_restarted_and_keeps_its_mail() {
    let mut bare = Bare::new();
    let mut fatal = Box::pin(bare.address.send(PanicNow));
    let address = bare.address.clone();
    let mut behind = Box::pin(address.send(Count));
    assert!(futures::poll!(&mut fatal).is_pending());
    assert!(futures::poll!(&mut behind).is_pending());
    assert!(bare.turn().await, "it panics");
    assert!(matches!(fatal.await, Err(MailboxError::Closed)));
    assert!(bare.address.connected());
    assert!(bare.context.restart());
    assert!(!bare.turn().await);
    assert_eq!(behind.await.unwrap(), 1);
}

#[actix_rt::test]
async fn a_restart_empties_the_handlers_in_flight() {
    let mut bare = Bare::new();
    let (begun, mut begins) = mpsc::unbounded_channel();
    let address = bare.address.clone();
    let mut calls: Vec<_> = (0..5).map(|_| Box::pin(address.send(Never(begun.clone())))).collect();
    for call in &mut calls {
        assert!(futures::poll!(call).is_pending());
    }
    assert!(!bare.turn().await);
    for _ in 0..5 {
        begins.try_recv().unwrap();
    }
    assert!(bare.context.restart());
    for call in calls {
        assert!(matches!(call.await, Err(MailboxError::Closed)));
    }
}

#[test]
fn a_restart_ends_the_timers_of_the_old_life() {
    paused(async {
        let mut bare = Bare::new();
        let tick = bare.address.clone();
        let mut tick = Box::pin(tick.send(TickEachSecond));
        assert!(futures::poll!(&mut tick).is_pending());
        assert!(!bare.turn().await);
        tokio::time::advance(Duration::from_millis(1_001)).await;
        assert!(!bare.turn().await);
        assert_eq!(bare.ticks.get(), 1);
        assert!(bare.context.restart());
        tokio::time::advance(Duration::from_mins(1)).await;
        assert!(!bare.turn().await);
        assert_eq!(bare.ticks.get(), 1);
    });
}

#[actix_rt::test]
async fn a_mailbox_bounds_neither_clones_nor_sends() {
    let address = |capacity| {
        let (sender, receiver) = channel::channel::<Plain>(capacity);
        (Addr::new(sender), Mailbox::new(receiver))
    };
    let (one, _mailbox) = address(16);
    let accepted = (0..1_000).filter(|_| one.try_send(Count).is_ok()).count();
    assert_eq!(accepted, 16, "one address is bounded");
    let (first, _mailbox) = address(16);
    let clones: Vec<_> = (0..1_000).map(|_| first.clone()).collect();
    let accepted = clones.iter().filter(|clone| clone.try_send(Count).is_ok()).count();
    assert_eq!(accepted, 1_000, "a thousand clones of it are not");
    let (all, mut mailbox) = address(16);
    let mut sends: Vec<_> = (0..1_000).map(|_| Box::pin(all.send(Count))).collect();
    for send in &mut sends {
        assert!(futures::poll!(send).is_pending());
    }
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    let mut plain = Plain::default();
    let (_sender, receiver) = channel::channel(0);
    let mut own = Context::with_receiver(receiver);
    mailbox.poll(&mut plain, &mut own, &mut context);
    assert_eq!(plain.count, 1_000, "whoever awaits is not bounded either");
}

#[actix_rt::test]
async fn a_message_whose_sender_has_gone_is_skipped() {
    let victim = Plain::default().start();
    let mut gone = Box::pin(victim.send(Count));
    assert!(futures::poll!(&mut gone).is_pending());
    drop(gone);
    assert_eq!(victim.send(Count).await.unwrap(), 1);
}

#[actix_rt::test]
async fn a_backlog_is_worked_off_before_anyone_else_on_the_thread_gets_a_turn() {
    let done = Tally::default();
    let flooded = Plain { ticks: done.clone(), ..Plain::default() }.start();
    let quiet = Plain::default().start();
    let mut flood: Vec<_> = (0..2_000).map(|_| Box::pin(flooded.send(Count))).collect();
    for call in &mut flood {
        assert!(futures::poll!(call).is_pending());
    }
    assert_eq!(quiet.send(See(done)).await.unwrap(), 2_000);
    join_all(flood).await;
}

#[actix_rt::test]
async fn tokios_park_counter_tells_a_blocked_thread_from_an_idle_one() {
    let (sender, receiver) = oneshot::channel();
    let arbiter = Arbiter::with_tokio_rt(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        assert!(sender.send(runtime.metrics()).is_ok());
        runtime
    });
    let metrics = receiver.await.unwrap();
    let is_busy = || metrics.worker_park_unpark_count(0).is_multiple_of(2);
    let parked = async || {
        while is_busy() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    parked().await;
    let (begin, begun) = oneshot::channel();
    let (release, blocked) = std::sync::mpsc::channel::<()>();
    arbiter.spawn_fn(move || {
        begin.send(()).unwrap();
        blocked.recv().unwrap();
    });
    begun.await.unwrap();
    let before = metrics.worker_park_unpark_count(0);
    assert!(is_busy());
    assert!(arbiter.stop(), "a stop is accepted and does nothing");
    tokio::time::sleep(Duration::from_millis(20)).await;
    assert_eq!(metrics.worker_park_unpark_count(0), before, "blocked, it is always the same");
    release.send(()).unwrap();
    tokio::task::spawn_blocking(move || arbiter.join()).await.unwrap().unwrap();
}

#[test]
fn paused_time_holds_for_one_arbiter_only() {
    paused(async {
        let (here, there) = (Tally::default(), Tally::default());
        let tick = |ticks: Tally| async move {
            let plain = Plain { ticks, ..Plain::default() }.start();
            plain.send(TickEachSecond).await.unwrap();
            pending::<()>().await;
        };
        tokio::task::spawn_local(tick(here.clone()));
        let elsewhere = Arbiter::new();
        let far = there.clone();
        elsewhere.spawn_fn(move || {
            tokio::task::spawn_local(tick(far));
        });
        tokio::time::sleep(Duration::from_hours(1) + Duration::from_millis(1)).await;
        assert_eq!(here.get(), 3_600);
        assert!(there.get() < 3_600, "it has a clock of its own: {}", there.get());
        elsewhere.stop();
    });
}
