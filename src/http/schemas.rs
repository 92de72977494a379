//! The schemas that `/openapi.json` names. Bodies of the edge's own describe themselves; shapes of
//! the contract and the runtime, which know nothing of HTTP, are described here. The tests check
//! real answers against all of them.

use serde_json::{Value, json};
use utoipa::{
    PartialSchema, ToSchema,
    openapi::{RefOr, Schema},
};

use super::{health, keys, log_level, memory, messages, openai, personas, sessions, tools};

/// Returns every schema by name.
pub(super) fn all() -> Vec<(String, RefOr<Schema>)> {
    let mut schemas = Vec::new();
    add::<messages::SendMessage>(&mut schemas);
    add::<sessions::Cancel>(&mut schemas);
    add::<tools::ToolRequest>(&mut schemas);
    add::<memory::MemoryBatch>(&mut schemas);
    add::<memory::MemoryReceipt>(&mut schemas);
    add::<personas::PutPersona>(&mut schemas);
    add::<keys::NewKey>(&mut schemas);
    add::<log_level::LogLevel>(&mut schemas);
    #[cfg(feature = "failpoints")]
    add::<super::fault::InjectedFault>(&mut schemas);
    add::<health::HealthReport>(&mut schemas);
    add::<health::Probe>(&mut schemas);
    add::<openai::ChatCompletionRequest>(&mut schemas);
    add::<openai::ChatCompletion>(&mut schemas);
    add::<openai::Models>(&mut schemas);
    add::<openai::Model>(&mut schemas);
    for (name, schema) in written() {
        match serde_json::from_value(schema) {
            Ok(schema) => schemas.push((name.to_owned(), schema)),
            Err(error) => tracing::error!(name, %error, "a schema is malformed"),
        }
    }
    schemas
}

/// Adds a type that describes itself, with what it refers to.
fn add<T: ToSchema + PartialSchema>(schemas: &mut Vec<(String, RefOr<Schema>)>) {
    schemas.push((T::name().into_owned(), T::schema()));
    T::schemas(schemas);
}

fn text() -> Value {
    json!({"type": "string"})
}

/// Lets a schema of one type be null as well.
fn maybe(mut schema: Value) -> Value {
    if let Some(kind) = schema.get_mut("type") {
        *kind = json!([kind.take(), "null"]);
    }
    schema
}

fn uuid() -> Value {
    json!({"type": "string", "format": "uuid"})
}

fn time() -> Value {
    json!({"type": "string", "format": "date-time"})
}

fn number() -> Value {
    json!({"type": "integer", "minimum": 0})
}

fn flag() -> Value {
    json!({"type": "boolean"})
}

fn object() -> Value {
    json!({"type": "object"})
}

fn one_of(names: &[&str]) -> Value {
    json!({"type": "string", "enum": names})
}

fn list(of: &str) -> Value {
    json!({"type": "array", "items": {"$ref": format!("#/components/schemas/{of}")}})
}

/// Describes an object; names that begin with `?` may be missing.
fn shape(properties: &[(&str, Value)]) -> Value {
    let required: Vec<&str> =
        properties.iter().map(|(name, _)| *name).filter(|name| !name.starts_with('?')).collect();
    let properties: serde_json::Map<String, Value> = properties
        .iter()
        .map(|(name, schema)| (name.trim_start_matches('?').to_owned(), schema.clone()))
        .collect();
    json!({"type": "object", "required": required, "properties": properties})
}

fn page(of: &str) -> Value {
    shape(&[("items", list(of)), ("next_cursor", maybe(text()))])
}

fn written() -> Vec<(&'static str, Value)> {
    let mut all = conversations();
    all.extend(memories());
    all.extend(administration());
    all
}

fn conversations() -> Vec<(&'static str, Value)> {
    let accepted = shape(&[
        ("session_id", uuid()),
        ("event_id", uuid()),
        ("turn_id", uuid()),
        ("n", number()),
        ("seq", number()),
    ]);
    let event = shape(&[
        ("event_id", uuid()),
        ("session_id", uuid()),
        ("persona_id", maybe(text())),
        ("role", one_of(&["user", "assistant", "tool", "system"])),
        ("type", text()),
        ("message", text()),
        ("?attachments", json!({"type": "array", "items": {"type": "string"}})),
        ("metadata", object()),
        ("version", text()),
        ("trace_context", json!({"type": "object", "additionalProperties": {"type": "string"}})),
        ("?turn_id", uuid()),
        ("?n", number()),
        ("?seq", number()),
    ]);
    let states = ["queued", "running", "waiting", "done", "failed", "cancelled"];
    let status = shape(&[
        ("event_id", uuid()),
        ("session_id", uuid()),
        ("turn_id", uuid()),
        ("n", number()),
        ("status", one_of(&states)),
        ("?place", number()),
        ("?step", number()),
        ("?reason", text()),
        ("replay", number()),
        ("cancel_requested", flag()),
        ("created_at", time()),
        ("?terminal", json!({"$ref": "#/components/schemas/Event"})),
    ]);
    let session = shape(&[
        ("session_id", uuid()),
        ("tenant", text()),
        ("subject", text()),
        ("persona_id", maybe(text())),
        ("created_at", time()),
        ("updated_at", time()),
        ("last_n", number()),
        ("last_seq", number()),
        ("unfinished", number()),
    ]);
    let events =
        shape(&[("session_id", uuid()), ("events", list("Event")), ("next_cursor", number())]);
    let history = shape(&[
        ("session_id", uuid()),
        ("events", list("Event")),
        ("history", text()),
        ("tokens", number()),
    ]);
    let cancelled = shape(&[("ended", list("Event")), ("cancelling", maybe(uuid()))]);
    vec![
        ("Accepted", accepted),
        ("Event", event),
        ("MessageStatus", status),
        ("Session", session),
        ("Sessions", page("Session")),
        ("Events", events),
        ("History", history),
        ("Cancelled", cancelled),
    ]
}

fn memories() -> Vec<(&'static str, Value)> {
    let memory = shape(&[
        ("memory_id", uuid()),
        ("tenant", text()),
        ("session_id", maybe(uuid())),
        ("persona_id", maybe(text())),
        ("role", text()),
        ("kind", text()),
        ("content", text()),
        ("metadata", object()),
        ("event_id", uuid()),
        ("version", number()),
        ("written_at", time()),
    ]);
    let recalled = shape(&[
        ("memory", json!({"$ref": "#/components/schemas/Memory"})),
        ("score", json!({"type": "number"})),
        ("pending", flag()),
    ]);
    let attachment = shape(&[
        ("id", uuid()),
        ("tenant", text()),
        ("session_id", maybe(uuid())),
        ("filename", text()),
        ("mime", text()),
        ("size", number()),
        ("sha256", text()),
        ("created_at", time()),
        ("status", text()),
        ("path", text()),
    ]);
    let upload = shape(&[
        ("files", json!({"type": "array", "items": {"type": "string", "format": "binary"}})),
        ("?session_id", uuid()),
    ]);
    vec![
        ("Memory", memory),
        ("Recalled", recalled),
        ("MemoryResults", shape(&[("results", list("Recalled"))])),
        ("MemoryReceipts", shape(&[("items", list("MemoryReceipt"))])),
        ("Attachment", attachment),
        ("Attachments", list("Attachment")),
        ("Upload", upload),
    ]
}

fn administration() -> Vec<(&'static str, Value)> {
    let persona = shape(&[
        ("persona_id", text()),
        ("prompt", text()),
        ("model", maybe(text())),
        ("tools", json!({"type": ["array", "null"], "items": {"type": "string"}})),
    ]);
    let tool = shape(&[
        ("name", text()),
        ("description", text()),
        ("parameters", object()),
        ("effect", one_of(&["pure", "idempotent", "once"])),
        ("timeout_ms", number()),
        ("max_output_bytes", number()),
    ]);
    let letter = shape(&[
        ("id", json!({"type": "integer"})),
        ("tenant", maybe(text())),
        ("topic", text()),
        ("turn_id", maybe(uuid())),
        ("event", json!({"type": ["object", "array", "string", "number", "boolean", "null"]})),
        ("error", text()),
        ("attempts", number()),
        ("created_at", time()),
        ("replayed_at", maybe(time())),
        ("trace", object()),
    ]);
    let replay = shape(&[
        ("status", one_of(&["queued", "requeued", "already_replayed"])),
        ("session_id", maybe(uuid())),
    ]);
    let key = [
        ("key_id", text()),
        ("label", text()),
        ("tenant", text()),
        ("admin", flag()),
        ("prefix", text()),
        ("created_by", text()),
        ("created_at", time()),
        ("last_used_at", maybe(time())),
        ("revoked", flag()),
    ];
    let created = [key.as_slice(), &[("secret", maybe(text()))]].concat();
    let stuck = shape(&[("session_id", uuid()), ("reason", text())]);
    let services = shape(&[
        ("services", json!({"type": "array", "items": {"type": "object"}})),
        ("stuck_sessions", json!({"type": "array", "items": stuck})),
        ("?stuck_sessions_unknown", text()),
    ]);
    let problem = shape(&[
        ("type", text()),
        ("title", text()),
        ("status", number()),
        ("code", text()),
        ("detail", text()),
        ("request_id", text()),
        ("?error", object()),
    ]);
    vec![
        ("Persona", persona),
        ("Personas", shape(&[("personas", list("Persona"))])),
        ("Tool", tool),
        ("Tools", shape(&[("count", number()), ("tools", list("Tool"))])),
        ("DeadLetter", letter),
        ("DeadLetters", page("DeadLetter")),
        ("ReplayOutcome", replay),
        ("Key", shape(&key)),
        ("Keys", shape(&[("keys", list("Key"))])),
        ("CreatedKey", shape(&created)),
        ("Service", object()),
        ("Services", services),
        ("Problem", problem),
    ]
}
