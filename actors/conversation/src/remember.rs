//! What a turn leaves in the memory: the message, and the answer if there is one.

use chrono::{DateTime, Utc};
use serde_json::Map;
use soma_contract::{
    EffectId, Event, EventId, Role,
    memory::{Memory, MemoryOp, MemoryWrite},
    turn::Turn,
};

/// The kind of these memories, as before.
pub const KIND: &str = "conversation_event";

/// Returns the memory writes of an answered turn. Their ids follow from the events, so that a
/// repetition is a no-op.
pub fn writes(turn: &Turn, said: &Event, answer: &Event, now: DateTime<Utc>) -> Vec<MemoryWrite> {
    [said, answer]
        .into_iter()
        .filter(|event| !event.message.trim().is_empty())
        .map(|event| write(turn, event, now))
        .collect()
}

fn write(turn: &Turn, event: &Event, now: DateTime<Utc>) -> MemoryWrite {
    let mut metadata = Map::new();
    metadata.insert("turn_id".to_owned(), turn.turn_id.to_string().into());
    metadata.insert("n".to_owned(), turn.n.into());
    MemoryWrite {
        op: MemoryOp::Put,
        memory: Memory {
            memory_id: EventId::of_step(EffectId(event.event_id.0), "memory").0,
            tenant: turn.tenant.clone(),
            session_id: Some(turn.session_id),
            persona_id: event.persona_id.clone(),
            role: if event.role == Role::User { "user" } else { "assistant" }.to_owned(),
            kind: KIND.to_owned(),
            content: event.message.clone(),
            metadata,
            event_id: event.event_id,
            version: 0,
            written_at: now,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{event, turn};

    #[test]
    fn both_sides_are_remembered_once_each() {
        let (said, answer) = (event(3, Role::User, "hi"), event(3, Role::Assistant, "hello"));
        let first = writes(&turn(), &said, &answer, DateTime::UNIX_EPOCH);
        let again = writes(&turn(), &said, &answer, DateTime::UNIX_EPOCH);
        assert_eq!(first, again);
        assert_eq!(first.len(), 2);
        assert_ne!(first[0].memory.memory_id, first[1].memory.memory_id);
        assert_eq!(first[1].memory.role, "assistant");
    }

    #[test]
    fn silence_is_not_remembered() {
        let (said, answer) = (event(3, Role::User, "hi"), event(3, Role::Assistant, " "));
        assert_eq!(writes(&turn(), &said, &answer, DateTime::UNIX_EPOCH).len(), 1);
    }
}
