//! Memories: written in batches, searched, read, forgotten, exported.

use std::sync::Arc;

use actix_web::{
    HttpResponse,
    http::{StatusCode, header},
    web::Bytes,
};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use soma_contract::{
    EventId, SessionId, TenantId,
    memory::{Memory, MemoryOp, MemoryQuery, MemoryWrite},
    port::{
        policy::Action,
        store::{Page, Store, StoreResult},
    },
};
use tokio::{sync::mpsc, task::JoinHandle};
use utoipa::ToSchema;
use uuid::Uuid;

use super::{
    call::{Call, json, limit, ok},
    codes, idempotency,
    problem::{Answer, Problem},
};

const MAX_ITEMS: usize = 500;
const MAX_CONTENT: usize = 64 * 1024;
const MAX_WORDS: usize = 1_000;
const MAX_NAME: usize = 64;
const EXPORT_PAGE: u32 = 200;
/// Pages that wait for a slow reader of an export.
const EXPORT_BUFFER: usize = 2;

/// What `POST /v1/memory/batch` takes.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct MemoryBatch {
    /// 1 to 500 memories.
    items: Vec<NewMemory>,
}

/// A memory to be written.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct NewMemory {
    /// The text that is searched.
    content: String,
    /// The memory that this is a new version of; a new memory if not set.
    #[serde(default)]
    memory_id: Option<Uuid>,
    /// What kind of thing it is; `fact` if not set.
    #[serde(default = "fact")]
    kind: String,
    /// Who said it; `user` if not set.
    #[serde(default = "user")]
    role: String,
    /// The session it belongs to.
    #[serde(default)]
    #[schema(value_type = Option<Uuid>)]
    session_id: Option<SessionId>,
    /// The persona it was told to.
    #[serde(default)]
    persona_id: Option<String>,
    /// Details.
    #[serde(default)]
    #[schema(value_type = Object)]
    metadata: Map<String, Value>,
}

fn fact() -> String {
    "fact".to_owned()
}

fn user() -> String {
    "user".to_owned()
}

impl NewMemory {
    fn check(&self, place: usize) -> Result<(), Problem> {
        let fault = if self.content.trim().is_empty() || self.content.len() > MAX_CONTENT {
            format!("`items[{place}].content` has 1 to {MAX_CONTENT} bytes")
        } else if [&self.kind, &self.role].iter().any(|name| !is_name(name)) {
            format!("`items[{place}]`: `kind` and `role` have 1 to {MAX_NAME} bytes")
        } else {
            return Ok(());
        };
        Err(Problem::new(codes::INVALID_BODY, fault))
    }
}

fn is_name(text: &str) -> bool {
    (1..=MAX_NAME).contains(&text.len()) && !text.chars().any(char::is_control)
}

/// That a memory is written, and by which event.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct MemoryReceipt {
    /// The memory.
    memory_id: Uuid,
    /// The event that made this version.
    #[schema(value_type = Uuid)]
    event_id: EventId,
    /// Its version.
    version: u64,
}

/// `POST /v1/memory/batch`.
pub(super) async fn batch(call: Call) -> Answer {
    let MemoryBatch { items } = call.json()?;
    if !(1..=MAX_ITEMS).contains(&items.len()) {
        let detail = format!("`items` has {} entries, not 1 to {MAX_ITEMS}", items.len());
        return Err(Problem::new(codes::INVALID_BODY, detail));
    }
    for (place, item) in items.iter().enumerate() {
        item.check(place)?;
    }
    permit(&call, json!({"op": "put", "count": items.len()})).await?;
    let writes: Vec<_> =
        items.into_iter().enumerate().map(|(place, item)| put(&call, place, item)).collect();
    let written: Vec<_> =
        writes.iter().map(|write| (write.memory.memory_id, write.memory.event_id)).collect();
    let store = call.store();
    let versions = call.edge.ask(async move { store.write_memories(writes).await }).await?;
    let receipts: Vec<_> = written
        .into_iter()
        .zip(versions)
        .map(|((memory_id, event_id), version)| MemoryReceipt { memory_id, event_id, version })
        .collect();
    json(StatusCode::ACCEPTED, &json!({"items": receipts}))
}

fn put(call: &Call, place: usize, item: NewMemory) -> MemoryWrite {
    let event_id = idempotency::derived_id(call, place);
    let mut metadata = item.metadata;
    metadata.insert("source".to_owned(), "api".into());
    metadata.insert("subject".to_owned(), call.caller.subject.as_str().into());
    let memory = Memory {
        memory_id: item.memory_id.unwrap_or(event_id),
        tenant: call.caller.tenant.clone(),
        session_id: item.session_id,
        persona_id: item.persona_id,
        role: item.role,
        kind: item.kind,
        content: item.content,
        metadata,
        event_id: EventId(event_id),
        // The store draws it.
        version: 0,
        written_at: call.edge.parts().clock.now(),
    };
    MemoryWrite { op: MemoryOp::Put, memory }
}

async fn permit(call: &Call, context: Value) -> Result<(), Problem> {
    call.permit(Action::MemoryWrite, "memory", None, context).await
}

#[derive(Debug, Deserialize)]
struct Search {
    q: Option<String>,
    session_id: Option<SessionId>,
    persona_id: Option<String>,
    kind: Option<String>,
    limit: Option<u32>,
}

/// `GET /v1/memory/search`.
pub(super) async fn search(call: Call) -> Answer {
    let search: Search = call.query()?;
    let text = search.q.unwrap_or_default();
    if text.chars().count() > MAX_WORDS {
        let detail = format!("`q` has at most {MAX_WORDS} characters");
        return Err(Problem::new(codes::INVALID_QUERY, detail));
    }
    let limit = limit(search.limit, 20, 100)?;
    let query = MemoryQuery {
        text,
        session_id: search.session_id,
        persona_id: search.persona_id,
        kind: search.kind,
        limit: limit as usize,
    };
    let (store, tenant) = (call.store(), call.caller.tenant.clone());
    let results =
        call.edge.ask(async move { store.search_memories(&tenant, &query).await }).await?;
    ok(&json!({"results": results}))
}

/// `GET /v1/memory/{memory_id}`.
pub(super) async fn get(call: Call) -> Answer {
    let memory_id: Uuid = call.id("memory_id")?;
    ok(&find(&call, memory_id).await?)
}

async fn find(call: &Call, memory_id: Uuid) -> Result<Memory, Problem> {
    let (store, tenant) = (call.store(), call.caller.tenant.clone());
    call.edge.ask(async move { store.memory(&tenant, memory_id).await }).await
}

/// `DELETE /v1/memory/{memory_id}`.
pub(super) async fn delete(call: Call) -> Answer {
    let memory_id: Uuid = call.id("memory_id")?;
    permit(&call, json!({"op": "delete", "memory_id": memory_id})).await?;
    let known = find(&call, memory_id).await?;
    let memory = Memory {
        content: String::new(),
        metadata: Map::new(),
        event_id: EventId(idempotency::derived_id(&call, 0)),
        version: 0,
        written_at: call.edge.parts().clock.now(),
        ..known
    };
    let store = call.store();
    let write = MemoryWrite { op: MemoryOp::Delete, memory };
    call.edge.ask(async move { store.write_memories(vec![write]).await }).await?;
    Ok(HttpResponse::NoContent().finish())
}

/// `GET /v1/memory/export`.
///
/// The first page is read before anything is answered, so that a store that does not answer is a
/// 503; one that fails later breaks the connection off, so that half an export is not taken for
/// a whole one.
pub(super) async fn export(call: Call) -> Answer {
    let export = Export { store: call.store(), tenant: call.caller.tenant.clone() };
    let first = export.clone();
    let page = call.edge.ask(async move { first.page(None).await }).await?;
    let (lines, buffer) = mpsc::channel(EXPORT_BUFFER);
    let task = call.edge.parts().io.handle().spawn(async move { export.run(page, lines).await });
    let stream = futures::stream::unfold(Reader { buffer, task }, |mut reader| async move {
        let piece = reader.buffer.recv().await?;
        Some((piece.map_err(actix_web::error::ErrorInternalServerError), reader))
    });
    Ok(HttpResponse::Ok()
        .content_type("application/x-ndjson")
        .insert_header((header::CONTENT_DISPOSITION, "attachment; filename=\"memories.ndjson\""))
        .streaming(stream))
}

/// The connection's end of an export; dropped with the connection, it ends the task.
struct Reader {
    buffer: mpsc::Receiver<Result<Bytes, String>>,
    task: JoinHandle<()>,
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[derive(Clone)]
struct Export {
    store: Arc<dyn Store>,
    tenant: TenantId,
}

impl Export {
    async fn page(&self, cursor: Option<&str>) -> StoreResult<Page<Memory>> {
        self.store.export_memories(&self.tenant, cursor, EXPORT_PAGE).await
    }

    async fn run(self, mut page: Page<Memory>, lines: mpsc::Sender<Result<Bytes, String>>) {
        loop {
            if lines.send(Ok(ndjson(&page.items))).await.is_err() {
                return;
            }
            let Some(cursor) = page.next_cursor else { return };
            page = match self.page(Some(&cursor)).await {
                Ok(page) => page,
                Err(error) => {
                    tracing::warn!(%error, "an export was broken off");
                    // The reader may have gone as well.
                    drop(lines.send(Err(error.to_string())).await);
                    return;
                }
            };
        }
    }
}

fn ndjson(memories: &[Memory]) -> Bytes {
    let mut text = String::new();
    for memory in memories {
        text.push_str(&serde_json::to_string(memory).unwrap_or_default());
        text.push('\n');
    }
    Bytes::from(text)
}
