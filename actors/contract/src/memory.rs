//! Memories: what is known, who said it and which event made it.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use uuid::Uuid;

use crate::ids::{EventId, SessionId, TenantId};

/// A memory as it is stored, recalled and exported.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Memory {
    /// Identifies the memory over its versions.
    pub memory_id: Uuid,
    /// Its tenant.
    pub tenant: TenantId,
    /// The session it came from, if any.
    pub session_id: Option<SessionId>,
    /// The persona it was told to, if any.
    pub persona_id: Option<String>,
    /// Who said it: `user`, `assistant`, `tool`.
    pub role: String,
    /// What kind of thing it is: `fact`, `document`, or a client's own word.
    pub kind: String,
    /// The text that is searched.
    pub content: String,
    /// Details, provenance among them.
    #[serde(default)]
    pub metadata: Map<String, Value>,
    /// The event that made it; a repeated write of the same event is a no-op.
    pub event_id: EventId,
    /// From a counter of this memory, from 1; the higher one wins.
    pub version: u64,
    /// When this version was written.
    pub written_at: DateTime<Utc>,
}

/// What a write does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MemoryOp {
    /// Adds or replaces.
    Put,
    /// Removes, leaving a tombstone.
    Delete,
}

/// A write on its way: a row of `memory_write_outbox`. The store draws `memory.version`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MemoryWrite {
    /// What it does.
    pub op: MemoryOp,
    /// The memory; for a delete only ids, tenant and event count.
    pub memory: Memory,
}

/// What to look for.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct MemoryQuery {
    /// Words; empty lists the newest first.
    pub text: String,
    /// Only memories of this session.
    pub session_id: Option<SessionId>,
    /// Only memories of this persona.
    pub persona_id: Option<String>,
    /// Only memories of this kind.
    pub kind: Option<String>,
    /// The most results, best first.
    pub limit: usize,
}

/// A memory that matches, with how well.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Recalled {
    /// The memory.
    pub memory: Memory,
    /// Higher is better; comparable only within one answer.
    pub score: f64,
    /// Whether the write is still on its way to the memory service.
    pub pending: bool,
}
