//! What a tool is: a description and an asynchronous function from arguments to an output.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use async_trait::async_trait;
use serde_json::Value;
use soma_contract::{
    EffectId, EventId, SessionId, TenantId, TurnId, memory::MemoryWrite, tool::ToolSpec,
};

/// Something that a model can call.
///
/// A run may be dropped at any await (time-out, cancel, drain) and, unless the tool is `once`,
/// begun again with the same [`CallContext::effect_id`].
#[async_trait]
pub trait Tool: Send + Sync + fmt::Debug {
    /// Returns the description; the same at every call.
    fn spec(&self) -> ToolSpec;

    /// Runs the tool. `arguments` match the schema of [`Tool::spec`].
    ///
    /// # Errors
    ///
    /// See [`ToolError`].
    async fn run(&self, arguments: Value, call: CallContext) -> Result<ToolOutput, ToolError>;
}

/// Who calls, and under which name.
#[derive(Debug, Clone)]
pub struct CallContext {
    /// Equal for every repetition of this call: the idempotency key.
    pub effect_id: EffectId,
    /// The tenant whose data may be touched; never taken from the arguments.
    pub tenant: TenantId,
    /// The session of the turn.
    pub session_id: SessionId,
    /// The turn that asked.
    pub turn_id: TurnId,
    /// Who sent the message that the turn answers.
    pub subject: String,
    /// The persona that acts, if any.
    pub persona_id: Option<String>,
    /// Tells work that cannot be dropped (a thread) that nobody waits for it any more.
    pub cancel: Cancel,
}

impl CallContext {
    /// Returns the id of the `tool.result` event that will tell of this call.
    pub fn result_event(&self) -> EventId {
        EventId::of_step(self.effect_id, "result")
    }
}

/// Whether anybody still waits for a run.
#[derive(Debug, Clone, Default)]
pub struct Cancel(Arc<AtomicBool>);

impl Cancel {
    /// Returns whether the run was given up.
    pub fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// Returns a guard that gives the run up when it is dropped.
    pub fn on_drop(&self) -> CancelOnDrop {
        CancelOnDrop(self.clone())
    }
}

/// Gives a run up when dropped.
#[derive(Debug)]
pub struct CancelOnDrop(Cancel);

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.0.0.store(true, Ordering::Relaxed);
    }
}

/// What a run brings.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct ToolOutput {
    /// What the model reads.
    pub value: Value,
    /// Memory writes, stored in the transaction that settles the call; none if it fails.
    pub memory: Vec<MemoryWrite>,
}

impl From<Value> for ToolOutput {
    fn from(value: Value) -> Self {
        Self { value, memory: Vec::new() }
    }
}

/// Why a run brings nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ToolError {
    /// It could not do this; the text goes to the model, which can act on it.
    #[error("{0}")]
    Failed(String),
    /// It may not do this; the text goes to the model.
    #[error("{0}")]
    Blocked(String),
    /// Something of ours (store, policy engine) does not answer: the call is put back and tried
    /// again, unless the tool is `once`.
    #[error("unavailable: {0}")]
    Unavailable(String),
}

impl ToolError {
    /// Wraps a reason for the model.
    pub fn failed(reason: impl fmt::Display) -> Self {
        Self::Failed(reason.to_string())
    }
}

/// Parses validated arguments into the struct of a tool.
///
/// # Errors
///
/// `Failed` where schema and struct disagree, which is a bug of the tool.
pub fn arguments_as<T: serde::de::DeserializeOwned>(arguments: Value) -> Result<T, ToolError> {
    serde_json::from_value(arguments)
        .map_err(|error| ToolError::Failed(format!("bad arguments: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dropping_the_guard_gives_the_run_up() {
        let cancel = Cancel::default();
        let guard = cancel.on_drop();
        assert!(!cancel.is_cancelled());
        drop(guard);
        assert!(cancel.is_cancelled());
    }
}
