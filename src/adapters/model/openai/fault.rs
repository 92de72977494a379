//! What went wrong with one call, and whether another one is worth it.

use std::time::Duration;

use chrono::DateTime;
use rand::Rng;
use reqwest::{
    StatusCode,
    header::{DATE, HeaderMap, RETRY_AFTER},
};
use serde_json::Value;
use soma_contract::port::model::ModelError;

/// The pause before the first repetition; it doubles with each.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
/// The longest pause within a call; whoever asks for more gets the turn back.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// Characters of a foreign text that are repeated in an error.
const SHOWN: usize = 300;

/// A failed call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Fault {
    /// What is told if no other call is made.
    pub(super) error: ModelError,
    /// Whether another call could go better.
    pub(super) again: bool,
    /// Something the endpoint does not understand and that may be left out.
    pub(super) lacks: Option<Lack>,
}

/// What an endpoint may lack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lack {
    /// `stream_options`.
    StreamOptions,
    /// Tools, for this model.
    Tools,
}

impl Fault {
    /// The connection or the server failed.
    pub(super) fn broken(reason: impl Into<String>) -> Self {
        Self::passing(reason.into(), None)
    }

    /// The endpoint said what it must not say.
    pub(super) fn malformed(reason: String) -> Self {
        Self { error: ModelError::Malformed(reason), again: true, lacks: None }
    }

    /// The endpoint reported an error within a stream.
    pub(super) fn told(error: &Value) -> Self {
        let reason = message_of(error);
        match code_of(error).as_str() {
            "invalid_request_error" | "context_length_exceeded" | "content_filter" => {
                Self::lasting(ModelError::Refused(reason))
            }
            _ => Self::passing(reason, None),
        }
    }

    /// The endpoint answered with another status than 200.
    pub(super) fn status(status: StatusCode, headers: &HeaderMap, body: &str, model: &str) -> Self {
        let parsed: Value = serde_json::from_str(body).unwrap_or_default();
        let error = parsed.get("error").unwrap_or(&parsed);
        let message = if error.is_null() { shown(body) } else { message_of(error) };
        let reason = format!("{status}: {message}");
        let unknown_model = code_of(error) == "model_not_found";
        match status.as_u16() {
            401 | 403 => Self::lasting(ModelError::KeyRefused(reason)),
            404 => Self::lasting(no_such_model(model, &message)),
            _ if unknown_model => Self::lasting(no_such_model(model, &message)),
            408 | 409 | 425 | 429 | 500..=599 => {
                let mut fault = Self::passing(reason, retry_after(headers));
                fault.again = code_of(error) != "insufficient_quota";
                fault
            }
            _ => Self {
                error: ModelError::Refused(reason),
                again: false,
                lacks: (status.as_u16() < 500).then(|| lack(&message)).flatten(),
            },
        }
    }

    /// Returns how long to wait before the next call, if there is to be one.
    pub(super) fn pause(&self, repetitions: u32, max: u32) -> Option<Duration> {
        if !self.again || repetitions >= max {
            return None;
        }
        let asked = match &self.error {
            ModelError::Unavailable { retry_after, .. } => retry_after.unwrap_or_default(),
            _ => Duration::ZERO,
        };
        let most = FIRST_PAUSE.saturating_mul(1 << repetitions.min(10)).min(LONGEST_PAUSE);
        let pause = most.mul_f64(rand::rng().random_range(0.0..1.0)).max(asked);
        (pause <= LONGEST_PAUSE).then_some(pause)
    }

    /// Returns whether another model of the endpoint might answer.
    pub(super) const fn is_of_the_model(&self) -> bool {
        matches!(
            self.error,
            ModelError::Unavailable { .. } | ModelError::Malformed(_) | ModelError::NoSuchModel(_)
        )
    }

    const fn passing(reason: String, retry_after: Option<Duration>) -> Self {
        Self { error: ModelError::Unavailable { reason, retry_after }, again: true, lacks: None }
    }

    const fn lasting(error: ModelError) -> Self {
        Self { error, again: false, lacks: None }
    }
}

/// Returns the beginning of a foreign text, on one line.
pub(super) fn shown(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ").chars().take(SHOWN).collect()
}

/// A 404 whose words do not speak of the model may as well be a wrong address.
fn no_such_model(model: &str, message: &str) -> ModelError {
    ModelError::NoSuchModel(if message.contains(model) || message.contains("model") {
        model.to_owned()
    } else {
        format!("{model}` at this base URL, which answers `{message}")
    })
}

fn lack(message: &str) -> Option<Lack> {
    if message.contains("stream_options") {
        Some(Lack::StreamOptions)
    } else if message.contains("does not support tools") || message.contains("tool choice") {
        Some(Lack::Tools)
    } else {
        None
    }
}

fn message_of(error: &Value) -> String {
    ["message", "detail", "error"]
        .iter()
        .find_map(|name| error.get(name).and_then(Value::as_str))
        .or_else(|| error.as_str())
        .map_or_else(|| shown(&error.to_string()), shown)
}

fn code_of(error: &Value) -> String {
    ["code", "type"]
        .iter()
        .find_map(|name| error.get(name).and_then(Value::as_str))
        .unwrap_or_default()
        .to_owned()
}

/// Reads seconds, or a date, which is compared with the endpoint's own clock.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse::<f64>() {
        return Duration::try_from_secs_f64(seconds).ok();
    }
    let until = DateTime::parse_from_rfc2822(text).ok()?;
    let now = DateTime::parse_from_rfc2822(headers.get(DATE)?.to_str().ok()?).ok()?;
    Some((until - now).to_std().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn status(status: u16, body: &str) -> Fault {
        let status = StatusCode::from_u16(status).unwrap();
        Fault::status(status, &HeaderMap::new(), body, "gpt-x")
    }

    #[test]
    fn each_status_has_its_meaning() {
        let body = r#"{"error":{"message":"no","code":"invalid_api_key"}}"#;
        for refused in [401, 403] {
            let fault = status(refused, body);
            assert!(matches!(fault.error, ModelError::KeyRefused(_)), "{fault:?}");
            assert!(!fault.again);
        }
        assert_eq!(
            status(404, "The model gpt-x does not exist").error,
            ModelError::NoSuchModel("gpt-x".to_owned())
        );
        let code = r#"{"error":{"message":"no","code":"model_not_found"}}"#;
        assert!(matches!(status(400, code).error, ModelError::NoSuchModel(_)));
        for refused in [400, 402, 413, 422, 302] {
            let fault = status(refused, body);
            assert!(matches!(fault.error, ModelError::Refused(_)), "{fault:?}");
            assert!(!fault.again);
        }
        for passing in [408, 429, 500, 502, 503, 529] {
            let fault = status(passing, "<html>busy</html>");
            assert!(matches!(fault.error, ModelError::Unavailable { .. }), "{fault:?}");
            assert!(fault.again);
        }
        let spent = r#"{"error":{"message":"no money","code":"insufficient_quota"}}"#;
        assert!(!status(429, spent).again);
    }

    #[test]
    fn what_an_endpoint_lacks_is_understood() {
        let body = r#"{"error":{"message":"Unrecognized request argument: stream_options"}}"#;
        assert_eq!(status(400, body).lacks, Some(Lack::StreamOptions));
        let body = r#"{"error":{"message":"gemma does not support tools"}}"#;
        assert_eq!(status(400, body).lacks, Some(Lack::Tools));
        assert_eq!(status(400, "no").lacks, None);
    }

    #[test]
    fn a_wait_may_be_asked_for_in_seconds_or_as_a_date() {
        let mut headers = HeaderMap::new();
        headers.insert(RETRY_AFTER, "2".parse().unwrap());
        assert_eq!(retry_after(&headers), Some(Duration::from_secs(2)));
        headers.insert(RETRY_AFTER, "Wed, 21 Oct 2015 07:28:30 GMT".parse().unwrap());
        assert_eq!(retry_after(&headers), None);
        headers.insert(DATE, "Wed, 21 Oct 2015 07:28:00 GMT".parse().unwrap());
        assert_eq!(retry_after(&headers), Some(Duration::from_secs(30)));
        headers.insert(RETRY_AFTER, "-1".parse().unwrap());
        assert_eq!(retry_after(&headers), None);
    }

    #[test]
    fn pauses_grow_are_at_least_what_was_asked_for_and_end() {
        let fault = Fault::broken("x");
        for repetition in 0..40 {
            let most = FIRST_PAUSE.saturating_mul(1 << repetition.min(10)).min(LONGEST_PAUSE);
            assert!(fault.pause(repetition, 99).unwrap() <= most);
        }
        assert_eq!(fault.pause(2, 2), None);
        let asked = |wait| Fault::passing(String::new(), Some(wait)).pause(0, 1);
        assert_eq!(asked(Duration::from_secs(9)), Some(Duration::from_secs(9)));
        assert_eq!(asked(Duration::from_mins(1)), None);
    }

    #[test]
    fn an_error_within_a_stream_is_passing_unless_it_says_otherwise() {
        assert!(Fault::told(&json!({ "message": "overloaded" })).again);
        assert!(Fault::told(&json!("overloaded")).again);
        let long = Fault::told(&json!({ "message": "x", "code": "context_length_exceeded" }));
        assert!(!long.again);
    }
}
