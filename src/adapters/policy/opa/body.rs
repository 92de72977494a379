//! What the server answers.

use std::error::Error;

use reqwest::{RequestBuilder, StatusCode};
use serde_json::Value;
use soma_contract::port::policy::PolicyError;

/// The longest answer.
const LONGEST: usize = 1 << 20;
/// How much of an unexpected answer is told.
const SHOWN: usize = 200;

/// What an answer says.
#[derive(Debug, PartialEq)]
pub(super) enum Said {
    /// The rule's value; none if it is undefined.
    Answer(Option<Value>),
    /// The rules cannot be evaluated on this input.
    NotEvaluated(String),
    /// Nothing about the question.
    Nothing(String),
}

/// Sends a request and reads the whole answer, up to a limit.
///
/// # Errors
///
/// The server is away, or the answer ends early or never.
pub(super) async fn read(request: RequestBuilder) -> Result<(StatusCode, Vec<u8>), PolicyError> {
    let mut response = request.send().await.map_err(|error| broken(&error))?;
    let mut bytes = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(|error| broken(&error))? {
        bytes.extend_from_slice(&chunk);
        if bytes.len() > LONGEST {
            return Err(PolicyError(format!("answered with more than {LONGEST} bytes")));
        }
    }
    Ok((response.status(), bytes))
}

/// Understands the answer to a question.
pub(super) fn said(status: StatusCode, text: &[u8]) -> Said {
    let document = serde_json::from_slice::<Value>(text).ok().filter(Value::is_object);
    match document {
        Some(mut document) if status == StatusCode::OK => {
            Said::Answer(document.get_mut("result").map(Value::take))
        }
        Some(document) if status.is_server_error() => match evaluation_error(&document) {
            Some(error) => Said::NotEvaluated(error),
            None => Said::Nothing(unexpected(status, text)),
        },
        _ => Said::Nothing(unexpected(status, text)),
    }
}

/// Tells of an answer that is of no use.
pub(super) fn unexpected(status: StatusCode, text: &[u8]) -> String {
    let text = String::from_utf8_lossy(text);
    let words: Vec<_> = text.split_whitespace().collect();
    let shown: String = words.join(" ").chars().take(SHOWN).collect();
    format!("answered {status}: `{shown}`")
}

/// Returns why the rules failed, if they and not the server did: `eval_conflict_error` and the
/// like. A cancelled evaluation was slow, and may succeed the next time.
fn evaluation_error(document: &Value) -> Option<String> {
    let errors = document.get("errors")?.as_array()?;
    let is_of_the_rules = |error: &Value| {
        let code = error.get("code").and_then(Value::as_str).unwrap_or_default();
        code.starts_with("eval_") && code != "eval_cancel_error"
    };
    errors.iter().find(|error| is_of_the_rules(error)).map(ToString::to_string)
}

/// Tells why a request failed, to the last cause: `reqwest` itself only says that it did. The
/// address is left out, since it may hold a password.
fn broken(error: &reqwest::Error) -> PolicyError {
    let mut text = match error {
        _ if error.is_connect() => "it cannot be reached".to_owned(),
        _ => "the connection broke".to_owned(),
    };
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    PolicyError(text)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn of(status: u16, text: &str) -> Said {
        said(StatusCode::from_u16(status).unwrap(), text.as_bytes())
    }

    #[test]
    fn a_result_is_the_answer_and_none_is_undefined() {
        assert_eq!(of(200, r#"{"result": true}"#), Said::Answer(Some(json!(true))));
        assert_eq!(of(200, r#"{"result": {"a": 1}}"#), Said::Answer(Some(json!({"a": 1}))));
        assert_eq!(of(200, r#"{"result": null}"#), Said::Answer(Some(json!(null))));
        assert_eq!(of(200, r#"{"decision_id": "x"}"#), Said::Answer(None));
    }

    #[test]
    fn what_is_no_document_says_nothing() {
        for (status, text) in [
            (200, ""),
            (200, "<html>\n welcome"),
            (200, "true"),
            (200, "[]"),
            (204, "{}"),
            (302, "{}"),
            (401, r#"{"code": "unauthorized"}"#),
            (500, "oops"),
            (500, r#"{"code": "internal_error"}"#),
            (500, r#"{"code": "internal_error", "errors": [{"code": "eval_cancel_error"}]}"#),
            (400, r#"{"errors": [{"code": "eval_conflict_error"}]}"#),
        ] {
            let Said::Nothing(reason) = of(status, text) else { panic!("{status} {text}") };
            assert!(reason.starts_with(&format!("answered {status}")), "{reason}");
        }
    }

    #[test]
    fn rules_that_fail_are_told_from_a_server_that_does() {
        let text = r#"{"code": "internal_error", "errors": [{"code": "eval_conflict_error"}]}"#;
        assert!(matches!(of(500, text), Said::NotEvaluated(_)));
    }
}
