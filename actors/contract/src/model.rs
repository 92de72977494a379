//! What goes to a language model and what comes back.

use serde::{Deserialize, Serialize};

use crate::tool::{ToolCall, ToolSpec};

/// One message of a prompt.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "role", rename_all = "lowercase")]
pub enum ChatMessage {
    /// Instructions.
    System {
        /// The text.
        content: String,
    },
    /// What the user wrote.
    User {
        /// The text.
        content: String,
    },
    /// What the model answered.
    Assistant {
        /// The text; may be empty when it only calls tools.
        content: String,
        /// The tools it called.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        tool_calls: Vec<ToolCall>,
    },
    /// What a tool gave.
    Tool {
        /// The id of the call.
        tool_call_id: String,
        /// The tool's name.
        name: String,
        /// The output as text.
        content: String,
    },
}

impl ChatMessage {
    /// Returns the text.
    pub fn content(&self) -> &str {
        match self {
            Self::System { content }
            | Self::User { content }
            | Self::Assistant { content, .. }
            | Self::Tool { content, .. } => content,
        }
    }
}

/// A prompt.
#[derive(Debug, Clone, PartialEq)]
pub struct ChatRequest {
    /// The model's name; `None` is the configured one.
    pub model: Option<String>,
    /// Oldest first.
    pub messages: Vec<ChatMessage>,
    /// The tools that the model may call.
    pub tools: Vec<ToolSpec>,
}

/// Tokens that a call took.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Usage {
    /// Tokens of the prompt.
    pub input_tokens: u64,
    /// Tokens of the answer.
    pub output_tokens: u64,
}

impl Usage {
    /// Returns both together.
    pub const fn total(self) -> u64 {
        self.input_tokens.saturating_add(self.output_tokens)
    }
}

impl std::ops::AddAssign for Usage {
    fn add_assign(&mut self, other: Self) {
        self.input_tokens = self.input_tokens.saturating_add(other.input_tokens);
        self.output_tokens = self.output_tokens.saturating_add(other.output_tokens);
    }
}

/// A whole answer; the `result` of a model step.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ModelAnswer {
    /// The text; may be empty when it only calls tools.
    pub text: String,
    /// The tools it wants called, with unique ids.
    #[serde(default)]
    pub tool_calls: Vec<ToolCall>,
    /// Tokens, as told by the provider, else counted by us.
    pub usage: Usage,
    /// The model that answered.
    pub model: String,
    /// Why it stopped, in OpenAI's words (`stop`, `length`, `tool_calls`, …).
    pub finish_reason: String,
}

/// What a streaming call yields: any number of pieces, then one answer.
#[derive(Debug, Clone, PartialEq)]
pub enum ModelEvent {
    /// A piece of the answer's text.
    Delta(String),
    /// Forget the pieces so far: the call is made anew (retry or fallback model).
    Reset,
    /// The end.
    Answer(ModelAnswer),
}

/// Counts tokens; the one measure of every budget.
pub trait TokenCounter: Send + Sync + std::fmt::Debug {
    /// Returns how many tokens `text` takes.
    fn count(&self, text: &str) -> usize;
}
