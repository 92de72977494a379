//! Whatever is killed, every message that was answered 202 ends in exactly one terminal event.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use serde_json::Value;
use tokio::{sync::watch, task::JoinSet};
use uuid::Uuid;

use crate::support::{Api, Sent, Setup, until};

const SESSIONS: usize = 50;
const MESSAGES: usize = 10;

/// What a session's log must look like, whatever happened.
pub(crate) fn check_log(events: &[Value], sent: &[Sent]) {
    let seqs: Vec<_> = events.iter().map(|event| event["seq"].as_u64().unwrap()).collect();
    assert!(seqs.windows(2).all(|pair| pair[0] < pair[1]), "seq order: {seqs:?}");
    let users: Vec<_> = of_type(events, "user").map(|e| e["n"].as_u64().unwrap()).collect();
    let expected: Vec<_> = (1..=sent.len() as u64).collect();
    assert_eq!(users, expected, "user messages are complete and n is gap-free");
    let mut terminals: BTreeMap<u64, usize> = BTreeMap::new();
    for event in events.iter().filter(|event| is_terminal(event)) {
        *terminals.entry(event["n"].as_u64().unwrap()).or_default() += 1;
    }
    assert!(terminals.values().all(|count| *count == 1), "one terminal event each: {terminals:?}");
    assert_eq!(terminals.len(), sent.len(), "every message has ended");
    let mut order = events.iter().filter(|e| is_terminal(e)).map(|e| e["n"].as_u64().unwrap());
    assert!(order.by_ref().is_sorted(), "turns end in the order of their messages");
    let ids: BTreeSet<_> = events.iter().map(|event| event["event_id"].as_str()).collect();
    assert_eq!(ids.len(), events.len(), "no event is there twice");
}

fn of_type<'a>(events: &'a [Value], name: &'a str) -> impl Iterator<Item = &'a Value> {
    events.iter().filter(move |event| event["type"] == name)
}

fn is_terminal(event: &Value) -> bool {
    matches!(
        event["type"].as_str(),
        Some("assistant.final" | "assistant.error" | "assistant.cancelled")
    )
}

/// Sends messages one after another, each until it is taken, to whatever server runs now. Now and
/// then it waits for an answer, as long as that server lives.
async fn talk(mut apis: watch::Receiver<Option<Api>>, repeats: Arc<AtomicU64>) -> Vec<Sent> {
    let session = Uuid::now_v7();
    let mut sent = Vec::new();
    for n in 0..MESSAGES {
        let text = match n % 4 {
            0 => Some(format!("what time is it, asks {session} for the {n}th time")),
            1 => Some(format!("remember that the number {n} belongs to {session}")),
            2 => Some(format!("hello {n}")),
            _ => None,
        };
        let key = Uuid::now_v7().to_string();
        loop {
            let api = apis.wait_for(Option::is_some).await.unwrap().clone().unwrap();
            let accepted = match &text {
                Some(text) => api.try_send(session, text, &key).await,
                None => api.try_tally(session, &key).await,
            };
            if let Some(accepted) = accepted {
                if n % 4 == 2 {
                    api.answered(accepted.event_id).await;
                }
                sent.push(accepted);
                break;
            }
            repeats.fetch_add(1, Ordering::Relaxed);
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
    sent
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn five_hundred_messages_survive_a_sigkill_every_second_or_two() {
    // Words come slowly enough for kills to hit answers in the middle.
    let setup = Setup::new().with_tally().set("SA01_MODEL_OFFLINE_WORD_DELAY", "2ms");
    let (apis, current) = watch::channel(None);
    let repeats = Arc::new(AtomicU64::new(0));
    let mut talks = JoinSet::new();
    for _ in 0..SESSIONS {
        talks.spawn(talk(current.clone(), Arc::clone(&repeats)));
    }
    let (mut kills, mut inherited, mut sent) = (0_u64, 0_u64, Vec::new());
    let server = loop {
        let server = setup.start().await.unwrap();
        inherited += taken_over(&server);
        apis.send_replace(Some(server.api.clone()));
        while let Some(talk) = talks.try_join_next() {
            sent.push(talk.unwrap());
        }
        if talks.is_empty() && kills >= 5 {
            break server;
        }
        tokio::time::sleep(Duration::from_millis(1_000 + 250 * (kills % 5))).await;
        // The clients find out by themselves.
        server.kill();
        apis.send_replace(None);
        kills += 1;
    };
    assert_eq!(sent.len(), SESSIONS);
    let (mut saved, mut tallied) = (0, 0);
    for session in &sent {
        for message in session {
            server.api.terminal(message.event_id).await;
        }
        let events = server.api.events(session[0].session_id).await;
        check_log(&events, session);
        saved += memories_saved(&events);
        tallied += runs_told(&events);
    }
    let runs = setup.tallied();
    let distinct: BTreeSet<_> = runs.iter().collect();
    assert_eq!(distinct.len(), runs.len(), "a `once` tool ran twice");
    assert!(tallied > 0 && tallied <= runs.len(), "{tallied} runs are told, {} were", runs.len());
    assert!(kills >= 5, "the server was killed {kills} times");
    assert!(inherited > 0, "no kill hit a running turn");
    assert!(repeats.load(Ordering::Relaxed) > 0, "no client had to repeat a message");
    assert!(saved > 0, "nothing was remembered");
    until("every memory is there", async || memories_are_single(&server.api).await == saved).await;
}

/// How many memories the tools of a session say that they have saved.
pub(crate) fn memories_saved(events: &[Value]) -> usize {
    of_type(events, "tool.result")
        .filter(|event| event["metadata"]["tool_name"] == "memory_save")
        .filter(|event| event["metadata"]["status"] == "success")
        .count()
}

/// How many runs of the `once` tool are told as successes; what became of the others nobody knows.
pub(crate) fn runs_told(events: &[Value]) -> usize {
    of_type(events, "tool.result")
        .filter(|event| event["metadata"]["tool_name"] == "tally")
        .inspect(|event| {
            let status = event["metadata"]["status"].as_str();
            assert!(matches!(status, Some("success" | "unknown")), "{event}");
        })
        .filter(|event| event["metadata"]["status"] == "success")
        .count()
}

/// Turns that this start took over from a dead process.
fn taken_over(server: &crate::support::Server) -> u64 {
    let lines = server.logged("inherited");
    lines.iter().filter_map(|line| line["turns"].as_u64()).sum()
}

/// No memory is there twice: each was said once, so each text exists once. Returns how many facts
/// there are.
pub(crate) async fn memories_are_single(api: &Api) -> usize {
    let (_, export) = api
        .try_call(reqwest::Method::GET, "/v1/memory/export", None, None)
        .await
        .expect("the export answers");
    let text = export.as_str().map_or_else(|| export.to_string(), str::to_owned);
    let memories: Vec<Value> =
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let ids: BTreeSet<_> = memories.iter().map(|m| m["memory_id"].to_string()).collect();
    assert_eq!(ids.len(), memories.len());
    let said: Vec<_> = memories
        .iter()
        .filter(|memory| memory["kind"] == "fact")
        .map(|memory| memory["content"].to_string())
        .collect();
    let distinct: BTreeSet<_> = said.iter().collect();
    assert_eq!(distinct.len(), said.len(), "a fact is there twice");
    said.len()
}
