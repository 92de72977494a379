//! The process dies where only something that has gone wrong leads: at a dead letter, a lost tool,
//! a foreign record. Afterwards everything is there once.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::time::sleep;
use uuid::Uuid;

use crate::support::{
    Api, Engines, Platform, Sent, Setup,
    endpoint::{Endpoint, Reply, says},
    foreign::Foreign,
    log::{check_log, memories_are_single, results},
    on_all_engines, until,
};

/// The failpoints that the scenarios of this file die at.
pub(crate) const COVERED: &[&str] = &[
    "replay::before_commit",
    "replay::after_commit",
    "drop_dead_letter::before_commit",
    "drop_dead_letter::after_commit",
    "lose_orphans::before_commit",
    "lose_orphans::after_commit",
    "unclaim::before_commit",
    "unclaim::after_commit",
    "bury::before_commit",
    "bury::after_commit",
    "relay::after_publish",
];

on_all_engines!(
    a_death_in_a_replay_ends_the_message_once_more_and_only_once,
    a_death_in_dropping_a_dead_letter_drops_it_once,
    a_death_while_a_lost_tool_is_given_back_runs_it_again,
    a_death_while_a_drain_gives_a_tool_back_runs_it_again,
    a_death_at_a_record_that_cannot_become_work_buries_it_once,
    a_death_after_publishing_publishes_again,
);

/// Returns the two places around the commit of an operation.
fn around(operation: &str) -> [String; 2] {
    ["before", "after"].map(|when| format!("{operation}::{when}_commit"))
}

fn abort_at(failpoint: &str) -> String {
    format!("{failpoint}=panic(abort)")
}

/// A model that refuses every prompt until it is told to be well.
async fn moody_model() -> (Endpoint, Arc<AtomicBool>) {
    let is_well = Arc::new(AtomicBool::new(false));
    let asked = Arc::clone(&is_well);
    let model = Endpoint::model(move |_| {
        if asked.load(Ordering::Relaxed) {
            says("better now")
        } else {
            Reply::Json(400, json!({"error": {"message": "this prompt is refused"}}))
        }
    })
    .await;
    (model, is_well)
}

/// Sends a message that fails, and returns it with its dead letter's path.
pub(crate) async fn fail(api: &Api) -> (Sent, String) {
    let sent = api.send(Uuid::now_v7(), "hello").await;
    let terminal = api.terminal(sent.event_id).await;
    assert_eq!(terminal["type"], "assistant.error", "{terminal}");
    let letters = api.dead_letters().await;
    let letter = letters.iter().find(|letter| letter["turn_id"] == terminal["turn_id"]);
    let id = &letter.expect("a dead letter")["id"];
    (sent, format!("/v1/admin/dlq/{id}"))
}

async fn a_death_in_a_replay_ends_the_message_once_more_and_only_once(engines: Engines) {
    let (model, is_well) = moody_model().await;
    let mut platform = engines.setup().await.with_model(&model).platform().await;
    for failpoint in around("replay") {
        is_well.store(false, Ordering::Relaxed);
        let (sent, letter) = fail(&platform.api()).await;
        is_well.store(true, Ordering::Relaxed);
        platform.arm(&abort_at(&failpoint)).await;
        let (path, key) = (format!("{letter}/replay"), Uuid::now_v7().to_string());
        let doomed = platform.replica(0).api.clone();
        let answer = doomed.try_call(Method::POST, &path, Some(json!({})), Some(&key)).await;
        assert_eq!(answer, None, "{failpoint}");
        platform.dies_and_is_restored(&failpoint).await;
        let api = platform.api();
        for _ in 0..2 {
            let (status, answer) = api.insist(Method::POST, &path, json!({})).await;
            assert_eq!(status, StatusCode::ACCEPTED, "{failpoint}: {answer}");
        }
        let terminal = api.terminal(sent.event_id).await;
        assert_eq!(terminal["message"], "better now", "{failpoint}: {terminal}");
        let (_, again) = api.insist(Method::POST, &path, json!({})).await;
        assert_eq!(again["status"], "already_replayed", "{failpoint}");
        let events = api.events(sent.session_id).await;
        let types: Vec<_> = events.iter().map(|event| event["type"].as_str().unwrap()).collect();
        assert_eq!(types, ["user", "assistant.error", "assistant.final"], "{failpoint}");
        assert!(!api.get(&letter).await["replayed_at"].is_null(), "{failpoint}");
    }
}

async fn a_death_in_dropping_a_dead_letter_drops_it_once(engines: Engines) {
    let (model, _) = moody_model().await;
    let mut platform = engines.setup().await.with_model(&model).platform().await;
    for failpoint in around("drop_dead_letter") {
        let (sent, letter) = fail(&platform.api()).await;
        platform.arm(&abort_at(&failpoint)).await;
        let doomed = platform.replica(0).api.clone();
        assert_eq!(doomed.try_call(Method::DELETE, &letter, None, None).await, None, "{failpoint}");
        platform.dies_and_is_restored(&failpoint).await;
        let api = platform.api();
        let left = if failpoint.contains("before") { 204 } else { 404 };
        for expected in [left, 404] {
            let (status, answer) = api.insist(Method::DELETE, &letter, Value::Null).await;
            assert_eq!(status, expected, "{failpoint}: {answer}");
        }
        check_log(&api.events(sent.session_id).await, &[sent]);
    }
}

/// A page that does not answer until it is told to.
async fn slow_page() -> (Endpoint, Arc<AtomicBool>) {
    let is_open = Arc::new(AtomicBool::new(false));
    let asked = Arc::clone(&is_open);
    let page = Endpoint::start(move |_| {
        if asked.load(Ordering::Relaxed) {
            Reply::Json(200, json!({"page": "open"}))
        } else {
            Reply::Silence
        }
    })
    .await;
    (page, is_open)
}

/// The first process runs a tool that fetches a page that does not answer; `interrupt` makes it
/// give the tool's step back, where it dies.
async fn gives_back(engines: Engines, operation: &str, interrupt: impl AsyncFn(&mut Platform)) {
    for failpoint in around(operation) {
        let (page, is_open) = slow_page().await;
        let mut setup = fetching(engines.setup().await);
        setup.arm(Some(&abort_at(&failpoint)));
        let mut platform = Platform::of(setup).await;
        // It runs alone, so that the step is its.
        platform.start_replica(0).await.unwrap();
        let text = format!("fetch {}/page", page.url());
        let sent = platform.api().send(Uuid::now_v7(), &text).await;
        page.asked("/page").await;
        interrupt(&mut platform).await;
        is_open.store(true, Ordering::Relaxed);
        platform.dies_and_is_restored(&failpoint).await;
        let api = platform.api();
        let terminal = api.terminal(sent.event_id).await;
        assert_eq!(terminal["type"], "assistant.final", "{failpoint}: {terminal}");
        let events = api.events(sent.session_id).await;
        check_log(&events, &[sent]);
        assert_eq!(results(&events, "http_fetch"), ["success"], "{failpoint}");
        assert!(page.seen("/page").len() > 1, "{failpoint}: it ran only once");
    }
}

/// Lets the tool fetch from this machine, for as long as it takes.
fn fetching(setup: Setup) -> Setup {
    setup
        .set("SA01_TOOLS_HTTP_ALLOWED_HOSTS", "127.0.0.1")
        .set("SA01_TOOLS_HTTP_TIMEOUT", "10m")
        .set("SA01_TOOLS_TIMEOUT", "10m")
        .set("SA01_SUPERVISION_CRITICAL_BUDGET", "3")
}

async fn a_death_while_a_lost_tool_is_given_back_runs_it_again(engines: Engines) {
    gives_back(engines, "lose_orphans", async |platform| {
        let path = "/v1/services/tool-executor/fault";
        let doomed = platform.replica(0).api.clone();
        // It may die before it has answered.
        doomed.try_call(Method::POST, path, Some(json!({"kind": "panic"})), None).await;
    })
    .await;
}

async fn a_death_while_a_drain_gives_a_tool_back_runs_it_again(engines: Engines) {
    gives_back(engines, "unclaim", async |platform| platform.signal("TERM")).await;
}

async fn a_death_at_a_record_that_cannot_become_work_buries_it_once(engines: Engines) {
    for failpoint in around("bury") {
        let mut platform = engines.setup().await.platform().await;
        let said = Uuid::now_v7();
        let record = Foreign::of("conversation.inbound", json!({"event_id": said, "role": "?"}));
        meets(&mut platform, record, &failpoint).await;
        let api = platform.api();
        until("it is buried", async || !api.dead_letters().await.is_empty()).await;
        // Whatever is read again is read before this is answered.
        let sent = api.send(Uuid::now_v7(), "hello").await;
        api.terminal(sent.event_id).await;
        let letters = api.dead_letters().await;
        assert_eq!(letters.len(), 1, "{failpoint}: {letters:?}");
        assert_eq!(letters[0]["event"]["event_id"], said.to_string(), "{failpoint}");
        assert_eq!(letters[0]["topic"], "conversation.inbound");
    }
}

#[cfg(feature = "cluster-platform")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_death_at_a_foreign_memory_takes_it_once() {
    for failpoint in around("replicate") {
        let mut platform = Engines::Cluster.setup().await.platform().await;
        let id = Uuid::now_v7();
        let memory = json!({"id": id, "content": "elsewhere it rains", "type": "fact"});
        let record = json!({"type": "memory.write", "tenant": "public", "payload": memory});
        meets(&mut platform, Foreign::of("memory.wal", record), &failpoint).await;
        let api = platform.api();
        let rain = async || {
            let found = api.get("/v1/memory/search?q=rains").await;
            found["results"].as_array().unwrap().len()
        };
        until("it is known", async || rain().await > 0).await;
        assert_eq!(rain().await, 1, "{failpoint}");
        assert_eq!(api.get(&format!("/v1/memory/{id}")).await["content"], "elsewhere it rains");
    }
}

/// Every process is away when the record is written; the first one comes back, dies at it, and
/// comes back again.
async fn meets(platform: &mut Platform, record: Foreign, failpoint: &str) {
    for replica in 0..platform.count() {
        platform.kill(replica);
    }
    record.write(&platform.setup).await;
    platform.setup.arm(Some(&abort_at(failpoint)));
    if let Err(how) = platform.start_replica(0).await {
        assert!(how.contains("signal: 6"), "{failpoint}: {how}");
        platform.setup.arm(None);
        platform.restore().await;
    } else {
        platform.dies_and_is_restored(failpoint).await;
    }
}

async fn a_death_after_publishing_publishes_again(engines: Engines) {
    let failpoint = "relay::after_publish";
    let mut setup = engines.setup().await.set("SA01_SUPERVISION_HANG_LIMIT", "10m");
    setup.arm(Some(&abort_at(failpoint)));
    let mut platform = Platform::of(setup).await;
    platform.start_replica(0).await.unwrap();
    let api = platform.api();
    if engines.is_embedded() {
        // Records whose reader stands still wait in the outbox: all but those that it has in hand.
        let fault = json!({"kind": "block", "for_ms": 3_600_000});
        let path = "/v1/services/tool-executor/fault";
        let (status, answer) = api.call(Method::POST, path, fault).await;
        assert_eq!(status, StatusCode::NO_CONTENT, "{answer}");
    }
    let text = |session| format!("remember that the number of {session} is 7");
    let mut said = Vec::new();
    while !platform.replica(0).has_ended() {
        let (session, key) = (Uuid::now_v7(), Uuid::now_v7().to_string());
        // Whether it is taken or not, the client says it again later.
        api.try_send(session, &text(session), &key).await;
        said.push((session, key));
        sleep(Duration::from_millis(100)).await;
    }
    platform.dies_and_is_restored(failpoint).await;
    let api = platform.api();
    for (session, key) in &said {
        let sent = api.send_with(*session, &text(*session), key).await;
        api.terminal(sent.event_id).await;
        let events = api.events(*session).await;
        check_log(&events, &[sent]);
        assert_eq!(results(&events, "memory_save"), ["success"]);
    }
    until("all is remembered", async || memories_are_single(&api).await == said.len()).await;
}
