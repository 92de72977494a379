//! Documents that people upload, and what hostile ones can do.

use serde_json::{Value, json};

use crate::support::{Api, Setup};

/// Uploads a PDF, has it read, and returns the terminal event.
async fn ingest(api: &Api, content: &[u8]) -> Value {
    let id = api.upload_pdf(content).await;
    let request = json!({"tool_name": "document_ingest", "args": {"attachment_id": id}});
    let (_, accepted) = api.call(reqwest::Method::POST, "/v1/tool/request", request).await;
    api.terminal(accepted["event_id"].as_str().unwrap().parse().unwrap()).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pdf_that_stands_for_gigabytes_harms_nobody() {
    let server = Setup::new().start().await.unwrap();
    // 304 bytes that become 2.5 GiB.
    let bomb = ingest(&server.api, include_bytes!("bomb.pdf")).await;
    assert_eq!(bomb["metadata"]["status"], "error", "{bomb}");
    let words = bomb["message"].as_str().unwrap();
    assert!(words.contains("too much memory"), "{bomb}");
    // The process lives, and goes on reading.
    let plain = ingest(&server.api, include_bytes!("plain.pdf")).await;
    assert!(plain["message"].as_str().unwrap().contains("zebra treasury"), "{plain}");
}
