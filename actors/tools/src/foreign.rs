//! Tool requests that outside systems write to `tool.requests`: each becomes a turn of one call.

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use soma_contract::{
    Classified, Event, EventId, EventType, Kind, Role, SessionId, TenantId,
    event::TraceContext,
    message::{AcceptError, NewMessage},
    port::{
        bus::{Position, Record},
        live::Nudge,
        store::{NewDeadLetter, StoreError},
    },
    topic::Group,
    turn::TurnKind,
};
use uuid::Uuid;

use crate::parts::Parts;

/// Who asks when a record does: writers to the bus do not say.
const SUBJECT: &str = "bus";

/// The payload, as the predecessor's writers compose it. Its `metadata` is not looked at: what it
/// used to override is for the platform to say.
#[derive(Deserialize)]
struct Request {
    event_id: Option<Uuid>,
    session_id: Uuid,
    persona_id: Option<String>,
    tool_name: String,
    #[serde(default = "no_arguments")]
    args: Value,
}

fn no_arguments() -> Value {
    Value::Object(Map::new())
}

/// Accepts the request as a turn, or buries the record. Repeatable: the event's id is the
/// record's.
///
/// # Errors
///
/// The store is unavailable: the record is to be read again.
pub(crate) async fn take_in(parts: &Parts, record: &Record) -> Result<(), StoreError> {
    let message = match understood(parts, record) {
        Ok(message) => message,
        Err(reason) => return bury(parts, record, reason).await,
    };
    let session_id = message.event.session_id;
    let accepted = parts.store.accept(vec![message]).await.pop();
    match accepted {
        Some(Ok(_)) => {
            parts.live.nudge(Nudge::Session { session_id }).await;
            Ok(())
        }
        Some(Err(error)) if error.kind() == Kind::Retry => Err(passing(&error)),
        Some(Err(error)) => bury(parts, record, error.to_string()).await,
        None => Err(StoreError::OutcomeUnknown("no answer to an accept".to_owned())),
    }
}

fn passing(error: &AcceptError) -> StoreError {
    StoreError::Unavailable(error.to_string())
}

fn understood(parts: &Parts, record: &Record) -> Result<NewMessage, String> {
    let request: Request = serde_json::from_slice(&record.payload)
        .map_err(|error| format!("not a tool request: {error}"))?;
    parts.toolbox.find(&request.tool_name, &request.args).map_err(|fault| fault.to_string())?;
    let event_id = request.event_id.unwrap_or_else(|| id_of(record));
    let session_id = SessionId(request.session_id);
    let mut event = Event::new(EventId(event_id), session_id, Role::User, EventType::User)
        .with("tool_name", request.tool_name)
        .with("args", request.args);
    event.persona_id = request.persona_id;
    event.trace_context = trace_of(record);
    Ok(NewMessage {
        tenant: tenant_of(record),
        subject: SUBJECT.to_owned(),
        kind: TurnKind::Tool,
        event,
        idempotency: None,
    })
}

fn tenant_of(record: &Record) -> TenantId {
    record.headers.get("tenant_id").map_or_else(TenantId::public, |id| TenantId(id.clone()))
}

fn trace_of(record: &Record) -> TraceContext {
    let kept = ["traceparent", "tracestate", "request_id"];
    let found = kept.iter().filter_map(|name| record.headers.get_key_value(*name));
    TraceContext(found.map(|(name, value)| (name.clone(), value.clone())).collect())
}

/// Returns the record's event id, or names it after its place, which never changes.
fn id_of(record: &Record) -> Uuid {
    if let Some(event_id) = record.event_id() {
        return event_id;
    }
    let place = match record.position {
        Position::Row(row) => format!("{}/row/{row}", record.topic.as_str()),
        Position::Offset { partition, offset } => {
            format!("{}/{partition}/{offset}", record.topic.as_str())
        }
    };
    Uuid::new_v5(&Uuid::NAMESPACE_OID, place.as_bytes())
}

async fn bury(parts: &Parts, record: &Record, reason: String) -> Result<(), StoreError> {
    tracing::warn!(%reason, "a record of `tool.requests` goes to the dead letters");
    let letter = NewDeadLetter {
        tenant: record.headers.get("tenant_id").map(|id| TenantId(id.clone())),
        topic: record.topic.as_str().to_owned(),
        turn_id: None,
        event_id: Some(EventId(id_of(record))),
        event: content(record),
        error: reason,
        attempts: 1,
        trace: trace_of(record),
    };
    parts.store.bury(Group::ToolExecutor, letter).await
}

fn content(record: &Record) -> Value {
    match std::str::from_utf8(&record.payload) {
        Ok(text) => serde_json::from_str(text).unwrap_or_else(|_| Value::from(text)),
        Err(_) => json!({ "base64": BASE64.encode(&record.payload) }),
    }
}
