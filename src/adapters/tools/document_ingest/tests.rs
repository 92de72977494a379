//! Against the store in memory, with real documents.

use std::fmt::Write;

use serde_json::json;
use soma_contract::{
    SessionId, TenantId,
    testing::{FakeClock, FakePolicy, FakeStore},
};

use super::*;
use crate::adapters::tools::testing::call_of;

struct Desk {
    store: Arc<FakeStore>,
    tool: DocumentIngest,
}

fn desk(policy: FakePolicy) -> Desk {
    let clock = Arc::new(FakeClock::new());
    let store = Arc::new(FakeStore::new(Arc::clone(&clock) as Arc<dyn Clock>));
    let tool = DocumentIngest::new(
        Arc::clone(&store) as Arc<dyn Store>,
        Arc::new(policy),
        clock,
        Parsers::new(2),
    );
    Desk { store, tool }
}

impl Desk {
    async fn upload(&self, filename: &str, mime: &str, content: &[u8]) -> Uuid {
        use soma_contract::port::store::Registry;
        let id = Uuid::new_v5(&Uuid::NAMESPACE_OID, filename.as_bytes());
        let attachment = Attachment {
            id,
            tenant: TenantId("acme".into()),
            session_id: Some(SessionId(Uuid::from_u128(1))),
            filename: filename.into(),
            mime: mime.into(),
            size: u64::try_from(content.len()).unwrap(),
            sha256: "ab".repeat(32),
            created_at: FakeClock::new().now(),
        };
        self.store.add_attachment(attachment, content.to_vec()).await.unwrap();
        id
    }

    async fn ingest(&self, id: &str) -> Result<ToolOutput, ToolError> {
        self.tool.run(json!({ "attachment_id": id }), call_of("acme")).await
    }
}

/// Builds a PDF of one page that shows these lines.
fn pdf(lines: &[&str]) -> Vec<u8> {
    let shown: Vec<_> = lines.iter().map(|line| format!("({line}) Tj T* ")).collect();
    let stream = format!("BT /F1 12 Tf 14 TL 72 720 Td {}ET", shown.concat());
    let contents = format!("<< /Length {} >>\nstream\n{stream}\nendstream", stream.len());
    let objects = [
        "<< /Type /Catalog /Pages 2 0 R >>",
        "<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        "<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents 4 0 R \
         /Resources << /Font << /F1 5 0 R >> >> >>",
        &contents,
        "<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica /Encoding /WinAnsiEncoding >>",
    ];
    let mut file = "%PDF-1.4\n".to_owned();
    let mut table = "xref\n0 6\n0000000000 65535 f \n".to_owned();
    for (object, number) in objects.iter().zip(1..) {
        writeln!(table, "{:010} 00000 n ", file.len()).unwrap();
        writeln!(file, "{number} 0 obj\n{object}\nendobj").unwrap();
    }
    let start = file.len();
    write!(file, "{table}trailer\n<< /Size 6 /Root 1 0 R >>\nstartxref\n{start}\n%%EOF\n").unwrap();
    file.into_bytes()
}

#[tokio::test]
async fn a_pdf_is_remembered_with_its_provenance() {
    let desk = desk(FakePolicy::allowing());
    let file = pdf(&["The harbour opens at seven.", "Bring the blue form."]);
    let id = desk.upload("harbour.pdf", "application/pdf", &file).await;
    let output = desk.ingest(&id.to_string()).await.unwrap();
    let text = output.value["text"].as_str().unwrap();
    assert!(text.contains("The harbour opens at seven."), "{text}");
    assert!(text.contains("blue form"), "{text}");
    assert_eq!(output.value["shown_whole"], true);
    let [write] = output.memory.as_slice() else { panic!("{:?}", output.memory) };
    let memory = &write.memory;
    assert!(memory.content.contains("harbour opens"));
    assert_eq!(memory.kind, "document");
    assert_eq!(memory.event_id, call_of("acme").result_event());
    assert_eq!(
        Value::Object(memory.metadata.clone()),
        json!({
            "attachment_id": id, "filename": "harbour.pdf", "mime": "application/pdf",
            "sha256": "ab".repeat(32), "chunk": 0, "chunks": 1,
        })
    );
}

#[tokio::test]
async fn a_repetition_names_the_same_memories() {
    let desk = desk(FakePolicy::allowing());
    let text = "A paragraph of some length, to be found again later on.\n\n".repeat(200);
    let id = desk.upload("long.md", "text/markdown", text.as_bytes()).await;
    let first = desk.ingest(&format!("/v1/attachments/{id}")).await.unwrap();
    let second = desk.ingest(&id.to_string()).await.unwrap();
    assert!(first.memory.len() > 3);
    assert_eq!(first.memory, second.memory);
    let ids: std::collections::HashSet<_> =
        first.memory.iter().map(|write| write.memory.memory_id).collect();
    assert_eq!(ids.len(), first.memory.len());
    assert_eq!(first.value["shown_whole"], false);
}

#[tokio::test]
async fn damaged_and_hostile_documents_fail_alone() {
    let desk = desk(FakePolicy::allowing());
    let mut broken = pdf(&["x"]);
    broken.truncate(broken.len() / 2);
    let deep = format!("%PDF-1.4\n1 0 obj\n{}", "[".repeat(200_000));
    for (name, content) in [
        ("broken.pdf", broken.as_slice()),
        ("deep.pdf", deep.as_bytes()),
        ("empty.pdf", b"%PDF-".as_slice()),
    ] {
        let id = desk.upload(name, "application/pdf", content).await;
        let failed = desk.ingest(&id.to_string()).await.unwrap_err();
        assert!(matches!(failed, ToolError::Failed(_)), "{name}: {failed:?}");
    }
    let id = desk.upload("fine.pdf", "application/pdf", &pdf(&["fine"])).await;
    desk.ingest(&id.to_string()).await.unwrap();
}

#[tokio::test]
async fn what_cannot_be_read_is_told_in_words() {
    let desk = desk(FakePolicy::allowing());
    let image = desk.upload("cat.png", "image/png", b"\x89PNG").await;
    let blank = desk.upload("blank.txt", "text/plain", b" \n\n ").await;
    for (id, words) in [
        (image.to_string(), "only text, Markdown, HTML and PDF"),
        (blank.to_string(), "contains no text"),
        (Uuid::from_u128(9).to_string(), "there is no upload"),
        ("../../etc/passwd".to_owned(), "there is no upload"),
    ] {
        let failed = desk.ingest(&id).await.unwrap_err().to_string();
        assert!(failed.contains(words), "{id}: {failed}");
    }
}

#[tokio::test]
async fn an_upload_of_another_tenant_does_not_exist() {
    let desk = desk(FakePolicy::allowing());
    let id = desk.upload("a.txt", "text/plain", b"secret").await;
    let arguments = json!({ "attachment_id": id.to_string() });
    let failed = desk.tool.run(arguments, call_of("other")).await.unwrap_err().to_string();
    assert!(failed.contains("there is no upload"), "{failed}");
}

#[tokio::test]
async fn nothing_is_remembered_against_the_policy() {
    let denied = desk(FakePolicy::denying("no writing"));
    let id = denied.upload("a.txt", "text/plain", b"text").await;
    let failed = denied.ingest(&id.to_string()).await.unwrap_err();
    assert_eq!(failed, ToolError::Blocked("no writing".into()));
    let silent = desk(FakePolicy::unreachable());
    let id = silent.upload("a.txt", "text/plain", b"text").await;
    assert!(matches!(silent.ingest(&id.to_string()).await, Err(ToolError::Unavailable(_))));
}
