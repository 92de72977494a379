//! The I/O runtime and its callers.

use std::{future::pending, time::Duration};

use soma_runtime::{CallError, Io, IoError, Reply, Spec};
use tokio::sync::oneshot;

use crate::support::{FOREVER, Run, Victim, launch_here};

#[actix_rt::test]
async fn a_call_runs_elsewhere_and_returns_its_output() {
    let io = Io::new(1).unwrap();
    let here = std::thread::current().id();
    let there = io.call(FOREVER, async { std::thread::current().id() }).await.unwrap();
    assert_ne!(here, there);
    assert!(io.age().unwrap() < FOREVER);
}

#[actix_rt::test]
async fn a_call_ends_at_its_deadline_and_with_its_caller() {
    let io = Io::new(1).unwrap();
    let late = io.call(Duration::from_millis(1), pending::<()>()).await;
    assert_eq!(late, Err(IoError::TimedOut));
    let (sender, dropped) = oneshot::channel::<()>();
    let (begin, begun) = oneshot::channel();
    let call = io.call(FOREVER, async move {
        begin.send(()).unwrap();
        pending::<()>().await;
        drop(sender);
    });
    tokio::select! {
        _ = call => panic!("it never ends"),
        begun = begun => begun.unwrap(),
    }
    dropped.await.unwrap_err();
    io.shutdown();
    assert_eq!(io.call(FOREVER, async {}).await, Err(IoError::Closed));
}

#[actix_rt::test]
async fn a_panic_of_a_call_is_its_callers_with_its_place() {
    let io = Io::new(1).unwrap();
    let spec = Spec::new("victim", Victim::default);
    let link = spec.link();
    let running = launch_here([spec.into()]).await.unwrap();
    let call = Run::new(move |_| {
        Reply::later(async move { io.call(FOREVER, async { panic!("over there") }).await.unwrap() })
    });
    let error = link.outlet().send(call).await.unwrap_err();
    let CallError::Panicked(cause) = error else { panic!("{error:?}") };
    assert_eq!(cause.message, "over there");
    assert!(cause.location.unwrap().contains("tests/it/io.rs:"));
    running.stop(FOREVER).await;
}
