//! Personas: how an agent speaks and what it may use.

use serde::{Deserialize, Serialize};

/// A persona of a tenant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Persona {
    /// Unique in its tenant; `default` is what sessions without one use.
    pub persona_id: String,
    /// The system prompt.
    pub prompt: String,
    /// The model's name; `None` is the configured one.
    #[serde(default)]
    pub model: Option<String>,
    /// The tools that it may use; `None` is all.
    #[serde(default)]
    pub tools: Option<Vec<String>>,
}

impl Persona {
    /// The id of the persona that sessions without one use.
    pub const DEFAULT: &'static str = "default";

    /// Returns the persona that is used where a tenant defines none.
    pub fn built_in() -> Self {
        Self {
            persona_id: Self::DEFAULT.to_owned(),
            prompt: "You are SomaAgent, a helpful assistant. Answer briefly and correctly. \
                     Use the tools when they help, and say so when you do not know."
                .to_owned(),
            model: None,
            tools: None,
        }
    }

    /// Returns whether the persona may use the tool.
    pub fn may_use(&self, tool: &str) -> bool {
        self.tools.as_ref().is_none_or(|tools| tools.iter().any(|name| name == tool))
    }
}
