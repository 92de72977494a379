//! The order of start and stop.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use futures::future::LocalBoxFuture;
use soma_runtime::{
    CauseKind, Ending, Entry, LaunchError, Message, Registry, Reply, Scope, Service, ServiceState,
    Spec, Starting,
};

use crate::support::{Count, FOREVER, Victim, launch_here, paused, until};

type Diary = Arc<Mutex<Vec<String>>>;

/// Writes down when it starts and stops.
struct Diarist {
    name: &'static str,
    diary: Diary,
    start: Duration,
    fails: bool,
}

impl Service for Diarist {
    fn start(&mut self, _: &Scope<Self>) -> Starting {
        let (diary, name, start, fails) =
            (Arc::clone(&self.diary), self.name, self.start, self.fails);
        Starting::later(async move {
            tokio::time::sleep(start).await;
            diary.lock().unwrap().push(format!("+{name}"));
            if fails { Err(soma_runtime::Cause::new("will not")) } else { Ok(()) }
        })
    }

    fn stop(&mut self, _: &Scope<Self>) -> LocalBoxFuture<'static, ()> {
        let (diary, name) = (Arc::clone(&self.diary), self.name);
        Box::pin(async move {
            tokio::time::sleep(Duration::from_secs(1)).await;
            diary.lock().unwrap().push(format!("-{name}"));
        })
    }
}

fn diarist(diary: &Diary, name: &'static str, needs: &[&str], start: u64) -> Spec<Diarist> {
    let diary = Arc::clone(diary);
    let start = Duration::from_secs(start);
    let make = move || Diarist { name, diary: Arc::clone(&diary), start, fails: name == "failing" };
    Spec::new(name, make).needs(needs)
}

#[test]
fn services_start_by_levels_and_stop_in_reverse() {
    paused(async {
        let diary = Diary::default();
        let specs: [Entry; 4] = [
            diarist(&diary, "gateway", &["worker", "tools"], 1).into(),
            diarist(&diary, "worker", &["memory"], 2).into(),
            diarist(&diary, "tools", &["memory"], 1).into(),
            diarist(&diary, "memory", &[], 5).into(),
        ];
        let before = tokio::time::Instant::now();
        let running = launch_here(specs).await.unwrap();
        assert_eq!(before.elapsed().as_secs(), 8, "a level starts in parallel");
        let started = diary.lock().unwrap().clone();
        assert_eq!(started, ["+memory", "+tools", "+worker", "+gateway"]);
        let report = running.stop(FOREVER).await;
        let stopped = diary.lock().unwrap().split_off(4);
        assert_eq!(stopped.first().unwrap(), "-gateway");
        assert_eq!(stopped.last().unwrap(), "-memory");
        assert_eq!((stopped.len(), report.services.len()), (4, 4));
    });
}

#[test]
fn a_failed_start_is_rolled_back_in_reverse() {
    paused(async {
        let diary = Diary::default();
        let specs: [Entry; 4] = [
            diarist(&diary, "memory", &[], 1).into(),
            diarist(&diary, "tools", &["memory"], 1).into(),
            diarist(&diary, "failing", &["tools"], 1).into(),
            diarist(&diary, "never", &["failing"], 1).into(),
        ];
        let error = launch_here(specs).await.unwrap_err();
        assert_eq!(error.to_string(), "start service `failing`: will not");
        let diary = diary.lock().unwrap().clone();
        assert_eq!(diary, ["+memory", "+tools", "+failing", "-tools", "-memory"]);
    });
}

#[test]
fn a_failure_does_not_wait_for_a_slow_start_beside_it() {
    paused(async {
        let diary = Diary::default();
        let specs: [Entry; 3] = [
            diarist(&diary, "memory", &[], 1).into(),
            diarist(&diary, "slow", &["memory"], 3_600)
                .start_deadline(Duration::from_hours(2))
                .into(),
            diarist(&diary, "failing", &["memory"], 1).into(),
        ];
        let before = tokio::time::Instant::now();
        let error = launch_here(specs).await.unwrap_err();
        assert_eq!(error.to_string(), "start service `failing`: will not");
        assert_eq!(before.elapsed().as_secs(), 3, "two starts and a stop of a second each");
        tokio::time::sleep(Duration::from_hours(3)).await;
        assert_eq!(*diary.lock().unwrap(), ["+memory", "+failing", "-memory"]);
    });
}

#[test]
fn restarting_a_supervisor_restarts_its_children_in_order() {
    paused(async {
        let diary = Diary::default();
        let children: [Entry; 2] = [
            diarist(&diary, "outer", &["inner"], 1).into(),
            diarist(&diary, "inner", &[], 1).into(),
        ];
        let spec = Spec::supervisor("supervisor", Registry::new(children)).critical(true);
        let running = launch_here([spec.into()]).await.unwrap();
        assert_eq!(*diary.lock().unwrap(), ["+inner", "+outer"]);
        running.restart("supervisor").await.unwrap();
        let restarted = diary.lock().unwrap().split_off(2);
        assert_eq!(restarted, ["-outer", "-inner", "+inner", "+outer"]);
        let tree = running.tree();
        for name in ["supervisor", "inner", "outer"] {
            let service = tree.find(name).unwrap();
            assert_eq!((service.generation, service.restarts), (2, 0), "an order is no death");
            assert_eq!(service.cause, None);
        }
        assert!(running.stop(FOREVER).await.is_clean());
    });
}

#[test]
fn a_start_that_is_never_ready_fails_at_its_deadline() {
    paused(async {
        let diary = Diary::default();
        let spec = diarist(&diary, "slow", &[], 3_600).start_deadline(Duration::from_secs(3));
        let LaunchError::Start { cause, .. } = launch_here([spec.into()]).await.unwrap_err() else {
            panic!("started");
        };
        assert_eq!(cause.kind, CauseKind::StartTimeout);
    });
}

/// Drains for as long as it likes.
struct Endless;

impl Service for Endless {
    fn stop(&mut self, scope: &Scope<Self>) -> LocalBoxFuture<'static, ()> {
        assert!(scope.draining().is_draining());
        Box::pin(std::future::pending())
    }
}

#[test]
fn a_drain_is_cut_off_at_its_deadline() {
    paused(async {
        let spec = Spec::new("endless", || Endless).stop_deadline(Duration::from_secs(7));
        let running = launch_here([spec.into()]).await.unwrap();
        let before = tokio::time::Instant::now();
        let report = running.stop(FOREVER).await;
        assert_eq!(before.elapsed().as_secs(), 7);
        assert_eq!(report.services.first().unwrap().ending, Ending::Forced);
        assert_eq!(report.exit_code(), 1);
    });
}

#[test]
fn a_second_stop_shortens_the_first() {
    paused(async {
        let spec = Spec::new("endless", || Endless).stop_deadline(Duration::from_mins(5));
        let running = launch_here([spec.into()]).await.unwrap();
        let before = tokio::time::Instant::now();
        let first = running.stop(Duration::from_mins(4));
        let second = async {
            tokio::time::sleep(Duration::from_secs(2)).await;
            running.stop(Duration::from_secs(1)).await
        };
        let (first, second) = tokio::join!(first, second);
        assert_eq!(before.elapsed().as_secs(), 3);
        assert_eq!(first.exit_code(), 1);
        assert_eq!(second.exit_code(), 1);
    });
}

/// Waits for its work before it ends.
#[derive(Default)]
struct Patient;

struct Work;

impl Message for Work {
    type Result = &'static str;
}

impl Service for Patient {}

impl soma_runtime::Answer<Work> for Patient {
    fn answer(&mut self, _: Work, scope: &Scope<Self>) -> Reply<&'static str> {
        let drain = scope.draining();
        Reply::later(async move {
            drain.wait().await;
            tokio::time::sleep(Duration::from_secs(1)).await;
            "to the end"
        })
    }
}

#[test]
fn an_answer_that_was_begun_is_given_while_the_service_drains() {
    paused(async {
        let spec = Spec::new("patient", Patient::default);
        let link = spec.link();
        let running = launch_here([spec.into()]).await.unwrap();
        let mut events = running.events();
        let outlet = link.outlet();
        let stop = async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            running.stop(FOREVER).await
        };
        let refused = async {
            until(&mut events, "patient", ServiceState::Stopping).await;
            link.outlet().send(Work).await
        };
        let (answer, refused, report) = tokio::join!(outlet.send(Work), refused, stop);
        assert_eq!(answer, Ok("to the end"));
        assert_eq!(refused, Err(soma_runtime::CallError::Stopped));
        assert!(report.is_clean());
    });
}

#[test]
fn a_tree_can_be_told_as_json() {
    paused(async {
        let running = launch_here([Spec::new("victim", Victim::default).into()]).await.unwrap();
        let tree = serde_json::to_value(running.tree()).unwrap();
        let victim = &tree["services"][0];
        assert_eq!(victim["name"], "victim");
        assert_eq!(victim["state"], "ready");
        assert_eq!(victim["generation"], 1);
        running.stop(FOREVER).await;
        drop(Spec::new("unused", Victim::default).link().outlet::<Count>());
    });
}
