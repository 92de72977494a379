//! A server that behaves as SomaBrain does, on real sockets.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex},
};

use serde_json::{Value, json};
use soma_contract::decide;

use crate::adapters::scripted::{Act, Seen, Server, status};

/// Which of its faces a server shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Version {
    /// With the routes below `/memory`.
    Now,
    /// Without.
    Before,
}

/// The server and what it keeps: records by tenant and key.
#[derive(Debug)]
pub(super) struct Brain {
    pub(super) server: Server,
    pub(super) kept: Arc<Mutex<Kept>>,
}

#[derive(Debug, Default)]
pub(super) struct Kept {
    pub(super) records: BTreeMap<(String, String), Value>,
    /// Answers by idempotency key.
    answers: HashMap<String, Value>,
    /// How many writes were done, not repeated.
    pub(super) done: usize,
}

impl Brain {
    pub(super) async fn start(version: Version) -> Self {
        let kept = Arc::<Mutex<Kept>>::default();
        let keeping = Arc::clone(&kept);
        let server = Server::answering(move |seen| {
            let (line, tenant) = (seen.head.lines().next().unwrap(), header(seen, "x-tenant-id"));
            let path = line.split(' ').nth(1).unwrap().to_owned();
            let old_only = version == Version::Before && path.starts_with("/memory/");
            let mut kept = keeping.lock().unwrap();
            let answer = match path.as_str() {
                _ if old_only => Err("Not Found"),
                "/memory/remember" => Ok(kept.once(seen, |kept| {
                    let (body, value) = (&seen.body, &seen.body["value"]);
                    kept.remember(text(&body["tenant"]), text(&body["key"]), value)
                })),
                "/remember" => Ok(kept.once(seen, |kept| {
                    let payload = &seen.body["payload"];
                    kept.remember(tenant, text(&payload["id"]), payload)
                })),
                "/memory/recall" | "/recall" => Ok(kept.recall(&tenant, &seen.body)),
                "/recall/delete" => {
                    let gone = kept.records.remove(&(tenant, text(&seen.body["id"])));
                    gone.map(|_| json!({"deleted": 1})).ok_or("memory not found")
                }
                "/health" => Ok(json!({"status": "ok"})),
                _ => Err("Not Found"),
            };
            vec![match answer {
                Ok(answer) => json_of("200 OK", &answer),
                Err(detail) => json_of("404 Not Found", &json!({ "detail": detail })),
            }]
        })
        .await;
        Self { server, kept }
    }
}

impl Kept {
    /// Answers a repetition as the first time.
    fn once(&mut self, seen: &Seen, work: impl FnOnce(&mut Self) -> Value) -> Value {
        let key = header(seen, "idempotency-key");
        assert!(!key.is_empty(), "a write needs a key");
        if let Some(answer) = self.answers.get(&key) {
            return answer.clone();
        }
        self.done += 1;
        let answer = work(self);
        self.answers.insert(key, answer.clone());
        answer
    }

    fn remember(&mut self, tenant: String, key: String, value: &Value) -> Value {
        self.records.insert((tenant, key), value.clone());
        json!({"coordinate": [0.5, f64::from(u32::try_from(self.done).unwrap())], "request_id": "r", "trace_id": "t"})
    }

    /// Ranks as the built-in memory does, and knows no filters.
    fn recall(&self, tenant: &str, body: &Value) -> Value {
        let words = decide::words(&text(&body["query"]));
        let mut results: Vec<(f64, &Value)> = self
            .records
            .iter()
            .filter(|((of, _), _)| of == tenant)
            .filter_map(|(_, record)| {
                Some((decide::match_score(&words, &text(&record["content"]))?, record))
            })
            .collect();
        results.sort_by(|(one, _), (other, _)| other.total_cmp(one));
        results.truncate(usize::try_from(body["top_k"].as_u64().unwrap()).unwrap());
        let results: Vec<_> = results
            .iter()
            .map(|(score, record)| json!({"score": score, "value": record}))
            .collect();
        json!({ "results": results })
    }
}

/// An answer that is a document.
pub(super) fn json_of(line: &str, body: &Value) -> Act {
    status(line, "Content-Type: application/json\r\n", &body.to_string())
}

/// A header of a request, or nothing.
pub(super) fn header(seen: &Seen, name: &str) -> String {
    let lines = seen.head.lines().filter_map(|line| line.split_once(": "));
    let mut found = lines.filter(|(known, _)| known.eq_ignore_ascii_case(name));
    found.next().map(|(_, value)| value.to_owned()).unwrap_or_default()
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}
