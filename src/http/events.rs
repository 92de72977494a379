//! The log of a session: a page of it, or a stream.

use actix_web::http::header;
use serde::Deserialize;
use serde_json::json;
use soma_contract::SessionId;

use super::{
    call::{Call, is_set, limit, ok},
    codes,
    follow::Follower,
    problem::{Answer, Problem},
    sse,
};

#[derive(Debug, Deserialize)]
struct Query {
    after: Option<u64>,
    limit: Option<u32>,
    stream: Option<String>,
}

/// `GET /v1/sessions/{session_id}/events`.
pub(super) async fn read(call: Call) -> Answer {
    let session_id: SessionId = call.id("session_id")?;
    let query: Query = call.query()?;
    let after = match last_event_id(&call)? {
        Some(seq) => seq,
        None => query.after.unwrap_or(0),
    };
    if wants_stream(&call) || is_set(query.stream.as_deref()) {
        return follow(&call, session_id, after).await;
    }
    let limit = limit(query.limit, 100, 500)?;
    let (store, tenant) = (call.store(), call.caller.tenant.clone());
    let events =
        call.edge.ask(async move { store.events(&tenant, session_id, after, limit).await }).await?;
    let next = events.last().and_then(|event| event.seq).unwrap_or(after);
    ok(&json!({"session_id": session_id, "events": events, "next_cursor": next}))
}

async fn follow(call: &Call, session_id: SessionId, after: u64) -> Answer {
    let (store, tenant) = (call.store(), call.caller.tenant.clone());
    let session = call.edge.ask(async move { store.session(&tenant, session_id).await }).await?;
    let mut follower = Follower::open(&call.edge, &call.caller.tenant, session_id).await;
    // A reader that is ahead of the log, such as after a backup was restored, must not go deaf.
    follower.begin_after(after.min(session.last_seq), true);
    Ok(sse::respond(&call.edge, session_id, follower))
}

/// A browser that lost its connection says where it was; that counts more than the query, which
/// it repeats unchanged.
fn last_event_id(call: &Call) -> Result<Option<u64>, Problem> {
    let Some(text) = call.header("last-event-id").map(str::trim).filter(|text| !text.is_empty())
    else {
        return Ok(None);
    };
    text.parse().map(Some).map_err(|_malformed| {
        Problem::new(codes::INVALID_ID, "`Last-Event-ID` is not the id of an event of a stream")
    })
}

fn wants_stream(call: &Call) -> bool {
    call.header(header::ACCEPT.as_str()).is_some_and(|accept| accept.contains("text/event-stream"))
}
