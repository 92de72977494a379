//! Values that the tests of several files share.

use chrono::DateTime;
use serde_json::{Value, json};
use soma_contract::{
    Event, EventId, EventType, Role, SessionId, TenantId, TurnId,
    event::TraceContext,
    model::{ModelAnswer, TokenCounter, Usage},
    tool::{CallFault, Effect, ToolCall, ToolCatalog, ToolSpec},
    turn::{Step, Tries, Turn, TurnKind, TurnStatus},
};
use uuid::Uuid;

use crate::turn::answer_step as build_answer_step;

pub(crate) const SESSION: SessionId = SessionId(Uuid::from_u128(0xA));

pub(crate) fn turn() -> Turn {
    Turn {
        turn_id: TurnId::of(SESSION, 3),
        session_id: SESSION,
        tenant: TenantId::public(),
        n: 3,
        kind: TurnKind::Message,
        status: TurnStatus::Running,
        tries: Tries { attempts: 1, panics: 0, deaths: 0 },
        replay: 0,
        event_id: EventId(Uuid::from_u128(0xE)),
        reason: None,
        waiting_since: None,
        cancel_requested: false,
        worked_ms: 0,
        created_at: DateTime::UNIX_EPOCH,
        trace: TraceContext::default(),
    }
}

/// Builds an event of message `n` of the session.
pub(crate) fn event(n: u64, role: Role, message: &str) -> Event {
    let event_type = if role == Role::User { EventType::User } else { EventType::Final };
    let id = u128::from(n) * 2 + u128::from(role == Role::User);
    let mut event = Event::new(EventId(Uuid::from_u128(id)), SESSION, role, event_type);
    message.clone_into(&mut event.message);
    event.n = Some(n);
    event
}

pub(crate) fn answer(text: &str) -> ModelAnswer {
    ModelAnswer {
        text: text.to_owned(),
        tool_calls: Vec::new(),
        usage: Usage { input_tokens: 10, output_tokens: 2 },
        model: "test".to_owned(),
        finish_reason: "stop".to_owned(),
    }
}

pub(crate) fn answer_step(turn: &Turn, step: u32, answer: &ModelAnswer) -> Step {
    build_answer_step(turn, step, answer, String::new())
}

/// A catalog with one tool, `echo`, which needs a `text`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct EchoOnly;

impl ToolCatalog for EchoOnly {
    fn specs(&self) -> Vec<ToolSpec> {
        vec![ToolSpec {
            name: "echo".to_owned(),
            description: "Says the text again.".to_owned(),
            parameters: json!({"type": "object", "required": ["text"]}),
            effect: Effect::Pure,
            timeout: std::time::Duration::from_secs(1),
            max_output_bytes: 1_000,
        }]
    }

    fn check(&self, call: &ToolCall) -> Result<(ToolSpec, Value), CallFault> {
        if call.name != "echo" {
            let known = "echo".to_owned();
            return Err(CallFault::UnknownTool { name: call.name.clone(), known });
        }
        let bad = |reason: String| CallFault::BadArguments { name: call.name.clone(), reason };
        let arguments: Value =
            serde_json::from_str(&call.arguments).map_err(|error| bad(error.to_string()))?;
        if arguments["text"].is_string() {
            return Ok((self.specs().remove(0), arguments));
        }
        Err(bad("`text` is missing".to_owned()))
    }
}

/// Counts words.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Words;

impl TokenCounter for Words {
    fn count(&self, text: &str) -> usize {
        text.split_whitespace().count()
    }
}
