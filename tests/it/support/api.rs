//! A client of the public API that never gives up on a message.

use std::time::Duration;

use reqwest::{Method, RequestBuilder, StatusCode};
use serde_json::{Value, json};
use tokio::time::sleep;
use uuid::Uuid;

use super::{HANG, in_time};

/// The pause before a request is repeated.
const PAUSE: Duration = Duration::from_millis(20);

/// A client of one address. Each request has a connection of its own: one that is kept might be
/// closed by the other side in the very moment in which it is used again.
#[derive(Debug, Clone)]
pub(crate) struct Api {
    base: String,
    token: Option<String>,
    /// Behind a balancer a connection ends with its backend, while the platform lives on.
    is_balanced: bool,
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
    /// Speaks to one process.
    pub(crate) fn new(base: &str) -> Self {
        somaagent::adapters::tls::install();
        let http = reqwest::Client::builder().timeout(HANG).pool_max_idle_per_host(0);
        Self { base: base.to_owned(), token: None, is_balanced: false, http: http.build().unwrap() }
    }

    /// Speaks to whichever process the balancer chooses.
    pub(crate) fn behind_balancer(base: &str) -> Self {
        Self { is_balanced: true, ..Self::new(base) }
    }

    /// Authenticates with this token, if there is one.
    pub(crate) fn with_token(self, token: Option<String>) -> Self {
        Self { token, ..self }
    }

    pub(crate) fn base(&self) -> &str {
        &self.base
    }

    /// Composes a request.
    pub(crate) fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let request = self.http.request(method, format!("{}{path}", self.base));
        match &self.token {
            Some(token) => request.bearer_auth(token),
            None => request,
        }
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
        let mut request = self.request(method, path);
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
            .request(Method::POST, "/v1/uploads")
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

    /// Reads. A server that has too much to do says so (503) and is asked again, as it wants to
    /// be; one that does not answer at all has failed.
    pub(crate) async fn get(&self, path: &str) -> Value {
        let reading = async {
            loop {
                match self.ask(Method::GET, path, None, None).await {
                    Ok((status, body)) if status.is_success() => return body,
                    Ok((StatusCode::SERVICE_UNAVAILABLE, _)) => sleep(PAUSE).await,
                    Ok((status, body)) => panic!("GET {path}: {status} {body}"),
                    Err(_) if self.is_balanced => sleep(PAUSE).await,
                    Err(error) => panic!("{path} is not answered: {error:?}"),
                }
            }
        };
        in_time(path, reading).await
    }

    /// Does something once, whatever dies meanwhile: it is repeated with the same key until it is
    /// answered otherwise than by 503.
    pub(crate) async fn insist(
        &self,
        method: Method,
        path: &str,
        body: Value,
    ) -> (StatusCode, Value) {
        self.insist_with(&Uuid::now_v7().to_string(), method, path, body).await
    }

    async fn insist_with(
        &self,
        key: &str,
        method: Method,
        path: &str,
        body: Value,
    ) -> (StatusCode, Value) {
        let insisting = async {
            loop {
                let body = (!body.is_null()).then(|| body.clone());
                match self.try_call(method.clone(), path, body, Some(key)).await {
                    Some((StatusCode::SERVICE_UNAVAILABLE, _)) | None => sleep(PAUSE).await,
                    Some(answer) => return answer,
                }
            }
        };
        in_time(path, insisting).await
    }

    /// Sends a message once; `None` where nobody knows whether it was taken.
    pub(crate) async fn try_send(&self, session: Uuid, text: &str, key: &str) -> Option<Sent> {
        let body = json!({ "session_id": session, "message": text });
        let (status, answer) =
            self.try_call(Method::POST, "/v1/session/message", Some(body), Some(key)).await?;
        match status {
            StatusCode::ACCEPTED => Some(sent(&answer)),
            StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS => None,
            other => panic!("message refused: {other} {answer}"),
        }
    }

    /// Sends a message, again and again until it is taken.
    pub(crate) async fn send(&self, session: Uuid, text: &str) -> Sent {
        self.send_with(session, text, &Uuid::now_v7().to_string()).await
    }

    /// Sends a message with this key, again and again until it is taken.
    pub(crate) async fn send_with(&self, session: Uuid, text: &str, key: &str) -> Sent {
        let body = json!({ "session_id": session, "message": text });
        let path = "/v1/session/message";
        let (status, answer) = self.insist_with(key, Method::POST, path, body).await;
        assert_eq!(status, StatusCode::ACCEPTED, "{answer}");
        sent(&answer)
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

    /// Returns what became of a message so far.
    pub(crate) async fn fate(&self, event_id: Uuid) -> Value {
        self.get(&format!("/v1/messages/{event_id}")).await
    }

    /// Waits until a message has its terminal event; false once nobody answers any more.
    pub(crate) async fn answered(&self, event_id: Uuid) -> bool {
        let path = format!("/v1/messages/{event_id}");
        loop {
            match self.try_call(Method::GET, &path, None, None).await {
                None => return false,
                Some((_, fate)) if !fate["terminal"].is_null() => return true,
                Some(_) => sleep(PAUSE).await,
            }
        }
    }

    /// Waits for the terminal event of a message.
    pub(crate) async fn terminal(&self, event_id: Uuid) -> Value {
        loop {
            let fate = self.fate(event_id).await;
            if !fate["terminal"].is_null() {
                return fate["terminal"].clone();
            }
            sleep(PAUSE).await;
        }
    }

    /// Returns the dead letters, newest first.
    pub(crate) async fn dead_letters(&self) -> Vec<Value> {
        self.get("/v1/admin/dlq").await["items"].as_array().unwrap().clone()
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
