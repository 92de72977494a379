//! Policy: who may do what. No answer means no.

use std::fmt;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    ids::TenantId,
    kind::{Classified, Kind},
};

/// What somebody wants to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Action {
    /// Send a message; decided on tenant, subject, persona and session only.
    #[serde(rename = "conversation.send")]
    ConversationSend,
    /// Run a tool.
    #[serde(rename = "tool.execute")]
    ToolExecute,
    /// Write or delete a memory.
    #[serde(rename = "memory.write")]
    MemoryWrite,
    /// Use an admin route; the resource names it.
    #[serde(rename = "admin")]
    Admin,
}

/// The `input` document, as PREDECESSOR's policies know it; never with credentials.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PolicyInput {
    /// Whose data.
    pub tenant: TenantId,
    /// Who asks.
    pub subject: String,
    /// The persona that acts, if any.
    pub persona_id: Option<String>,
    /// What.
    pub action: Action,
    /// On what: `message`, a tool's name, `memory`, an admin route's template.
    pub resource: String,
    /// Details: `session_id`, `args`, `admin` and the like.
    pub context: Value,
}

/// What the policy says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// Go on.
    Allow,
    /// No, and why, in words for the caller.
    Deny(String),
}

/// The policy engine does not answer; treated as no, and told as such.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the policy engine is unavailable: {0}")]
pub struct PolicyError(
    /// What the engine said.
    pub String,
);

impl Classified for PolicyError {
    fn kind(&self) -> Kind {
        Kind::Retry
    }
}

/// Decides.
#[async_trait]
pub trait Policy: Send + Sync + fmt::Debug {
    /// Decides on one action. Decisions may be up to 2 s old.
    ///
    /// # Errors
    ///
    /// The engine does not answer.
    async fn decide(&self, input: &PolicyInput) -> Result<Decision, PolicyError>;

    /// Asks for news, for the health report.
    ///
    /// # Errors
    ///
    /// The engine does not answer.
    async fn ping(&self) -> Result<(), PolicyError>;
}
