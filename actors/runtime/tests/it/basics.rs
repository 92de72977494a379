//! The simple path: launch, ask, panic, ask again, stop.

use std::time::Duration;

use soma_runtime::{
    CallError, Cause, ChildFault, Nudge, Orchestrator, Pace, Pass, Registry, Reply, ServiceState,
    Spec, Worker,
};

use crate::support::{Count, FOREVER, Run, Tally, Victim, launch_here, paused, threads, until};

#[actix_rt::test]
async fn a_service_answers_on_its_own_thread() {
    let spec = Spec::new("victim", Victim::default);
    let outlet = spec.link().outlet::<Count>();
    let running = Orchestrator::launch(Registry::default().with(spec), threads()).await.unwrap();
    assert_eq!(outlet.send(Count).await, Ok(1));
    assert_eq!(outlet.send(Count).await, Ok(2));
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
