//! Messages: the way in, and what became of one.

use std::time::Duration;

use actix_web::http::{
    StatusCode,
    header::{HeaderValue, LOCATION},
};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use soma_contract::{
    Event, EventId, SessionId, TurnId,
    message::{Accepted, NewMessage},
    port::store::{MessageStatus, StoreError},
    turn::{TurnKind, TurnStatus},
};
use utoipa::ToSchema;

use super::{
    accept::{self, Draft},
    call::{Call, duration, json, ok},
    codes,
    follow::Follower,
    idempotency,
    problem::{Answer, Problem},
};

/// What `POST /v1/session/message` takes.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct SendMessage {
    /// The session; a new one is begun if there is none.
    #[serde(default)]
    #[schema(value_type = Option<uuid::Uuid>)]
    session_id: Option<SessionId>,
    /// Who is to answer; `default` if not set.
    #[serde(default)]
    persona_id: Option<String>,
    /// The text; may be empty only where there are attachments.
    message: String,
    /// Ids of uploads.
    #[serde(default)]
    attachments: Vec<String>,
    /// Details of the client's own; `tenant`, `subject` and others are the platform's.
    #[serde(default)]
    #[schema(value_type = Object)]
    metadata: Map<String, Value>,
}

/// `POST /v1/session/message`.
pub(super) async fn send(call: Call) -> Answer {
    let wait = wait(&call)?;
    let body: SendMessage = call.json()?;
    if body.message.trim().is_empty() && body.attachments.is_empty() {
        return Err(Problem::new(codes::INVALID_BODY, "`message` is empty"));
    }
    let draft = Draft {
        kind: TurnKind::Message,
        session_id: body.session_id,
        persona_id: body.persona_id,
        text: body.message,
        attachments: body.attachments,
        metadata: body.metadata,
        platform: Map::new(),
    };
    let message = accept::compose(&call, draft).await?;
    submit(&call, message, wait).await
}

#[derive(Debug, Deserialize)]
struct Wait {
    wait: Option<String>,
}

/// Reads how long the client wants to wait for the end.
pub(super) fn wait(call: &Call) -> Result<Option<Duration>, Problem> {
    let Wait { wait: Some(text) } = call.query()? else {
        return Ok(None);
    };
    let most = call.edge.settings().limits.max_wait;
    match duration(&text) {
        Some(wait) if wait <= most => Ok(Some(wait)),
        _ => {
            let detail = format!("`wait` is a time such as `30s`, at most {} s", most.as_secs());
            Err(Problem::new(codes::INVALID_QUERY, detail))
        }
    }
}

/// Accepts a message and answers 202, or within `wait` the terminal event.
///
/// Whoever waits listens before the message is sent, so that no word of its turn is missed.
pub(super) async fn submit(call: &Call, message: NewMessage, wait: Option<Duration>) -> Answer {
    let session_id = message.event.session_id;
    let follower = match wait {
        Some(_) => Some(Follower::open(&call.edge, &call.caller.tenant, session_id).await),
        None => None,
    };
    let accepted = accept::accept(&call.edge, message).await?;
    let (Some(mut follower), Some(wait)) = (follower, wait) else {
        return respond(StatusCode::ACCEPTED, &accepted, &accepted);
    };
    if accepted.session_id != session_id {
        // A repeated request: the first one had begun another session.
        follower = Follower::open(&call.edge, &call.caller.tenant, accepted.session_id).await;
    }
    follower.begin_after(accepted.seq, accepted.replayed);
    let awaited = accepted.clone();
    let ended = async move { follower.terminal(&awaited).await };
    let ended = tokio::select! {
        ended = call.edge.parts().io.call(wait, ended) => ended.ok(),
        () = call.edge.patience_over() => None,
    };
    match ended {
        Some(Ok(event)) => respond(StatusCode::OK, &accepted, &event),
        Some(Err(StoreError::NotFound)) => Err(Problem::of(codes::SESSION_DELETED)),
        // It is accepted all the same: an error would have it sent again.
        Some(Err(_)) | None => respond(StatusCode::ACCEPTED, &accepted, &accepted),
    }
}

fn respond(status: StatusCode, accepted: &Accepted, body: &impl Serialize) -> Answer {
    let mut response = json(status, body)?;
    let location = format!("/v1/messages/{}", accepted.event_id);
    if let Ok(location) = HeaderValue::from_str(&location) {
        response.headers_mut().insert(LOCATION, location);
    }
    if accepted.replayed {
        idempotency::mark_replayed(&mut response);
    }
    Ok(response)
}

/// What became of a message, as it is told.
#[derive(Debug, Serialize)]
struct Fate {
    event_id: EventId,
    session_id: SessionId,
    turn_id: TurnId,
    n: u64,

    status: TurnStatus,
    /// Unfinished turns before it.
    #[serde(skip_serializing_if = "Option::is_none")]
    place: Option<u64>,
    /// The step that runs, from 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    step: Option<u32>,
    /// Why it waits or ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    replay: u32,
    cancel_requested: bool,
    created_at: chrono::DateTime<chrono::Utc>,
    /// How it ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    terminal: Option<Event>,
}

/// `GET /v1/messages/{event_id}`.
pub(super) async fn status(call: Call) -> Answer {
    let event_id: EventId = call.id("event_id")?;
    let (store, tenant) = (call.store(), call.caller.tenant.clone());
    let status = call.edge.ask(async move { store.message(&tenant, event_id).await }).await?;
    ok(&told(status))
}

fn told(message: MessageStatus) -> Fate {
    let MessageStatus { event_id, session_id, n, turn, place, steps, terminal } = message;
    Fate {
        event_id,
        session_id,
        turn_id: turn.turn_id,
        n,
        status: turn.status,
        place: matches!(turn.status, TurnStatus::Queued | TurnStatus::Waiting).then_some(place),
        step: (turn.status == TurnStatus::Running).then_some(steps.saturating_add(1)),
        reason: turn.reason,
        replay: turn.replay,
        cancel_requested: turn.cancel_requested,
        created_at: turn.created_at,
        // While a replay runs, the terminal event of the run before it is no news.
        terminal: terminal.filter(|_| turn.status.is_over()),
    }
}
