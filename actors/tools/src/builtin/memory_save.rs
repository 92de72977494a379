//! `memory_save`: keeps a fact beyond the session.

use std::sync::Arc;

use async_trait::async_trait;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use soma_contract::{
    Clock, EffectId,
    memory::{Memory, MemoryOp, MemoryWrite},
    port::policy::{Action, Decision, Policy, PolicyInput},
    tool::{Effect, ToolSpec},
};
use uuid::Uuid;

use crate::tool::{CallContext, Tool, ToolError, ToolOutput, arguments_as};

/// Answers `{memory_id}`; the write goes with the transaction that settles the call, and its id is
/// named after the call, so that a repeated run writes one memory.
#[derive(Debug, Clone)]
pub struct MemorySave {
    policy: Arc<dyn Policy>,
    clock: Arc<dyn Clock>,
}

impl MemorySave {
    /// Writes what this policy allows.
    pub fn new(policy: Arc<dyn Policy>, clock: Arc<dyn Clock>) -> Self {
        Self { policy, clock }
    }
}

#[derive(Deserialize)]
struct Arguments {
    content: String,
    #[serde(default = "fact")]
    kind: String,
}

fn fact() -> String {
    "fact".to_owned()
}

#[async_trait]
impl Tool for MemorySave {
    fn spec(&self) -> ToolSpec {
        super::small(
            "memory_save",
            "Remembers a fact for later conversations. Write one self-contained sentence or short \
             paragraph.",
            Effect::Idempotent,
            json!({
                "type": "object",
                "properties": {
                    "content": {
                        "type": "string", "minLength": 1, "maxLength": 8000, "pattern": "\\S",
                        "description": "What to remember."
                    },
                    "kind": {
                        "type": "string", "pattern": "^[a-z_]{1,32}$",
                        "description": "A word that groups memories; `fact` if absent."
                    }
                },
                "required": ["content"],
                "additionalProperties": false
            }),
        )
    }

    async fn run(&self, arguments: Value, call: CallContext) -> Result<ToolOutput, ToolError> {
        let arguments: Arguments = arguments_as(arguments)?;
        may_write(&*self.policy, &call, &arguments.kind).await?;
        let memory_id = memory_id(call.effect_id);
        let memory = Memory {
            memory_id,
            event_id: call.result_event(),
            session_id: Some(call.session_id),
            persona_id: call.persona_id,
            tenant: call.tenant,
            role: "assistant".to_owned(),
            kind: arguments.kind,
            content: arguments.content.replace('\0', "\u{FFFD}"),
            metadata: Map::from_iter([
                ("tool".to_owned(), json!("memory_save")),
                ("effect_id".to_owned(), json!(call.effect_id)),
            ]),
            version: 0,
            written_at: self.clock.now(),
        };
        Ok(ToolOutput {
            value: json!({ "memory_id": memory_id }),
            memory: vec![MemoryWrite { op: MemoryOp::Put, memory }],
        })
    }
}

/// Names the memory that a call writes.
fn memory_id(effect_id: EffectId) -> Uuid {
    Uuid::new_v5(&effect_id.0, b"memory")
}

/// Asks the policy whether the caller may write memories of this kind.
///
/// # Errors
///
/// `Blocked` if not, `Unavailable` if the engine does not answer.
pub async fn may_write(
    policy: &dyn Policy,
    call: &CallContext,
    kind: &str,
) -> Result<(), ToolError> {
    let input = PolicyInput {
        tenant: call.tenant.clone(),
        subject: call.subject.clone(),
        persona_id: call.persona_id.clone(),
        action: Action::MemoryWrite,
        resource: "memory".to_owned(),
        context: json!({ "session_id": call.session_id, "kind": kind }),
    };
    match policy.decide(&input).await {
        Ok(Decision::Allow) => Ok(()),
        Ok(Decision::Deny(reason)) => Err(ToolError::Blocked(reason)),
        Err(error) => Err(ToolError::Unavailable(error.to_string())),
    }
}
