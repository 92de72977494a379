//! What is accepted, and how acceptance can fail.

use serde::{Deserialize, Serialize};

use crate::{
    event::Event,
    ids::{EventId, SessionId, TenantId, TurnId},
    kind::{Classified, Kind},
    model::ChatMessage,
    turn::TurnKind,
};

/// The metadata of a user's event in which a client that keeps the conversation itself (OpenAI's
/// protocol) hands over what was said before; set by the edge alone, read by [`prior_messages`].
pub const PRIOR_MESSAGES: &str = "prior_messages";

/// Names in the metadata of a user's event that only the platform sets.
pub const RESERVED_METADATA: [&str; 7] =
    ["tenant", "subject", "analysis", "requeue_override", "tool_name", "args", PRIOR_MESSAGES];

/// Returns what was said before the first message of a session, oldest first, where the client
/// keeps the conversation itself. It stands before the session's own history in a prompt; texts of
/// the role `system` add to the persona's.
pub fn prior_messages(event: &Event) -> Vec<ChatMessage> {
    let Some(prior) = event.metadata.get(PRIOR_MESSAGES) else {
        return Vec::new();
    };
    Vec::deserialize(prior).unwrap_or_default()
}

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

#[cfg(test)]
mod tests {
    use serde_json::json;
    use uuid::Uuid;

    use super::*;
    use crate::event::{EventType, Role};

    #[test]
    fn prior_messages_are_read_back() {
        let id = Uuid::nil();
        let event = Event::new(EventId(id), SessionId(id), Role::User, EventType::User);
        assert!(prior_messages(&event).is_empty());
        let said = vec![
            ChatMessage::System { content: "be brief".to_owned() },
            ChatMessage::User { content: "hello".to_owned() },
        ];
        let event = event.with(PRIOR_MESSAGES, json!(said));
        assert_eq!(prior_messages(&event), said);
        assert!(prior_messages(&event.with(PRIOR_MESSAGES, 7)).is_empty());
    }
}
