//! A panic in each place where service code runs: who dies of it, and what the caller is told.

use std::{panic::panic_any, time::Duration};

use soma_runtime::{
    CallError, Cause, Health, LaunchError, Link, Nudge, Pace, Pass, Reply, Running, Scope, Service,
    ServiceState, Spec, Starting, Worker,
};
use tokio::time::sleep;

use crate::support::{Count, FOREVER, Run, Tally, Victim, launch_here, paused, until};

/// Panics when it is dropped.
struct Bomb;

impl Drop for Bomb {
    fn drop(&mut self) {
        panic!("in the payload");
    }
}

/// Makes a message that is to kill the service.
type Fatal = fn() -> Run;

/// Sends a message that is to kill the service and returns what its caller was told.
async fn killed_by(fatal: Run) -> Result<u64, CallError> {
    let spec = Spec::new("victim", Victim::default);
    let link = spec.link();
    let running = launch_here([spec.into()]).await.unwrap();
    let mut events = running.events();
    link.outlet().send(Count).await.unwrap();
    let told = link.outlet().send(fatal).await;
    let event = until(&mut events, "victim", ServiceState::Ready).await;
    assert_eq!(event.generation, 2);
    assert_eq!(link.outlet().send(Count).await, Ok(1), "its state is new");
    let tree = running.tree();
    let victim = tree.find("victim").unwrap();
    assert_eq!((victim.panics, victim.child_panics, victim.in_flight), (1, 0, 0));
    let fault = victim.last_fault.as_ref().unwrap();
    assert!(fault.location.as_ref().unwrap().contains("tests/it/places.rs:"), "{fault:?}");
    assert!(running.stop(FOREVER).await.is_clean());
    told
}

fn panic_message(told: Result<u64, CallError>) -> String {
    match told {
        Err(CallError::Panicked(cause)) => cause.message,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_panic_in_an_answer_kills_the_service_and_is_its_callers() {
    let table: [(&str, Fatal); 5] = [
        ("in the handler", || Run::new(|_| panic!("in the handler"))),
        ("at once", || Run::new(|_| Reply::later(async { panic!("at once") }))),
        ("after a timer", || {
            Run::new(|_| {
                Reply::later(async {
                    sleep(Duration::from_secs(1)).await;
                    panic!("after a timer")
                })
            })
        }),
        ("a panic without a message", || Run::new(|_| panic_any(7))),
        ("a panic without a message", || Run::new(|_| Reply::later(async { panic_any(Bomb) }))),
    ];
    for (message, fatal) in table {
        paused(async { assert_eq!(panic_message(killed_by(fatal()).await), message) });
    }
}

#[test]
fn a_panic_over_a_notice_kills_the_service() {
    let notices: [Fatal; 2] = [
        || Run::new(|_| panic!("over a notice")),
        || Run::new(|_| Reply::later(async { panic!("over a notice, later") })),
    ];
    for notice in notices {
        paused(async {
            let told = killed_by(Run::new(move |scope| {
                scope.notify(notice());
                Reply::Now(0)
            }));
            assert_eq!(told.await, Ok(0), "the caller was answered before");
        });
    }
}

#[test]
fn a_panic_in_a_child_kills_the_child_alone_at_once_or_by_a_timer() {
    paused(async {
        let spec = Spec::new("victim", Victim::default);
        let link = spec.link();
        let running = launch_here([spec.into()]).await.unwrap();
        let children = Run::new(|scope| {
            scope.child("at once", async { panic!("at once") }).detach();
            let beats = scope.child("by a timer", async {
                let mut beat = tokio::time::interval(Duration::from_secs(1));
                for _ in 0..3 {
                    beat.tick().await;
                }
                panic!("by a timer")
            });
            let bomb = scope.child("in a destructor", async { drop(Bomb) });
            Reply::later(
                async move { u64::from(beats.await.is_err()) + u64::from(bomb.await.is_err()) },
            )
        });
        assert_eq!(link.outlet().send(children).await, Ok(2));
        let tree = running.tree();
        let victim = tree.find("victim").unwrap();
        assert_eq!((victim.generation, victim.panics, victim.child_panics), (1, 0, 3));
        running.stop(FOREVER).await;
    });
}

/// Panics in its second life, where it is told to.
struct Hooked {
    hook: Hook,
    life: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Hook {
    Factory,
    Start,
    StartLater,
}

impl Service for Hooked {
    fn start(&mut self, _: &Scope<Self>) -> Starting {
        let panics = self.life == 2;
        assert!(!panics || self.hook != Hook::Start, "in a hook");
        let panics = panics && self.hook == Hook::StartLater;
        Starting::later(async move {
            sleep(Duration::from_secs(1)).await;
            assert!(!panics, "in a hook");
            Ok(())
        })
    }
}

fn hooked(hook: Hook, lives: &Tally) -> Spec<Hooked> {
    let lives = lives.clone();
    Spec::new("hooked", move || {
        let life = lives.add();
        assert!(hook != Hook::Factory || life != 2, "in a hook");
        Hooked { hook, life }
    })
}

#[test]
fn a_panic_on_the_way_to_the_next_life_is_a_death_like_any_other() {
    for hook in [Hook::Factory, Hook::Start, Hook::StartLater] {
        paused(async {
            let spec = hooked(hook, &Tally::default());
            let link: Link<Hooked> = spec.link();
            let running = launch_here([spec.into()]).await.unwrap();
            let mut events = running.events();
            link.inject(soma_runtime::Fault::Panic);
            let death = until(&mut events, "hooked", ServiceState::Backoff).await;
            assert_eq!(death.cause.unwrap().message, "in a hook", "{hook:?}");
            assert_eq!(until(&mut events, "hooked", ServiceState::Ready).await.generation, 3);
            assert!(running.stop(FOREVER).await.is_clean());
        });
    }
}

#[test]
fn a_panic_in_the_first_start_fails_the_launch() {
    for hook in [Hook::Factory, Hook::Start, Hook::StartLater] {
        paused(async {
            let lives = Tally::default();
            lives.add();
            let error = launch_here([hooked(hook, &lives).into()]).await.unwrap_err();
            let LaunchError::Start { service, cause } = error else { panic!("{error:?}") };
            assert_eq!((&*service, cause.message.as_str()), ("hooked", "in a hook"), "{hook:?}");
        });
    }
}

/// A worker that panics where it is told to, once.
struct Clumsy {
    place: WorkerPlace,
    passes: Tally,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum WorkerPlace {
    Pass,
    Health,
    Stop,
}

impl Worker for Clumsy {
    async fn pass(&mut self) -> Result<Pass, Cause> {
        let first = self.passes.add() == 1;
        sleep(Duration::from_secs(1)).await;
        assert!(self.place != WorkerPlace::Pass || !first, "in a pass");
        Ok(Pass::Idle)
    }

    fn health(&self) -> Health {
        assert!(self.place != WorkerPlace::Health || self.passes.get() > 1, "in health");
        Health::ok()
    }

    async fn stop(&mut self) {
        assert!(self.place != WorkerPlace::Stop, "in stop");
    }
}

async fn clumsy(place: WorkerPlace) -> (Tally, Running) {
    let passes = Tally::default();
    let counted = passes.clone();
    let make = move || Clumsy { place, passes: counted.clone() };
    let spec = Spec::worker("clumsy", make, Pace::every(Duration::from_hours(1)), Nudge::new());
    (passes, launch_here([spec.into()]).await.unwrap())
}

#[test]
fn a_panic_of_a_worker_is_followed_by_a_new_one_that_makes_its_passes() {
    for place in [WorkerPlace::Pass, WorkerPlace::Health] {
        paused(async {
            let (passes, running) = clumsy(place).await;
            let mut events = running.events();
            assert_eq!(until(&mut events, "clumsy", ServiceState::Ready).await.generation, 2);
            while passes.get() < 2 {
                sleep(Duration::from_secs(1)).await;
            }
            assert!(running.stop(FOREVER).await.is_clean());
            assert_eq!(running.tree().find("clumsy").unwrap().panics, 1, "{place:?}");
        });
    }
}

#[test]
fn a_worker_that_panics_in_its_last_flush_has_ended() {
    paused(async {
        let (passes, running) = clumsy(WorkerPlace::Stop).await;
        let report = running.stop(FOREVER).await;
        assert!(report.is_clean(), "{report:?}");
        let tree = running.tree();
        let clumsy = tree.find("clumsy").unwrap();
        assert_eq!((clumsy.state, clumsy.generation), (ServiceState::Stopped, 1));
        assert_eq!(clumsy.last_fault.as_ref().unwrap().message, "in stop");
        assert_eq!(passes.get(), 1);
    });
}
