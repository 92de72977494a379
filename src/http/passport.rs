//! What identifies a request: its request id and its place in a trace (W3C Trace Context).

use std::collections::BTreeMap;

use actix_web::http::header::{HeaderMap, HeaderName, HeaderValue};
use soma_contract::{Ids, event::TraceContext};

/// The header with the request's id, in and out.
pub(super) const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// The header with the place in the trace, in and out.
pub(super) const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

const MAX_REQUEST_ID: usize = 128;
const MAX_TRACESTATE: usize = 512;

/// The ids of one request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Passport {
    /// The client's `X-Request-ID` where it is well formed, else drawn.
    pub(super) request_id: String,
    /// `00-<trace>-<our span>-<flags>`: the client's trace where it sent one.
    pub(super) traceparent: String,
    /// The client's `tracestate`, which belongs to its trace.
    tracestate: Option<String>,
}

impl Passport {
    /// Reads the ids that the client sent and draws the missing ones.
    pub(super) fn of(headers: &HeaderMap, ids: &dyn Ids) -> Self {
        let request_id = text(headers, &X_REQUEST_ID)
            .filter(|id| is_request_id(id))
            .map_or_else(|| ids.draw().simple().to_string(), str::to_owned);
        let span = format!("{:016x}", ids.draw().as_u64_pair().1);
        let parent = text(headers, &TRACEPARENT).and_then(parse);
        let (trace, flags) = match &parent {
            Some(parent) => (parent.trace.to_owned(), parent.flags),
            None => (ids.draw().simple().to_string(), "01"),
        };
        let tracestate = text(headers, &TRACESTATE)
            .filter(|state| parent.is_some() && state.len() <= MAX_TRACESTATE)
            .map(str::to_owned);
        Self { request_id, traceparent: format!("00-{trace}-{span}-{flags}"), tracestate }
    }

    /// Returns the id of the trace.
    pub(super) fn trace_id(&self) -> &str {
        self.traceparent.split('-').nth(1).unwrap_or_default()
    }

    /// Returns what is stored with each row that the request writes.
    pub(super) fn trace_context(&self) -> TraceContext {
        let mut context = BTreeMap::new();
        context.insert("request_id".to_owned(), self.request_id.clone());
        context.insert("traceparent".to_owned(), self.traceparent.clone());
        if let Some(tracestate) = &self.tracestate {
            context.insert("tracestate".to_owned(), tracestate.clone());
        }
        TraceContext(context)
    }

    /// Writes the ids into the answer's headers.
    pub(super) fn stamp(&self, headers: &mut HeaderMap) {
        if let Ok(value) = HeaderValue::from_str(&self.request_id) {
            headers.insert(X_REQUEST_ID, value);
        }
        if let Ok(value) = HeaderValue::from_str(&self.traceparent) {
            headers.insert(TRACEPARENT, value);
        }
    }
}

fn text<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

fn is_request_id(text: &str) -> bool {
    (1..=MAX_REQUEST_ID).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.:/+=".contains(&byte))
}

struct Parent<'a> {
    trace: &'a str,
    flags: &'a str,
}

/// Reads a `traceparent`; a malformed one begins a new trace, as the specification asks.
fn parse(text: &str) -> Option<Parent<'_>> {
    let mut parts = text.split('-');
    let (version, trace, span, flags) =
        (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let is_known = version == "00" && parts.next().is_none();
    let is_later = is_hex(version, 2) && version != "00" && version != "ff";
    let is_whole = is_hex(trace, 32)
        && is_hex(span, 16)
        && is_hex(flags, 2)
        && trace.bytes().any(|byte| byte != b'0')
        && span.bytes().any(|byte| byte != b'0');
    ((is_known || is_later) && is_whole).then_some(Parent { trace, flags })
}

fn is_hex(text: &str, length: usize) -> bool {
    text.len() == length && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

#[cfg(test)]
mod tests {
    use soma_contract::ids::RandomIds;

    use super::*;

    const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

    fn passport(pairs: &[(HeaderName, &str)]) -> Passport {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.insert(name.clone(), HeaderValue::from_str(value).unwrap());
        }
        Passport::of(&headers, &RandomIds)
    }

    #[test]
    fn well_formed_ids_are_taken_over() {
        let parent = format!("00-{TRACE}-00f067aa0ba902b7-00");
        let passport = passport(&[(X_REQUEST_ID, "req-7"), (TRACEPARENT, &parent)]);
        assert_eq!(passport.request_id, "req-7");
        assert_eq!(passport.trace_id(), TRACE);
        assert!(passport.traceparent.ends_with("-00"), "the client's decision not to sample holds");
        assert!(!passport.traceparent.contains("00f067aa0ba902b7"), "the span is our own");
    }

    #[test]
    fn malformed_ids_are_drawn_anew() {
        for bad in ["", "a b", &"x".repeat(129), "<script>"] {
            assert_ne!(passport(&[(X_REQUEST_ID, bad)]).request_id, bad);
        }
        for bad in [
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-extra",
        ] {
            let passport = passport(&[(TRACEPARENT, bad)]);
            assert_ne!(passport.trace_id(), TRACE);
            assert!(parse(&passport.traceparent).is_some());
        }
    }

    #[test]
    fn the_tracestate_follows_only_its_own_trace() {
        let parent = format!("00-{TRACE}-00f067aa0ba902b7-01");
        let with = passport(&[(TRACEPARENT, &parent), (TRACESTATE, "a=b")]);
        assert_eq!(with.trace_context().0.get("tracestate").map(String::as_str), Some("a=b"));
        let without = passport(&[(TRACESTATE, "a=b")]);
        assert!(!without.trace_context().0.contains_key("tracestate"));
    }
}
