//! What a session's log must look like, whatever has happened.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::{Api, Sent};

/// Checks the log of a session to which these messages were sent, none of them replayed.
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
    no_step_is_told_twice(events);
}

/// A step that was journaled is not journaled again by the next owner.
fn no_step_is_told_twice(events: &[Value]) {
    for kind in ["tool.start", "tool.result"] {
        let mut places = BTreeSet::new();
        for event in of_type(events, kind) {
            let place = format!("{} {}", event["n"], event["metadata"]["call_id"]);
            assert!(places.insert(place), "{kind} is there twice: {event}");
        }
    }
}

/// Returns the events of a type.
pub(crate) fn of_type<'a>(events: &'a [Value], name: &str) -> impl Iterator<Item = &'a Value> {
    events.iter().filter(move |event| event["type"] == name)
}

fn is_terminal(event: &Value) -> bool {
    matches!(
        event["type"].as_str(),
        Some("assistant.final" | "assistant.error" | "assistant.cancelled")
    )
}

/// Returns the statuses of a tool's results in a session.
pub(crate) fn results(events: &[Value], tool: &str) -> Vec<String> {
    of_type(events, "tool.result")
        .filter(|event| event["metadata"]["tool_name"] == tool)
        .map(|event| event["metadata"]["status"].as_str().unwrap().to_owned())
        .collect()
}

/// How many memories the tools of a session say that they have saved.
pub(crate) fn memories_saved(events: &[Value]) -> usize {
    results(events, "memory_save").iter().filter(|status| *status == "success").count()
}

/// No memory is there twice: each was said once, so each text exists once. Returns how many facts
/// there are.
pub(crate) async fn memories_are_single(api: &Api) -> usize {
    let export = api.get("/v1/memory/export").await;
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
