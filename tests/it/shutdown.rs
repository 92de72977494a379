//! How the process ends when it is asked to, and when it must not start at all.

use futures::StreamExt;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::{Engines, Server, Setup, log::check_log, on_all_engines, until};

on_all_engines!(
    a_turn_in_flight_is_laid_down_and_ends_once_after_the_restart,
    an_open_stream_is_asked_to_come_back,
    a_lame_duck_takes_requests_while_it_is_not_ready,
    a_second_signal_cuts_the_drain_short,
    a_service_that_does_not_stop_is_left_behind_at_the_deadline,
    an_idle_server_drains_within_a_moment,
);

async fn ready(server: &Server) -> Option<StatusCode> {
    let answer = reqwest::get(format!("{}/ready", server.admin)).await;
    answer.ok().map(|answer| answer.status())
}

async fn a_turn_in_flight_is_laid_down_and_ends_once_after_the_restart(engines: Engines) {
    let setup = engines.setup().await.set("SA01_MODEL_OFFLINE_WORD_DELAY", "200ms");
    let mut platform = setup.platform().await;
    let api = platform.api();
    let session = Uuid::now_v7();
    let sent = api.send(session, "tell me something long").await;
    until("the turn runs", async || api.fate(sent.event_id).await["status"] == "running").await;
    assert!(platform.drain().await.iter().all(|code| *code == Some(0)));
    platform.restore().await;
    let api = platform.api();
    api.terminal(sent.event_id).await;
    check_log(&api.events(session).await, &[sent]);
}

async fn an_open_stream_is_asked_to_come_back(engines: Engines) {
    let setup = engines.setup().await;
    let mut server = setup.start().await.unwrap();
    let session = Uuid::now_v7();
    server.api.send(session, "hello").await;
    let path = format!("/v1/sessions/{session}/events");
    let request = server.api.request(Method::GET, &path).header("Accept", "text/event-stream");
    let mut stream = request.send().await.unwrap().bytes_stream();
    let mut text = String::new();
    while !text.contains("assistant.final") {
        text.push_str(&String::from_utf8_lossy(&stream.next().await.unwrap().unwrap()));
    }
    server.signal("TERM");
    while let Some(piece) = stream.next().await {
        text.push_str(&String::from_utf8_lossy(&piece.expect("the stream ends in order")));
    }
    assert!(text.contains("\nretry: "), "{text}");
    assert_eq!(server.ended().await.code(), Some(0));
}

async fn a_lame_duck_takes_requests_while_it_is_not_ready(engines: Engines) {
    let setup = engines.setup().await.set("SA01_SHUTDOWN_LAME_DUCK", "5s");
    let mut server = setup.start().await.unwrap();
    assert_eq!(ready(&server).await, Some(StatusCode::OK));
    server.signal("TERM");
    until("it is not ready", async || {
        ready(&server).await == Some(StatusCode::SERVICE_UNAVAILABLE)
    })
    .await;
    for base in [server.admin.as_str(), server.api.base()] {
        for (path, status) in
            [("/live", 200), ("/startup", 200), ("/v1/health", 200), ("/ready", 503)]
        {
            let answer = reqwest::get(format!("{base}{path}")).await.unwrap();
            assert_eq!(answer.status().as_u16(), status, "{base}{path}");
        }
    }
    let session = Uuid::now_v7();
    let sent = server.api.send(session, "hello").await;
    assert_eq!(server.ended().await.code(), Some(0));
    let server = setup.start().await.unwrap();
    server.api.terminal(sent.event_id).await;
    check_log(&server.api.events(session).await, &[sent]);
}

async fn a_second_signal_cuts_the_drain_short(engines: Engines) {
    // Longer than the test may take: only the second signal ends it in time.
    let setup = engines
        .setup()
        .await
        .set("SA01_SHUTDOWN_LAME_DUCK", "10m")
        .set("SA01_SHUTDOWN_DRAIN", "20m")
        .set("SA01_SHUTDOWN_KILL", "30m");
    let mut server = setup.start().await.unwrap();
    server.signal("TERM");
    until("it is not ready", async || {
        ready(&server).await == Some(StatusCode::SERVICE_UNAVAILABLE)
    })
    .await;
    server.signal("TERM");
    assert_eq!(server.ended().await.code(), Some(1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_third_signal_ends_it_at_once() {
    // The thread that drains hangs, and the watchdog is far away: nothing else ends the process.
    let mut setup = Setup::new()
        .set("SA01_SHUTDOWN_DRAIN", "20m")
        .set("SA01_SHUTDOWN_KILL", "30m")
        .set("SA01_SUPERVISION_HANG_LIMIT", "10m");
    setup.arm(Some("drain=sleep(3600000)"));
    let mut server = setup.start().await.unwrap();
    for said in ["asked to end", "asked again"] {
        server.signal("TERM");
        until(said, async || !server.logged(said).is_empty()).await;
    }
    assert!(!server.has_ended());
    server.signal("TERM");
    assert_eq!(server.ended().await.code(), Some(1));
    assert!(server.logged("ended: ").is_empty(), "it has waited for the end of a drain");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_watchdog_ends_a_process_that_does_not_drain_in_time() {
    let mut setup = Setup::new().set("SA01_SHUTDOWN_DRAIN", "1s").set("SA01_SHUTDOWN_KILL", "2s");
    setup.arm(Some("drain=sleep(3600000)"));
    let mut server = setup.start().await.unwrap();
    server.signal("TERM");
    assert_eq!(server.ended().await.code(), Some(1));
    assert!(!server.logged("did not end in time").is_empty());
    // The same in a halt, whose code says so.
    let mut server = setup.start().await.unwrap();
    let fault = json!({"kind": "panic"});
    server.api.call(Method::POST, "/v1/services/gateway/fault", fault).await;
    assert_eq!(server.ended().await.code(), Some(70));
    assert!(!server.logged("did not end in time").is_empty());
}

async fn a_service_that_does_not_stop_is_left_behind_at_the_deadline(engines: Engines) {
    let setup = engines
        .setup()
        .await
        .set("SA01_SHUTDOWN_DRAIN", "2s")
        .set("SA01_SHUTDOWN_KILL", "10s")
        .set("SA01_SUPERVISION_HANG_LIMIT", "10m");
    let mut server = setup.start().await.unwrap();
    block(&server, "housekeeping").await;
    server.signal("TERM");
    assert_eq!(server.ended().await.code(), Some(1));
    assert!(!server.logged("housekeeping").is_empty(), "the log names it");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thread_that_hangs_is_told_by_live_until_the_process_drains() {
    let setup = Setup::new()
        .set("SA01_SUPERVISION_HANG_LIMIT", "10m")
        .set("SA01_SHUTDOWN_LAME_DUCK", "10m")
        .set("SA01_SHUTDOWN_DRAIN", "20m")
        .set("SA01_SHUTDOWN_KILL", "30m");
    let mut server = setup.start().await.unwrap();
    let live = async || reqwest::get(format!("{}/live", server.admin)).await.unwrap();
    block(&server, "housekeeping").await;
    until("it is not live", async || live().await.status() != StatusCode::OK).await;
    assert!(live().await.text().await.unwrap().contains("housekeeping has not moved for 1"));
    server.signal("TERM");
    until("it is live while it drains", async || live().await.status() == StatusCode::OK).await;
    server.signal("TERM");
    assert_eq!(server.ended().await.code(), Some(1));
}

/// Blocks a service's thread for longer than any test.
async fn block(server: &Server, name: &str) {
    let path = format!("/v1/services/{name}/fault");
    let fault = json!({"kind": "block", "for_ms": 3_600_000});
    let (status, answer) = server.api.call(Method::POST, &path, fault).await;
    assert_eq!(status, StatusCode::NO_CONTENT, "{answer}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_process_on_the_same_data_is_refused_with_the_owners_pid() {
    let setup = Setup::new();
    let server = setup.start().await.unwrap();
    let refused = setup.start().await.unwrap_err();
    assert!(refused.contains("exit status: 78"), "{refused}");
    assert!(refused.contains(&format!("in use by process {}", server.pid())), "{refused}");
    assert_ne!(server.api.get("/v1/health").await, Value::Null);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_port_that_is_taken_is_told_with_its_setting() {
    for key in ["SA01_GATEWAY_BIND", "SA01_ADMIN_BIND"] {
        let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = taken.local_addr().unwrap().to_string();
        let refused = Setup::new().set(key, &address).start().await.unwrap_err();
        assert!(refused.contains("exit status: 1"), "{refused}");
        assert!(refused.contains(key) && refused.contains(&address), "{refused}");
    }
}

async fn an_idle_server_drains_within_a_moment(engines: Engines) {
    // Nobody waits for anything: an end at the deadline would come later than any test waits.
    let setup =
        engines.setup().await.set("SA01_SHUTDOWN_DRAIN", "1h").set("SA01_SHUTDOWN_KILL", "2h");
    let mut server = setup.start().await.unwrap();
    server.signal("TERM");
    assert_eq!(server.ended().await.code(), Some(0));
    assert!(!server.logged("ended: drained").is_empty());
}
