//! The description of the API against the API.

use std::{fmt::Write, path::Path};

use serde_json::{Value, json};

use super::support::{Ask, Reply, Site};
use crate::http::{
    codes,
    openapi::{document, plain_path},
    route::Route,
    routes::ROUTES,
};

/// Checks an answer against the description of the API.
#[track_caller]
pub(super) fn check(method: &str, path: &str, reply: &Reply) {
    assert!(!reply.header("x-request-id").is_empty(), "{reply:?}");
    assert!(reply.header("traceparent").starts_with("00-"), "{reply:?}");
    assert_eq!(reply.header("x-content-type-options"), "nosniff");
    if reply.status >= 400 && reply.status != 503 || reply.body.get("code").is_some() {
        fits("Problem", &reply.body);
        assert_eq!(reply.body["request_id"], reply.header("x-request-id"));
        assert_eq!(reply.body["status"], reply.status);
        return;
    }
    let Some(route) = route(method, path) else {
        panic!("{method} {path} is not described");
    };
    let given = route.gives.iter().find(|(status, _)| *status == reply.status);
    let Some((_, what)) = given else {
        panic!("{route:?} does not describe {}: {reply:?}", reply.status);
    };
    match *what {
        "" => assert_eq!(reply.text, ""),
        media if media.contains('/') => {}
        schema => fits(schema, &reply.body),
    }
}

pub(super) fn route(method: &str, path: &str) -> Option<&'static Route> {
    let path = path.split('?').next().unwrap_or_default();
    ROUTES.iter().find(|route| {
        let template = plain_path(route.path);
        let mut wanted = template.split('/');
        let mut given = path.split('/');
        let is_rest = route.path.contains(":.+");
        route.method == method
            && (is_rest && path.starts_with(template.split('{').next().unwrap())
                || loop {
                    match (wanted.next(), given.next()) {
                        (None, None) => break true,
                        (Some(wanted), Some(given))
                            if wanted == given || wanted.starts_with('{') => {}
                        _ => break false,
                    }
                })
    })
}

#[track_caller]
pub(super) fn fits(schema: &str, value: &Value) {
    let document = serde_json::to_value(document()).unwrap();
    let whole = json!({
        "$ref": format!("#/components/schemas/{schema}"),
        "components": document["components"],
    });
    let validator = jsonschema::validator_for(&whole).unwrap();
    let faults: Vec<String> = validator
        .iter_errors(value)
        .map(|fault| format!("{}: {fault}", fault.instance_path()))
        .collect();
    assert!(faults.is_empty(), "not a {schema}: {faults:?}\n{value:#}");
}

#[tokio::test]
async fn the_description_is_served_for_programs_and_for_people() {
    let site = Site::new();
    let reply = site.get("/openapi.json").await;
    assert_eq!(reply.body["paths"].as_object().unwrap().len(), paths());
    let page = site.get("/docs").await;
    assert!(page.header("content-type").starts_with("text/html"));
    assert!(page.text.contains("/v1/session/message"));
}

fn paths() -> usize {
    let mut paths: Vec<_> = ROUTES.iter().map(|route| route.path).collect();
    paths.sort_unstable();
    paths.dedup();
    paths.len()
}

#[test]
fn every_reference_in_the_description_leads_somewhere() {
    let document = serde_json::to_value(document()).unwrap();
    let mut references = Vec::new();
    collect(&document, &mut references);
    assert!(references.len() > 50);
    for reference in references {
        let pointer = reference.strip_prefix('#').unwrap();
        assert!(document.pointer(pointer).is_some(), "{reference}");
    }
    let schemas = document["components"]["schemas"].as_object().unwrap();
    assert_eq!(schemas.get("Event").unwrap()["type"], "object");
    for route in ROUTES {
        if let Some(body) = route.body {
            assert!(schemas.contains_key(body), "{route:?}");
        }
    }
}

fn collect(value: &Value, references: &mut Vec<String>) {
    match value {
        Value::Object(map) => {
            if let Some(Value::String(reference)) = map.get("$ref") {
                references.push(reference.clone());
            }
            map.values().for_each(|value| collect(value, references));
        }
        Value::Array(list) => list.iter().for_each(|value| collect(value, references)),
        _ => {}
    }
}

/// `UPDATE_GOLDEN=1` writes the page instead of comparing it.
#[test]
#[expect(clippy::disallowed_methods, reason = "the test is told by the environment to write")]
fn the_page_of_error_codes_is_up_to_date() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/reference/errors.md");
    let mut page = String::from(
        "# Error codes\n\nEvery error of the HTTP API is a problem detail (RFC 9457): \
         `application/problem+json` with `type`, `title`, `status`, `code`, `detail` and \
         `request_id`. The codes are stable; `title` and `detail` are for people and may change. \
         The request id finds the request in the log. Routes with OpenAI's shapes tell the same \
         members and OpenAI's `error` object.\n\n\
         This page is generated from `src/http/codes.rs`: `UPDATE_GOLDEN=1 cargo test`.\n\n\
         | code | HTTP | means | what to do |\n| --- | --- | --- | --- |\n",
    );
    for code in codes::ALL {
        writeln!(page, "| `{}` | {} | {} | {} |", code.name, code.status, code.title, code.advice)
            .unwrap();
    }
    page.push_str(
        "\nA head of more than 128 KiB or 96 headers (431), a head that does not arrive in time \
         (408) and a malformed head (400) are answered by the HTTP library: with the status, and \
         without a body.\n",
    );
    if std::env::var("UPDATE_GOLDEN").is_ok() {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, &page).unwrap();
    }
    let kept = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(kept == page, "docs/reference/errors.md is old: UPDATE_GOLDEN=1 cargo test");
}

#[tokio::test]
async fn metrics_count_by_template_and_never_by_path() {
    let site = Site::new();
    site.get("/v1/sessions/00000000-0000-4000-8000-00000000000f").await;
    site.ask_at(&site.url("/no/such/path"), "GET", Ask::default()).await;
    site.ask_at(&site.url("/v1/tools"), "BREW", Ask::default()).await;
    let url = format!("http://{}/metrics", site.admin.address());
    let metrics = site.ask_at(&url, "GET", Ask::default()).await;
    assert!(metrics.header("content-type").starts_with("text/plain"));
    for line in [
        "http_requests_total{method=\"GET\",route=\"/v1/sessions/{session_id}\",status=\"404\"} 1",
        "http_requests_total{method=\"GET\",route=\"unmatched\",status=\"404\"} 1",
        "http_requests_total{method=\"other\",route=\"unmatched\",status=\"405\"} 1",
        "http_problems_total{code=\"not_found\"} 1",
        "http_request_seconds_count{method=\"GET\",route=\"/v1/sessions/{session_id}\"} 1",
    ] {
        assert!(metrics.text.contains(line), "{line}\n{}", metrics.text);
    }
    assert!(!metrics.text.contains("00000000-0000") && !metrics.text.contains("/no/such"));
}
