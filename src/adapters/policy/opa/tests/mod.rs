//! The adapter against a scripted server, and against OPA itself.

#[cfg(feature = "cluster-tests")]
mod server;

use soma_contract::{
    TenantId,
    port::policy::{Action, Decision},
};

use super::*;
use crate::adapters::scripted::{Act, Server, answer, status};

/// Longer than anything takes on a busy machine; only a test that fails waits for it.
const PATIENCE: Duration = Duration::from_mins(1);

fn settings(url: &str) -> OpaSettings {
    let url = ServerUrl::new(url);
    OpaSettings { url, timeout: PATIENCE, cache_ttl: PATIENCE }
}

fn policy(url: &str) -> OpaPolicy {
    OpaPolicy::new(&settings(url)).unwrap()
}

fn input(action: Action, resource: &str, context: serde_json::Value) -> PolicyInput {
    PolicyInput {
        tenant: TenantId("acme".into()),
        subject: "ada".into(),
        persona_id: None,
        action,
        resource: resource.into(),
        context,
    }
}

fn send() -> PolicyInput {
    input(Action::ConversationSend, "message", json!({"session_id": "s"}))
}

fn says(body: &str) -> Vec<Act> {
    vec![answer("200 OK", "application/json", body)]
}

async fn decided(script: Vec<Act>) -> Result<Decision, PolicyError> {
    let server = Server::start(vec![script]).await;
    policy(&server.url).decide(&send()).await
}

#[tokio::test]
async fn the_server_is_asked_with_the_input_and_nothing_else() {
    let server = Server::start(vec![says(r#"{"result": {"allow": true}}"#)]).await;
    let url = server.url.replace("http://", "http://me:hunter2@") + "/base/";
    assert_eq!(policy(&url).decide(&send()).await, Ok(Decision::Allow));
    let seen = server.seen();
    assert_eq!(seen.len(), 1);
    let line = seen[0].head.lines().next().unwrap();
    assert_eq!(line, "POST /base/v1/data/soma/policy/decision HTTP/1.1");
    let asked = json!({"input": {
        "tenant": "acme", "subject": "ada", "persona_id": null, "action": "conversation.send",
        "resource": "message", "context": {"session_id": "s"},
    }});
    assert_eq!(seen[0].body, asked);
}

#[tokio::test]
async fn only_a_document_that_allows_allows() {
    let denied = |reason: &str| Ok(Decision::Deny(reason.to_owned()));
    for (body, expected) in [
        (r#"{"result": {"allow": true, "reason": "x"}}"#, Ok(Decision::Allow)),
        (r#"{"result": {"allow": false, "reason": "not today"}}"#, denied("not today")),
        (r#"{"result": {"reason": "x"}}"#, denied("the policy's answer is malformed")),
        (r#"{"result": "yes"}"#, denied("the policy's answer is malformed")),
        ("{}", denied("the policy says nothing of this")),
    ] {
        assert_eq!(decided(says(body)).await, expected, "{body}");
    }
}

#[tokio::test]
async fn a_server_that_fails_is_an_error_that_says_how() {
    let internal = r#"{"code":"internal_error","message":"boom"}"#;
    for (script, told) in [
        (says("<html>It works!</html>"), "answered 200 OK: `<html>It works!</html>`"),
        (vec![status("500 Internal Server Error", "", internal)], "internal_error"),
        (vec![status("401 Unauthorized", "", "")], "answered 401"),
        (vec![status("302 Found", "Location: http://a.test\r\n", "")], "answered 302"),
        (vec![Act::Reset], "the connection broke"),
        (vec![status("200 OK", "", &" ".repeat(2 << 20))], "more than 1048576 bytes"),
    ] {
        let error = decided(script).await.unwrap_err().to_string();
        assert!(error.starts_with("the policy engine is unavailable: "), "{error}");
        assert!(error.contains(told), "{error}");
    }
}

#[tokio::test]
async fn a_server_that_is_away_is_an_error_that_keeps_the_password() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let policy = policy(&format!("http://me:hunter2@{free}"));
    let error = policy.decide(&send()).await.unwrap_err();
    assert!(error.0.starts_with("it cannot be reached: "), "{error}");
    assert!(!error.0.contains("hunter2"), "{error}");
    assert_eq!(policy.ping().await, Err(error));
}

#[tokio::test]
async fn a_server_that_is_slow_is_an_error() {
    let mut server = Server::start(vec![vec![Act::Hang]]).await;
    let timeout = Duration::from_millis(50);
    let policy = OpaPolicy::new(&OpaSettings { timeout, ..settings(&server.url) }).unwrap();
    let error = policy.decide(&send()).await.unwrap_err();
    assert_eq!(error.0, "no answer within 50ms");
    // Nothing is left behind that would wait on.
    server.closed(1).await;
}

#[tokio::test]
async fn decisions_are_kept_but_for_those_on_tools_and_errors_are_not() {
    let fails = vec![status("503 Service Unavailable", "", "")];
    let server = Server::start(vec![fails, says(r#"{"result": true}"#)]).await;
    let policy = policy(&server.url);
    assert!(policy.decide(&send()).await.is_err());
    for _ in 0..3 {
        assert_eq!(policy.decide(&send()).await, Ok(Decision::Allow));
    }
    assert_eq!(server.seen().len(), 2);
    let tool = input(Action::ToolExecute, "echo", json!({"args": {}}));
    for _ in 0..3 {
        assert_eq!(policy.decide(&tool).await, Ok(Decision::Allow));
    }
    assert_eq!(server.seen().len(), 5);
}

#[tokio::test]
async fn health_is_asked_for_with_all_bundles() {
    let sick = vec![status("500 Internal Server Error", "", "{}")];
    let server = Server::start(vec![says("{}"), sick]).await;
    let policy = policy(&server.url);
    assert_eq!(policy.ping().await, Ok(()));
    assert!(policy.ping().await.unwrap_err().0.starts_with("answered 500"));
    assert!(server.seen()[0].head.starts_with("GET /health?bundles HTTP/1.1"));
}

#[test]
fn an_address_that_is_none_is_told_without_its_password() {
    let error = OpaPolicy::new(&settings("ftp://me:hunter2@opa")).unwrap_err();
    let told = format!("{error} {error:?}");
    assert!(told.contains("opa") && !told.contains("hunter2"), "{told}");
}
