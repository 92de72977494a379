//! `document_ingest`: reads an upload and remembers it in pieces.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use soma_contract::{
    Clock,
    memory::{Memory, MemoryOp, MemoryWrite},
    port::{
        policy::Policy,
        store::{Attachment, Store, StoreError},
    },
    tool::{Effect, ToolSpec},
};
use soma_tools::{CallContext, Tool, ToolError, ToolOutput, arguments_as, builtin::may_write};
use uuid::Uuid;

use super::{
    apart::text_of_pdf,
    chunks::split,
    contained::Parsers,
    extract::{Format, bounded, format_of, text_of},
};

/// The largest upload that is read.
const MAX_BYTES: usize = 20 * 1024 * 1024;
/// The most text that is kept of one document.
const MAX_CHARS: usize = 400_000;
/// How much of the text is shown to the model at once.
const SHOWN_CHARS: usize = 6_000;

/// Answers with the beginning of the text; the whole is found by `memory_search`. Memories are
/// named after upload and place, so that ingesting it twice keeps one copy.
#[derive(Debug, Clone)]
pub struct DocumentIngest {
    store: Arc<dyn Store>,
    policy: Arc<dyn Policy>,
    clock: Arc<dyn Clock>,
    parsers: Parsers,
}

impl DocumentIngest {
    /// Reads uploads of this store and writes what this policy allows.
    pub fn new(
        store: Arc<dyn Store>,
        policy: Arc<dyn Policy>,
        clock: Arc<dyn Clock>,
        parsers: Parsers,
    ) -> Self {
        Self { store, policy, clock, parsers }
    }
}

#[derive(Deserialize)]
struct Arguments {
    attachment_id: String,
}

#[async_trait]
impl Tool for DocumentIngest {
    fn spec(&self) -> ToolSpec {
        ToolSpec {
            name: "document_ingest".to_owned(),
            description:
                "Reads an uploaded text, Markdown, HTML or PDF document, remembers it for \
                          memory_search and returns its beginning."
                    .to_owned(),
            parameters: json!({
                "type": "object",
                "properties": {"attachment_id": {
                    "type": "string", "maxLength": 64,
                    "description": "The id of the upload."
                }},
                "required": ["attachment_id"],
                "additionalProperties": false
            }),
            effect: Effect::Idempotent,
            timeout: Duration::from_mins(1),
            max_output_bytes: 64 * 1024,
        }
    }

    async fn run(&self, arguments: Value, call: CallContext) -> Result<ToolOutput, ToolError> {
        let arguments: Arguments = arguments_as(arguments)?;
        may_write(&*self.policy, &call, "document").await?;
        let (attachment, content) = self.upload(&arguments.attachment_id, &call).await?;
        let format = readable(&attachment, &content)?;
        let mime = attachment.mime.clone();
        let program = self.parsers.program().filter(|_| format == Format::Pdf);
        let read = move || match program {
            Some(program) => Ok(bounded(&text_of_pdf(&program, &content)?, MAX_CHARS)),
            None => text_of(format, &mime, &content, MAX_CHARS),
        };
        let (text, cut) = self.parsers.run(format.as_str(), read).await?;
        let chunks = split(&text);
        if chunks.is_empty() {
            return Err(ToolError::Failed(format!(
                "`{}` contains no text (a scan?)",
                attachment.filename
            )));
        }
        let value = told(&attachment, &text, cut, chunks.len());
        let memory = self.memories(&attachment, chunks, &call);
        Ok(ToolOutput { value, memory })
    }
}

impl DocumentIngest {
    async fn upload(
        &self,
        id: &str,
        call: &CallContext,
    ) -> Result<(Attachment, Vec<u8>), ToolError> {
        // Messages name uploads by id or by route.
        let bare = id.rsplit('/').next().unwrap_or(id);
        let unknown = || ToolError::Failed(format!("there is no upload `{id}`"));
        let Ok(uuid) = bare.parse::<Uuid>() else { return Err(unknown()) };
        match self.store.attachment(&call.tenant, uuid).await {
            Ok(found) => Ok(found),
            Err(StoreError::NotFound) => Err(unknown()),
            Err(error) => Err(ToolError::Unavailable(error.to_string())),
        }
    }

    fn memories(
        &self,
        attachment: &Attachment,
        chunks: Vec<String>,
        call: &CallContext,
    ) -> Vec<MemoryWrite> {
        let of = chunks.len();
        let written_at = self.clock.now();
        let write = |(index, content): (usize, String)| {
            let memory = Memory {
                memory_id: memory_id(attachment.id, index),
                tenant: call.tenant.clone(),
                session_id: attachment.session_id.or(Some(call.session_id)),
                persona_id: call.persona_id.clone(),
                role: "tool".to_owned(),
                kind: "document".to_owned(),
                content,
                metadata: provenance(attachment, index, of),
                event_id: call.result_event(),
                version: 0,
                written_at,
            };
            MemoryWrite { op: MemoryOp::Put, memory }
        };
        chunks.into_iter().enumerate().map(write).collect()
    }
}

/// Names the memory of one piece.
fn memory_id(attachment_id: Uuid, index: usize) -> Uuid {
    Uuid::new_v5(&attachment_id, format!("chunk/{index}").as_bytes())
}

fn provenance(attachment: &Attachment, index: usize, of: usize) -> Map<String, Value> {
    Map::from_iter([
        ("attachment_id".to_owned(), json!(attachment.id)),
        ("filename".to_owned(), json!(attachment.filename)),
        ("mime".to_owned(), json!(attachment.mime)),
        ("sha256".to_owned(), json!(attachment.sha256)),
        ("chunk".to_owned(), json!(index)),
        ("chunks".to_owned(), json!(of)),
    ])
}

fn readable(attachment: &Attachment, content: &[u8]) -> Result<Format, ToolError> {
    if content.len() > MAX_BYTES {
        return Err(ToolError::Failed(format!(
            "`{}` has {} bytes; at most {MAX_BYTES} are read",
            attachment.filename,
            content.len()
        )));
    }
    format_of(&attachment.mime, &attachment.filename, content).ok_or_else(|| {
        ToolError::Failed(format!(
            "`{}` is `{}`; only text, Markdown, HTML and PDF are read",
            attachment.filename, attachment.mime
        ))
    })
}

fn told(attachment: &Attachment, text: &str, cut: bool, chunks: usize) -> Value {
    let shown: String = text.chars().take(SHOWN_CHARS).collect();
    json!({
        "attachment_id": attachment.id,
        "filename": attachment.filename,
        "mime": attachment.mime,
        "characters": text.chars().count(),
        "truncated": cut,
        "remembered_chunks": chunks,
        "shown_whole": shown.len() == text.len(),
        "text": shown,
    })
}

#[cfg(test)]
mod tests;
