//! One request on its way through a handler, and what handlers need of it.

use std::{str::FromStr, sync::Arc, time::Duration};

use actix_web::{
    HttpRequest, HttpResponse,
    http::{StatusCode, header::HeaderMap},
    web::Bytes,
};
use serde::{
    Serialize,
    de::{DeserializeOwned, IgnoredAny},
};
use serde_json::Value;
use soma_contract::{
    access::Caller,
    message::Idempotency,
    port::{
        policy::{Action, Decision, PolicyInput},
        store::Store,
    },
};

use super::{
    codes,
    edge::Edge,
    passport::Passport,
    problem::{Answer, Problem},
    routes::Route,
};

/// A request that was let in, with its body.
pub(super) struct Call {
    pub(super) edge: Edge,
    pub(super) route: &'static Route,
    pub(super) request: HttpRequest,
    pub(super) passport: Passport,
    pub(super) caller: Caller,
    pub(super) body: Bytes,
    pub(super) idempotency: Option<Idempotency>,
}

impl Edge {
    /// Runs a port call on the I/O runtime, within the usual deadline.
    pub(super) async fn ask<T, E, F>(&self, work: F) -> Result<T, Problem>
    where
        F: Future<Output = Result<T, E>> + Send + 'static,
        T: Send + 'static,
        E: Into<Problem> + Send + 'static,
    {
        self.ask_within(self.settings().limits.port_deadline, work).await
    }

    /// Runs a port call on the I/O runtime, within a deadline.
    pub(super) async fn ask_within<T, E, F>(
        &self,
        deadline: Duration,
        work: F,
    ) -> Result<T, Problem>
    where
        F: Future<Output = Result<T, E>> + Send + 'static,
        T: Send + 'static,
        E: Into<Problem> + Send + 'static,
    {
        self.parts().io.call(deadline, work).await?.map_err(Into::into)
    }
}

impl Call {
    pub(super) fn headers(&self) -> &HeaderMap {
        self.request.headers()
    }

    /// Returns a header that is text.
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers().get(name)?.to_str().ok()
    }

    pub(super) fn store(&self) -> Arc<dyn Store> {
        Arc::clone(&self.edge.parts().store)
    }

    /// Reads the body as JSON of a certain shape.
    pub(super) fn json<T: DeserializeOwned>(&self) -> Result<T, Problem> {
        read_json(&self.body)
    }

    /// Reads the query.
    pub(super) fn query<T: DeserializeOwned>(&self) -> Result<T, Problem> {
        actix_web::web::Query::<T>::from_query(self.request.query_string())
            .map(actix_web::web::Query::into_inner)
            .map_err(|error| Problem::new(codes::INVALID_QUERY, error.to_string()))
    }

    /// Returns a part of the path, as it is.
    pub(super) fn part(&self, name: &str) -> &str {
        self.request.match_info().get(name).unwrap_or_default()
    }

    /// Reads an id in the path.
    pub(super) fn id<T: FromStr>(&self, name: &str) -> Result<T, Problem> {
        let text = self.part(name);
        text.parse().map_err(|_malformed| {
            Problem::new(codes::INVALID_ID, format!("`{text}` is not a well-formed {name}"))
        })
    }

    /// Asks the policy; no answer means no.
    pub(super) async fn permit(
        &self,
        action: Action,
        resource: &str,
        persona_id: Option<String>,
        context: Value,
    ) -> Result<(), Problem> {
        permit(&self.edge, &self.caller, action, resource, persona_id, context).await
    }
}

/// Asks the policy; no answer means no.
pub(super) async fn permit(
    edge: &Edge,
    caller: &Caller,
    action: Action,
    resource: &str,
    persona_id: Option<String>,
    context: Value,
) -> Result<(), Problem> {
    let input = PolicyInput {
        tenant: caller.tenant.clone(),
        subject: caller.subject.clone(),
        persona_id,
        action,
        resource: resource.to_owned(),
        context,
    };
    let policy = Arc::clone(&edge.parts().policy);
    let deadline = edge.settings().limits.port_deadline;
    let decision = edge
        .parts()
        .io
        .call(deadline, async move { policy.decide(&input).await })
        .await
        .map_err(|_late| Problem::of(codes::POLICY_UNAVAILABLE))??;
    match decision {
        Decision::Allow => Ok(()),
        Decision::Deny(why) => Err(Problem::new(codes::POLICY_DENIED, why)),
    }
}

/// Reads JSON of a certain shape; a NUL in any of its texts is refused, as no store keeps it.
pub(super) fn read_json<T: DeserializeOwned>(body: &[u8]) -> Result<T, Problem> {
    if may_hold_nul(body) && serde_json::from_slice(body).is_ok_and(|value| holds_nul(&value)) {
        return Err(Problem::of(codes::INVALID_TEXT));
    }
    if body.trim_ascii_start().first() != Some(&b'{') {
        // A list would otherwise be taken for the fields of a struct in their order.
        return Err(match serde_json::from_slice::<IgnoredAny>(body) {
            Ok(_) => Problem::new(codes::INVALID_BODY, "the body is not a JSON object"),
            Err(error) => Problem::new(codes::MALFORMED_JSON, error.to_string()),
        });
    }
    serde_json::from_slice(body).map_err(|error| {
        let code = if error.is_data() { codes::INVALID_BODY } else { codes::MALFORMED_JSON };
        Problem::new(code, error.to_string())
    })
}

/// A text can hold a NUL only by this escape; a raw one is not JSON.
fn may_hold_nul(body: &[u8]) -> bool {
    body.windows(6).any(|window| window == br"\u0000")
}

fn holds_nul(value: &Value) -> bool {
    match value {
        Value::String(text) => text.contains('\0'),
        Value::Array(list) => list.iter().any(holds_nul),
        Value::Object(map) => {
            map.iter().any(|(name, value)| name.contains('\0') || holds_nul(value))
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => false,
    }
}

/// Answers with JSON.
pub(super) fn json(status: StatusCode, body: &impl Serialize) -> Answer {
    let text = serde_json::to_string(body).map_err(Problem::internal)?;
    Ok(HttpResponse::build(status).content_type("application/json").body(text))
}

/// Answers 200 with JSON.
pub(super) fn ok(body: &impl Serialize) -> Answer {
    json(StatusCode::OK, body)
}

/// Reads a time such as `30s`, `500ms`, `2m` or `30` (seconds).
pub(super) fn duration(text: &str) -> Option<Duration> {
    let digits = text.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at_checked(digits)?;
    let number: u32 = number.parse().ok()?;
    match unit {
        "ms" => Some(Duration::from_millis(number.into())),
        "" | "s" => Some(Duration::from_secs(number.into())),
        "m" => Some(Duration::from_secs(u64::from(number) * 60)),
        _ => None,
    }
}

/// Reads the usual `limit` of a list.
pub(super) fn limit(asked: Option<u32>, usual: u32, most: u32) -> Result<u32, Problem> {
    let limit = asked.unwrap_or(usual);
    if (1..=most).contains(&limit) {
        return Ok(limit);
    }
    Err(Problem::new(codes::INVALID_QUERY, format!("`limit` must be between 1 and {most}")))
}

/// Whether a flag in the query is set; whatever else it says is taken as no.
pub(super) fn is_set(flag: Option<&str>) -> bool {
    matches!(flag, Some("1" | "true" | "yes" | ""))
}

/// Reads a flag in the query whose meaning is not to be guessed: what is deleted is gone.
pub(super) fn flag(name: &str, value: Option<&str>) -> Result<bool, Problem> {
    match value {
        None | Some("0" | "false" | "no") => Ok(false),
        Some(other) if !is_set(value) => {
            let detail = format!("`{name}` is `1` or `0`, not `{other}`");
            Err(Problem::new(codes::INVALID_QUERY, detail))
        }
        Some(_) => Ok(true),
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Deserialize)]
    struct Text {
        text: String,
    }

    #[test]
    fn a_nul_is_refused_and_its_written_form_is_not() {
        let nul = read_json::<Text>(br#"{"text":"a\u0000b"}"#).unwrap_err();
        assert_eq!(nul.code(), codes::INVALID_TEXT);
        let written = read_json::<Text>(br#"{"text":"a\\u0000b"}"#).unwrap();
        assert_eq!(written.text, r"a\u0000b");
    }

    #[test]
    fn syntax_and_shape_are_told_apart() {
        let code = |body: &[u8]| read_json::<Text>(body).unwrap_err().code();
        assert_eq!(code(b"{"), codes::MALFORMED_JSON);
        assert_eq!(code(b""), codes::MALFORMED_JSON);
        assert_eq!(code(&b"[".repeat(100_000)), codes::MALFORMED_JSON);
        assert_eq!(code(br#"{"text":7}"#), codes::INVALID_BODY);
        assert_eq!(code(br#"["text"]"#), codes::INVALID_BODY);
    }

    #[test]
    fn a_flag_is_not_guessed() {
        assert!(!flag("all", None).unwrap() && !flag("all", Some("0")).unwrap());
        assert!(flag("all", Some("1")).unwrap() && flag("all", Some("")).unwrap());
        for bad in ["TRUE", "2", "on", " 1"] {
            assert_eq!(flag("all", Some(bad)).unwrap_err().code(), codes::INVALID_QUERY, "{bad}");
        }
    }

    #[test]
    fn durations_have_units() {
        assert_eq!(duration("30s"), Some(Duration::from_secs(30)));
        assert_eq!(duration("30"), Some(Duration::from_secs(30)));
        assert_eq!(duration("250ms"), Some(Duration::from_millis(250)));
        assert_eq!(duration("2m"), Some(Duration::from_mins(2)));
        for bad in ["", "s", "1h", "-1s", "1.5s", "99999999999s"] {
            assert_eq!(duration(bad), None, "{bad}");
        }
    }
}
