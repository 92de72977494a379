//! The memory service: where memories go and are recalled from.

use std::fmt;

use async_trait::async_trait;

use crate::{
    ids::TenantId,
    kind::{Classified, Kind},
    memory::{MemoryQuery, MemoryWrite, Recalled},
};

/// What the service says of a write that it has taken.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Receipt {
    /// Where it is kept, in the service's words.
    pub coordinate: Option<String>,
    /// The service's id of the request.
    pub request_id: Option<String>,
    /// The service's id of the trace.
    pub trace_id: Option<String>,
}

/// Why the service did not take or give a memory.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MemoryError {
    /// Passing: deliver again later.
    #[error("the memory service is unavailable: {0}")]
    Unavailable(String),
    /// It will never take this write: a dead letter.
    #[error("the memory service refused the write: {0}")]
    Refused(String),
}

impl Classified for MemoryError {
    fn kind(&self) -> Kind {
        match self {
            Self::Unavailable(_) => Kind::Retry,
            Self::Refused(_) => Kind::OutOfHands,
        }
    }
}

/// Takes writes and recalls.
#[async_trait]
pub trait MemoryService: Send + Sync + fmt::Debug {
    /// Delivers one write. `key` is equal for every repetition of it and has no time in it.
    ///
    /// # Errors
    ///
    /// It was not taken, or nobody knows: deliver it again with the same key.
    async fn remember(&self, write: &MemoryWrite, key: &str) -> Result<Receipt, MemoryError>;

    /// Returns what matches, best first.
    ///
    /// # Errors
    ///
    /// The service does not answer.
    async fn recall(
        &self,
        tenant: &TenantId,
        query: &MemoryQuery,
    ) -> Result<Vec<Recalled>, MemoryError>;

    /// Returns whether [`Self::recall`] finds the store's undelivered writes by itself, so that
    /// nobody need add them.
    fn recalls_undelivered(&self) -> bool {
        false
    }

    /// Asks for news, for the health report.
    ///
    /// # Errors
    ///
    /// The service does not answer.
    async fn ping(&self) -> Result<(), MemoryError>;
}
