//! What every store composes alike: the events and bus records that follow from its own decisions.
//!
//! Services compose the events of their turns; a store composes those of cancelled turns and of
//! tool steps, since only it knows that they became true.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde_json::{Value, json};

use crate::{
    event::{Event, EventType, Role, TraceContext, VERSION},
    ids::{EffectId, EventId, SessionId, TenantId},
    memory::{MemoryOp, MemoryWrite},
    port::memory::Receipt,
    tool::{ToolOutcome, ToolStatus},
    topic::Topic,
    turn::{Step, StepStatus, Turn},
};

/// A row of `message_outbox` that has no id yet.
#[derive(Debug, Clone, PartialEq)]
pub struct Outgoing {
    /// Where it goes.
    pub topic: Topic,
    /// The record's key.
    pub session_id: SessionId,
    /// As [`crate::port::bus::OutboxRow::headers`].
    pub headers: BTreeMap<String, String>,
    /// UTF-8 JSON.
    pub payload: Bytes,
}

/// What a step belongs to, as far as its events tell it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StepPlace<'a> {
    /// The number of the turn's message.
    pub n: u64,
    /// The persona that acts.
    pub persona_id: Option<&'a str>,
}

/// Composes the terminal event of a turn that is cancelled while nobody runs it.
pub fn cancelled(turn: &Turn, persona_id: Option<&str>, reason: &str) -> Event {
    let event_id = EventId::terminal(turn.turn_id, turn.replay);
    let mut event = Event::new(event_id, turn.session_id, Role::Assistant, EventType::Cancelled)
        .with("status", "cancelled")
        .with("reason", reason);
    event.persona_id = persona_id.map(ToOwned::to_owned);
    event.trace_context = turn.trace.clone();
    event.turn_id = Some(turn.turn_id);
    event.n = Some(turn.n);
    event
}

/// Composes the `tool.start` event of a step; one per step, however often it is claimed.
pub fn tool_start(step: &Step, place: StepPlace<'_>) -> Event {
    step_event(step, place, EventType::ToolStart)
        .with("status", "start")
        .with("args", step.arguments.clone())
}

/// Composes the `tool.result` event of a step; its message is the output as text.
pub fn tool_result(step: &Step, place: StepPlace<'_>, outcome: &ToolOutcome) -> Event {
    let mut event = step_event(step, place, EventType::ToolResult)
        .with("status", outcome.status.as_str())
        .with("execution_ms", outcome.execution_ms);
    event.message = text_of(&outcome.output);
    event
}

fn step_event(step: &Step, place: StepPlace<'_>, event_type: EventType) -> Event {
    let what = if event_type == EventType::ToolStart { "start" } else { "result" };
    let event_id = EventId::of_step(step.effect_id, what);
    let mut event = Event::new(event_id, step.session_id, Role::Tool, event_type)
        .with("source", "tool_executor")
        .with("tool_name", step.name.as_str())
        .with("request_id", step.effect_id.to_string())
        .with("call_id", step.call_id.as_str())
        .with("step", step.step);
    event.persona_id = place.persona_id.map(ToOwned::to_owned);
    event.trace_context = step.trace.clone();
    event.turn_id = Some(step.turn_id);
    event.n = Some(place.n);
    event
}

fn text_of(output: &Value) -> String {
    match output {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// Returns where a step stands after it settled with this outcome.
pub const fn settled_as(status: ToolStatus) -> StepStatus {
    match status {
        ToolStatus::Unknown => StepStatus::Unknown,
        ToolStatus::Withdrawn => StepStatus::Withdrawn,
        ToolStatus::Success | ToolStatus::Error | ToolStatus::Timeout | ToolStatus::Blocked => {
            StepStatus::Done
        }
    }
}

/// The outcome of a `once` step whose executor was lost in the middle.
pub fn lost() -> ToolOutcome {
    ToolOutcome {
        status: ToolStatus::Unknown,
        output: Value::from(
            "the tool's executor was lost while it ran; whether it took effect is unknown and it \
             is not run again",
        ),
        execution_ms: 0,
    }
}

/// The outcome of a step that is taken back before it began; it has no event.
pub fn withdrawn() -> ToolOutcome {
    ToolOutcome {
        status: ToolStatus::Withdrawn,
        output: Value::from("withdrawn before it began"),
        execution_ms: 0,
    }
}

/// Composes the record of a durable event: `conversation.inbound` or `conversation.outbound`.
pub fn event_record(topic: Topic, tenant: &TenantId, event: &Event) -> Outgoing {
    Outgoing {
        topic,
        session_id: event.session_id,
        headers: headers(tenant, event),
        payload: bytes_of(&json!(event)),
    }
}

/// Composes the `tool.requests` record of a step.
pub fn tool_request_record(step: &Step, place: StepPlace<'_>) -> Outgoing {
    let payload = json!({
        "event_id": step.effect_id,
        "session_id": step.session_id,
        "persona_id": place.persona_id,
        "tool_name": step.name,
        "args": step.arguments,
        "metadata": step_metadata(step),
    });
    Outgoing {
        topic: Topic::ToolRequests,
        session_id: step.session_id,
        headers: step_headers(step, place, "tool.request", EventId(step.effect_id.0)),
        payload: bytes_of(&payload),
    }
}

/// Composes the `tool.results` record of a settled step.
pub fn tool_result_record(step: &Step, place: StepPlace<'_>, outcome: &ToolOutcome) -> Outgoing {
    let event_id = EventId::of_step(step.effect_id, "result");
    let payload = json!({
        "event_id": event_id,
        "session_id": step.session_id,
        "persona_id": place.persona_id,
        "tool_name": step.name,
        "status": outcome.status,
        "payload": outcome.output,
        "metadata": step_metadata(step),
        "execution_time": outcome.execution_ms,
    });
    Outgoing {
        topic: Topic::ToolResults,
        session_id: step.session_id,
        headers: step_headers(step, place, "tool.result", event_id),
        payload: bytes_of(&payload),
    }
}

/// Composes the `memory.wal` record of a write that the memory service has taken. Its key is the
/// session, or the memory where there is none, so that a memory's records stay in order.
pub fn wal_record(write: &MemoryWrite, receipt: &Receipt) -> Outgoing {
    let memory = &write.memory;
    let session_id = memory.session_id.unwrap_or(SessionId(memory.memory_id));
    let kind = match write.op {
        MemoryOp::Put => "memory.write",
        MemoryOp::Delete => "memory.delete",
    };
    let payload = json!({
        "type": kind,
        "role": memory.role,
        "session_id": memory.session_id,
        "persona_id": memory.persona_id,
        "tenant": memory.tenant,
        "payload": memory,
        "result": {
            "coord": receipt.coordinate,
            "request_id": receipt.request_id,
            "trace_id": receipt.trace_id,
        },
        "timestamp": memory.written_at.timestamp(),
    });
    let mut headers = base_headers(&memory.tenant, session_id, kind, memory.event_id);
    put(&mut headers, "persona_id", memory.persona_id.as_deref());
    Outgoing { topic: Topic::MemoryWal, session_id, headers, payload: bytes_of(&payload) }
}

/// Returns the headers of a record that carries a whole event.
pub fn headers(tenant: &TenantId, event: &Event) -> BTreeMap<String, String> {
    let mut headers =
        base_headers(tenant, event.session_id, event.event_type.as_str(), event.event_id);
    put(&mut headers, "persona_id", event.persona_id.as_deref());
    put(&mut headers, "n", event.n.map(|n| n.to_string()).as_deref());
    put(&mut headers, "seq", event.seq.map(|seq| seq.to_string()).as_deref());
    put_trace(&mut headers, &event.trace_context);
    headers
}

fn step_headers(
    step: &Step,
    place: StepPlace<'_>,
    kind: &str,
    event_id: EventId,
) -> BTreeMap<String, String> {
    let mut headers = base_headers(&step.tenant, step.session_id, kind, event_id);
    put(&mut headers, "persona_id", place.persona_id);
    put(&mut headers, "n", Some(&place.n.to_string()));
    put_trace(&mut headers, &step.trace);
    headers
}

fn base_headers(
    tenant: &TenantId,
    session_id: SessionId,
    event_type: &str,
    event_id: EventId,
) -> BTreeMap<String, String> {
    BTreeMap::from([
        ("tenant_id".to_owned(), tenant.to_string()),
        ("session_id".to_owned(), session_id.to_string()),
        ("event_type".to_owned(), event_type.to_owned()),
        ("event_id".to_owned(), event_id.to_string()),
        ("schema".to_owned(), VERSION.to_owned()),
    ])
}

fn put(headers: &mut BTreeMap<String, String>, name: &str, value: Option<&str>) {
    if let Some(value) = value {
        headers.insert(name.to_owned(), value.to_owned());
    }
}

fn put_trace(headers: &mut BTreeMap<String, String>, trace: &TraceContext) {
    for (name, value) in &trace.0 {
        headers.entry(name.clone()).or_insert_with(|| value.clone());
    }
}

fn step_metadata(step: &Step) -> Value {
    json!({
        "request_id": step.effect_id,
        "source": "tool_orchestrator",
        "tenant": step.tenant,
        "turn_id": step.turn_id,
        "step": step.step,
        "call_id": step.call_id,
    })
}

fn bytes_of(value: &Value) -> Bytes {
    Bytes::from(value.to_string())
}

/// Returns the id of the delete write by which a session's deletion forgets a memory at `version`.
pub fn forgetting(tenant: &TenantId, memory_id: uuid::Uuid, version: u64) -> EventId {
    EventId::of_step(EffectId(memory_id), &format!("forget/{tenant}/{version}"))
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    #[test]
    fn a_trace_never_overrides_what_the_platform_says() {
        let mut event = Event::new(
            EventId(Uuid::from_u128(1)),
            SessionId(Uuid::from_u128(2)),
            Role::User,
            EventType::User,
        );
        event.trace_context.0.insert("tenant_id".to_owned(), "mallory".to_owned());
        event.trace_context.0.insert("traceparent".to_owned(), "00-1-2-01".to_owned());
        event.seq = Some(3);
        let headers = headers(&TenantId::public(), &event);
        assert_eq!(headers["tenant_id"], "public");
        assert_eq!(headers["traceparent"], "00-1-2-01");
        assert_eq!(headers["seq"], "3");
        assert!(!headers.contains_key("n"));
    }

    #[test]
    fn text_output_is_told_as_it_is_and_anything_else_as_json() {
        assert_eq!(text_of(&json!("4 \"x\"")), "4 \"x\"");
        assert_eq!(text_of(&json!({"sum": 4})), r#"{"sum":4}"#);
    }
}
