//! Problem details (RFC 9457), and the one place where an error becomes an HTTP status.

use std::time::Duration;

use actix_web::{
    HttpResponse,
    http::header::{self, HeaderValue},
};
use serde_json::{Map, Value, json};
use soma_contract::{
    message::AcceptError,
    port::{live::LiveError, policy::PolicyError, store::StoreError},
    tool::CallFault,
};
use soma_runtime::{CallError, IoError};

use super::codes::{self, Code};

/// What a handler answers.
pub(super) type Answer = Result<HttpResponse, Problem>;

/// How long a client is asked to wait where nothing better is known.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// A refusal or failure, told to the client. Internals stay in the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Problem {
    code: &'static Code,
    detail: String,
    retry_after: Option<Duration>,
    allow: Option<String>,
}

/// In which words a route tells its errors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Dialect {
    /// Problem details.
    Problem,
    /// Problem details with OpenAI's `error` object, and as plain JSON.
    OpenAi,
}

impl Problem {
    /// Makes a problem with words for this one case.
    pub(super) fn new(code: &'static Code, detail: impl Into<String>) -> Self {
        let retry_after = matches!(code.status, 429 | 503).then_some(RETRY_AFTER);
        Self { code, detail: detail.into(), retry_after, allow: None }
    }

    /// Makes a problem that the code's title describes well enough.
    pub(super) fn of(code: &'static Code) -> Self {
        Self::new(code, code.title)
    }

    /// Makes a problem of a bug of ours: the cause goes to the log, not to the client.
    pub(super) fn internal(cause: impl std::fmt::Display) -> Self {
        tracing::error!(%cause, "a request failed");
        Self::new(codes::INTERNAL, "the request id finds the cause in the log")
    }

    /// Asks the client to wait this long.
    #[must_use]
    pub(super) fn retry_after(mut self, delay: Duration) -> Self {
        self.retry_after = Some(delay);
        self
    }

    /// Names the methods that the path takes.
    #[must_use]
    pub(super) fn allow(mut self, methods: String) -> Self {
        self.allow = Some(methods);
        self
    }

    /// Returns the code.
    pub(super) const fn code(&self) -> &'static Code {
        self.code
    }

    /// Returns the words for this one case.
    pub(super) fn detail(&self) -> &str {
        &self.detail
    }

    /// Returns the members of the body.
    pub(super) fn body(&self, dialect: Dialect, request_id: &str) -> Value {
        let mut body = Map::new();
        if dialect == Dialect::OpenAi {
            body.insert("error".to_owned(), self.openai_error());
        }
        body.insert("type".to_owned(), format!("/docs#error-{}", self.code.name).into());
        body.insert("title".to_owned(), self.code.title.into());
        body.insert("status".to_owned(), self.code.status.into());
        body.insert("code".to_owned(), self.code.name.into());
        body.insert("detail".to_owned(), self.detail.as_str().into());
        body.insert("request_id".to_owned(), request_id.into());
        Value::Object(body)
    }

    /// Returns the `error` object that OpenAI's clients look for.
    pub(super) fn openai_error(&self) -> Value {
        let kind = match self.code.status {
            401 => "authentication_error",
            403 => "permission_error",
            429 => "rate_limit_error",
            500.. => "server_error",
            _ => "invalid_request_error",
        };
        json!({"message": self.detail, "type": kind, "param": null, "code": self.code.name})
    }

    /// Returns the whole answer.
    pub(super) fn render(&self, dialect: Dialect, request_id: &str) -> HttpResponse {
        let content_type = match dialect {
            Dialect::Problem => "application/problem+json",
            Dialect::OpenAi => "application/json",
        };
        let mut response = HttpResponse::build(self.code.status())
            .content_type(content_type)
            .insert_header((header::CACHE_CONTROL, "no-store"))
            .body(self.body(dialect, request_id).to_string());
        let headers = response.headers_mut();
        if let Some(delay) = self.retry_after {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(whole_seconds(delay)));
        }
        if let Some(allow) = self.allow.as_deref().and_then(|text| HeaderValue::from_str(text).ok())
        {
            headers.insert(header::ALLOW, allow);
        }
        if self.code.status == 401 {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

/// Rounds up, so that a client that waits this long does not come too early.
fn whole_seconds(delay: Duration) -> u64 {
    delay.as_secs().saturating_add(u64::from(delay.subsec_nanos() > 0)).max(1)
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::NotFound => Self::of(codes::NOT_FOUND),
            StoreError::Unavailable(cause) => {
                tracing::warn!(%cause, "the store is unavailable");
                Self::of(codes::STORE_UNAVAILABLE)
            }
            StoreError::OutcomeUnknown(cause) => {
                tracing::warn!(%cause, "the outcome of a commit is unknown");
                Self::of(codes::OUTCOME_UNKNOWN)
            }
            StoreError::Fenced | StoreError::Refused(_) => Self::internal(error),
        }
    }
}

impl From<AcceptError> for Problem {
    fn from(error: AcceptError) -> Self {
        let code = match &error {
            AcceptError::SessionDeleted(_) => codes::SESSION_DELETED,
            AcceptError::ForeignSession(_) => codes::NOT_FOUND,
            AcceptError::KeyReused(_) => codes::IDEMPOTENCY_KEY_REUSED,
            AcceptError::BacklogFull { of_tenant: true, .. } => codes::TENANT_BACKLOG_FULL,
            AcceptError::BacklogFull { of_tenant: false, .. } => codes::BACKLOG_FULL,
            AcceptError::Unavailable(cause) => {
                tracing::warn!(%cause, "a message was not accepted");
                return Self::of(codes::STORE_UNAVAILABLE);
            }
            AcceptError::OutcomeUnknown(cause) => {
                tracing::warn!(%cause, "the outcome of an accept is unknown");
                return Self::of(codes::OUTCOME_UNKNOWN);
            }
            AcceptError::EventIdTaken(_) | AcceptError::Refused(_) => return Self::internal(error),
        };
        Self::new(code, error.to_string())
    }
}

impl From<CallError> for Problem {
    fn from(error: CallError) -> Self {
        match error {
            CallError::Full => Self::of(codes::OVERLOADED),
            CallError::Restarting => Self::of(codes::SERVICE_RESTARTING),
            CallError::Abandoned | CallError::TimedOut => Self::of(codes::OUTCOME_UNKNOWN),
            CallError::Stopped => Self::of(codes::DRAINING),
            CallError::Panicked(_) => Self::internal(error),
        }
    }
}

impl From<IoError> for Problem {
    fn from(error: IoError) -> Self {
        tracing::warn!(%error, "a call to the outside was given up");
        Self::of(codes::STORE_UNAVAILABLE)
    }
}

impl From<PolicyError> for Problem {
    fn from(error: PolicyError) -> Self {
        tracing::warn!(%error, "no policy answer means no");
        Self::of(codes::POLICY_UNAVAILABLE)
    }
}

impl From<LiveError> for Problem {
    fn from(error: LiveError) -> Self {
        tracing::warn!(%error, "the live port is needed and does not answer");
        Self::of(codes::LIVE_UNAVAILABLE)
    }
}

impl From<CallFault> for Problem {
    fn from(fault: CallFault) -> Self {
        let code = match fault {
            CallFault::UnknownTool { .. } => codes::UNKNOWN_TOOL,
            CallFault::BadArguments { .. } => codes::BAD_ARGUMENTS,
        };
        Self::new(code, fault.to_string())
    }
}

#[cfg(test)]
mod tests {
    use soma_contract::SessionId;
    use uuid::Uuid;

    use super::*;

    #[test]
    fn a_problem_tells_code_and_request() {
        let problem = Problem::from(AcceptError::SessionDeleted(SessionId(Uuid::nil())));
        let body = problem.body(Dialect::Problem, "r-1");
        assert_eq!(body["status"], 410);
        assert_eq!(body["code"], "session_deleted");
        assert_eq!(body["request_id"], "r-1");
        assert!(body.get("error").is_none());
    }

    #[test]
    fn the_openai_dialect_adds_its_error_object() {
        let body = Problem::of(codes::RATE_LIMITED).body(Dialect::OpenAi, "r-1");
        assert_eq!(body["error"]["type"], "rate_limit_error");
        assert_eq!(body["error"]["code"], "rate_limited");
        assert_eq!(body["code"], "rate_limited");
    }

    #[test]
    fn internals_are_not_told() {
        let problem = Problem::from(StoreError::Refused("secret column".to_owned()));
        assert_eq!(problem.code(), codes::INTERNAL);
        assert!(!problem.body(Dialect::Problem, "r").to_string().contains("secret"));
    }

    #[test]
    fn retry_after_is_rounded_up() {
        assert_eq!(whole_seconds(Duration::from_millis(1)), 1);
        assert_eq!(whole_seconds(Duration::from_millis(1_500)), 2);
        assert_eq!(whole_seconds(Duration::from_secs(2)), 2);
    }

    #[test]
    fn codes_are_unique_and_sorted_by_status() {
        let mut names: Vec<_> = codes::ALL.iter().map(|code| code.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), codes::ALL.len());
        assert!(codes::ALL.is_sorted_by_key(|code| code.status));
    }
}
