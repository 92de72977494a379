//! One call: what goes with it, and what its failure means.

use std::{error::Error, time::Duration};

use chrono::DateTime;
use reqwest::{
    Client, RequestBuilder, Response, StatusCode, Url,
    header::{DATE, HeaderMap, HeaderValue, RETRY_AFTER},
};
use serde_json::Value;
use soma_contract::{TenantId, port::memory::MemoryError};
use tokio::time::Instant;
use uuid::Uuid;

use super::breaker::Breaker;

/// The longest answer.
const LONGEST: usize = 8 << 20;
/// How much of a foreign text is told.
const SHOWN: usize = 200;

/// What all requests of a call have in common.
#[derive(Debug)]
pub(super) struct Call<'a> {
    pub(super) client: &'a Client,
    pub(super) base: &'a Url,
    pub(super) timeout: Duration,
    pub(super) request_id: Uuid,
    pub(super) tenant: &'a TenantId,
    /// Equal for every repetition of a write.
    pub(super) key: Option<&'a str>,
}

/// Why a call has no result.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// The server is away or does not work; it may have said for how long.
    Away(String, Option<Duration>),
    /// The server works but does not let us: another key or address is needed.
    Closed(String),
    /// The server has no such route.
    NoRoute(String),
    /// The server does not know what was asked about.
    NotFound,
    /// The server will never take this.
    Refused(String),
}

impl From<Fault> for MemoryError {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Away(reason, _) | Fault::Closed(reason) | Fault::NoRoute(reason) => {
                Self::Unavailable(reason)
            }
            Fault::NotFound => Self::Unavailable("answered 404 Not Found".to_owned()),
            Fault::Refused(reason) => Self::Refused(reason),
        }
    }
}

/// Makes a call unless the server is left alone, and takes note of how it went. An answer that
/// refuses shows a server that works.
///
/// # Errors
///
/// The fault of the call, or the server is left alone.
pub(super) async fn guarded<T>(
    breaker: &Breaker,
    call: impl Future<Output = Result<T, Fault>>,
) -> Result<T, MemoryError> {
    let attempt = breaker.attempt(Instant::now()).map_err(|pause| {
        MemoryError::Unavailable(format!("it has failed and is left alone for {pause:.0?}"))
    })?;
    let outcome = call.await;
    match &outcome {
        Err(Fault::Away(_, asked)) => attempt.failed(Instant::now(), *asked),
        _ => attempt.succeeded(),
    }
    outcome.map_err(Into::into)
}

impl Call<'_> {
    /// Sends a document, and reads one.
    ///
    /// # Errors
    ///
    /// See [`Fault`].
    pub(super) async fn post(&self, path: &str, body: &Value) -> Result<Value, Fault> {
        self.send(self.client.post(self.at(path)).json(body)).await
    }

    /// Reads a document.
    ///
    /// # Errors
    ///
    /// See [`Fault`].
    pub(super) async fn get(&self, path: &str) -> Result<Value, Fault> {
        self.send(self.client.get(self.at(path))).await
    }

    fn at(&self, path: &str) -> Url {
        let mut url = self.base.clone();
        url.set_path(&format!("{}/{path}", self.base.path().trim_end_matches('/')));
        url
    }

    async fn send(&self, request: RequestBuilder) -> Result<Value, Fault> {
        let mut request =
            request.timeout(self.timeout).header("X-Request-ID", self.request_id.to_string());
        // A tenant that no header may hold is in the document all the same.
        if let Ok(tenant) = HeaderValue::from_str(&self.tenant.0) {
            request = request.header("X-Tenant-ID", tenant);
        }
        if let Some(key) = self.key.and_then(|key| HeaderValue::from_str(key).ok()) {
            request = request.header("Idempotency-Key", key);
        }
        let response = request.send().await.map_err(|error| broken(&error))?;
        let (status, headers) = (response.status(), response.headers().clone());
        let text = read(response).await?;
        if status.is_success() {
            return serde_json::from_slice(&text)
                .map_err(|_nonsense| Fault::Away(told(status, &text), None));
        }
        Err(fault(status, &headers, &text))
    }
}

/// Understands a base URL, which may have a path; `None` if it is none.
pub(super) fn base(text: &str) -> Option<Url> {
    let url = Url::parse(text.trim()).ok()?;
    matches!(url.scheme(), "http" | "https").then_some(url)
}

/// Says whether a health document speaks of a server that is well.
pub(super) fn is_well(said: &Value) -> bool {
    let is_true = |name: &str| said.get(name).and_then(Value::as_bool) == Some(true);
    said.get("status").and_then(Value::as_str) == Some("ok") || is_true("ok") || is_true("ready")
}

/// Returns the beginning of a foreign text, on one line.
pub(super) fn shown(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ").chars().take(SHOWN).collect()
}

async fn read(mut response: Response) -> Result<Vec<u8>, Fault> {
    let mut text = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(|error| broken(&error))? {
        text.extend_from_slice(&chunk);
        if text.len() > LONGEST {
            return Err(Fault::Away(format!("answered with more than {LONGEST} bytes"), None));
        }
    }
    Ok(text)
}

/// Says what another status than success means. Only what is wrong with the record is for ever:
/// a wrong key or address must not turn every memory into a dead letter.
fn fault(status: StatusCode, headers: &HeaderMap, text: &[u8]) -> Fault {
    let reason = told(status, text);
    match status.as_u16() {
        404 | 405 if is_without_route(status, text) => Fault::NoRoute(reason),
        404 => Fault::NotFound,
        // Some versions say so of a store of theirs that is away.
        400 if reason.to_ascii_lowercase().contains("unavailable") => Fault::Away(reason, None),
        400 | 413 | 422 => Fault::Refused(reason),
        408 | 425 | 429 | 500..=599 => Fault::Away(reason, retry_after(headers)),
        _ => Fault::Closed(reason),
    }
}

/// Tells a route that is missing from a memory that is: the former is answered by the framework.
fn is_without_route(status: StatusCode, text: &[u8]) -> bool {
    let body: Value = serde_json::from_slice(text).unwrap_or_default();
    let detail = body.get("detail").and_then(Value::as_str);
    status == StatusCode::METHOD_NOT_ALLOWED || detail.is_none_or(|detail| detail == "Not Found")
}

fn told(status: StatusCode, text: &[u8]) -> String {
    format!("answered {status}: `{}`", shown(&String::from_utf8_lossy(text)))
}

/// Reads seconds, or a date, which is compared with the server's own clock.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse::<f64>() {
        return Duration::try_from_secs_f64(seconds).ok();
    }
    let until = DateTime::parse_from_rfc2822(text).ok()?;
    let now = DateTime::parse_from_rfc2822(headers.get(DATE)?.to_str().ok()?).ok()?;
    Some((until - now).to_std().unwrap_or_default())
}

/// Tells why a request failed, to the last cause, without the address, which may hold a password.
fn broken(error: &reqwest::Error) -> Fault {
    let mut text = match error {
        _ if error.is_connect() => "it cannot be reached".to_owned(),
        _ if error.is_timeout() => "it did not answer in time".to_owned(),
        _ => "the connection broke".to_owned(),
    };
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    Fault::Away(text, None)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(status: u16, extra: &[(&'static str, &'static str)], text: &str) -> Fault {
        let headers = extra
            .iter()
            .map(|(name, value)| (name.parse().unwrap(), HeaderValue::from_static(value)))
            .collect();
        fault(StatusCode::from_u16(status).unwrap(), &headers, text.as_bytes())
    }

    #[test]
    fn only_what_is_wrong_with_the_record_is_refused() {
        for status in [400, 413, 422] {
            assert!(matches!(of(status, &[], "{}"), Fault::Refused(_)), "{status}");
        }
        for status in [408, 425, 429, 500, 502, 503, 504] {
            assert!(matches!(of(status, &[], "{}"), Fault::Away(_, None)), "{status}");
        }
        for status in [302, 401, 403, 409, 418] {
            assert!(matches!(of(status, &[], "{}"), Fault::Closed(_)), "{status}");
        }
        let pool = r#"{"detail": "memory pool unavailable"}"#;
        assert!(matches!(of(400, &[], pool), Fault::Away(..)));
    }

    #[test]
    fn a_missing_route_is_told_from_a_missing_memory() {
        assert!(matches!(of(404, &[], r#"{"detail": "Not Found"}"#), Fault::NoRoute(_)));
        assert!(matches!(of(404, &[], "<html>"), Fault::NoRoute(_)));
        assert!(matches!(of(405, &[], r#"{"detail": "Method Not Allowed"}"#), Fault::NoRoute(_)));
        assert_eq!(of(404, &[], r#"{"detail": "memory not found"}"#), Fault::NotFound);
    }

    #[test]
    fn a_server_may_say_when_to_come_back_in_seconds_or_by_a_date() {
        let pause = |extra: &[_]| match of(503, extra, "") {
            Fault::Away(_, pause) => pause,
            other => panic!("{other:?}"),
        };
        assert_eq!(pause(&[("retry-after", "7")]), Some(Duration::from_secs(7)));
        let date = ("date", "Tue, 15 Nov 1994 08:12:31 GMT");
        let later = ("retry-after", "Tue, 15 Nov 1994 08:13:01 GMT");
        assert_eq!(pause(&[date, later]), Some(Duration::from_secs(30)));
        assert_eq!(pause(&[later]), None);
        assert_eq!(pause(&[("retry-after", "soon")]), None);
    }

    #[test]
    fn a_server_is_well_if_it_says_so() {
        for well in [r#"{"ok": true}"#, r#"{"status": "ok"}"#, r#"{"ready": true}"#] {
            assert!(is_well(&serde_json::from_str(well).unwrap()), "{well}");
        }
        for sick in ["{}", r#"{"ok": false}"#, r#"{"status": "degraded"}"#, r#"{"ready": "yes"}"#] {
            assert!(!is_well(&serde_json::from_str(sick).unwrap()), "{sick}");
        }
    }
}
