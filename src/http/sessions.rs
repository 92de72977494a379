//! Sessions: listed, read, cancelled, deleted.

use std::sync::Arc;

use actix_web::{HttpResponse, http::StatusCode};
use serde::{Deserialize, Serialize};
use serde_json::json;
use soma_contract::{
    Event, EventId, EventType, SessionId, TurnId,
    port::{
        live::{LiveEvent, Nudge},
        store::{CancelOutcome, CancelScope, StoreError},
    },
};
use utoipa::ToSchema;

use super::{
    call::{Call, flag, json, limit, ok},
    codes,
    problem::{Answer, Problem},
};

/// The query of a list.
#[derive(Debug, Deserialize)]
pub(super) struct List {
    pub(super) cursor: Option<String>,
    pub(super) limit: Option<u32>,
}

/// `GET /v1/sessions`.
pub(super) async fn list(call: Call) -> Answer {
    let List { cursor, limit: asked } = call.query()?;
    let limit = limit(asked, 50, 200)?;
    let (store, tenant) = (call.store(), call.caller.tenant.clone());
    let sessions = call
        .edge
        .ask(async move {
            store.sessions(&tenant, cursor.as_deref(), limit).await.map_err(list_problem)
        })
        .await?;
    ok(&sessions)
}

/// A store refuses nothing of a list but its cursor.
pub(super) fn list_problem(error: StoreError) -> Problem {
    match error {
        StoreError::Refused(_) => Problem::of(codes::INVALID_CURSOR),
        other => other.into(),
    }
}

/// `GET /v1/sessions/{session_id}`.
pub(super) async fn get(call: Call) -> Answer {
    let session_id: SessionId = call.id("session_id")?;
    let (store, tenant) = (call.store(), call.caller.tenant.clone());
    let session = call.edge.ask(async move { store.session(&tenant, session_id).await }).await?;
    ok(&session)
}

#[derive(Debug, Deserialize)]
struct Delete {
    memories: Option<String>,
}

/// `DELETE /v1/sessions/{session_id}`.
pub(super) async fn delete(call: Call) -> Answer {
    let session_id: SessionId = call.id("session_id")?;
    let query: Delete = call.query()?;
    let forget = flag("memories", query.memories.as_deref())?;
    let (store, tenant) = (call.store(), call.caller.tenant.clone());
    let live = Arc::clone(&call.edge.parts().live);
    call.edge
        .ask(async move {
            store.delete_session(&tenant, session_id, forget).await?;
            // Readers look, find nothing and close; a running turn finds itself fenced.
            live.clear(session_id).await;
            live.publish(session_id, LiveEvent::Appended { seq: u64::MAX }).await;
            live.nudge(Nudge::Session { session_id }).await;
            Ok::<_, StoreError>(())
        })
        .await?;
    Ok(HttpResponse::NoContent().finish())
}

/// What `POST /v1/sessions/{session_id}/cancel` takes.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Cancel {
    /// The message whose turn is meant; the lowest unfinished one if not set.
    #[serde(default)]
    #[schema(value_type = Option<uuid::Uuid>)]
    event_id: Option<EventId>,
}

#[derive(Debug, Deserialize)]
struct All {
    all: Option<String>,
}

/// What a cancel request did.
#[derive(Debug, Serialize)]
struct Cancelled {
    /// The terminal events of turns that had not begun.
    ended: Vec<Event>,
    /// The running turn that ends at its next word or step; its terminal event is the receipt.
    cancelling: Option<TurnId>,
}

/// `POST /v1/sessions/{session_id}/cancel`.
pub(super) async fn cancel(call: Call) -> Answer {
    let session_id: SessionId = call.id("session_id")?;
    let All { all } = call.query()?;
    let body: Cancel = if call.body.is_empty() { Cancel::default() } else { call.json()? };
    let scope = match (flag("all", all.as_deref())?, body.event_id) {
        (false, None) => CancelScope::Lowest,
        (false, Some(event_id)) => CancelScope::Of(event_id),
        (true, None) => CancelScope::All,
        (true, Some(_)) => {
            let detail = "`all` and `event_id` exclude each other";
            return Err(Problem::new(codes::INVALID_QUERY, detail));
        }
    };
    let (store, tenant) = (call.store(), call.caller.tenant.clone());
    let live = Arc::clone(&call.edge.parts().live);
    let cancelled = call
        .edge
        .ask(async move {
            let (ended, cancelling) = match store.cancel(&tenant, session_id, scope).await? {
                CancelOutcome::Nothing => return Ok(None),
                CancelOutcome::Ended(events) => (events, None),
                CancelOutcome::Flagged(turn_id) => (Vec::new(), Some(turn_id)),
                CancelOutcome::Both(events, turn_id) => (events, Some(turn_id)),
            };
            if let Some(turn_id) = cancelling {
                live.nudge(Nudge::Cancel { session_id, turn_id }).await;
            }
            if let Some(seq) = ended.iter().filter_map(|event| event.seq).max() {
                live.publish(session_id, LiveEvent::Appended { seq }).await;
                live.nudge(Nudge::Session { session_id }).await;
            }
            Ok::<_, StoreError>(Some(Cancelled { ended, cancelling }))
        })
        .await?;
    match cancelled {
        None => Err(Problem::of(codes::NOTHING_TO_CANCEL)),
        Some(cancelled) if cancelled.cancelling.is_some() => json(StatusCode::ACCEPTED, &cancelled),
        Some(cancelled) => ok(&cancelled),
    }
}

#[derive(Debug, Deserialize)]
struct Limit {
    limit: Option<u32>,
}

/// `GET /v1/sessions/{session_id}/history`.
pub(super) async fn history(call: Call) -> Answer {
    let session_id: SessionId = call.id("session_id")?;
    let Limit { limit: asked } = call.query()?;
    let limit = limit(asked, 500, 2_000)?;
    let (store, tenant) = (call.store(), call.caller.tenant.clone());
    let events = call
        .edge
        .ask(async move {
            // The history asks no tenant; the session does.
            let session = store.session(&tenant, session_id).await?;
            store.history(session_id, session.last_n.saturating_add(1), limit).await
        })
        .await?;
    let text = markdown(&events);
    let tokens = text.chars().count().div_ceil(4).max(1);
    ok(&json!({"session_id": session_id, "events": events, "history": text, "tokens": tokens}))
}

fn markdown(events: &[Event]) -> String {
    let parts: Vec<String> = events
        .iter()
        .filter_map(|event| match event.event_type {
            EventType::User => Some(format!("**user**: {}", event.message)),
            EventType::Final => Some(format!("**assistant**: {}", event.message)),
            _ => None,
        })
        .collect();
    parts.join("\n\n")
}

#[cfg(test)]
mod tests {
    use soma_contract::Role;
    use uuid::Uuid;

    use super::*;

    #[test]
    fn the_history_reads_like_a_conversation() {
        let event = |role, kind, text: &str| {
            let id = Uuid::nil();
            let mut event = Event::new(EventId(id), SessionId(id), role, kind);
            event.message = text.to_owned();
            event
        };
        let events = [
            event(Role::User, EventType::User, "hello"),
            event(Role::Assistant, EventType::Final, "hi"),
        ];
        assert_eq!(markdown(&events), "**user**: hello\n\n**assistant**: hi");
    }
}
