//! Dead letters: what ended by failure, to be looked at, replayed or dropped.

use std::sync::Arc;

use actix_web::{HttpResponse, http::StatusCode};
use serde_json::json;
use soma_contract::port::{
    live::Nudge,
    store::{Replayed, StoreError},
};

use super::{
    access::reach,
    call::{Call, json, limit, ok},
    codes,
    problem::{Answer, Problem},
    sessions::{List, list_problem},
};

/// `GET /v1/admin/dlq`.
pub(super) async fn list(call: Call) -> Answer {
    let List { cursor, limit: asked } = call.query()?;
    let limit = limit(asked, 50, 200)?;
    let (store, tenant) = (call.store(), reach(&call.caller));
    let page = call
        .edge
        .ask(async move {
            let page = store.dead_letters(tenant.as_ref(), cursor.as_deref(), limit).await;
            page.map_err(list_problem)
        })
        .await?;
    ok(&page)
}

/// `GET /v1/admin/dlq/{letter}`.
pub(super) async fn get(call: Call) -> Answer {
    let id: i64 = call.id("letter")?;
    let (store, tenant) = (call.store(), reach(&call.caller));
    let letter = call.edge.ask(async move { store.dead_letter(tenant.as_ref(), id).await }).await?;
    ok(&letter)
}

/// `POST /v1/admin/dlq/{letter}/replay`.
pub(super) async fn replay(call: Call) -> Answer {
    let id: i64 = call.id("letter")?;
    let (store, tenant) = (call.store(), reach(&call.caller));
    let live = Arc::clone(&call.edge.parts().live);
    let replayed = call
        .edge
        .ask(async move {
            let replayed = match store.replay(tenant.as_ref(), id).await {
                Ok(replayed) => replayed,
                Err(StoreError::Refused(why)) => {
                    return Err(Problem::new(codes::REPLAY_REFUSED, why));
                }
                Err(error) => return Err(error.into()),
            };
            if let Replayed::Turn(session_id) = replayed {
                live.nudge(Nudge::Session { session_id }).await;
            }
            Ok(replayed)
        })
        .await?;
    tracing::info!(
        letter = id,
        subject = call.caller.subject,
        ?replayed,
        "a dead letter was replayed"
    );
    let (status, session_id) = match replayed {
        Replayed::Turn(session_id) => ("queued", Some(session_id)),
        Replayed::Requeued => ("requeued", None),
        Replayed::Already => ("already_replayed", None),
    };
    json(StatusCode::ACCEPTED, &json!({"status": status, "session_id": session_id}))
}

/// `DELETE /v1/admin/dlq/{letter}`.
pub(super) async fn drop_letter(call: Call) -> Answer {
    let id: i64 = call.id("letter")?;
    let (store, tenant) = (call.store(), reach(&call.caller));
    call.edge.ask(async move { store.drop_dead_letter(tenant.as_ref(), id).await }).await?;
    tracing::info!(letter = id, subject = call.caller.subject, "a dead letter was dropped");
    Ok(HttpResponse::NoContent().finish())
}
