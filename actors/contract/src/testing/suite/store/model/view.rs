//! Everything that a store shows, in words that every store shares.

use std::time::Duration;

use serde_json::{Value, json};

use super::draw::Names;
use crate::{
    ids::{Owner, TenantId},
    memory::MemoryQuery,
    port::{bus::Record, store::Store},
    topic::Group,
};

/// Removes what a store may choose as it likes: numbers of rows, epochs, times and reasons. Of times
/// and reasons it stays whether there is one.
pub(super) fn plain(value: Value) -> Value {
    match value {
        Value::Array(items) => items.into_iter().map(plain).collect(),
        Value::Object(members) => members
            .into_iter()
            .filter(|(name, _)| !matches!(name.as_str(), "id" | "epoch"))
            .map(|(name, value)| match name.as_str() {
                "created_at" | "updated_at" | "waiting_since" | "replayed_at" | "reason" => {
                    (name, Value::Bool(!value.is_null()))
                }
                _ => (name, plain(value)),
            })
            .collect(),
        other => other,
    }
}

/// Reads everything that can be read, one line each.
pub(super) async fn view(store: &dyn Store, names: &Names) -> Vec<(String, Value)> {
    let mut lines = Vec::new();
    for tenant in &names.tenants {
        transcript(store, names, tenant, &mut lines).await;
        memories(store, names, tenant, &mut lines).await;
    }
    for session_id in &names.sessions {
        let history = store.history(*session_id, u64::MAX, 1_000).await;
        lines.push((format!("history of {session_id}"), plain(json!(history.unwrap()))));
    }
    waiting(store, &mut lines).await;
    lines
}

async fn transcript(
    store: &dyn Store,
    names: &Names,
    tenant: &TenantId,
    lines: &mut Vec<(String, Value)>,
) {
    let mut sessions = store.sessions(tenant, None, 100).await.unwrap().items;
    sessions.sort_by_key(|session| session.session_id);
    lines.push((format!("sessions of {tenant}"), plain(json!(sessions))));
    for session_id in &names.sessions {
        let session = store.session(tenant, *session_id).await.ok();
        lines.push((format!("session {session_id} of {tenant}"), plain(json!(session))));
        let events = store.events(tenant, *session_id, 0, 10_000).await.ok();
        lines.push((format!("events of {session_id} of {tenant}"), plain(json!(events))));
    }
    for event_id in &names.messages {
        let status = store.message(tenant, *event_id).await.ok();
        if let Some(status) = &status {
            let steps = store.steps(status.turn.turn_id).await.unwrap();
            lines.push((format!("steps of {event_id}"), plain(json!(steps))));
        }
        lines.push((format!("message {event_id} of {tenant}"), plain(json!(status))));
    }
    let tokens = store.tokens_today(tenant).await.unwrap();
    lines.push((format!("tokens of {tenant}"), json!(tokens)));
}

async fn memories(
    store: &dyn Store,
    names: &Names,
    tenant: &TenantId,
    lines: &mut Vec<(String, Value)>,
) {
    for memory_id in &names.memories {
        let memory = store.memory(tenant, *memory_id).await.ok();
        lines.push((format!("memory {memory_id} of {tenant}"), json!(memory)));
    }
    for text in ["", "tea"] {
        let query = MemoryQuery { text: text.to_owned(), limit: 100, ..MemoryQuery::default() };
        let all = store.search_memories(tenant, &query).await.unwrap();
        let pending = store.search_pending(tenant, &query).await.unwrap();
        for mut found in [all, pending] {
            found.sort_by_key(|recalled| recalled.memory.memory_id);
            let found: Vec<_> =
                found.iter().map(|recalled| json!([recalled.memory, recalled.pending])).collect();
            lines.push((format!("`{text}` of {tenant}"), found.into()));
        }
    }
    let exported = store.export_memories(tenant, None, 100).await.unwrap().items;
    lines.push((format!("export of {tenant}"), json!(exported)));
}

async fn waiting(store: &dyn Store, lines: &mut Vec<(String, Value)>) {
    let mut claimable = store.claimable(Duration::ZERO, 100).await.unwrap();
    claimable.sort_unstable();
    lines.push(("claimable".to_owned(), json!(claimable)));
    let mut backlog = store.backlog().await.unwrap();
    backlog.tenants.sort();
    lines.push(("backlog".to_owned(), json!([backlog.total, backlog.tenants])));
    let letters = store.dead_letters(None, None, 1_000).await.unwrap().items;
    lines.push(("dead letters".to_owned(), plain(json!(letters))));
    let shards = store.hold_shards("memory-sync", &Owner("reader".to_owned())).await.unwrap();
    let pending = store.pending_writes(&shards, 1_000).await.unwrap();
    let pending: Vec<_> = pending.iter().map(|one| json!([one.write, one.attempts])).collect();
    lines.push(("pending writes".to_owned(), pending.into()));
    for group in [Group::ConversationWorker, Group::ToolExecutor, Group::MemoryReplicator] {
        let records = store.records(group, &[], 10_000).await.unwrap();
        let mut records: Vec<String> = records.iter().map(record).collect();
        records.sort_unstable();
        lines.push((format!("records of {}", group.as_str()), json!(records)));
    }
    let depths = store.depths().await.unwrap();
    let depths = json!([depths.outbox, depths.memory_writes, depths.dead_letters]);
    lines.push(("depths".to_owned(), depths));
}

fn record(record: &Record) -> String {
    let payload: Value = serde_json::from_slice(&record.payload).unwrap();
    format!("{:?} {:?} {}", record.session_id, record.headers, plain(payload))
}
