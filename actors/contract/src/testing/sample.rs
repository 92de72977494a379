//! Rows to test with: as plain as they can be and still be valid.

use serde_json::{Map, Value, json};
use uuid::Uuid;

use chrono::DateTime;

use crate::{
    event::{Event, EventType, Role, TraceContext},
    ids::{EffectId, EventId, SessionId, TenantId},
    memory::{Memory, MemoryOp, MemoryWrite},
    message::{Idempotency, NewMessage},
    model::{ModelAnswer, Usage},
    port::store::{ClaimedTurn, Ending, JournalEntry, NewDeadLetter},
    tool::{Effect, ToolOutcome, ToolStatus},
    topic::Topic,
    turn::{Step, StepKind, StepStatus, Turn, TurnKind, TurnStatus},
};

/// Returns a tenant of this name.
pub fn tenant(name: &str) -> TenantId {
    TenantId(name.to_owned())
}

/// Builds a message of `ann` in tenant `public`.
pub fn message(session_id: SessionId, event_id: EventId, text: &str) -> NewMessage {
    let mut event = Event::new(event_id, session_id, Role::User, EventType::User);
    text.clone_into(&mut event.message);
    NewMessage {
        tenant: TenantId::public(),
        subject: "ann".to_owned(),
        kind: TurnKind::Message,
        event,
        idempotency: None,
    }
}

/// Adds an idempotency key, and the hash of the body that came with it.
#[must_use]
pub fn keyed(mut message: NewMessage, key: &str, body_hash: &str) -> NewMessage {
    message.idempotency = Some(idempotency(key, body_hash));
    message
}

/// Builds a client's promise for the message route.
pub fn idempotency(key: &str, body_hash: &str) -> Idempotency {
    Idempotency {
        route: "/v1/session/message".to_owned(),
        key: key.to_owned(),
        body_hash: body_hash.to_owned(),
    }
}

/// Builds the settled step of a model's answer.
pub fn model_step(turn: &Turn, step: u32, text: &str) -> Step {
    let answer = ModelAnswer {
        text: text.to_owned(),
        tool_calls: Vec::new(),
        usage: Usage { input_tokens: 3, output_tokens: 2 },
        model: "fake-model".to_owned(),
        finish_reason: "stop".to_owned(),
    };
    Step {
        kind: StepKind::Model,
        status: StepStatus::Done,
        effect: Effect::Pure,
        name: answer.model.clone(),
        call_id: String::new(),
        arguments: Value::Null,
        result: json!(answer),
        ..tool_step(turn, (step, 0), "", Effect::Pure)
    }
}

/// Builds the `requested` step of a tool call at (step, index).
pub fn tool_step(turn: &Turn, (step, index): (u32, u32), name: &str, effect: Effect) -> Step {
    Step {
        effect_id: EffectId::of(turn.turn_id, step, index),
        turn_id: turn.turn_id,
        session_id: turn.session_id,
        tenant: turn.tenant.clone(),
        step,
        index,
        kind: StepKind::Tool,
        status: StepStatus::Requested,
        effect,
        name: name.to_owned(),
        call_id: format!("call_{step}_{index}"),
        input_hash: "00".to_owned(),
        arguments: json!({"text": "hi"}),
        result: Value::Null,
        epoch: 0,
        trace: TraceContext::default(),
    }
}

/// Builds what a model's answer at step 0 and these calls at step 1 journal.
pub fn entry(turn: &Turn, calls: &[(&str, Effect)]) -> JournalEntry {
    let calls = (0..).zip(calls);
    JournalEntry {
        answer: Some(model_step(turn, 0, "let me see")),
        calls: calls.map(|(at, (name, effect))| tool_step(turn, (1, at), name, *effect)).collect(),
        worked_ms: 10,
    }
}

/// Builds the outcome of a call that went well.
pub fn outcome(output: impl Into<Value>) -> ToolOutcome {
    ToolOutcome { status: ToolStatus::Success, output: output.into(), execution_ms: 7 }
}

/// Builds the end of a turn that answers.
pub fn done(claimed: &ClaimedTurn, text: &str) -> Ending {
    let mut event = terminal(claimed, EventType::Final);
    text.clone_into(&mut event.message);
    Ending {
        status: TurnStatus::Done,
        event,
        reason: None,
        memory: Vec::new(),
        usage: Usage { input_tokens: 3, output_tokens: 2 },
        dead_letter: None,
    }
}

/// Builds the end of a turn that fails, with its dead letter.
pub fn failed(claimed: &ClaimedTurn, reason: &str) -> Ending {
    let turn = &claimed.turn;
    Ending {
        status: TurnStatus::Failed,
        event: terminal(claimed, EventType::Error).with("reason", reason),
        reason: Some(reason.to_owned()),
        dead_letter: Some(NewDeadLetter {
            tenant: Some(turn.tenant.clone()),
            turn_id: Some(turn.turn_id),
            ..dead_letter(Topic::ConversationInbound.as_str(), turn.event_id, reason)
        }),
        ..done(claimed, "")
    }
}

/// Builds the end of a turn that its owner cancels.
pub fn cancelled(claimed: &ClaimedTurn) -> Ending {
    Ending {
        status: TurnStatus::Cancelled,
        event: terminal(claimed, EventType::Cancelled),
        reason: Some("cancelled".to_owned()),
        ..done(claimed, "")
    }
}

fn terminal(claimed: &ClaimedTurn, event_type: EventType) -> Event {
    let turn = &claimed.turn;
    let event_id = EventId::terminal(turn.turn_id, turn.replay);
    let mut event = Event::new(event_id, turn.session_id, Role::Assistant, event_type);
    event.turn_id = Some(turn.turn_id);
    event.n = Some(turn.n);
    event
}

/// Builds a dead letter that is no turn's and no tenant's.
pub fn dead_letter(topic: &str, event_id: EventId, error: &str) -> NewDeadLetter {
    NewDeadLetter {
        tenant: None,
        topic: topic.to_owned(),
        turn_id: None,
        event_id: Some(event_id),
        event: json!({"event_id": event_id}),
        error: error.to_owned(),
        attempts: 1,
        trace: TraceContext::default(),
    }
}

/// Builds a write of tenant `public` that adds or replaces a memory.
pub fn put(memory_id: Uuid, event_id: EventId, content: &str) -> MemoryWrite {
    let memory = Memory {
        memory_id,
        tenant: TenantId::public(),
        session_id: None,
        persona_id: None,
        role: "user".to_owned(),
        kind: "fact".to_owned(),
        content: content.to_owned(),
        metadata: Map::new(),
        event_id,
        version: 0,
        written_at: DateTime::UNIX_EPOCH,
    };
    MemoryWrite { op: MemoryOp::Put, memory }
}

/// Builds a write of tenant `public` that deletes a memory.
pub fn delete(memory_id: Uuid, event_id: EventId) -> MemoryWrite {
    MemoryWrite { op: MemoryOp::Delete, ..put(memory_id, event_id, "") }
}
