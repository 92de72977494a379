//! What is accepted, and how acceptance can fail.

use serde::{Deserialize, Serialize};

use crate::{
    event::Event,
    ids::{EventId, SessionId, TenantId, TurnId},
    kind::{Classified, Kind},
    turn::TurnKind,
};

/// A client's promise that repeated requests mean one.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Idempotency {
    /// The route's template, so that one key may serve several routes.
    pub route: String,
    /// The `Idempotency-Key` header.
    pub key: String,
    /// SHA-256 of the raw body, as hexadecimal digits.
    pub body_hash: String,
}

/// A message, validated whole: nothing that a worker relies on is checked later.
#[derive(Debug, Clone, PartialEq)]
pub struct NewMessage {
    /// Whose it is.
    pub tenant: TenantId,
    /// Who within the tenant.
    pub subject: String,
    /// What it asks for.
    pub kind: TurnKind,
    /// The user's event; its id is drawn before the first try, `n` and `seq` are unset.
    pub event: Event,
    /// The client's key, if it sent one.
    pub idempotency: Option<Idempotency>,
}

/// A message that is durable.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Accepted {
    /// The session.
    pub session_id: SessionId,
    /// The user's event: the stored one where the message had been accepted before.
    pub event_id: EventId,
    /// The turn that answers it.
    pub turn_id: TurnId,
    /// Its number in the session.
    pub n: u64,
    /// Its place in the session's log.
    pub seq: u64,
    /// Whether an earlier request had already stored it.
    #[serde(skip)]
    pub replayed: bool,
}

/// Why a message was not accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AcceptError {
    /// The session was deleted; its id takes no message ever again.
    #[error("session `{0}` was deleted")]
    SessionDeleted(SessionId),
    /// The session belongs to another tenant; told to the caller as if it did not exist.
    #[error("no session `{0}`")]
    ForeignSession(SessionId),
    /// The key was used with another body.
    #[error("idempotency key `{0}` was used with another body")]
    KeyReused(String),
    /// The event's id is taken by another session or tenant.
    #[error("event id `{0}` is taken")]
    EventIdTaken(EventId),
    /// Too many messages wait to be answered.
    #[error("{queued} messages wait already (at most {limit})")]
    BacklogFull {
        /// Whether the tenant's own limit is reached, not the whole system's.
        of_tenant: bool,
        /// How many wait.
        queued: u64,
        /// How many may.
        limit: u64,
    },
    /// Nothing was stored; the same call may succeed later.
    #[error("the store is unavailable: {0}")]
    Unavailable(String),
    /// A commit was sent and not answered; a repetition with the same event id is safe.
    #[error("the outcome of the commit is unknown: {0}")]
    OutcomeUnknown(String),
    /// The store refused the data itself.
    #[error("the store refused the message: {0}")]
    Refused(String),
}

impl Classified for AcceptError {
    fn kind(&self) -> Kind {
        match self {
            Self::SessionDeleted(_)
            | Self::ForeignSession(_)
            | Self::KeyReused(_)
            | Self::EventIdTaken(_) => Kind::Caller,
            Self::BacklogFull { .. } | Self::Unavailable(_) | Self::OutcomeUnknown(_) => {
                Kind::Retry
            }
            Self::Refused(_) => Kind::Bug,
        }
    }
}
