//! The shapes of answers, as OpenAI's clients expect them.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use soma_contract::{Event, EventType, message::Accepted, model::Usage};
use utoipa::ToSchema;

use crate::http::{
    call::ok,
    codes,
    problem::{Answer, Problem},
};

/// What every piece of an answer begins with.
#[derive(Debug, Clone)]
pub(super) struct Heading {
    id: String,
    created: i64,
    model: String,
}

impl Heading {
    pub(super) fn new(accepted: &Accepted, model: &str, now: DateTime<Utc>) -> Self {
        Self {
            id: format!("chatcmpl-{}", accepted.event_id.0.simple()),
            created: now.timestamp(),
            model: model.to_owned(),
        }
    }

    /// Composes a chunk of a stream. With `usage` in the request every chunk has the field.
    pub(super) fn chunk(&self, delta: &Value, finish: Option<&str>, with_usage: bool) -> Value {
        let choice = json!({
            "index": 0, "delta": delta, "logprobs": null, "finish_reason": finish,
        });
        let usage = with_usage.then_some(Value::Null);
        self.head("chat.completion.chunk", &[choice], usage)
    }

    /// Composes the last chunk of a stream whose client wants to know the usage.
    pub(super) fn usage_chunk(&self, event: &Event) -> Value {
        self.head("chat.completion.chunk", &[], Some(json!(usage(event))))
    }

    fn head(&self, object: &str, choices: &[Value], usage: Option<Value>) -> Value {
        let mut head = Map::new();
        head.insert("id".to_owned(), self.id.as_str().into());
        head.insert("object".to_owned(), object.into());
        head.insert("created".to_owned(), self.created.into());
        head.insert("model".to_owned(), self.model.as_str().into());
        head.insert("system_fingerprint".to_owned(), Value::Null);
        head.insert("choices".to_owned(), choices.into());
        head.extend(usage.map(|usage| ("usage".to_owned(), usage)));
        Value::Object(head)
    }
}

/// A whole answer.
#[derive(Debug, Serialize, ToSchema)]
pub(in crate::http) struct ChatCompletion {
    /// `chatcmpl-` and the message's event id.
    id: String,
    /// `chat.completion`.
    object: &'static str,
    /// When the request was taken, in seconds of the Unix epoch.
    created: i64,
    /// The model of the request.
    model: String,
    /// Not kept.
    system_fingerprint: Option<String>,
    /// Exactly one.
    choices: Vec<Choice>,
    /// Tokens of the whole turn, its tool calls included.
    usage: CompletionUsage,
}

/// An answer among others.
#[derive(Debug, Serialize, ToSchema)]
pub(in crate::http) struct Choice {
    /// 0.
    index: u32,
    /// The answer.
    message: AnswerMessage,
    /// Not kept.
    #[schema(value_type = Option<Object>)]
    logprobs: Option<Value>,
    /// `stop`, or `length` where the model ran into its limit.
    finish_reason: String,
}

/// The answer.
#[derive(Debug, Serialize, ToSchema)]
pub(in crate::http) struct AnswerMessage {
    /// `assistant`.
    role: &'static str,
    /// The text.
    content: String,
    /// Not told apart.
    refusal: Option<String>,
}

/// Tokens, in OpenAI's words.
#[derive(Debug, Serialize, ToSchema)]
#[expect(clippy::struct_field_names, reason = "these are the names on the wire")]
pub(in crate::http) struct CompletionUsage {
    /// Tokens that went in.
    prompt_tokens: u64,
    /// Tokens that came out.
    completion_tokens: u64,
    /// Both.
    total_tokens: u64,
}

/// Answers a turn that has ended.
pub(super) fn whole(heading: &Heading, event: &Event) -> Answer {
    if let Some(problem) = failure(event) {
        return Err(problem);
    }
    ok(&ChatCompletion {
        id: heading.id.clone(),
        object: "chat.completion",
        created: heading.created,
        model: heading.model.clone(),
        system_fingerprint: None,
        choices: vec![Choice {
            index: 0,
            message: AnswerMessage {
                role: "assistant",
                content: event.message.clone(),
                refusal: None,
            },
            logprobs: None,
            finish_reason: finish_reason(event).to_owned(),
        }],
        usage: usage(event),
    })
}

/// Returns why a turn has no answer, if it has none.
pub(super) fn failure(event: &Event) -> Option<Problem> {
    let told = if event.message.is_empty() {
        event.metadata.get("reason").and_then(Value::as_str).unwrap_or_default()
    } else {
        &event.message
    };
    match event.event_type {
        EventType::Final => None,
        EventType::Cancelled => Some(Problem::of(codes::CANCELLED)),
        _ if told.is_empty() => Some(Problem::of(codes::TURN_FAILED)),
        _ => Some(Problem::new(codes::TURN_FAILED, told)),
    }
}

pub(super) fn finish_reason(event: &Event) -> &str {
    match event.metadata.get("finish_reason").and_then(Value::as_str) {
        Some(reason @ ("length" | "content_filter")) => reason,
        _ => "stop",
    }
}

fn usage(event: &Event) -> CompletionUsage {
    let usage = event.metadata.get("usage").and_then(|usage| Usage::deserialize(usage).ok());
    let usage = usage.unwrap_or_default();
    CompletionUsage {
        prompt_tokens: usage.input_tokens,
        completion_tokens: usage.output_tokens,
        total_tokens: usage.total(),
    }
}
