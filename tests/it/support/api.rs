//! A client of the public API that never gives up on a message.

use std::time::Duration;

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use uuid::Uuid;

/// A client of one server address; the address may change with a restart.
#[derive(Debug, Clone)]
pub(crate) struct Api {
    base: String,
    http: reqwest::Client,
}

/// A message that was answered 202.
#[derive(Debug, Clone)]
pub(crate) struct Sent {
    /// The session.
    pub(crate) session_id: Uuid,
    /// The user's event.
    pub(crate) event_id: Uuid,
    /// Its number.
    pub(crate) n: u64,
}

impl Api {
    pub(crate) fn new(base: &str) -> Self {
        somaagent::adapters::tls::install();
        let http = reqwest::Client::builder().timeout(Duration::from_mins(1)).build().unwrap();
        Self { base: base.to_owned(), http }
    }

    pub(crate) fn base(&self) -> &str {
        &self.base
    }

    /// Sends a request and returns status and body, if the server answers at all.
    pub(crate) async fn try_call(
        &self,
        method: Method,
        path: &str,
        body: Option<Value>,
        key: Option<&str>,
    ) -> Option<(StatusCode, Value)> {
        self.ask(method, path, body, key).await.ok()
    }

    async fn ask(
        &self,
        method: Method,
        path: &str,
        body: Option<Value>,
        key: Option<&str>,
    ) -> reqwest::Result<(StatusCode, Value)> {
        let mut request = self.http.request(method, format!("{}{path}", self.base));
        if let Some(body) = body {
            request = request.json(&body);
        }
        if let Some(key) = key {
            request = request.header("Idempotency-Key", key);
        }
        let answer = request.send().await?;
        let status = answer.status();
        let text = answer.text().await?;
        Ok((status, serde_json::from_str(&text).unwrap_or(Value::String(text))))
    }

    /// Uploads a small file; false once nobody answers any more.
    pub(crate) async fn upload(&self, key: &str) -> bool {
        let body = "--X\r\nContent-Disposition: form-data; name=\"files\"; filename=\"a.txt\"\r\n\
            Content-Type: text/plain\r\n\r\nhello\r\n--X--\r\n";
        let request = self
            .http
            .post(format!("{}/v1/uploads", self.base))
            .header("Content-Type", "multipart/form-data; boundary=X")
            .header("Idempotency-Key", key)
            .body(body);
        let Ok(answer) = request.send().await else { return false };
        assert_eq!(answer.status(), StatusCode::CREATED);
        true
    }

    /// Uploads a PDF to a server that is up; returns the upload's id.
    pub(crate) async fn upload_pdf(&self, content: &[u8]) -> String {
        let head = "--X\r\nContent-Disposition: form-data; name=\"files\"; filename=\"a.pdf\"\r\n\
            Content-Type: application/pdf\r\n\r\n";
        let body = [head.as_bytes(), content, b"\r\n--X--\r\n"].concat();
        let request = self
            .http
            .post(format!("{}/v1/uploads", self.base))
            .header("Content-Type", "multipart/form-data; boundary=X")
            .body(body);
        let answer: Value = request.send().await.unwrap().json().await.unwrap();
        answer[0]["id"].as_str().unwrap().to_owned()
    }

    /// Sends a request to a server that is up.
    pub(crate) async fn call(
        &self,
        method: Method,
        path: &str,
        body: Value,
    ) -> (StatusCode, Value) {
        let body = (!body.is_null()).then_some(body);
        match self.ask(method, path, body, None).await {
            Ok(answer) => answer,
            Err(error) => panic!("{path} is not answered: {error:?}"),
        }
    }

    pub(crate) async fn get(&self, path: &str) -> Value {
        let (status, body) = self.call(Method::GET, path, Value::Null).await;
        assert!(status.is_success(), "GET {path}: {status} {body}");
        body
    }

    /// Sends a message once; `None` where nobody knows whether it was taken.
    pub(crate) async fn try_send(&self, session: Uuid, text: &str, key: &str) -> Option<Sent> {
        let body = json!({ "session_id": session, "message": text });
        self.try_submit("/v1/session/message", body, key).await
    }

    /// Asks for a run of `tally` once; `None` where nobody knows whether it was taken.
    pub(crate) async fn try_tally(&self, session: Uuid, key: &str) -> Option<Sent> {
        let body = json!({ "session_id": session, "tool_name": "tally" });
        self.try_submit("/v1/tool/request", body, key).await
    }

    async fn try_submit(&self, path: &str, body: Value, key: &str) -> Option<Sent> {
        let (status, answer) = self.try_call(Method::POST, path, Some(body), Some(key)).await?;
        match status {
            StatusCode::ACCEPTED => Some(sent(&answer)),
            StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS => None,
            other => panic!("message refused: {other} {answer}"),
        }
    }

    /// Sends a message to a server that is up.
    pub(crate) async fn send(&self, session: Uuid, text: &str) -> Sent {
        let key = Uuid::now_v7().to_string();
        self.try_send(session, text, &key).await.expect("the message is taken")
    }

    /// Reads a session's whole log.
    pub(crate) async fn events(&self, session: Uuid) -> Vec<Value> {
        let mut events = Vec::new();
        let mut after = 0;
        loop {
            let path = format!("/v1/sessions/{session}/events?after={after}&limit=500");
            let page = self.get(&path).await;
            let more = page["events"].as_array().unwrap().clone();
            if more.is_empty() {
                return events;
            }
            after = more.last().unwrap()["seq"].as_u64().unwrap();
            events.extend(more);
        }
    }

    /// Waits until a message has its terminal event; false once nobody answers any more.
    pub(crate) async fn answered(&self, event_id: Uuid) -> bool {
        let path = format!("/v1/messages/{event_id}");
        loop {
            match self.try_call(Method::GET, &path, None, None).await {
                None => return false,
                Some((_, status)) if !status["terminal"].is_null() => return true,
                Some(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    }

    /// Waits for the terminal event of a message.
    pub(crate) async fn terminal(&self, event_id: Uuid) -> Value {
        loop {
            let status = self.get(&format!("/v1/messages/{event_id}")).await;
            if !status["terminal"].is_null() {
                return status["terminal"].clone();
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

fn sent(answer: &Value) -> Sent {
    let id = |name: &str| answer[name].as_str().unwrap().parse().unwrap();
    Sent {
        session_id: id("session_id"),
        event_id: id("event_id"),
        n: answer["n"].as_u64().unwrap(),
    }
}
