//! A server that stops, stalls, is flushed, or loses a connection.

use tokio::time::sleep;

use super::{server::Server, *};

async fn text(live: &RedisLive) -> Option<String> {
    live.snapshot(session(1)).await.unwrap().map(|snapshot| snapshot.text)
}

/// Waits until it is known that commands are not answered.
async fn noticed(live: &RedisLive) {
    while live.line.is_up() {
        sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn readers_are_told_when_redis_stops_and_hear_again_when_it_is_back() {
    let mut server = Server::start();
    let system = System::at(server.url());
    let (here, there) = (system.replica().await, system.replica().await);
    let mut reader = there.listen(session(1)).await.unwrap();
    let mut service = there.nudges().await;
    server.kill();
    assert_eq!(reader.next().await, Heard::Closed);
    assert!(there.listen(session(1)).await.is_err());
    noticed(&here).await;
    assert!(here.snapshot(session(1)).await.is_err());
    assert!(here.take("a", 1, 1).await.is_err());
    let dropped = here.writer.dropped();
    here.publish(session(1), appended(1)).await;
    assert_eq!(here.writer.dropped(), dropped + 1);

    server.start_again();
    timeout(PATIENCE, async { tokio::join!(here.connected(), there.connected()) }).await.unwrap();
    assert_eq!(service.next().await, None, "hints may have been missed");
    let mut reader = there.listen(session(1)).await.unwrap();
    here.publish(session(1), piece(at(1, 0, 0), "back")).await;
    // What could not be told before is made up for by looking at the store.
    let mut heard = reader.next().await;
    if heard == Heard::Lagged {
        heard = reader.next().await;
    }
    assert_eq!(heard, Heard::Event(piece(at(1, 0, 0), "back")));
    assert_eq!(text(&there).await.as_deref(), Some("back"));
    assert_eq!(here.ping().await, Ok(()));
}

#[tokio::test]
async fn a_port_that_starts_before_redis_connects_when_it_is_there() {
    let mut server = Server::start();
    server.kill();
    let live = System::at(server.url()).connecting();
    noticed(&live).await;
    assert!(live.listen(session(1)).await.is_err());
    server.start_again();
    timeout(PATIENCE, live.connected()).await.unwrap();
    live.listen(session(1)).await.unwrap();
}

#[tokio::test]
async fn hints_reach_the_services_of_the_same_process_without_redis() {
    let mut server = Server::start();
    let live = System::at(server.url()).replica().await;
    server.kill();
    noticed(&live).await;
    let mut service = live.nudges().await;
    let nudge = Nudge::Session { session_id: session(1) };
    live.nudge(nudge.clone()).await;
    assert_eq!(service.next().await, Some(nudge));
}

#[tokio::test]
async fn a_server_that_hangs_holds_nobody_up() {
    let server = Server::start();
    let system = System { take_timeout: Duration::from_millis(100), ..System::at(server.url()) };
    let live = system.replica().await;
    let mut reader = live.listen(session(1)).await.unwrap();
    server.signal("STOP");
    // Nothing of this waits: more than the queue holds, and no time passes for the server's task.
    for seq in 0..10_000 {
        live.publish(session(1), appended(seq)).await;
    }
    assert!(live.writer.dropped() > 0);
    assert!(live.take("a", 1, 1).await.is_err());
    // Nobody waits a second time for an answer that is overdue.
    assert!(live.line.connection().is_err());
    noticed(&live).await;
    server.signal("CONT");
    timeout(PATIENCE, live.connected()).await.unwrap();
    while !matches!(reader.next().await, Heard::Lagged | Heard::Closed) {}
    live.listen(session(1)).await.unwrap();
}

#[tokio::test]
async fn readers_are_told_what_could_not_be_told() {
    let server = Server::start();
    let system = System::at(server.url());
    let (here, there) = (system.replica().await, system.replica().await);
    let mut reader = there.listen(session(1)).await.unwrap();
    let mut kill = redis::cmd("CLIENT");
    kill.arg("KILL").arg("TYPE").arg("normal").arg("SKIPME").arg("yes");
    kill.exec_async(&mut system.look().await).await.unwrap();
    // One of these fails with the connection; one of those after the next connection succeeds.
    let telling = async {
        loop {
            here.publish(session(1), appended(1)).await;
            sleep(Duration::from_millis(5)).await;
        }
    };
    let hearing = async { while reader.next().await != Heard::Lagged {} };
    tokio::select! {
        () = telling => {}
        () = hearing => {}
    }
    assert!(here.writer.dropped() > 0);
}

#[tokio::test]
async fn a_flushed_server_goes_on() {
    let server = Server::start();
    let system = System::at(server.url());
    let live = system.replica().await;
    let mut reader = live.listen(session(1)).await.unwrap();
    live.publish(session(1), piece(at(1, 0, 0), "some ")).await;
    assert_eq!(live.take("a", 1, 1).await, Ok(Admission::Granted));
    let mut look = system.look().await;
    redis::cmd("FLUSHALL").exec_async(&mut look).await.unwrap();
    redis::cmd("SCRIPT").arg("FLUSH").exec_async(&mut look).await.unwrap();
    assert_eq!(text(&live).await, None);
    live.publish(session(1), piece(at(1, 0, 5), "more")).await;
    assert_eq!(text(&live).await, None, "a text without its beginning is not shown");
    live.publish(session(1), piece(at(1, 1, 0), "new")).await;
    assert_eq!(text(&live).await.as_deref(), Some("new"));
    for heard in
        [piece(at(1, 0, 0), "some "), piece(at(1, 0, 5), "more"), piece(at(1, 1, 0), "new")]
    {
        assert_eq!(reader.next().await, Heard::Event(heard));
    }
    assert_eq!(live.take("a", 1, 1).await, Ok(Admission::Granted));
}
