//! Speaks to a running server over its public API.

use std::{fmt, time::Duration};

use eventsource_stream::{Event as Frame, Eventsource};
use futures::{Stream, StreamExt};
use reqwest::{Method, RequestBuilder, Response, StatusCode};
use serde::de::DeserializeOwned;
use serde_json::Value;

/// Longer than any answer that is not a stream takes.
const ANSWER_LIMIT: Duration = Duration::from_mins(1);
const CONNECT_LIMIT: Duration = Duration::from_secs(5);
/// A stream is kept alive each 10 s: one that is silent for so long has lost its connection.
const SILENCE_LIMIT: Duration = Duration::from_mins(1);

/// Why the server did not do what it was asked for.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens there, or the connection broke.
    #[error(
        "no server answers at `{url}` ({reason}); start one with `somaagent`, or name another with --url"
    )]
    Unreachable {
        /// Where it was looked for.
        url: String,
        /// What the connection said.
        reason: String,
    },
    /// The server says no.
    #[error("{detail} (code `{code}`, HTTP {status}, request {request_id})")]
    Refused {
        /// The HTTP status.
        status: u16,
        /// The stable code.
        code: String,
        /// What is wrong, for people.
        detail: String,
        /// Finds the request in the server's log.
        request_id: String,
    },
    /// The answer is not what this version understands.
    #[error("`{url}` answered what is not this API: {reason}")]
    Foreign {
        /// What was asked.
        url: String,
        /// What did not fit.
        reason: String,
    },
}

impl ClientError {
    /// Returns whether the same request may succeed later.
    pub fn is_passing(&self) -> bool {
        match self {
            Self::Unreachable { .. } => true,
            Self::Refused { status, .. } => matches!(status, 429 | 502..=504),
            Self::Foreign { .. } => false,
        }
    }
}

/// A connection to one server.
#[derive(Clone)]
pub struct Client {
    base: String,
    key: Option<String>,
    http: reqwest::Client,
}

impl fmt::Debug for Client {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Client").field("base", &self.base).finish_non_exhaustive()
    }
}

impl Client {
    /// Prepares a connection; nothing is sent yet.
    ///
    /// # Errors
    ///
    /// TLS cannot be set up on this machine.
    pub fn new(base: &str, key: Option<String>) -> Result<Self, reqwest::Error> {
        let http = reqwest::Client::builder()
            .connect_timeout(CONNECT_LIMIT)
            .read_timeout(SILENCE_LIMIT)
            .build()?;
        Ok(Self { base: base.trim_end_matches('/').to_owned(), key, http })
    }

    /// Returns where the server is.
    pub fn base(&self) -> &str {
        &self.base
    }

    /// Sends a request without a body and reads the answer.
    ///
    /// # Errors
    ///
    /// The server does not answer, or not with success.
    pub async fn call<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
    ) -> Result<T, ClientError> {
        let response = self.send(path, self.request(method, path).timeout(ANSWER_LIMIT)).await?;
        self.read(path, response).await
    }

    /// Sends a JSON body and reads the answer. `once` makes repetitions of the call mean one.
    ///
    /// # Errors
    ///
    /// The server does not answer, or not with success.
    pub async fn submit<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: &Value,
        once: &str,
    ) -> Result<T, ClientError> {
        let request = self
            .request(method, path)
            .timeout(ANSWER_LIMIT)
            .header("Idempotency-Key", once)
            .json(body);
        let response = self.send(path, request).await?;
        self.read(path, response).await
    }

    /// Opens an event stream that goes on after event `after`.
    ///
    /// # Errors
    ///
    /// The server does not answer, or not with success.
    pub async fn follow(
        &self,
        path: &str,
        after: u64,
    ) -> Result<impl Stream<Item = Result<Frame, String>> + Unpin + use<>, ClientError> {
        let request = self
            .request(Method::GET, path)
            .header("Accept", "text/event-stream")
            .header("Last-Event-ID", after.to_string());
        let response = self.send(path, request).await?;
        let frames = response.bytes_stream().eventsource();
        Ok(Box::pin(frames.map(|frame| frame.map_err(|error| error.to_string()))))
    }

    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let request = self.http.request(method, format!("{}{path}", self.base));
        match &self.key {
            Some(key) => request.bearer_auth(key),
            None => request,
        }
    }

    async fn send(&self, path: &str, request: RequestBuilder) -> Result<Response, ClientError> {
        let response = request.send().await.map_err(|error| ClientError::Unreachable {
            url: self.base.clone(),
            reason: innermost(&error),
        })?;
        if response.status().is_success() {
            return Ok(response);
        }
        let status = response.status();
        let body = response.text().await.unwrap_or_default();
        Err(self.refusal(path, status, &body))
    }

    fn refusal(&self, path: &str, status: StatusCode, body: &str) -> ClientError {
        let Ok(problem) = serde_json::from_str::<Value>(body) else {
            let reason = format!("HTTP {status} without problem details");
            return if matches!(status.as_u16(), 502..=504) {
                // Whoever stands before the server says that it is not there.
                ClientError::Unreachable { url: self.base.clone(), reason }
            } else {
                ClientError::Foreign { url: format!("{}{path}", self.base), reason }
            };
        };
        let text = |name: &str| problem.get(name).and_then(Value::as_str).unwrap_or("?").to_owned();
        let detail = problem.get("detail").or_else(|| problem.get("title"));
        ClientError::Refused {
            status: status.as_u16(),
            code: text("code"),
            detail: detail.and_then(Value::as_str).unwrap_or("refused").to_owned(),
            request_id: text("request_id"),
        }
    }

    async fn read<T: DeserializeOwned>(
        &self,
        path: &str,
        response: Response,
    ) -> Result<T, ClientError> {
        let foreign =
            |reason: String| ClientError::Foreign { url: format!("{}{path}", self.base), reason };
        let body = response.text().await.map_err(|error| ClientError::Unreachable {
            url: self.base.clone(),
            reason: innermost(&error),
        })?;
        let body = if body.is_empty() { "null" } else { &body };
        serde_json::from_str(body).map_err(|error| foreign(error.to_string()))
    }
}

/// The cause that a person can act on is the last one of the chain.
fn innermost(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    cause.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::testing::answering;

    async fn fault(answer: &'static str) -> ClientError {
        let client = Client::new(&answering(answer).await, None).unwrap();
        client.call::<Value>(Method::GET, "/").await.unwrap_err()
    }

    #[tokio::test]
    async fn an_answer_that_breaks_off_may_be_asked_for_again() {
        let error = fault("HTTP/1.1 202 Accepted\r\ncontent-length: 99\r\n\r\n{\"a\":").await;
        assert!(error.is_passing(), "{error}");
    }

    #[tokio::test]
    async fn a_proxy_without_a_server_behind_it_is_passing_and_a_stranger_is_not() {
        let away = "HTTP/1.1 502 Bad Gateway\r\ncontent-length: 6\r\n\r\n<html>";
        assert!(fault(away).await.is_passing());
        let stranger = "HTTP/1.1 404 Not Found\r\ncontent-length: 6\r\n\r\n<html>";
        assert!(!fault(stranger).await.is_passing());
    }
}
