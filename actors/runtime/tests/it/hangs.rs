//! Threads that do not come back.

use std::{
    sync::atomic::{AtomicI32, Ordering},
    time::Duration,
};

use soma_runtime::{
    CallError, CauseKind, Ending, Fault, Orchestrator, Placement, Registry, Reply, Running,
    ServiceState, Settings, Spec,
};

use crate::support::{Count, FOREVER, Run, Victim, threads, until};

/// Long enough that a busy machine does not look like a hang.
const LIMIT: Duration = Duration::from_secs(1);

async fn launch(registry: Registry) -> Running {
    let settings = Settings { hang_limit: LIMIT, ..threads() };
    Orchestrator::launch(registry, settings).await.unwrap()
}

#[actix_rt::test]
async fn a_blocked_service_is_replaced_and_its_callers_are_released() {
    let spec = Spec::new("victim", Victim::default);
    let link = spec.link();
    let running = launch(Registry::default().with(spec)).await;
    let mut events = running.events();
    let calls = (0..20).map(|_| {
        let outlet = link.outlet();
        async move {
            let never = Run::new(|_| Reply::later(std::future::pending()));
            outlet.send(never).await
        }
    });
    let blocked = async {
        while running.tree().find("victim").unwrap().in_flight < 20 {
            tokio::task::yield_now().await;
        }
        link.inject(Fault::Block(FOREVER));
    };
    let (calls, ()) = tokio::join!(futures::future::join_all(calls), blocked);
    assert_eq!(calls, vec![Err(CallError::Abandoned); 20]);
    until(&mut events, "victim", ServiceState::Ready).await;
    assert_eq!(link.outlet().send(Count).await, Ok(1));
    let tree = running.tree();
    let victim = tree.find("victim").unwrap();
    assert_eq!((victim.generation > 1, victim.hangs, tree.leaked_threads), (true, 1, 1));
    assert_eq!(victim.cause.as_ref().unwrap().kind, CauseKind::Hang);
    assert!(running.liveness().is_alive(FOREVER, FOREVER));
    assert!(running.stop(FOREVER).await.is_clean());
}

#[actix_rt::test]
async fn those_who_share_a_thread_with_a_hang_are_moved_and_not_blamed() {
    let guilty = Spec::new("guilty", Victim::default).placement(Placement::Shared);
    let innocent =
        Spec::new("innocent", Victim::default).placement(Placement::Shared).critical(true);
    let (link, moved) = (guilty.link(), innocent.link());
    let running = launch(Registry::new([guilty.into(), innocent.into()])).await;
    let (mut events, mut others) = (running.events(), running.events());
    moved.outlet().send(Count).await.unwrap();
    link.inject(Fault::Block(FOREVER));
    until(&mut events, "innocent", ServiceState::Ready).await;
    until(&mut others, "guilty", ServiceState::Ready).await;
    assert_eq!(moved.outlet().send(Count).await, Ok(1));
    assert_eq!(link.outlet().send(Count).await, Ok(1));
    let tree = running.tree();
    assert_eq!(tree.find("innocent").unwrap().hangs, 0);
    assert_eq!(tree.find("innocent").unwrap().cause, None);
    assert_eq!(tree.find("guilty").unwrap().hangs, 1);
    running.stop(FOREVER).await;
}

#[actix_rt::test]
async fn a_critical_service_is_replaced_once_and_its_second_hang_halts() {
    let spec = Spec::new("victim", Victim::default).critical(true);
    let link = spec.link();
    let running = launch(Registry::default().with(spec)).await;
    let mut events = running.events();
    link.inject(Fault::Block(FOREVER));
    until(&mut events, "victim", ServiceState::Ready).await;
    assert_eq!(link.outlet().send(Count).await, Ok(1));
    link.inject(Fault::Block(FOREVER));
    let halt = running.halted().await;
    assert_eq!((&*halt.service, halt.cause.kind), ("victim", CauseKind::Hang));
    let report = running.stop(FOREVER).await;
    assert_eq!((report.exit_code(), report.leaked_threads), (70, 2));
}

#[actix_rt::test]
async fn a_stop_leaves_a_blocked_thread_behind() {
    let spec = Spec::new("victim", Victim::default).stop_deadline(Duration::from_millis(100));
    let other = Spec::new("other", Victim::default);
    let link = spec.link();
    // A limit that is not reached: the stop itself must see it.
    let registry = Registry::new([spec.into(), other.into()]);
    let running = Orchestrator::launch(registry, threads()).await.unwrap();
    let (begin, begun) = tokio::sync::oneshot::channel();
    let (_kept, never) = std::sync::mpsc::channel();
    let blocking = Run::new(move |_| {
        begin.send(()).unwrap();
        never.recv().map_or(Reply::Now(0), Reply::Now)
    });
    let outlet = link.outlet();
    let mut call = Box::pin(outlet.send(blocking));
    assert!(futures::poll!(&mut call).is_pending());
    begun.await.unwrap();
    let report = running.stop(Duration::from_millis(100)).await;
    assert_eq!(call.await, Err(CallError::Abandoned));
    let endings: Vec<_> = report.services.iter().map(|service| service.ending).collect();
    assert_eq!(endings.first(), Some(&Ending::Abandoned));
    assert_eq!((report.exit_code(), report.leaked_threads), (1, 1));
    assert_eq!(link.outlet().send(Count).await, Err(CallError::Stopped));
}

static EXITED: AtomicI32 = AtomicI32::new(-1);

#[actix_rt::test]
async fn the_watchdog_can_end_the_process_alone() {
    let settings = Settings { exit: |code| EXITED.store(code, Ordering::SeqCst), ..threads() };
    let registry = Registry::default().with(Spec::new("victim", Victim::default));
    let running = Orchestrator::launch(registry, settings).await.unwrap();
    running.end_process_after(Duration::from_millis(10), 70);
    while EXITED.load(Ordering::SeqCst) == -1 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(EXITED.load(Ordering::SeqCst), 70);
    running.stop(FOREVER).await;
}

#[actix_rt::test]
async fn a_start_that_blocks_its_thread_fails_the_launch() {
    let spec = Spec::new("victim", || {
        let (_kept, receiver) = std::sync::mpsc::channel::<()>();
        receiver.recv().expect("the sender is kept, so this blocks");
        Victim::default()
    })
    .start_deadline(Duration::from_millis(100));
    let error = Orchestrator::launch(Registry::default().with(spec), threads()).await.unwrap_err();
    assert_eq!(error.to_string(), "start service `victim`: the start blocks its thread");
}
