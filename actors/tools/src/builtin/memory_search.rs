//! `memory_search`: finds what was remembered, writes still on their way included.

use std::{collections::HashSet, sync::Arc};

use async_trait::async_trait;
use serde::Deserialize;
use serde_json::{Value, json};
use soma_contract::{
    memory::{MemoryQuery, Recalled},
    port::{memory::MemoryService, store::Store},
    tool::{Effect, ToolSpec},
};

use crate::tool::{CallContext, Tool, ToolError, ToolOutput, arguments_as};

/// Results when the model does not say how many.
const DEFAULT_LIMIT: usize = 5;

/// Answers `{memories}`, best first.
#[derive(Debug, Clone)]
pub struct MemorySearch {
    memory: Arc<dyn MemoryService>,
    store: Arc<dyn Store>,
}

impl MemorySearch {
    /// Asks the memory service, and the store for what it has not delivered yet.
    pub fn new(memory: Arc<dyn MemoryService>, store: Arc<dyn Store>) -> Self {
        Self { memory, store }
    }
}

#[derive(Deserialize)]
struct Arguments {
    query: String,
    kind: Option<String>,
    limit: Option<usize>,
}

#[async_trait]
impl Tool for MemorySearch {
    fn spec(&self) -> ToolSpec {
        super::small(
            "memory_search",
            "Searches what was remembered in this and earlier conversations and in ingested \
             documents.",
            Effect::Pure,
            json!({
                "type": "object",
                "properties": {
                    "query": {
                        "type": "string", "minLength": 1, "maxLength": 1000,
                        "description": "Words to look for."
                    },
                    "kind": {
                        "type": "string", "maxLength": 32,
                        "description": "Only this kind, such as `fact` or `document`."
                    },
                    "limit": {
                        "type": "integer", "minimum": 1, "maximum": 20,
                        "description": "The most results; 5 if absent."
                    }
                },
                "required": ["query"],
                "additionalProperties": false
            }),
        )
    }

    async fn run(&self, arguments: Value, call: CallContext) -> Result<ToolOutput, ToolError> {
        let arguments: Arguments = arguments_as(arguments)?;
        let query = MemoryQuery {
            text: arguments.query,
            kind: arguments.kind,
            limit: arguments.limit.unwrap_or(DEFAULT_LIMIT),
            ..MemoryQuery::default()
        };
        let undelivered = async {
            if self.memory.recalls_undelivered() {
                return Ok(Vec::new());
            }
            self.store.search_pending(&call.tenant, &query).await
        };
        let (pending, kept) = futures::join!(undelivered, self.memory.recall(&call.tenant, &query));
        let pending = pending.map_err(|error| ToolError::Unavailable(error.to_string()))?;
        let kept = kept.map_err(ToolError::failed)?;
        let memories: Vec<Value> =
            merged(pending, kept, query.limit).iter().map(described).collect();
        Ok(json!({ "memories": memories }).into())
    }
}

/// Puts undelivered writes first, since they are the newest, and each memory once.
fn merged(pending: Vec<Recalled>, kept: Vec<Recalled>, limit: usize) -> Vec<Recalled> {
    let mut seen = HashSet::new();
    pending
        .into_iter()
        .chain(kept)
        .filter(|recalled| seen.insert(recalled.memory.memory_id))
        .take(limit)
        .collect()
}

fn described(recalled: &Recalled) -> Value {
    let memory = &recalled.memory;
    json!({
        "memory_id": memory.memory_id,
        "kind": memory.kind,
        "content": memory.content,
        "source": memory.metadata.get("filename"),
        "written_at": memory.written_at,
    })
}
