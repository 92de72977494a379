//! What a record of `conversation.inbound` means: a pure decision.

use serde::Deserialize;
use serde_json::{Map, Value};
use soma_contract::{
    Event, EventId, EventType, Role, SessionId, TenantId,
    event::TraceContext,
    message::{NewMessage, RESERVED_METADATA},
    port::{
        bus::{Position, Record},
        store::NewDeadLetter,
    },
    turn::TurnKind,
};
use uuid::Uuid;

/// Headers that hold the trace.
const TRACE: [&str; 3] = ["traceparent", "tracestate", "request_id"];

/// What is to be done about a record.
#[derive(Debug, Clone, PartialEq)]
pub enum Meaning {
    /// One of ours: the session may have a claimable turn.
    Look {
        /// The session.
        session_id: SessionId,
        /// How to find out that the turn exists; `None` where the record was written with it.
        check: Option<(TenantId, EventId)>,
    },
    /// A foreign message that is to be accepted.
    Accept(Box<NewMessage>),
    /// It can never become a turn.
    Bury {
        /// Why.
        reason: String,
    },
}

/// Decides what a record means.
pub fn meaning(record: &Record, max_bytes: usize) -> Meaning {
    let meaning =
        if record.headers.contains_key("n") { ours(record) } else { foreign(record, max_bytes) };
    meaning.unwrap_or_else(|reason| Meaning::Bury { reason })
}

/// Ours: whatever it carries, it only says which session to look at.
fn ours(record: &Record) -> Result<Meaning, String> {
    let session_id = record
        .session_id
        .or_else(|| header(record, "session_id")?.parse().ok())
        .ok_or("it has a number but names no session")?;
    let check = match record.position {
        Position::Row(_) => None,
        Position::Offset { .. } => {
            let event_id = record.event_id().ok_or("it has a number but no event id")?;
            Some((tenant(record, None), EventId(event_id)))
        }
    };
    Ok(Meaning::Look { session_id, check })
}

/// The predecessor's inbound event, as foreign writers send it.
#[derive(Debug, Deserialize)]
struct Foreign {
    event_id: Uuid,
    session_id: Uuid,
    #[serde(default)]
    persona_id: Option<String>,
    #[serde(default)]
    role: Option<String>,
    #[serde(default, rename = "type")]
    event_type: Option<String>,
    message: String,
    #[serde(default)]
    attachments: Vec<String>,
    #[serde(default)]
    metadata: Map<String, Value>,
    #[serde(default)]
    trace_context: Map<String, Value>,
}

fn foreign(record: &Record, max_bytes: usize) -> Result<Meaning, String> {
    if record.payload.len() > max_bytes {
        let size = record.payload.len();
        return Err(format!("it has {size} bytes, of {max_bytes} that it may have"));
    }
    let foreign: Foreign = serde_json::from_slice(&record.payload)
        .map_err(|error| format!("not an event: {error}"))?;
    if foreign.role.as_deref().is_some_and(|role| role != "user") {
        return Err("only the role `user` may speak".to_owned());
    }
    if foreign.event_type.as_deref().is_some_and(|kind| kind != "user") {
        return Err("only the type `user` starts a turn".to_owned());
    }
    if foreign.message.trim().is_empty() && foreign.attachments.is_empty() {
        return Err("it says nothing".to_owned());
    }
    Ok(Meaning::Accept(Box::new(message_of(record, foreign))))
}

fn message_of(record: &Record, foreign: Foreign) -> NewMessage {
    let Foreign { event_id, session_id, persona_id, message, attachments, mut metadata, .. } =
        foreign;
    let tenant = tenant(record, metadata.get("tenant").and_then(Value::as_str));
    let subject = metadata.get("subject").and_then(Value::as_str).unwrap_or("bus").to_owned();
    for name in RESERVED_METADATA {
        metadata.remove(name);
    }
    metadata.insert("tenant".to_owned(), tenant.0.as_str().into());
    metadata.insert("subject".to_owned(), subject.as_str().into());
    let mut event =
        Event::new(EventId(event_id), SessionId(session_id), Role::User, EventType::User);
    event.persona_id = persona_id.filter(|persona| !persona.is_empty());
    event.message = message;
    event.attachments = attachments;
    event.metadata = metadata;
    event.trace_context = trace(record, &foreign.trace_context);
    NewMessage { tenant, subject, kind: TurnKind::Message, event, idempotency: None }
}

/// The header first: the one who wrote it to the bus is trusted with it; then the body.
fn tenant(record: &Record, said: Option<&str>) -> TenantId {
    header(record, "tenant_id")
        .or_else(|| said.filter(|tenant| !tenant.is_empty()))
        .map_or_else(TenantId::public, |tenant| TenantId(tenant.to_owned()))
}

fn trace(record: &Record, said: &Map<String, Value>) -> TraceContext {
    let known = TRACE.into_iter().filter_map(|name| {
        let value = said.get(name).and_then(Value::as_str).or_else(|| header(record, name))?;
        Some((name.to_owned(), value.to_owned()))
    });
    TraceContext(known.collect())
}

fn header<'a>(record: &'a Record, name: &str) -> Option<&'a str> {
    record.headers.get(name).map(String::as_str).filter(|value| !value.is_empty())
}

/// Composes the dead letter of a record that cannot become a turn.
pub fn dead_letter(record: &Record, reason: String) -> NewDeadLetter {
    let event = match std::str::from_utf8(&record.payload) {
        Ok(text) => serde_json::from_str(text).unwrap_or_else(|_| Value::from(text)),
        Err(_) => serde_json::json!({ "base64": base64(&record.payload) }),
    };
    NewDeadLetter {
        tenant: header(record, "tenant_id").map(|tenant| TenantId(tenant.to_owned())),
        topic: record.topic.as_str().to_owned(),
        turn_id: None,
        event_id: Some(EventId(letter_id(record, &event))),
        event,
        error: reason,
        attempts: 1,
        trace: trace(record, &Map::new()),
    }
}

/// A letter is kept once per event id: the record's own, else one that follows from its place.
fn letter_id(record: &Record, event: &Value) -> Uuid {
    let said = || event.get("event_id")?.as_str()?.parse().ok();
    record.event_id().or_else(said).unwrap_or_else(|| {
        let place = format!("{}/{:?}", record.topic.as_str(), record.position);
        Uuid::new_v5(&Uuid::NAMESPACE_OID, place.as_bytes())
    })
}

fn base64(bytes: &[u8]) -> String {
    use base64::{Engine as _, engine::general_purpose::STANDARD};
    STANDARD.encode(bytes)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use bytes::Bytes;
    use proptest::prelude::*;
    use serde_json::json;
    use soma_contract::topic::Topic;

    use super::*;

    const SESSION: &str = "00000000-0000-0000-0000-00000000000a";
    const EVENT: &str = "00000000-0000-0000-0000-00000000000e";

    fn record(headers: &[(&str, &str)], payload: impl Into<Bytes>) -> Record {
        Record {
            topic: Topic::ConversationInbound,
            position: Position::Offset { partition: 1, offset: 7 },
            session_id: None,
            headers: headers
                .iter()
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
                .collect::<BTreeMap<_, _>>(),
            payload: payload.into(),
        }
    }

    fn body() -> Value {
        json!({
            "event_id": EVENT, "session_id": SESSION, "persona_id": null, "message": "hi",
            "attachments": [], "role": "user",
            "metadata": {"tenant": "acme", "subject": "ann", "requeue_override": true,
                         "analysis": {}, "colour": "red"},
            "trace_context": {"traceparent": "00-a-b-01", "evil": "x"},
        })
    }

    fn meaning_of(record: &Record) -> Meaning {
        meaning(record, 10_000)
    }

    fn buried(meaning: Meaning) -> String {
        match meaning {
            Meaning::Bury { reason } => reason,
            other => panic!("not buried: {other:?}"),
        }
    }

    #[test]
    fn ours_says_which_session_to_look_at_and_foreign_brokers_are_checked() {
        let headers =
            [("n", "3"), ("session_id", SESSION), ("event_id", EVENT), ("tenant_id", "acme")];
        let mut ours = record(&headers, "not even JSON");
        let session_id = SESSION.parse().unwrap();
        let check = Some((TenantId("acme".to_owned()), EVENT.parse().unwrap()));
        assert_eq!(meaning_of(&ours), Meaning::Look { session_id, check });
        ours.position = Position::Row(4);
        assert_eq!(meaning_of(&ours), Meaning::Look { session_id, check: None });
    }

    #[test]
    fn a_number_without_a_session_is_buried() {
        let reason = buried(meaning_of(&record(&[("n", "3")], "{}")));
        assert_eq!(reason, "it has a number but names no session");
    }

    #[test]
    fn a_foreign_message_is_accepted_without_what_only_the_platform_sets() {
        let Meaning::Accept(message) = meaning_of(&record(&[], body().to_string())) else {
            panic!("not accepted");
        };
        assert_eq!(message.tenant, TenantId("acme".to_owned()));
        assert_eq!(message.subject, "ann");
        assert_eq!(message.event.event_id, EVENT.parse().unwrap());
        let expected = json!({"colour": "red", "tenant": "acme", "subject": "ann"});
        assert_eq!(Value::from(message.event.metadata), expected);
        assert_eq!(json!(message.event.trace_context), json!({"traceparent": "00-a-b-01"}));
        assert_eq!(message.event.message, "hi");
    }

    #[test]
    fn the_tenant_in_the_header_wins() {
        let record = record(&[("tenant_id", "real"), ("n_", "")], body().to_string());
        let Meaning::Accept(message) = meaning_of(&record) else { panic!("not accepted") };
        assert_eq!(message.tenant, TenantId("real".to_owned()));
    }

    #[test]
    fn what_cannot_become_a_turn_is_buried_with_the_reason() {
        for (change, expected) in [
            (json!({"role": "assistant"}), "role `user`"),
            (json!({"type": "assistant.final"}), "type `user`"),
            (json!({"message": " "}), "says nothing"),
            (json!({"message": 7}), "not an event"),
            (json!({"session_id": "nope"}), "not an event"),
        ] {
            let mut body = body();
            for (name, value) in change.as_object().unwrap() {
                body[name] = value.clone();
            }
            let reason = buried(meaning_of(&record(&[], body.to_string())));
            assert!(reason.contains(expected), "{reason}");
        }
        let reason = buried(meaning(&record(&[], body().to_string()), 10));
        assert!(reason.contains("of 10"), "{reason}");
    }

    #[test]
    fn dead_letters_keep_the_bytes_and_one_id_per_record() {
        let letter = dead_letter(&record(&[], vec![0xFF, 0x00]), "not text".to_owned());
        assert_eq!(letter.event, json!({"base64": "/wA="}));
        let again = dead_letter(&record(&[], vec![0xFF, 0x00]), "not text".to_owned());
        assert_eq!(letter.event_id, again.event_id);
        let letter = dead_letter(&record(&[], body().to_string()), "why".to_owned());
        assert_eq!(letter.event["message"], "hi");
        assert_eq!(letter.event_id, Some(EVENT.parse().unwrap()));
    }

    proptest! {
        #[test]
        fn any_bytes_mean_something(
            payload in prop::collection::vec(any::<u8>(), 0..64),
            numbered in any::<bool>(),
        ) {
            let headers: &[(&str, &str)] = if numbered { &[("n", "x")] } else { &[] };
            let record = record(headers, payload);
            let reason = buried(meaning_of(&record));
            prop_assert!(!reason.is_empty());
            dead_letter(&record, reason);
        }
    }
}
