//! Every route against input that nobody should send.

use std::time::Duration;

use serde_json::json;

use super::{
    described::fits,
    support::{Ask, Site},
};
use crate::http::{
    openapi::plain_path,
    route::{Served, Takes},
    routes::ROUTES,
};

const GOOD_ID: &str = "00000000-0000-4000-8000-00000000000f";

fn path(template: &str, id: &str) -> String {
    let mut path = plain_path(template);
    while let (Some(begin), Some(end)) = (path.find('{'), path.find('}')) {
        path.replace_range(begin..=end, id);
    }
    path
}

#[tokio::test]
async fn every_json_route_refuses_what_is_no_body_of_its_shape() {
    let site = Site::new();
    let deep = [b"[".repeat(100_000), b"]".repeat(100_000)].concat();
    let huge = vec![b' '; (1 << 20) + 1];
    let bodies: [(&str, &[u8], u16, &str); 9] = [
        ("empty", b"", 400, "malformed_json"),
        ("half", b"{\"message\": ", 400, "malformed_json"),
        ("no JSON", b"hello", 400, "malformed_json"),
        ("not UTF-8", b"\"\xff\xfe\"", 400, "malformed_json"),
        ("raw NUL", b"{\"message\": \"a\0b\"}", 400, "malformed_json"),
        ("deep", &deep, 400, "malformed_json"),
        ("another type", b"[1, 2]", 400, "invalid_body"),
        ("another shape", b"{\"nobody\": true}", 400, "invalid_body"),
        ("huge", &huge, 413, "body_too_large"),
    ];
    let takes_json = |takes| matches!(takes, Takes::Json | Takes::MaybeJson);
    for route in ROUTES.iter().filter(|route| takes_json(route.takes)) {
        let path = path(route.path, GOOD_ID);
        for (what, body, status, code) in bodies {
            if route.takes == Takes::MaybeJson && what == "empty" {
                continue;
            }
            let ask = Ask::default().header("content-type", "application/json").body(body);
            let reply = site.ask(route.method, &path, ask).await;
            let is_syntax = code == "malformed_json" && reply.code() == "invalid_body";
            assert_eq!(reply.status, status, "{route:?} {what}: {reply:?}");
            assert!(reply.code() == code || is_syntax, "{route:?} {what}: {reply:?}");
        }
        for kind in ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data"] {
            let ask = Ask::default().header("content-type", kind).body("{}");
            let reply = site.ask(route.method, &path, ask).await;
            assert_eq!((reply.status, reply.code()), (415, "unsupported_media_type"), "{route:?}");
        }
    }
}

#[tokio::test]
async fn every_route_with_an_id_refuses_what_is_none() {
    let site = Site::new();
    let has_uuid = |path: &str| {
        ["session_id", "event_id", "memory_id", "attachment_id", "letter", "key_id"]
            .iter()
            .any(|name| path.contains(&format!("{{{name}}}")))
    };
    for route in ROUTES.iter().filter(|route| has_uuid(route.path)) {
        for id in ["x", "0", "%00", "..%2f..", "00000000-0000-4000-8000-00000000000g", "'or'1'='1"]
        {
            if id == "0" && route.path.contains("{letter}") {
                continue;
            }
            let reply = site.ask(route.method, &path(route.path, id), Ask::default()).await;
            assert_eq!((reply.status, reply.code()), (400, "invalid_id"), "{route:?} {id}");
        }
    }
    for id in ["a%20b", "ä", &"x".repeat(65)] {
        let put = Ask::json(&json!({"prompt": "x"}));
        let reply = site.ask("PUT", &format!("/v1/personas/{id}"), put).await;
        reply.is_problem(400, "invalid_id");
    }
}

#[tokio::test]
async fn every_query_refuses_limits_cursors_and_flags_that_mean_nothing() {
    let site = Site::new();
    let accepted = site.say(None, "hello").await;
    let session = accepted["session_id"].as_str().unwrap();
    for route in ROUTES {
        for (name, _) in route.query {
            let values: &[&str] = match *name {
                "limit" => &["0", "-1", "x", "99999", "99999999999999999999"],
                "cursor" => &["nonsense"],
                "after" => &["-1", "x"],
                // What is asked for here cannot be undone.
                "memories" | "all" => &["TRUE", "on", "2"],
                _ => continue,
            };
            for value in values {
                let path = format!("{}?{name}={value}", path(route.path, session));
                let reply = site.ask(route.method, &path, Ask::default()).await;
                assert_eq!(reply.status, 400, "{path}: {reply:?}");
                assert!(["invalid_query", "invalid_cursor"].contains(&reply.code()), "{path}");
            }
        }
    }
}

#[tokio::test]
async fn what_is_not_there_is_said_in_the_same_form() {
    let site = Site::new();
    let problem = |reply: &super::support::Reply, status: u16, code: &str| {
        assert_eq!((reply.status, reply.code()), (status, code), "{reply:?}");
        assert_eq!(reply.header("content-type"), "application/problem+json");
        fits("Problem", &reply.body);
    };
    for path in ["/", "/v1", "/v2/sessions", "/v1/sessions/", "/metrics", "/v1/sessions/a/b/c"] {
        problem(&site.ask_at(&site.url(path), "GET", Ask::default()).await, 404, "no_such_route");
    }
    for route in ROUTES.iter().filter(|route| route.served != Served::Admin) {
        for method in ["PATCH", "OPTIONS", "TRACE", "BREW"] {
            let url = site.url(&path(route.path, GOOD_ID));
            let reply = site.ask_at(&url, method, Ask::default()).await;
            problem(&reply, 405, "method_not_allowed");
            assert!(reply.header("allow").contains(route.method), "{route:?}");
        }
    }
}

#[tokio::test]
async fn a_head_that_is_too_large_is_told_so() {
    let site = Site::new();
    let ask = Ask::default().header("x-long", "x".repeat(40_000));
    site.ask("GET", "/v1/tools", ask).await.is_problem(431, "headers_too_large");
    let path = format!("/v1/memory/search?q={}", "x".repeat(9_000));
    site.get(&path).await.is_problem(414, "uri_too_long");
    // Beyond what the HTTP library reads there are no words, only the status.
    let request = format!(
        "GET /v1/tools HTTP/1.1\r\nhost: localhost\r\nx-long: {}\r\n\r\n",
        "x".repeat(200_000)
    );
    assert!(site.raw(request.as_bytes()).await.starts_with("HTTP/1.1 431"));
}

#[tokio::test]
async fn a_body_that_does_not_arrive_is_a_408() {
    let site = Site::with(|setup| {
        setup.settings.limits.body_read_timeout = Duration::from_millis(50);
    });
    for (path, kind) in [
        ("/v1/session/message", "application/json"),
        ("/v1/chat/completions", "application/json"),
        ("/v1/uploads", "multipart/form-data; boundary=x"),
    ] {
        let request = format!(
            "POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: {kind}\r\ncontent-length: 100\r\n\r\n{{"
        );
        let answer = site.raw(request.as_bytes()).await;
        assert!(answer.starts_with("HTTP/1.1 408"), "{answer}");
        assert!(answer.contains("\"request_timeout\""), "{answer}");
    }
}

#[tokio::test]
async fn a_body_that_is_announced_too_large_is_refused_unread() {
    let site = Site::new();
    let answer = site
        .raw(
            b"POST /v1/session/message HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n\
              content-length: 99999999999\r\n\r\n{",
        )
        .await;
    assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
    let both = b"POST /v1/session/message HTTP/1.1\r\nhost: localhost\r\ncontent-length: 2\r\n\
        transfer-encoding: chunked\r\n\r\n0\r\n\r\n";
    assert!(site.raw(both).await.starts_with("HTTP/1.1 400"), "request smuggling");
}

#[tokio::test]
async fn a_panic_in_a_handler_fails_its_own_request_alone() {
    let site = Site::new();
    let reply = site.ask("POST", "/v1/services/panics/restart", Ask::default()).await;
    reply.is_problem(500, "internal");
    assert!(!reply.text.contains("as told"), "{}", reply.text);
    assert_eq!(site.get("/v1/tools").await.status, 200);
}

#[tokio::test]
async fn a_head_request_is_a_get_without_the_body() {
    let site = Site::new();
    let get = site.get("/v1/tools").await;
    let head = site.ask_at(&site.url("/v1/tools"), "HEAD", Ask::default()).await;
    assert_eq!((head.status, head.text.as_str()), (200, ""));
    assert_eq!(head.header("content-length"), get.text.len().to_string());
}
