//! Reads `memory.wal`: our own shape, and the predecessor's.

use base64::{Engine, engine::general_purpose::STANDARD};
use chrono::{DateTime, Utc};
use serde_json::{Map, Value, json};
use soma_contract::{
    EventId, SessionId, TenantId,
    event::TraceContext,
    memory::{Memory, MemoryOp, MemoryWrite},
    port::{bus::Record, memory::Receipt, store::NewDeadLetter},
};
use uuid::Uuid;

/// What a record says.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct WalWrite {
    pub(crate) write: MemoryWrite,
    pub(crate) receipt: Receipt,
}

/// Why a record says nothing that could be applied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct WalFault(&'static str);

impl std::fmt::Display for WalFault {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "no memory write: {}", self.0)
    }
}

/// Reads a record. What has no version comes from a system that counts none: it gets version 0,
/// which is applied once, by its event.
pub(crate) fn decode(record: &Record) -> Result<WalWrite, WalFault> {
    let value: Value =
        serde_json::from_slice(&record.payload).map_err(|_syntax| WalFault("it is no JSON"))?;
    let outer = value.as_object().ok_or(WalFault("it is no object"))?;
    let op = match text(outer, "type") {
        Some("memory.write") => MemoryOp::Put,
        Some("memory.delete") => MemoryOp::Delete,
        _ => return Err(WalFault("its `type` is neither `memory.write` nor `memory.delete`")),
    };
    let inner = outer
        .get("payload")
        .and_then(Value::as_object)
        .ok_or(WalFault("it has no `payload` object"))?;
    let memory = match serde_json::from_value::<Memory>(Value::Object(inner.clone())) {
        Ok(memory) => memory,
        Err(_another_shape) => predecessors(record, outer, inner, op)?,
    };
    Ok(WalWrite { write: MemoryWrite { op, memory }, receipt: receipt(outer) })
}

/// Maps the predecessor's record: `{id, type, role?, content, attachments, session_id, persona_id,
/// metadata, idempotency_key, tool_name?, status?}` within `{role, session_id, persona_id, tenant,
/// timestamp}`.
fn predecessors(
    record: &Record,
    outer: &Map<String, Value>,
    inner: &Map<String, Value>,
    op: MemoryOp,
) -> Result<Memory, WalFault> {
    let tenant = tenant(record, outer, inner);
    let id = text(inner, "id").ok_or(WalFault("its `payload` has no `id`"))?;
    let content = match (text(inner, "content"), op) {
        (Some(content), _) => content,
        (None, MemoryOp::Delete) => "",
        (None, MemoryOp::Put) => return Err(WalFault("its `payload` has no `content`")),
    };
    let memory_id = id.parse().unwrap_or_else(|_no_uuid| named(&tenant, id));
    let from_either = |name: &str| text(inner, name).or_else(|| text(outer, name));
    Ok(Memory {
        memory_id,
        session_id: from_either("session_id").and_then(|id| id.parse().ok()).map(SessionId),
        persona_id: from_either("persona_id").map(str::to_owned),
        role: from_either("role").unwrap_or("user").to_owned(),
        kind: text(inner, "type").unwrap_or("fact").to_owned(),
        content: content.to_owned(),
        metadata: metadata(inner),
        event_id: EventId(record.event_id().unwrap_or(memory_id)),
        version: 0,
        written_at: outer.get("timestamp").and_then(time).unwrap_or_default(),
        tenant,
    })
}

fn tenant(record: &Record, outer: &Map<String, Value>, inner: &Map<String, Value>) -> TenantId {
    let metadata = || inner.get("metadata").and_then(Value::as_object);
    text(outer, "tenant")
        .or_else(|| metadata().and_then(|metadata| text(metadata, "tenant")))
        .or_else(|| record.headers.get("tenant_id").map(String::as_str))
        .filter(|tenant| !tenant.is_empty())
        .map_or_else(TenantId::public, |tenant| TenantId(tenant.to_owned()))
}

/// Keeps what has no field of its own.
fn metadata(inner: &Map<String, Value>) -> Map<String, Value> {
    let mut metadata =
        inner.get("metadata").and_then(Value::as_object).cloned().unwrap_or_default();
    for name in ["attachments", "idempotency_key", "tool_name", "status"] {
        let known = inner.get(name).filter(|value| !is_empty(value));
        if let Some(value) = known {
            metadata.insert(name.to_owned(), value.clone());
        }
    }
    metadata
}

fn is_empty(value: &Value) -> bool {
    value.is_null() || value.as_array().is_some_and(Vec::is_empty)
}

fn receipt(outer: &Map<String, Value>) -> Receipt {
    let result = outer.get("result").and_then(Value::as_object);
    let field = |name: &str| result.and_then(|result| text(result, name)).map(str::to_owned);
    Receipt {
        coordinate: field("coord").or_else(|| field("coordinate")),
        request_id: field("request_id"),
        trace_id: field("trace_id"),
    }
}

/// Reads seconds since 1970, whole or not.
fn time(value: &Value) -> Option<DateTime<Utc>> {
    #[expect(clippy::cast_possible_truncation, reason = "a float saturates, and is then no time")]
    let millis = (value.as_f64()? * 1_000.0) as i64;
    DateTime::from_timestamp_millis(millis)
}

fn text<'map>(map: &'map Map<String, Value>, name: &str) -> Option<&'map str> {
    map.get(name).and_then(Value::as_str)
}

/// Names what has an id that is no UUID.
fn named(tenant: &TenantId, id: &str) -> Uuid {
    Uuid::new_v5(&Uuid::NAMESPACE_OID, format!("memory/{tenant}/{id}").as_bytes())
}

/// Composes the dead letter of a record. It is kept once: by its event, else by its place.
pub(crate) fn dead_letter(record: &Record, reason: &str) -> NewDeadLetter {
    let event = std::str::from_utf8(&record.payload)
        .map_or_else(|_binary| json!({ "base64": STANDARD.encode(&record.payload) }), Value::from);
    let place = || {
        let place = format!("{}/{:?}", record.topic.as_str(), record.position);
        Uuid::new_v5(&Uuid::NAMESPACE_OID, place.as_bytes())
    };
    let trace = ["traceparent", "tracestate", "request_id"]
        .into_iter()
        .filter_map(|name| record.headers.get(name).map(|value| (name.to_owned(), value.clone())));
    NewDeadLetter {
        tenant: record.headers.get("tenant_id").cloned().map(TenantId),
        topic: record.topic.as_str().to_owned(),
        turn_id: None,
        event_id: Some(EventId(record.event_id().unwrap_or_else(place))),
        event,
        error: reason.to_owned(),
        attempts: 1,
        trace: TraceContext(trace.collect()),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use soma_contract::{compose, port::bus::Position, testing::sample, topic::Topic};

    use super::*;

    pub(super) fn record(headers: &[(&str, &str)], payload: impl Into<bytes::Bytes>) -> Record {
        let headers = headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        Record {
            topic: Topic::MemoryWal,
            position: Position::Offset { partition: 0, offset: 7 },
            session_id: None,
            headers: headers.collect(),
            payload: payload.into(),
        }
    }

    const EVENT: &str = "00000000-0000-0000-0000-00000000000e";

    #[test]
    fn our_own_records_are_read_back_as_they_were_written() {
        for op in [MemoryOp::Put, MemoryOp::Delete] {
            let mut write = sample::put(Uuid::from_u128(1), EventId(Uuid::from_u128(2)), "tea");
            write.op = op;
            write.memory.version = 3;
            let receipt = Receipt { coordinate: Some("1,2".to_owned()), ..Receipt::default() };
            let sent = compose::wal_record(&write, &receipt);
            let read = decode(&record(&[], sent.payload)).unwrap();
            assert_eq!(read, WalWrite { write, receipt });
        }
    }

    #[test]
    fn the_predecessors_records_are_understood() {
        let payload = json!({
            "type": "memory.write", "role": "tool", "session_id": EVENT, "persona_id": "p",
            "tenant": "acme",
            "payload": {
                "id": EVENT, "type": "tool_result", "content": "42", "attachments": [],
                "session_id": EVENT, "persona_id": "p", "tool_name": "echo", "status": "success",
                "metadata": { "universe_id": "u" }, "idempotency_key": "k",
            },
            "result": { "coord": "1,2", "trace_id": null, "request_id": "r" },
            "timestamp": 1_700_000_000.25,
        });
        let read = decode(&record(&[], payload.to_string())).unwrap();
        let memory = read.write.memory;
        assert_eq!((memory.version, memory.kind.as_str()), (0, "tool_result"));
        assert_eq!((memory.role.as_str(), memory.content.as_str()), ("tool", "42"));
        assert_eq!(memory.tenant, TenantId("acme".to_owned()));
        assert_eq!(memory.memory_id.to_string(), EVENT);
        assert_eq!(memory.event_id.to_string(), EVENT);
        assert_eq!(memory.written_at.timestamp_millis(), 1_700_000_000_250);
        assert_eq!(
            Value::Object(memory.metadata),
            json!({
                "universe_id": "u", "idempotency_key": "k", "tool_name": "echo",
                "status": "success",
            })
        );
        assert_eq!(read.receipt.coordinate.as_deref(), Some("1,2"));
    }

    #[test]
    fn ids_that_are_none_are_named_by_tenant_and_text() {
        let decoded = |tenant: &str| {
            let payload = json!({
                "type": "memory.write", "tenant": tenant,
                "payload": { "id": "note-1", "content": "x" },
            });
            decode(&record(&[], payload.to_string())).unwrap().write.memory
        };
        assert_eq!(decoded("a"), decoded("a"));
        assert_ne!(decoded("a").memory_id, decoded("b").memory_id);
        assert_eq!(decoded("").tenant, TenantId::public());
    }

    #[test]
    fn what_is_no_memory_write_says_why() {
        for (payload, why) in [
            ("nonsense", "no JSON"),
            ("[]", "no object"),
            ("{}", "`type`"),
            (r#"{"type":"memory.write"}"#, "`payload`"),
            (r#"{"type":"memory.write","payload":{"content":"x"}}"#, "`id`"),
            (r#"{"type":"memory.write","payload":{"id":"x"}}"#, "`content`"),
        ] {
            let fault = decode(&record(&[], payload)).unwrap_err().to_string();
            assert!(fault.contains(why), "{payload}: {fault}");
        }
    }

    #[test]
    fn a_dead_letter_keeps_every_byte_and_is_named_after_its_event_or_place() {
        let letter = dead_letter(&record(&[("event_id", EVENT)], "text"), "x");
        assert_eq!(
            (letter.event, letter.event_id.unwrap().to_string()),
            (json!("text"), EVENT.to_owned())
        );
        let letter = dead_letter(&record(&[], vec![0xff]), "x");
        assert_eq!(letter.event, json!({ "base64": "/w==" }));
        assert_eq!(letter.event_id, dead_letter(&record(&[], "other"), "x").event_id);
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            decode(&record(&[], bytes.clone())).ok();
            dead_letter(&record(&[], bytes), "x");
        }

        #[test]
        fn no_time_makes_it_panic(seconds in any::<f64>()) {
            time(&json!(seconds));
        }
    }
}
