//! What follows when a service dies too often.

use std::time::Duration;

use soma_runtime::{
    CallError, CauseKind, Fault, HealthStatus, Registry, RestartPolicy, ServiceState, Spec,
};
use tokio::time::{Instant, sleep};

use crate::support::{Count, FOREVER, Run, Victim, launch_here, paused, until};

#[test]
fn a_spent_budget_parks_a_service_and_it_is_tried_once_a_minute() {
    paused(async {
        let policy = RestartPolicy { budget: 1, ..RestartPolicy::default() };
        let spec = Spec::new("victim", Victim::default).restart(policy);
        let link = spec.link();
        let running = launch_here([spec.into()]).await.unwrap();
        let mut events = running.events();
        for _ in 0..2 {
            link.outlet().send(Run::new(|_| panic!("again"))).await.unwrap_err();
        }
        let failed = until(&mut events, "victim", ServiceState::Failed).await;
        assert_eq!(failed.cause.unwrap().message, "again");
        assert_eq!(link.outlet().send(Count).await, Err(CallError::Restarting));
        assert_eq!(running.health().snapshot().status, HealthStatus::Degraded);
        let before = Instant::now();
        until(&mut events, "victim", ServiceState::Ready).await;
        assert!(before.elapsed() > Duration::from_secs(58), "{:?}", before.elapsed());
        // Its try is the last for a minute, too.
        link.outlet().send(Run::new(|_| panic!("again"))).await.unwrap_err();
        until(&mut events, "victim", ServiceState::Failed).await;
        running.restart("victim").await.unwrap();
        assert_eq!(link.outlet().send(Count).await, Ok(1));
        running.stop(FOREVER).await;
    });
}

#[test]
fn the_sixth_death_within_a_minute_parks_a_service_and_a_minute_of_health_is_forgiving() {
    paused(async {
        let spec = Spec::new("victim", Victim::default);
        let link = spec.link();
        let running = launch_here([spec.into()]).await.unwrap();
        let mut events = running.events();
        let cause = || running.tree().find("victim").unwrap().cause.clone();
        for life in 2..=6 {
            link.inject(Fault::Panic);
            let event = until(&mut events, "victim", ServiceState::Ready).await;
            assert_eq!(event.generation, life);
        }
        sleep(Duration::from_secs(59)).await;
        assert!(cause().is_some());
        sleep(Duration::from_secs(2)).await;
        assert_eq!(cause(), None);
        assert_eq!(running.tree().find("victim").unwrap().restarts, 5);
        // The budget is whole again: five more are forgiven, the sixth is not.
        for life in 7..=11 {
            link.inject(Fault::Panic);
            let event = until(&mut events, "victim", ServiceState::Ready).await;
            assert_eq!(event.generation, life);
        }
        link.inject(Fault::Panic);
        until(&mut events, "victim", ServiceState::Failed).await;
        assert!(cause().is_some());
        running.stop(FOREVER).await;
    });
}

#[test]
fn the_death_of_a_critical_service_halts_the_system_in_order() {
    paused(async {
        let inner = Spec::new("inner", Victim::default).critical(true);
        let outer = Spec::new("outer", Victim::default).needs(&["inner"]);
        let link = inner.link();
        let running = launch_here([inner.into(), outer.into()]).await.unwrap();
        let mut events = running.events();
        link.outlet().send(Run::new(|_| panic!("the end"))).await.unwrap_err();
        let halt = running.halted().await;
        assert_eq!(&*halt.service, "inner");
        let place = halt.cause.location.as_deref().unwrap();
        assert_eq!(
            halt.to_string(),
            format!("critical service `inner` died: panicked at {place}: the end")
        );
        until(&mut events, "outer", ServiceState::Stopped).await;
        let report = running.stop(FOREVER).await;
        assert_eq!((report.exit_code(), report.halt), (70, Some(halt)));
    });
}

#[test]
fn a_critical_service_may_be_given_a_budget() {
    paused(async {
        let spec =
            Spec::new("victim", Victim::default).critical(true).restart(RestartPolicy::critical(1));
        let link = spec.link();
        let running = launch_here([spec.into()]).await.unwrap();
        link.outlet().send(Run::new(|_| panic!("once"))).await.unwrap_err();
        assert_eq!(link.outlet().send(Count).await, Ok(1));
        link.outlet().send(Run::new(|_| panic!("twice"))).await.unwrap_err();
        assert_eq!(running.halted().await.cause.message, "once");
        running.stop(FOREVER).await;
    });
}

#[test]
fn a_supervisor_restarts_its_children_and_dies_of_one_that_spent_its_budget() {
    paused(async {
        let policy = RestartPolicy { budget: 1, ..RestartPolicy::default() };
        let child = Spec::new("outbox-sync", Victim::default).restart(policy);
        let link = child.link();
        let sibling = Spec::new("memory-sync", Victim::default);
        let children = Registry::new([child.into(), sibling.into()]);
        let supervisor = Spec::supervisor("unified-memory", children).critical(true);
        let running = launch_here([supervisor.into()]).await.unwrap();
        let mut events = running.events();
        link.outlet().send(Run::new(|_| panic!("once"))).await.unwrap_err();
        assert_eq!(link.outlet().send(Count).await, Ok(1));
        assert_eq!(running.tree().find("unified-memory").unwrap().generation, 1);
        link.outlet().send(Run::new(|_| panic!("twice"))).await.unwrap_err();
        let halt = running.halted().await;
        assert_eq!((&*halt.service, halt.cause.kind), ("unified-memory", CauseKind::Child));
        assert!(halt.cause.message.starts_with("child `outbox-sync` spent its restarts: panicked"));
        until(&mut events, "memory-sync", ServiceState::Stopped).await;
        assert_eq!(running.stop(FOREVER).await.exit_code(), 70);
    });
}

#[test]
fn a_supervisor_that_is_not_critical_comes_back_with_its_children() {
    paused(async {
        let policy = RestartPolicy { budget: 0, ..RestartPolicy::default() };
        let child = Spec::new("child", Victim::default).restart(policy);
        let sibling = Spec::new("sibling", Victim::default).needs(&["child"]);
        let (link, sibling_link) = (child.link(), sibling.link());
        let children = Registry::new([child.into(), sibling.into()]);
        let supervisor = Spec::supervisor("supervisor", children);
        let running = launch_here([supervisor.into()]).await.unwrap();
        let mut events = running.events();
        sibling_link.outlet().send(Count).await.unwrap();
        link.inject(Fault::Panic);
        until(&mut events, "supervisor", ServiceState::Ready).await;
        assert_eq!(link.outlet().send(Count).await, Ok(1));
        assert_eq!(sibling_link.outlet().send(Count).await, Ok(1), "it was restarted too");
        // On order, too, a supervisor takes its children with it.
        running.restart("supervisor").await.unwrap();
        assert_eq!(link.outlet().send(Count).await, Ok(1));
        assert_eq!(sibling_link.outlet().send(Count).await, Ok(1));
        assert!(running.stop(FOREVER).await.is_clean());
    });
}
