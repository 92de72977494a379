//! What a panic does, wherever it happens.

use std::{future::pending, time::Duration};

use futures::future::{LocalBoxFuture, join_all};
use soma_runtime::{
    CallError, Cause, Fault, Health, LaunchError, Link, Reply, Running, Scope, Service,
    ServiceState, Spec, Starting,
};
use tokio::sync::{mpsc, oneshot};

use crate::support::{Count, FOREVER, Run, Tally, Victim, launch_here, paused, until};

async fn victim() -> (Link<Victim>, Running) {
    let spec = Spec::new("victim", Victim::default);
    let link = spec.link();
    (link, launch_here([spec.into()]).await.unwrap())
}

fn is_panic(error: &CallError, message: &str) -> bool {
    matches!(error, CallError::Panicked(cause) if cause.message == message)
}

#[test]
fn mail_behind_a_fatal_message_is_answered_by_the_next_incarnation() {
    paused(async {
        let (link, running) = victim().await;
        let fatal = link.outlet();
        let fatal = fatal.send(Run::new(|_| panic!("handler")));
        let counts: Vec<_> = (0..8).map(|_| link.outlet::<Count>()).collect();
        let behind = join_all(counts.iter().map(|outlet| outlet.send(Count)));
        let (fatal, behind) = tokio::join!(fatal, behind);
        assert!(is_panic(&fatal.unwrap_err(), "handler"));
        assert_eq!(behind, (1..=8).map(Ok).collect::<Vec<_>>());
        running.stop(FOREVER).await;
    });
}

/// Tells of its end.
struct Flag(Option<oneshot::Sender<()>>);

impl Drop for Flag {
    fn drop(&mut self) {
        if let Some(sender) = self.0.take() {
            sender.send(()).ok();
        }
    }
}

#[test]
fn answers_under_way_are_abandoned_and_their_work_is_dropped() {
    paused(async {
        let (link, running) = victim().await;
        let (sender, dropped) = oneshot::channel();
        let (begun, has_begun) = oneshot::channel();
        let slow = link.outlet();
        let slow = slow.send(Run::new(move |_| {
            let flag = Flag(Some(sender));
            begun.send(()).unwrap();
            Reply::later(async move {
                pending::<()>().await;
                drop(flag);
                0
            })
        }));
        let fatal = link.outlet();
        let fatal = async {
            has_begun.await.unwrap();
            fatal.send(Run::new(|_| Reply::later(async { panic!("later") }))).await
        };
        let (slow, fatal) = tokio::join!(slow, fatal);
        assert_eq!(slow, Err(CallError::Abandoned));
        assert!(is_panic(&fatal.unwrap_err(), "later"));
        dropped.await.unwrap();
        assert_eq!(link.outlet().send(Count).await, Ok(1));
        running.stop(FOREVER).await;
    });
}

#[test]
fn children_end_with_their_incarnation() {
    paused(async {
        let (link, running) = victim().await;
        let (sender, dropped) = oneshot::channel();
        link.outlet()
            .send(Run::new(move |scope| {
                let flag = Flag(Some(sender));
                let child = async move {
                    pending::<()>().await;
                    drop(flag);
                };
                scope.child("turn", child).detach();
                Reply::Now(0)
            }))
            .await
            .unwrap();
        assert_eq!(running.tree().find("victim").unwrap().temporary_children, 1);
        link.inject(Fault::Panic);
        dropped.await.unwrap();
        running.stop(FOREVER).await;
    });
}

/// Panics in its destructor, once it has been armed.
#[derive(Default)]
struct Torn {
    armed: bool,
}

impl Service for Torn {}

struct Tear;

impl soma_runtime::Message for Tear {
    type Result = ();
}

impl soma_runtime::Answer<Tear> for Torn {
    fn answer(&mut self, _: Tear, _: &Scope<Self>) -> Reply<()> {
        self.armed = true;
        panic!("first");
    }
}

impl soma_runtime::Answer<Count> for Torn {
    fn answer(&mut self, _: Count, _: &Scope<Self>) -> Reply<u64> {
        Reply::Now(u64::from(self.armed))
    }
}

impl Drop for Torn {
    fn drop(&mut self) {
        assert!(!self.armed, "second");
    }
}

#[test]
fn a_second_panic_in_a_destructor_is_survived() {
    paused(async {
        let spec = Spec::new("torn", Torn::default);
        let link = spec.link();
        let running = launch_here([spec.into()]).await.unwrap();
        let error = link.outlet().send(Tear).await.unwrap_err();
        assert!(is_panic(&error, "first"), "{error:?}");
        assert_eq!(link.outlet().send(Count).await, Ok(0));
        running.stop(FOREVER).await;
    });
}

#[test]
fn a_panic_in_the_destructor_of_an_answer_under_way_is_survived() {
    struct Bomb;
    impl Drop for Bomb {
        fn drop(&mut self) {
            panic!("in the destructor");
        }
    }
    paused(async {
        let (link, running) = victim().await;
        let slow = link.outlet();
        let slow = slow.send(Run::new(|_| {
            let bomb = Bomb;
            Reply::later(async move {
                pending::<()>().await;
                drop(bomb);
                0
            })
        }));
        let fatal = link.outlet();
        let fatal = fatal.send(Run::new(|_| panic!("first")));
        let (slow, fatal) = tokio::join!(slow, fatal);
        assert_eq!(slow, Err(CallError::Abandoned));
        assert!(is_panic(&fatal.unwrap_err(), "first"));
        assert_eq!(link.outlet().send(Count).await, Ok(1));
        running.stop(FOREVER).await;
    });
}

/// Panics where and as often as it is told.
struct Clumsy {
    starts: Tally,
    plan: Plan,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Plan {
    /// The second start panics.
    Start,
    /// The second start fails with an error.
    StartError,
    /// Health panics in the first incarnation.
    Health,
    /// Stop panics.
    Stop,
    /// A future that stop returns panics.
    StopLater,
}

impl Service for Clumsy {
    fn start(&mut self, _: &Scope<Self>) -> Starting {
        let start = self.starts.add();
        match self.plan {
            Plan::Start if start == 2 => panic!("in start"),
            Plan::StartError if start == 2 => Starting::failed(Cause::new("no luck")),
            _ => Starting::ready(),
        }
    }

    fn health(&self) -> Health {
        assert!(self.plan != Plan::Health || self.starts.get() > 1, "in health");
        Health::ok()
    }

    fn stop(&mut self, _: &Scope<Self>) -> LocalBoxFuture<'static, ()> {
        assert!(self.plan != Plan::Stop, "in stop");
        let panics = self.plan == Plan::StopLater;
        Box::pin(async move {
            tokio::task::yield_now().await;
            assert!(!panics, "in stop, later");
        })
    }
}

async fn clumsy(plan: Plan) -> (Tally, Link<Clumsy>, Running) {
    let starts = Tally::default();
    let counted = starts.clone();
    let spec = Spec::new("clumsy", move || Clumsy { starts: counted.clone(), plan });
    let link = spec.link();
    (starts, link, launch_here([spec.into()]).await.unwrap())
}

#[test]
fn a_panic_or_error_in_a_later_start_is_a_death_like_any_other() {
    for (plan, message) in [(Plan::Start, "in start"), (Plan::StartError, "no luck")] {
        paused(async {
            let (starts, link, running) = clumsy(plan).await;
            let mut events = running.events();
            link.inject(Fault::Panic);
            let backoff = until(&mut events, "clumsy", ServiceState::Backoff).await;
            assert_eq!(backoff.cause.unwrap().message, message);
            until(&mut events, "clumsy", ServiceState::Ready).await;
            assert_eq!(starts.get(), 3);
            let tree = running.tree();
            let first = tree.find("clumsy").unwrap().cause.clone().unwrap();
            assert_eq!(first.message, "injected panic", "the first fault is the cause");
            running.stop(FOREVER).await;
        });
    }
}

#[test]
fn a_panic_in_health_is_a_death() {
    paused(async {
        let (starts, _link, running) = clumsy(Plan::Health).await;
        let mut events = running.events();
        running.health().probe().await;
        let event = until(&mut events, "clumsy", ServiceState::Ready).await;
        assert_eq!((event.generation, starts.get()), (2, 2));
        running.stop(FOREVER).await;
    });
}

#[test]
fn a_panic_while_stopping_ends_the_drain() {
    for plan in [Plan::Stop, Plan::StopLater] {
        paused(async {
            let (starts, _link, running) = clumsy(plan).await;
            let report = running.stop(FOREVER).await;
            assert!(report.is_clean());
            assert_eq!(starts.get(), 1, "nothing is restarted while it stops");
        });
    }
}

#[test]
fn a_factory_that_panics_fails_the_launch() {
    paused(async {
        let spec = Spec::new("victim", || -> Victim { panic!("no state") });
        let error = launch_here([spec.into()]).await.unwrap_err();
        let LaunchError::Start { service, cause } = error else { panic!("{error:?}") };
        assert_eq!((&*service, cause.message.as_str()), ("victim", "no state"));
    });
}

#[test]
fn a_notice_of_a_child_reaches_the_service_that_answers_it() {
    paused(async {
        let (link, running) = victim().await;
        let (sender, mut noticed) = mpsc::unbounded_channel();
        link.outlet()
            .send(Run::new(move |scope| {
                let own = scope.clone();
                let child = async move {
                    own.notify(Run::new(move |scope| {
                        sender.send(scope.generation()).unwrap();
                        Reply::Now(0)
                    }));
                };
                scope.child("turn", child).detach();
                Reply::Now(0)
            }))
            .await
            .unwrap();
        assert_eq!(noticed.recv().await, Some(1));
        running.stop(FOREVER).await;
    });
}

#[test]
fn a_caller_waits_a_second_for_a_new_incarnation() {
    paused(async {
        let (link, running) = victim().await;
        let mut events = running.events();
        // The second death comes with a delay, of at most 100 ms.
        link.inject(Fault::Panic);
        until(&mut events, "victim", ServiceState::Ready).await;
        link.inject(Fault::Panic);
        until(&mut events, "victim", ServiceState::Backoff).await;
        assert_eq!(link.outlet().try_send(Count).await, Err(CallError::Restarting));
        assert_eq!(link.outlet().send(Count).await, Ok(1));
        // The fifth comes with a delay of up to 800 ms, so make it longer: never ready at all.
        let before = tokio::time::Instant::now();
        let outlet = Spec::new("never", Victim::default).link().outlet();
        assert_eq!(outlet.send(Count).await, Err(CallError::Restarting));
        assert_eq!(before.elapsed(), Duration::from_secs(1));
        running.stop(FOREVER).await;
    });
}
