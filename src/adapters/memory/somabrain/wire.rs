//! What is said to SomaBrain and what it says. Pure.

use chrono::{DateTime, Utc};
use serde_json::{Map, Value, json};
use soma_contract::{
    EventId, SessionId, TenantId,
    memory::{Memory, MemoryQuery, Recalled},
    port::memory::Receipt,
};
use uuid::Uuid;

/// Filters that the server does not know are applied to this many times what was asked for.
const SURPLUS: usize = 4;
/// The most that is asked for.
const MOST: usize = 100;

/// Where memories live in SomaBrain.
#[derive(Debug, Clone)]
pub(super) struct Place {
    pub(super) universe: Option<String>,
    pub(super) namespace: String,
}

impl Place {
    /// A memory to keep, under its id: its next version takes its place.
    pub(super) fn remember(&self, memory: &Memory, key: &str) -> Value {
        let mut body = json!({
            "value": record(memory, key),
            "tenant": memory.tenant,
            "namespace": self.namespace,
            "key": memory.memory_id,
        });
        self.mark(&mut body);
        if let Some(value) = body.get_mut("value") {
            self.mark(value);
        }
        body
    }

    /// The same for a server that only has the old route.
    pub(super) fn remember_as_before(&self, memory: &Memory, key: &str) -> Value {
        let mut body = json!({ "payload": record(memory, key) });
        self.mark(&mut body);
        body
    }

    /// A memory to forget.
    pub(super) fn forget(&self, memory: &Memory) -> Value {
        let mut body = json!({
            "id": memory.memory_id,
            "tenant": memory.tenant,
            "namespace": self.namespace,
        });
        self.mark(&mut body);
        body
    }

    /// What to look for.
    pub(super) fn recall(&self, tenant: &TenantId, query: &MemoryQuery) -> Value {
        let mut body = json!({
            "tenant": tenant,
            "namespace": self.namespace,
            "query": query.text,
            "top_k": top_k(query),
        });
        self.mark(&mut body);
        if let Some(session_id) = query.session_id {
            set(&mut body, "session_id", json!(session_id));
        }
        body
    }

    /// The same for a server that only has the old route.
    pub(super) fn recall_as_before(&self, query: &MemoryQuery) -> Value {
        let mut body = json!({ "query": query.text, "top_k": top_k(query) });
        self.mark(&mut body);
        body
    }

    fn mark(&self, body: &mut Value) {
        if let Some(universe) = &self.universe {
            set(body, "universe", json!(universe));
        }
    }
}

fn set(body: &mut Value, name: &str, value: Value) {
    if let Some(body) = body.as_object_mut() {
        body.insert(name.to_owned(), value);
    }
}

fn top_k(query: &MemoryQuery) -> usize {
    let is_filtered =
        query.session_id.is_some() || query.persona_id.is_some() || query.kind.is_some();
    let surplus = if is_filtered { SURPLUS } else { 1 };
    query.limit.saturating_mul(surplus).clamp(1, MOST.max(query.limit))
}

/// A memory as a record, as the predecessor wrote them, with what is needed to read it back.
fn record(memory: &Memory, key: &str) -> Value {
    json!({
        "id": memory.memory_id,
        "type": memory.kind,
        "role": memory.role,
        "content": memory.content,
        "tenant": memory.tenant,
        "session_id": memory.session_id,
        "persona_id": memory.persona_id,
        "metadata": memory.metadata,
        "event_id": memory.event_id,
        "version": memory.version,
        "timestamp": memory.written_at,
        "idempotency_key": key,
    })
}

/// Reads what a server says of a write that it has taken; all of it may be missing.
pub(super) fn receipt(body: &Value) -> Receipt {
    let text = |name: &str| match body.get(name) {
        None | Some(Value::Null) => None,
        Some(Value::String(text)) => Some(text.clone()),
        Some(other) => Some(other.to_string()),
    };
    Receipt {
        coordinate: text("coordinate").or_else(|| text("coord")),
        request_id: text("request_id"),
        trace_id: text("trace_id"),
    }
}

/// Reads what was found: the newest version of each memory, best first, of this tenant only.
/// `None`: the body is no list of results.
pub(super) fn recalled(
    body: &Value,
    tenant: &TenantId,
    query: &MemoryQuery,
) -> Option<Vec<Recalled>> {
    let results = body.get("results").or_else(|| body.get("candidates"))?.as_array()?;
    let mut found: Vec<Recalled> = Vec::new();
    for recalled in results.iter().filter_map(|result| result_of(result, tenant)) {
        if !fits(&recalled.memory, query) {
            continue;
        }
        let is_same = |known: &&mut Recalled| known.memory.memory_id == recalled.memory.memory_id;
        match found.iter_mut().find(is_same) {
            Some(known) if known.memory.version < recalled.memory.version => *known = recalled,
            Some(_) => {}
            None => found.push(recalled),
        }
    }
    found.sort_by(|one, other| other.score.total_cmp(&one.score));
    found.truncate(query.limit);
    Some(found)
}

fn fits(memory: &Memory, query: &MemoryQuery) -> bool {
    query.session_id.is_none_or(|session_id| memory.session_id == Some(session_id))
        && query.persona_id.as_ref().is_none_or(|id| memory.persona_id.as_ref() == Some(id))
        && query.kind.as_ref().is_none_or(|kind| *kind == memory.kind)
}

/// Reads one result; a record that others wrote lacks much, and gets ids that are always the same.
fn result_of(result: &Value, tenant: &TenantId) -> Option<Recalled> {
    let inner = ["value", "payload"].iter().find_map(|name| result.get(name)?.as_object());
    let record = inner.or_else(|| result.as_object())?;
    let own = |name: &str| record.get(name).and_then(Value::as_str).filter(|text| !text.is_empty());
    let around = |name: &str| result.get(name).and_then(Value::as_str);
    if own("tenant").is_some_and(|of| of != tenant.0) {
        return None;
    }
    let value = || around("value");
    let content =
        own("content").or_else(|| own("text")).or_else(|| around("text")).or_else(value)?;
    let name = own("id").or_else(|| around("id")).unwrap_or(content);
    let id = Uuid::try_parse(name).unwrap_or_else(|_text| foreign(tenant, name));
    let event_id = own("event_id").and_then(|text| text.parse().ok());
    let metadata = record.get("metadata").and_then(Value::as_object).cloned();
    let memory = Memory {
        memory_id: id,
        tenant: tenant.clone(),
        session_id: own("session_id").and_then(|text| text.parse::<SessionId>().ok()),
        persona_id: own("persona_id").map(str::to_owned),
        role: own("role").unwrap_or("user").to_owned(),
        kind: own("type").unwrap_or("fact").to_owned(),
        content: content.to_owned(),
        written_at: written_at(record, metadata.as_ref()),
        metadata: metadata.unwrap_or_default(),
        event_id: event_id.unwrap_or(EventId(id)),
        version: record.get("version").and_then(Value::as_u64).unwrap_or(1),
    };
    let score = result.get("score").and_then(Value::as_f64).unwrap_or_default();
    Some(Recalled { memory, score, pending: false })
}

fn foreign(tenant: &TenantId, name: &str) -> Uuid {
    Uuid::new_v5(&Uuid::NAMESPACE_OID, format!("{tenant}/{name}").as_bytes())
}

fn written_at(record: &Map<String, Value>, metadata: Option<&Map<String, Value>>) -> DateTime<Utc> {
    let time = |of: &Map<String, Value>| {
        let given = of.get("timestamp").or_else(|| of.get("created_at"))?;
        match given {
            Value::String(text) => DateTime::parse_from_rfc3339(text).ok().map(Into::into),
            Value::Number(seconds) => {
                #[expect(clippy::cast_possible_truncation, reason = "a time far away is no time")]
                let millis = (seconds.as_f64()? * 1_000.0) as i64;
                DateTime::from_timestamp_millis(millis)
            }
            _ => None,
        }
    };
    time(record).or_else(|| time(metadata?)).unwrap_or(DateTime::UNIX_EPOCH)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place() -> Place {
        Place { universe: Some("u".to_owned()), namespace: "wm".to_owned() }
    }

    fn memory() -> Memory {
        let id = |number| Uuid::from_u128(number);
        Memory {
            memory_id: id(1),
            tenant: TenantId::public(),
            session_id: Some(SessionId(id(2))),
            persona_id: Some("pirate".to_owned()),
            role: "user".to_owned(),
            kind: "fact".to_owned(),
            content: "Grüß Gott".to_owned(),
            metadata: [("source".to_owned(), json!("test"))].into_iter().collect(),
            event_id: EventId(id(3)),
            version: 4,
            written_at: DateTime::from_timestamp_millis(1_700_000_000_123).unwrap(),
        }
    }

    fn query(limit: usize) -> MemoryQuery {
        MemoryQuery { text: "gott".to_owned(), limit, ..MemoryQuery::default() }
    }

    fn read(results: &Value, limit: usize) -> Vec<Recalled> {
        recalled(&json!({ "results": results }), &TenantId::public(), &query(limit)).unwrap()
    }

    #[test]
    fn what_is_said_is_what_the_predecessor_said() {
        let said = place().remember(&memory(), "the key");
        for (name, expected) in [
            ("tenant", json!("public")),
            ("namespace", json!("wm")),
            ("universe", json!("u")),
            ("key", json!(memory().memory_id)),
        ] {
            assert_eq!(said[name], expected, "{name}");
        }
        assert_eq!(said["value"]["idempotency_key"], "the key");
        assert_eq!(said["value"]["universe"], "u");
        assert_eq!(said["value"]["content"], "Grüß Gott");
        let before = place().remember_as_before(&memory(), "the key");
        assert_eq!(before["payload"]["id"], json!(memory().memory_id));
        let none = Place { universe: None, ..place() };
        assert!(none.remember(&memory(), "k").get("universe").is_none());
    }

    #[test]
    fn what_was_remembered_is_recalled_whole() {
        for around in ["value", "payload"] {
            let result = json!({ around: record(&memory(), "k"), "score": 0.5 });
            let found = read(&json!([result]), 10);
            let expected = Recalled { memory: memory(), score: 0.5, pending: false };
            assert_eq!(found, [expected], "{around}");
        }
    }

    #[test]
    fn records_of_others_are_recalled_as_far_as_they_go() {
        let results = json!([
            {"id": "m1", "score": 0.1, "text": "from a candidate", "metadata": {"created_at": 1.5}},
            {"score": 0.9, "value": "only a text"},
            {"payload": {"content": "a payload", "timestamp": "2025-11-12T00:00:00Z"}},
            {"score": 1.0, "value": {"content": ""}},
            {"score": 1.0},
            7,
        ]);
        let found = read(&results, 10);
        let texts: Vec<_> = found.iter().map(|found| found.memory.content.as_str()).collect();
        assert_eq!(texts, ["only a text", "from a candidate", "a payload"]);
        assert_eq!(found, read(&results, 10), "their ids are always the same");
        assert_eq!(found[1].memory.written_at.timestamp_millis(), 1_500);
    }

    #[test]
    fn a_memory_of_another_tenant_or_an_older_version_is_left_out() {
        let mut other = memory();
        other.tenant = TenantId("other".to_owned());
        let older = Memory { version: 3, content: "old".to_owned(), ..memory() };
        let results = json!([
            {"value": record(&older, "k"), "score": 0.9},
            {"value": record(&memory(), "k"), "score": 0.5},
            {"value": record(&other, "k"), "score": 0.7},
        ]);
        let found = read(&results, 10);
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].memory.version, 4);
    }

    #[test]
    fn more_is_asked_for_where_the_server_does_not_filter() {
        assert_eq!(top_k(&query(8)), 8);
        assert_eq!(top_k(&MemoryQuery { kind: Some("fact".to_owned()), ..query(8) }), 32);
        assert_eq!(top_k(&MemoryQuery { kind: Some("fact".to_owned()), ..query(50) }), 100);
        assert_eq!(top_k(&query(500)), 500);
        assert_eq!(top_k(&query(0)), 1);
    }

    #[test]
    fn a_body_that_lists_nothing_is_none() {
        for body in [json!({}), json!([]), json!({"results": 1}), json!(null)] {
            assert_eq!(recalled(&body, &TenantId::public(), &query(1)), None, "{body}");
        }
    }

    #[test]
    fn a_receipt_has_what_the_server_says() {
        let said = json!({"coord": [1, 2], "trace_id": "t", "request_id": null});
        let expected = Receipt {
            coordinate: Some("[1,2]".to_owned()),
            request_id: None,
            trace_id: Some("t".to_owned()),
        };
        assert_eq!(receipt(&said), expected);
        assert_eq!(receipt(&json!({})), Receipt::default());
    }
}
