//! Threads that do not come back.

use std::{
    sync::{
        atomic::{AtomicI32, Ordering},
        mpsc,
    },
    time::Duration,
};

use soma_runtime::{
    CallError, CauseKind, Ending, Fault, Health, Io, IoError, Orchestrator, Placement, Registry,
    Reply, Running, Service, ServiceState, Settings, Spec,
};
use tokio::sync::oneshot;

use crate::support::{Count, FOREVER, Run, Tally, Victim, threads, until};

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
    let begun = Tally::default();
    let calls = (0..20).map(|_| {
        let (outlet, begun) = (link.outlet(), begun.clone());
        async move {
            let never = Run::new(move |_| {
                begun.add();
                Reply::later(std::future::pending())
            });
            outlet.send(never).await
        }
    });
    let blocked = async {
        while begun.get() < 20 {
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
async fn a_service_that_hangs_can_be_restarted_by_hand() {
    let spec = Spec::new("victim", Victim::default).critical(true);
    let link = spec.link();
    let running = launch(Registry::default().with(spec)).await;
    link.outlet().send(Count).await.unwrap();
    link.inject(Fault::Block(FOREVER));
    running.restart("victim").await.unwrap();
    assert_eq!(link.outlet().send(Count).await, Ok(1));
    assert_eq!(running.tree().leaked_threads, 1);
    assert!(running.stop(FOREVER).await.is_clean());
}

#[actix_rt::test]
async fn a_stop_leaves_a_blocked_thread_behind() {
    let spec = Spec::new("victim", Victim::default).stop_deadline(Duration::from_millis(100));
    let other = Spec::new("other", Victim::default);
    let link = spec.link();
    // A limit that is not reached: the stop itself must see it.
    let registry = Registry::new([spec.into(), other.into()]);
    let running = Orchestrator::launch(registry, threads()).await.unwrap();
    let (begin, begun) = oneshot::channel();
    let (_kept, never) = mpsc::channel();
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
        let (_kept, receiver) = mpsc::channel::<()>();
        receiver.recv().expect("the sender is kept, so this blocks");
        Victim::default()
    })
    .start_deadline(Duration::from_millis(100));
    let error = Orchestrator::launch(Registry::default().with(spec), threads()).await.unwrap_err();
    assert_eq!(error.to_string(), "start service `victim`: the start blocks its thread");
}

/// Says in its channel's end that it was dropped.
struct Flag(Option<oneshot::Sender<()>>);

fn flag() -> (Flag, oneshot::Receiver<()>) {
    let (dropped, seen) = oneshot::channel();
    (Flag(Some(dropped)), seen)
}

impl Drop for Flag {
    fn drop(&mut self) {
        if let Some(dropped) = self.0.take() {
            dropped.send(()).ok();
        }
    }
}

#[actix_rt::test]
async fn a_thread_that_comes_back_finds_its_incarnation_gone() {
    let spec = Spec::new("victim", Victim::default);
    let link = spec.link();
    let running = launch(Registry::default().with(spec)).await;
    let mut events = running.events();
    let outlet = link.outlet();
    let done = Tally::default();
    // Three that would go on when the thread does: an answer, a child, and mail behind the block.
    let ((answer, answer_dropped), (child, child_dropped)) = (flag(), flag());
    let (go, gone) = tokio::sync::watch::channel(false);
    let (mut first, mut second) = (gone.clone(), gone);
    let (counted, counted_too) = (done.clone(), done.clone());
    let mut waits = Box::pin(outlet.send(Run::new(move |scope| {
        let child_waits = async move {
            let _child = child;
            second.wait_for(|go| *go).await.unwrap();
            counted_too.add();
        };
        scope.child("waits", child_waits).detach();
        Reply::later(async move {
            let _answer = answer;
            first.wait_for(|go| *go).await.unwrap();
            counted.add()
        })
    })));
    assert!(futures::poll!(&mut waits).is_pending());
    while running.tree().find("victim").unwrap().temporary_children == 0 {
        tokio::task::yield_now().await;
    }
    let (begin, begun) = oneshot::channel();
    let (release, blocked) = mpsc::channel();
    let mut blocks = Box::pin(outlet.send(Run::new(move |_| {
        begin.send(()).unwrap();
        blocked.recv().map_or(Reply::Now(0), Reply::Now)
    })));
    assert!(futures::poll!(&mut blocks).is_pending());
    begun.await.unwrap();
    let late = done.clone();
    let behind = outlet.send(Run::new(move |_| Reply::Now(late.add()))).await;
    assert_eq!(behind, Err(CallError::Restarting), "nobody has begun it, and nobody will");
    assert_eq!((waits.await, blocks.await), (Err(CallError::Abandoned), Err(CallError::Abandoned)));
    until(&mut events, "victim", ServiceState::Ready).await;
    assert_eq!(link.outlet().send(Count).await, Ok(1));
    go.send(true).unwrap();
    release.send(7).unwrap();
    answer_dropped.await.unwrap();
    child_dropped.await.unwrap();
    assert_eq!(done.get(), 0, "the old incarnation went on");
    let tree = running.tree();
    assert_eq!((tree.leaked_threads, tree.find("victim").unwrap().hangs), (1, 1));
    assert_eq!(link.outlet().send(Count).await, Ok(2), "the new one is not disturbed");
    assert!(running.stop(FOREVER).await.is_clean());
}

#[actix_rt::test]
async fn the_io_of_a_generation_that_was_replaced_goes_no_further() {
    let io = Io::new(1).unwrap();
    let spec = Spec::new("victim", Victim::default);
    let link = spec.link();
    let running = launch(Registry::default().with(spec)).await;
    let mut events = running.events();
    let done = Tally::default();
    // One call is under way when the thread hangs.
    let (begin, begun) = oneshot::channel();
    let (go, gone) = oneshot::channel::<()>();
    let (under_way, dropped) = flag();
    let (counted, elsewhere) = (done.clone(), io.clone());
    let outlet = link.outlet();
    let mut call = Box::pin(outlet.send(Run::new(move |_| {
        Reply::later(async move {
            let work = async move {
                let _under_way = under_way;
                begin.send(()).unwrap();
                gone.await.unwrap();
                counted.add()
            };
            elsewhere.call(FOREVER, work).await.unwrap()
        })
    })));
    assert!(futures::poll!(&mut call).is_pending());
    begun.await.unwrap();
    // Another is about to be made by what hangs.
    let (release, blocked) = mpsc::channel::<()>();
    let (tell, told) = oneshot::channel();
    let (hangs, ended) = flag();
    let (counted, counted_too) = (done.clone(), done.clone());
    link.outlet()
        .send(Run::new(move |scope| {
            let child = async move {
                blocked.recv().unwrap();
                let _hangs = hangs;
                let call = io.call(FOREVER, async move { counted.add() }).await;
                tell.send(call).unwrap();
                next_turn().await;
                counted_too.add();
            };
            scope.child("hangs", child).detach();
            Reply::Now(0)
        }))
        .await
        .unwrap();
    assert_eq!(call.await, Err(CallError::Abandoned));
    until(&mut events, "victim", ServiceState::Ready).await;
    go.send(()).unwrap();
    dropped.await.unwrap();
    release.send(()).unwrap();
    assert_eq!(told.await.unwrap(), Err(IoError::Fenced));
    ended.await.unwrap();
    assert_eq!(done.get(), 0);
    running.stop(FOREVER).await;
}

/// Is polled once more, ahead of whoever is to end it.
async fn next_turn() {
    let mut again = true;
    std::future::poll_fn(|context| {
        if std::mem::take(&mut again) {
            context.waker().wake_by_ref();
            return std::task::Poll::Pending;
        }
        std::task::Poll::Ready(())
    })
    .await;
}

/// Blocks its thread when it is asked how it is, where it is told to.
struct Stubborn(Tally);

impl Service for Stubborn {
    fn health(&self) -> Health {
        if self.0.add() == 1 {
            let (_kept, never) = mpsc::channel::<()>();
            never.recv().unwrap();
        }
        Health::ok()
    }
}

#[actix_rt::test]
async fn a_child_or_a_report_that_hangs_is_its_own_services_fault_alone() {
    for by_report in [false, true] {
        let asked = Tally::default();
        if !by_report {
            asked.add();
        }
        let stubborn = Spec::new("stubborn", move || Stubborn(asked.clone()));
        let parent = Spec::new("parent", Victim::default);
        let innocent = Spec::new("innocent", Victim::default).critical(true);
        let (link, moved) = (parent.link(), innocent.link());
        let running = launch(Registry::new([
            stubborn.placement(Placement::Shared).into(),
            parent.placement(Placement::Shared).into(),
            innocent.placement(Placement::Shared).into(),
        ]))
        .await;
        let mut events = running.events();
        if !by_report {
            let hangs = Run::new(move |scope| {
                let (kept, never) = mpsc::channel::<()>();
                scope.child("hangs", async move { drop((never.recv(), kept)) }).detach();
                Reply::Now(0)
            });
            link.outlet().send(hangs).await.unwrap();
        }
        until(&mut events, "innocent", ServiceState::Ready).await;
        assert_eq!(moved.outlet().send(Count).await, Ok(1));
        let blamed =
            ["stubborn", "parent", "innocent"].map(|name| running.tree().find(name).unwrap().hangs);
        assert_eq!(blamed, [u64::from(by_report), u64::from(!by_report), 0]);
        running.stop(FOREVER).await;
    }
}

#[actix_rt::test]
async fn a_halt_skips_a_thread_that_hangs_and_drains_the_rest() {
    let critical = Spec::new("critical", Victim::default).critical(true);
    let wedged = Spec::new("wedged", Victim::default)
        .needs(&["critical"])
        .stop_deadline(Duration::from_millis(100));
    let outer = Spec::new("outer", Victim::default).needs(&["wedged"]);
    let (fatal, link, last) = (critical.link(), wedged.link(), outer.link());
    let registry = Registry::new([critical.into(), wedged.into(), outer.into()]);
    // The hang limit is not reached: the halt itself must get past the thread.
    let running = Orchestrator::launch(registry, threads()).await.unwrap();
    let mut events = running.events();
    let (begin, begun) = oneshot::channel();
    let (_kept, never) = mpsc::channel();
    let blocks = Run::new(move |_| {
        begin.send(()).unwrap();
        never.recv().map_or(Reply::Now(0), Reply::Now)
    });
    let outlet = link.outlet();
    let mut call = Box::pin(outlet.send(blocks));
    assert!(futures::poll!(&mut call).is_pending());
    begun.await.unwrap();
    // It drains for as long as this answer takes.
    let (finish, finished) = oneshot::channel();
    let (begin, begun) = oneshot::channel();
    let outlet = last.outlet();
    let mut slow = Box::pin(outlet.send(Run::new(|scope| {
        begin.send(()).unwrap();
        let drain = scope.draining();
        Reply::later(async move {
            drain.wait().await;
            finished.await.unwrap()
        })
    })));
    assert!(futures::poll!(&mut slow).is_pending());
    begun.await.unwrap();
    fatal.outlet().send(Run::new(|_| panic!("the end"))).await.unwrap_err();
    until(&mut events, "outer", ServiceState::Stopping).await;
    assert_ne!(running.tree().find("wedged").unwrap().state, ServiceState::Stopping, "in order");
    finish.send(9).unwrap();
    assert_eq!(slow.await, Ok(9));
    assert_eq!(call.await, Err(CallError::Abandoned));
    let report = running.stop(FOREVER).await;
    let ending = |name: &str| report.services.iter().find(|s| &*s.service == name).unwrap().ending;
    assert_eq!((ending("outer"), ending("wedged")), (Ending::Drained, Ending::Abandoned));
    assert_eq!((report.exit_code(), report.leaked_threads), (70, 1));
    assert_eq!(&*report.halt.unwrap().service, "critical");
}
