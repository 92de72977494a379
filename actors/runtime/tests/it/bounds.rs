//! Bounds, deadlines and fairness.

use std::{future::pending, time::Duration};

use futures::future::join_all;
use soma_runtime::{CallError, Link, Placement, Reply, Spec};
use tokio::{sync::oneshot, time::Instant};

use crate::support::{Count, FOREVER, Run, Tally, Victim, launch_here, paused};

#[test]
fn permits_bound_the_calls_in_flight_however_many_clones_send() {
    paused(async {
        let spec = Spec::new("victim", Victim::default).bound(16);
        let link = spec.link();
        let running = launch_here([spec.into()]).await.unwrap();
        let stuck: Vec<_> = (0..1_000).map(|_| link.outlet::<Run>()).collect();
        let calls = stuck.iter().map(|outlet| {
            let call = outlet.try_send(Run::new(|_| Reply::later(pending())));
            tokio::time::timeout(Duration::from_secs(1), call)
        });
        let calls = join_all(calls).await;
        let full = calls.iter().filter(|call| **call == Ok(Err(CallError::Full))).count();
        let waiting = calls.iter().filter(|call| call.is_err()).count();
        assert_eq!((full, waiting), (984, 16));
        assert_eq!(running.tree().find("victim").unwrap().in_flight, 16);
        // One that waits is refused after a second.
        let before = Instant::now();
        assert_eq!(link.outlet().send(Count).await, Err(CallError::Full));
        assert_eq!(before.elapsed().as_secs(), 1);
        running.stop(Duration::ZERO).await;
    });
}

#[test]
fn an_answer_that_never_comes_ends_at_the_messages_deadline_and_frees_its_permit() {
    paused(async {
        let spec =
            Spec::new("victim", Victim::default).bound(1).message_deadline(Duration::from_secs(9));
        let link = spec.link();
        let running = launch_here([spec.into()]).await.unwrap();
        let before = Instant::now();
        let never = link.outlet().send(Run::new(|_| Reply::later(pending()))).await;
        assert_eq!(never, Err(CallError::TimedOut));
        assert_eq!(before.elapsed().as_secs(), 9);
        assert_eq!(link.outlet().send(Count).await, Ok(1));
        assert_eq!(running.tree().find("victim").unwrap().generation, 1);
        running.stop(FOREVER).await;
    });
}

#[test]
fn a_message_whose_caller_has_gone_is_not_begun() {
    paused(async {
        let spec = Spec::new("victim", Victim::default);
        let link = spec.link();
        let running = launch_here([spec.into()]).await.unwrap();
        let outlet = link.outlet();
        let mut abandoned = Box::pin(outlet.send(Count));
        assert!(futures::poll!(&mut abandoned).is_pending());
        drop(abandoned);
        assert_eq!(link.outlet().send(Count).await, Ok(1));
        running.stop(FOREVER).await;
    });
}

#[actix_rt::test]
async fn a_flood_holds_up_neither_a_neighbour_nor_a_probe_nor_the_end() {
    let flooded = Spec::new("flooded", Victim::default).bound(200_000);
    let neighbour = Spec::new("neighbour", Victim::default).placement(Placement::Shared);
    let (flood, quiet) = (flooded.link(), neighbour.link());
    let running = launch_here([flooded.into(), neighbour.into()]).await.unwrap();
    let done = Tally::default();
    let (first, begun) = oneshot::channel();
    let mut first = Some(first);
    let calls: Vec<_> = (0..20_000)
        .map(|_| {
            let (outlet, done, first) = (flood.outlet(), done.clone(), first.take());
            tokio::task::spawn_local(async move {
                let work = Run::new(move |_| {
                    let until = Instant::now() + Duration::from_micros(20);
                    while Instant::now() < until {}
                    if let Some(first) = first {
                        first.send(()).unwrap();
                    }
                    Reply::Now(done.add())
                });
                outlet.send(work).await
            })
        })
        .collect();
    begun.await.unwrap();
    // All of the flood would take 400 ms; the neighbour gets its turn after one of a millisecond.
    assert_eq!(quiet.outlet().send(Count).await, Ok(1));
    assert!(done.get() < 10_000, "the neighbour waited for {}", done.get());
    running.health().probe_services().await;
    assert!(done.get() < 15_000, "the probe waited for {}", done.get());
    running.stop(FOREVER).await;
    assert!(done.get() < 20_000, "the end waited for all");
    let mut refused = 0;
    for call in calls {
        refused += u64::from(call.await.unwrap() == Err(CallError::Stopped));
    }
    assert_eq!(refused + done.get(), 20_000);
}

#[test]
fn a_permit_travels_with_its_message_and_not_with_its_caller() {
    paused(async {
        let spec = Spec::new("victim", Victim::default).bound(1);
        let link = spec.link();
        let running = launch_here([spec.into()]).await.unwrap();
        let (begin, begun) = oneshot::channel();
        let (finish, finished) = oneshot::channel();
        let outlet = link.outlet();
        let mut call = Box::pin(outlet.send(Run::new(|_| {
            begin.send(()).unwrap();
            Reply::later(async { finished.await.unwrap() })
        })));
        assert!(futures::poll!(&mut call).is_pending());
        begun.await.unwrap();
        drop(call);
        // What was begun for a caller that has gone is brought to its end, and counts until then.
        assert_eq!(link.outlet().try_send(Count).await, Err(CallError::Full));
        finish.send(7).unwrap();
        assert_eq!(link.outlet().send(Count).await, Ok(1));
        running.stop(FOREVER).await;
    });
}

/// A message that counts when it is answered.
fn counted(done: &Tally) -> Run {
    let done = done.clone();
    Run::new(move |_| Reply::Now(done.add()))
}

/// Asks a neighbour on the same thread how far the flood is when its turn comes.
async fn seen_by_a_neighbour(quiet: &Link<Victim>, done: &Tally) -> u64 {
    let done = done.clone();
    quiet.outlet().send(Run::new(move |_| Reply::Now(done.get()))).await.unwrap()
}

#[test]
fn a_turn_takes_64_messages_of_all_kinds() {
    // Time stands still, so that the other limit, of a millisecond, is not met.
    for notices in [0, 100] {
        paused(async {
            let flooded = Spec::new("flooded", Victim::default).bound(1_000);
            let neighbour = Spec::new("neighbour", Victim::default);
            let (flood, quiet) = (flooded.link(), neighbour.link());
            let running = launch_here([flooded.into(), neighbour.into()]).await.unwrap();
            let done = Tally::default();
            let noticed = done.clone();
            let outlet = flood.outlet();
            let first = outlet.send(Run::new(move |scope| {
                for _ in 0..notices {
                    scope.notify(counted(&noticed));
                }
                Reply::Now(noticed.add())
            }));
            let mut calls: Vec<_> = (1..200).map(|_| outlet.send(counted(&done))).collect();
            calls.insert(0, first);
            let mut calls: Vec<_> = calls.into_iter().map(Box::pin).collect();
            for call in &mut calls {
                assert!(futures::poll!(call).is_pending());
            }
            assert_eq!(seen_by_a_neighbour(&quiet, &done).await, 64);
            join_all(calls).await;
            while done.get() < 200 + notices {
                tokio::task::yield_now().await;
            }
            running.stop(FOREVER).await;
        });
    }
}

#[test]
fn what_was_not_begun_waits_a_second_for_a_restart_and_what_was_begun_to_its_end() {
    paused(async {
        let spec = Spec::new("victim", Victim::default).bound(2_000);
        let link = spec.link();
        let running = launch_here([spec.into()]).await.unwrap();
        let before = Instant::now();
        let outlet = link.outlet();
        let mut slow = Box::pin(outlet.send(Run::new(|_| {
            Reply::later(async {
                tokio::time::sleep(Duration::from_secs(5)).await;
                5
            })
        })));
        assert!(futures::poll!(&mut slow).is_pending());
        let done = Tally::default();
        // More than can be begun before the order arrives.
        let mut calls: Vec<_> = (0..1_000).map(|_| Box::pin(outlet.send(counted(&done)))).collect();
        for call in &mut calls {
            assert!(futures::poll!(call).is_pending());
        }
        let calls = async { (join_all(calls).await, before.elapsed().as_secs()) };
        let restart = async { (running.restart("victim").await, before.elapsed().as_secs()) };
        let slow = async { (slow.await, before.elapsed().as_secs()) };
        let ((calls, waited), slow, restarted) = tokio::join!(calls, slow, restart);
        assert_eq!((slow, restarted), ((Ok(5), 5), (Ok(()), 5)));
        let refused = calls.iter().filter(|call| **call == Err(CallError::Restarting)).count();
        assert!(refused > 0, "all were begun");
        assert_eq!((refused as u64 + done.get(), waited), (1_000, 1));
        assert_eq!(link.outlet().send(Count).await, Ok(1));
        assert_eq!(running.tree().find("victim").unwrap().in_flight, 0);
        running.stop(FOREVER).await;
    });
}
