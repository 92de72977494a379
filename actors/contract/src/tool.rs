//! What a tool is to the rest: its description, its call and its outcome.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// What running a tool again with the same effect id would do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Effect {
    /// Nothing: it only reads or computes.
    Pure,
    /// The same as running it once.
    Idempotent,
    /// A second effect: after a loss in the middle it is never run again.
    Once,
}

impl Effect {
    /// Returns the name that the store keeps.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pure => "pure",
            Self::Idempotent => "idempotent",
            Self::Once => "once",
        }
    }
}

/// A tool as the model and `GET /v1/tools` see it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ToolSpec {
    /// Unique; `[a-z_]+`.
    pub name: String,
    /// One or two sentences for the model.
    pub description: String,
    /// JSON Schema (draft 2020-12) of the arguments object.
    pub parameters: Value,
    /// What a repetition does.
    pub effect: Effect,
    /// The longest it may run.
    #[serde(with = "duration_ms", rename = "timeout_ms")]
    pub timeout: Duration,
    /// The most bytes of output that go back to the model; more is cut, and said so.
    pub max_output_bytes: usize,
}

/// A call as the model wrote it; the arguments may be malformed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ToolCall {
    /// The id by which the model names the call; unique within one answer.
    pub id: String,
    /// The tool's name, which may not exist.
    pub name: String,
    /// The arguments as JSON text, which may not parse.
    pub arguments: String,
}

/// How a tool call ended, with the predecessor's names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ToolStatus {
    /// It did what it was asked for.
    Success,
    /// It could not; the output says why.
    Error,
    /// It ran out of time.
    Timeout,
    /// Policy forbids it.
    Blocked,
    /// Its executor was lost in the middle, and a repetition could do harm.
    Unknown,
    /// The turn was cancelled before it began.
    Withdrawn,
}

impl ToolStatus {
    /// Returns the name on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::Error => "error",
            Self::Timeout => "timeout",
            Self::Blocked => "blocked",
            Self::Unknown => "unknown",
            Self::Withdrawn => "withdrawn",
        }
    }
}

/// The result of a tool call; the `result` of its step.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ToolOutcome {
    /// How it ended.
    pub status: ToolStatus,
    /// What the model reads: a result, or an error that it can act on.
    pub output: Value,
    /// How long it ran, in milliseconds.
    pub execution_ms: u64,
}

/// Which tools there are and whether a call is well formed.
pub trait ToolCatalog: Send + Sync + std::fmt::Debug {
    /// Returns every tool, in a stable order.
    fn specs(&self) -> Vec<ToolSpec>;

    /// Parses and validates the arguments of a call.
    ///
    /// # Errors
    ///
    /// An unknown tool or bad arguments, in words that a model can act on.
    fn check(&self, call: &ToolCall) -> Result<(ToolSpec, Value), CallFault>;
}

/// Why a call cannot be run as it stands; the text goes back to the model.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CallFault {
    /// There is no such tool.
    #[error("no tool is called `{name}`; there are: {known}")]
    UnknownTool {
        /// What was asked for.
        name: String,
        /// The names that exist, separated by commas.
        known: String,
    },
    /// The arguments are not JSON or do not match the tool's schema.
    #[error("bad arguments for `{name}`: {reason}")]
    BadArguments {
        /// The tool.
        name: String,
        /// What is wrong and where.
        reason: String,
    },
}

mod duration_ms {
    //! Durations as whole milliseconds.
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(super) fn serialize<S: Serializer>(
        value: &Duration,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        u64::try_from(value.as_millis()).unwrap_or(u64::MAX).serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Duration, D::Error> {
        u64::deserialize(deserializer).map(Duration::from_millis)
    }
}
