//! The event envelope: one shape in the store, on the bus and on the wire.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::ids::{EventId, SessionId, TurnId};

/// The `version` of every envelope.
pub const VERSION: &str = "sa01-v1";

/// Who an event speaks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// The person or program that writes to the session.
    User,
    /// The agent.
    Assistant,
    /// A tool that the agent called.
    Tool,
    /// The platform itself.
    System,
}

/// What an event tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum EventType {
    /// An accepted message. Durable.
    #[serde(rename = "user")]
    User,
    /// A turn began to run, or waits for something (`metadata.status`). Live.
    #[serde(rename = "assistant.thinking")]
    Thinking,
    /// A piece of the answer's text. Live.
    #[serde(rename = "assistant.delta")]
    Delta,
    /// The text so far, for a reader that joins late. Live.
    #[serde(rename = "assistant.snapshot")]
    Snapshot,
    /// Forget the deltas of this turn: the step is computed anew. Live.
    #[serde(rename = "assistant.reset")]
    Reset,
    /// The answer. Durable, terminal.
    #[serde(rename = "assistant.final")]
    Final,
    /// The turn ended without an answer, and why. Durable, terminal.
    #[serde(rename = "assistant.error")]
    Error,
    /// The turn was cancelled. Durable, terminal.
    #[serde(rename = "assistant.cancelled")]
    Cancelled,
    /// A tool call starts. Durable.
    #[serde(rename = "tool.start")]
    ToolStart,
    /// A tool call ended. Durable.
    #[serde(rename = "tool.result")]
    ToolResult,
    /// Nothing happened; the stream is alive. Live.
    #[serde(rename = "system.keepalive")]
    Keepalive,
}

impl EventType {
    /// Returns the name on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Thinking => "assistant.thinking",
            Self::Delta => "assistant.delta",
            Self::Snapshot => "assistant.snapshot",
            Self::Reset => "assistant.reset",
            Self::Final => "assistant.final",
            Self::Error => "assistant.error",
            Self::Cancelled => "assistant.cancelled",
            Self::ToolStart => "tool.start",
            Self::ToolResult => "tool.result",
            Self::Keepalive => "system.keepalive",
        }
    }

    /// Returns whether the event ends its turn; a turn has exactly one such event per replay.
    pub const fn is_terminal(self) -> bool {
        matches!(self, Self::Final | Self::Error | Self::Cancelled)
    }

    /// Returns whether the event is kept in the session's log and has a `seq`.
    pub const fn is_durable(self) -> bool {
        matches!(self, Self::User | Self::ToolStart | Self::ToolResult) || self.is_terminal()
    }
}

/// W3C trace context and the request id, stored with each row so that a restart keeps them.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct TraceContext(
    /// `traceparent`, `tracestate` and `request_id`, as far as known.
    pub BTreeMap<String, String>,
);

impl TraceContext {
    /// Returns the id of the request that caused this, if known.
    pub fn request_id(&self) -> Option<&str> {
        self.0.get("request_id").map(String::as_str)
    }
}

/// One event of a session, durable or live.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// Unique in the store for ever.
    pub event_id: EventId,
    /// The session it belongs to.
    pub session_id: SessionId,
    /// The persona the session speaks with; `None` is the default persona.
    #[serde(default)]
    pub persona_id: Option<String>,
    /// Who it speaks for.
    pub role: Role,
    /// What it tells.
    #[serde(rename = "type")]
    pub event_type: EventType,
    /// The text; empty where the type has none.
    #[serde(default)]
    pub message: String,
    /// Ids of uploads that belong to a user's message.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub attachments: Vec<String>,
    /// Details that depend on the type.
    #[serde(default)]
    pub metadata: Map<String, Value>,
    /// Always [`VERSION`].
    pub version: String,
    /// Where the event's trace goes on.
    #[serde(default)]
    pub trace_context: TraceContext,
    /// The turn that it is part of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub turn_id: Option<TurnId>,
    /// The number of the message that the turn answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub n: Option<u64>,
    /// The place in the session's log; set by the store, only for durable events.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seq: Option<u64>,
}

impl Event {
    /// Builds an event with an empty text and no details.
    pub fn new(
        event_id: EventId,
        session_id: SessionId,
        role: Role,
        event_type: EventType,
    ) -> Self {
        Self {
            event_id,
            session_id,
            persona_id: None,
            role,
            event_type,
            message: String::new(),
            attachments: Vec::new(),
            metadata: Map::new(),
            version: VERSION.to_owned(),
            trace_context: TraceContext::default(),
            turn_id: None,
            n: None,
            seq: None,
        }
    }

    /// Adds one detail.
    #[must_use]
    pub fn with(mut self, key: &str, value: impl Into<Value>) -> Self {
        self.metadata.insert(key.to_owned(), value.into());
        self
    }
}
