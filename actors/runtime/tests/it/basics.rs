//! The simple path: launch, ask, panic, ask again, stop.

use std::{collections::HashSet, thread::ThreadId, time::Duration};

use futures::future::join_all;
use soma_runtime::{
    CallError, Cause, ChildFault, HealthStatus, Link, Nudge, Orchestrator, Pace, Pass, Placement,
    Registry, Reply, ServiceState, Spec, Worker,
};

use crate::support::{Count, FOREVER, Run, Tally, Victim, launch_here, paused, threads, until};

/// Returns the thread that a service answers on.
async fn thread_of(link: &Link<Victim>) -> ThreadId {
    let (sender, receiver) = std::sync::mpsc::channel();
    let tell = Run::new(move |_| {
        sender.send(std::thread::current().id()).unwrap();
        Reply::Now(0)
    });
    link.outlet().send(tell).await.unwrap();
    receiver.recv().unwrap()
}

#[actix_rt::test]
async fn a_service_answers_on_its_own_thread() {
    let spec = Spec::new("victim", Victim::default);
    let other = Spec::new("other", Victim::default);
    let shared =
        ["one", "two"].map(|name| Spec::new(name, Victim::default).placement(Placement::Shared));
    let links = [&spec, &other, &shared[0], &shared[1]].map(Spec::link);
    let outlet = spec.link().outlet::<Count>();
    let registry =
        shared.into_iter().fold(Registry::default().with(spec).with(other), Registry::with);
    let running = Orchestrator::launch(registry, threads()).await.unwrap();
    assert_eq!(outlet.send(Count).await, Ok(1));
    assert_eq!(outlet.send(Count).await, Ok(2));
    let [victim, other, one, two] =
        <[ThreadId; 4]>::try_from(join_all(links.iter().map(thread_of)).await).unwrap();
    let different: HashSet<_> = [victim, other, one, std::thread::current().id()].into();
    assert_eq!((different.len(), one), (4, two));
    let liveness = running.liveness();
    let names: Vec<&str> = liveness.threads.iter().map(|thread| &*thread.name).collect();
    assert_eq!(names, ["orchestrator", "victim", "other", "shared", "watchdog"]);
    let report = running.stop(FOREVER).await;
    assert!(report.is_clean(), "{report:?}");
    assert_eq!(report.exit_code(), 0);
    assert_eq!(outlet.send(Count).await, Err(CallError::Stopped));
}

#[actix_rt::test]
async fn a_panic_is_followed_by_a_fresh_incarnation() {
    let spec = Spec::new("victim", Victim::default);
    let link = spec.link();
    let running = Orchestrator::launch(Registry::default().with(spec), threads()).await.unwrap();
    assert_eq!(link.outlet().send(Count).await, Ok(1));
    let fatal = link.outlet().send(Run::new(|_| panic!("on purpose"))).await.unwrap_err();
    let CallError::Panicked(cause) = fatal else { panic!("{fatal:?}") };
    assert_eq!(cause.message, "on purpose");
    assert!(cause.location.unwrap().starts_with("actors/runtime/tests/it/basics.rs:"));
    assert_eq!(link.outlet().send(Count).await, Ok(1));
    let tree = running.tree();
    let victim = tree.find("victim").unwrap();
    assert_eq!((victim.generation, victim.panics, victim.restarts), (2, 1, 1));
    running.stop(FOREVER).await;
}

#[test]
fn all_runs_on_one_thread_with_paused_time() {
    paused(async {
        let spec = Spec::new("victim", Victim::default);
        let link = spec.link();
        let running = launch_here([spec.into()]).await.unwrap();
        let slow = Run::new(|_| {
            Reply::later(async {
                tokio::time::sleep(Duration::from_secs(50)).await;
                50
            })
        });
        assert_eq!(link.outlet().send(slow).await, Ok(50));
        assert!(running.stop(FOREVER).await.is_clean());
    });
}

#[actix_rt::test]
async fn a_child_that_panics_fails_alone() {
    let spec = Spec::new("victim", Victim::default);
    let link = spec.link();
    let running = launch_here([spec.into()]).await.unwrap();
    let parent = Run::new(|scope| {
        let child = scope.child("turn", async { panic!("a bad turn") });
        Reply::later(async move {
            match child.await {
                Err(ChildFault::Panicked { message, .. }) if message == "a bad turn" => 1,
                other => panic!("{other:?}"),
            }
        })
    });
    assert_eq!(link.outlet().send(parent).await, Ok(1));
    let tree = running.tree();
    let victim = tree.find("victim").unwrap();
    assert_eq!((victim.generation, victim.child_panics), (1, 1));
    running.stop(FOREVER).await;
}

struct Counting(Tally);

impl Worker for Counting {
    async fn pass(&mut self) -> Result<Pass, Cause> {
        match self.0.add() {
            2 => panic!("second pass"),
            4 => Err(Cause::new("fourth pass")),
            n if n < 10 => Ok(Pass::Busy),
            _ => Ok(Pass::Idle),
        }
    }

    async fn stop(&mut self) {
        for _ in 0..1_000 {
            self.0.add();
        }
    }
}

#[test]
fn a_worker_makes_passes_is_restarted_and_flushes_at_the_end() {
    paused(async {
        let tally = Tally::default();
        let passes = tally.clone();
        let nudge = Nudge::new();
        let pace = Pace::every(Duration::from_hours(1));
        let spec = Spec::worker("worker", move || Counting(passes.clone()), pace, nudge.clone());
        let running = launch_here([spec.into()]).await.unwrap();
        let mut events = running.events();
        until(&mut events, "worker", ServiceState::Ready).await;
        while tally.get() < 10 {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        nudge.wake();
        while tally.get() < 11 {
            tokio::task::yield_now().await;
        }
        assert_eq!(running.tree().find("worker").unwrap().generation, 2);
        assert!(running.stop(FOREVER).await.is_clean());
        assert_eq!(tally.get(), 1_011);
    });
}

#[test]
fn an_ordered_restart_keeps_waiting_mail() {
    paused(async {
        let spec = Spec::new("victim", Victim::default);
        let link = spec.link();
        let running = launch_here([spec.into()]).await.unwrap();
        link.outlet().send(Count).await.unwrap();
        running.restart("victim").await.unwrap();
        assert_eq!(link.outlet().send(Count).await, Ok(1));
        let tree = running.tree();
        assert_eq!(tree.find("victim").unwrap().restarts, 0);
        assert_eq!(tree.find("victim").unwrap().generation, 2);
        assert!(running.restart("nobody").await.is_err());
        running.stop(FOREVER).await;
    });
}

/// Cannot reach what it needs until told otherwise.
struct Cut(Tally);

impl Worker for Cut {
    async fn pass(&mut self) -> Result<Pass, Cause> {
        if self.0.get() == 0 { Err(Cause::new("no route")) } else { Ok(Pass::Idle) }
    }
}

#[test]
fn an_error_is_not_a_death_but_degraded_until_it_is_gone() {
    paused(async {
        let mended = Tally::default();
        let reach = mended.clone();
        let pace = Pace::every(Duration::from_secs(1));
        let spec = Spec::worker("cut", move || Cut(reach.clone()), pace, Nudge::new());
        let running = launch_here([spec.into()]).await.unwrap();
        let mut events = running.events();
        until(&mut events, "cut", ServiceState::Degraded).await;
        // Many passes fail; none is a death.
        tokio::time::sleep(Duration::from_mins(10)).await;
        let health = running.health().snapshot();
        assert_eq!(health.status, HealthStatus::Degraded);
        assert_eq!(health.components["cut"].last_error.as_deref(), Some("no route"));
        mended.add();
        until(&mut events, "cut", ServiceState::Ready).await;
        let tree = running.tree();
        let cut = tree.find("cut").unwrap();
        assert_eq!((cut.generation, cut.restarts, cut.panics), (1, 0, 0));
        running.stop(FOREVER).await;
    });
}
