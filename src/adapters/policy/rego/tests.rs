//! The shipped policy and its tests, and what happens to policies that are broken.

use regorus::Value;
use serde_json::json;
use soma_contract::{
    TenantId,
    port::policy::{Action, Decision},
};

use super::*;

const TTL: Duration = Duration::from_secs(2);

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

/// A policy of these files.
fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in files {
        std::fs::write(folder.path().join(name), text).unwrap();
    }
    folder
}

fn policy(files: &[(&str, &str)]) -> Result<Rego, RegoError> {
    Rego::load(Some(folder(files).path()), TTL)
}

async fn denial(policy: &Rego, input: &PolicyInput) -> String {
    match policy.decide(input).await.unwrap() {
        Decision::Deny(reason) => reason,
        Decision::Allow => panic!("allowed: {input:?}"),
    }
}

#[test]
fn every_test_of_the_shipped_policy_passes() {
    let tests = include_str!("../../../../config/policy/soma_test.rego");
    let source = Source::shipped();
    let (mut engine, _) = source.engine().unwrap();
    engine.add_policy("soma_test.rego".into(), tests.into()).unwrap();
    let names: Vec<_> = tests
        .lines()
        .filter_map(|line| line.strip_suffix(" if {"))
        .filter(|name| name.starts_with("test_"))
        .collect();
    assert!(names.len() >= 10, "{names:?}");
    for name in names {
        let passed = engine.eval_rule(format!("data.soma.policy_test.{name}")).unwrap();
        assert_eq!(passed, Value::from(true), "{name}");
    }
}

#[tokio::test]
async fn the_shipped_policy_decides_on_what_the_platform_asks() {
    let policy = Rego::load(None, TTL).unwrap();
    let echo = input(Action::ToolExecute, "echo", json!({"args": {"text": "hi"}}));
    assert_eq!(policy.decide(&echo).await, Ok(Decision::Allow));
    let unknown = input(Action::ToolExecute, "rm", json!({"args": {}}));
    assert_eq!(denial(&policy, &unknown).await, "the policy knows no tool `rm`");
    let send = input(Action::ConversationSend, "message", json!({}));
    assert_eq!(policy.decide(&send).await, Ok(Decision::Allow));
    let admin = input(Action::Admin, "/v1/admin/dlq", json!({"admin": false}));
    assert_eq!(denial(&policy, &admin).await, "admin rights are needed");
    assert_eq!(policy.ping().await, Ok(()));
}

#[test]
fn the_shipped_policy_knows_every_tool_that_ships() {
    let data: serde_json::Value =
        serde_json::from_str(include_str!("../../../../config/policy/data.json")).unwrap();
    let known: Vec<_> = data["tools"]["known"]
        .as_array()
        .unwrap()
        .iter()
        .map(|name| name.as_str().unwrap())
        .collect();
    assert_eq!(
        known,
        [
            "document_ingest",
            "echo",
            "file_append",
            "file_read",
            "file_write",
            "http_fetch",
            "memory_save",
            "memory_search",
            "timestamp"
        ]
    );
}

#[tokio::test]
async fn a_folder_replaces_the_shipped_policy() {
    let policy = policy(&[
        ("a.rego", "package soma.policy\nallow if input.resource in data.tools\n"),
        ("helper.rego", "package helper\nx := 1\n"),
        ("a_test.rego", "this is not even rego"),
        ("data.json", r#"{"tools": ["hammer"]}"#),
    ])
    .unwrap();
    let hammer = input(Action::ToolExecute, "hammer", json!({}));
    assert_eq!(policy.decide(&hammer).await, Ok(Decision::Allow));
    let saw = input(Action::ToolExecute, "saw", json!({}));
    assert_eq!(denial(&policy, &saw).await, "the policy says nothing of this");
}

#[test]
fn a_broken_file_is_named_with_its_line() {
    let broken = policy(&[("a.rego", "package soma.policy\n\nallow if {\n  input.x ==\n}\n")]);
    let told = broken.unwrap_err().to_string();
    assert!(told.contains("a.rego` is not valid"), "{told}");
    assert!(told.contains("a.rego:5"), "{told}");
    let data = policy(&[("a.rego", "package soma.policy\nallow := true"), ("data.json", "{")]);
    assert!(data.unwrap_err().to_string().contains("data.json` is not valid"));
}

#[test]
fn a_policy_that_answers_nothing_is_refused_at_start() {
    let other = policy(&[("a.rego", "package soma\nallow := true\n")]);
    assert!(matches!(other.unwrap_err(), RegoError::NoRule));
    assert!(matches!(policy(&[("x.txt", "")]).unwrap_err(), RegoError::Empty(_)));
    let nowhere = Rego::load(Some(Path::new("/nonexistent/policy")), TTL);
    assert!(matches!(nowhere.unwrap_err(), RegoError::Unreadable { .. }));
}

#[tokio::test]
async fn only_a_true_allow_allows() {
    for (decision, reason) in [
        (r#"{"allow": false, "reason": "not today"}"#, "not today"),
        (r#"{"allow": false}"#, "denied by the policy"),
        (r#"{"allow": "true"}"#, "the policy's answer is malformed"),
        (r#"{"allowed": true}"#, "the policy's answer is malformed"),
        ("[true]", "the policy's answer is malformed"),
        ("1", "the policy's answer is malformed"),
    ] {
        let text = format!("package soma.policy\ndecision := {decision}\n");
        let policy = policy(&[("a.rego", &text)]).unwrap();
        let send = input(Action::ConversationSend, "message", json!({}));
        assert_eq!(denial(&policy, &send).await, reason, "{decision}");
    }
}

#[tokio::test]
async fn a_decision_that_contradicts_itself_is_denied() {
    let text = "package soma.policy\n\
                decision := {\"allow\": true} if input.subject == \"ada\"\n\
                decision := {\"allow\": false} if input.tenant == \"acme\"\n";
    let policy = policy(&[("a.rego", text)]).unwrap();
    let send = input(Action::ConversationSend, "message", json!({}));
    assert_eq!(denial(&policy, &send).await, "the policy cannot be evaluated");
}

#[tokio::test]
async fn an_endless_evaluation_is_ended_and_denied() {
    let text = "package soma.policy\n\
                allow if {\n\
                some a in numbers.range(1, 3000)\n\
                some b in numbers.range(1, 3000)\n\
                some c in numbers.range(1, 3000)\n\
                a + b + c == -1\n}\n";
    let policy = policy(&[("a.rego", text)]).unwrap();
    let send = input(Action::ConversationSend, "message", json!({}));
    assert_eq!(denial(&policy, &send).await, "the policy cannot be evaluated");
    assert!(policy.slow.load(Ordering::Relaxed));
}

#[tokio::test]
async fn decisions_on_arguments_are_never_taken_from_the_cache() {
    let policy = Rego::load(None, TTL).unwrap();
    for action in [Action::ToolExecute, Action::MemoryWrite, Action::MemoryWrite] {
        policy.decide(&input(action, "echo", json!({"args": {}}))).await.unwrap();
    }
    let key = |action| json!(input(action, "echo", json!({"args": {}}))).to_string();
    assert_eq!(policy.cache.get(&key(Action::ToolExecute), Instant::now()), None);
    assert_eq!(policy.cache.get(&key(Action::MemoryWrite), Instant::now()), Some(Decision::Allow));
}

#[tokio::test]
async fn many_may_ask_at_once() {
    let policy = Rego::load(None, TTL).unwrap();
    policy.slow.store(true, Ordering::Relaxed);
    let asked = (0..50).map(|number| {
        let policy = &policy;
        async move {
            let context = json!({"args": {"n": number}});
            policy.decide(&input(Action::ToolExecute, "echo", context)).await
        }
    });
    for decision in futures::future::join_all(asked).await {
        assert_eq!(decision, Ok(Decision::Allow));
    }
}

mod suite {
    //! What every policy engine does.
    use soma_contract::{
        policy_suite,
        testing::suite::policy::{PolicyFactory, REGO, REGO_WITHOUT_ANSWER},
    };

    use super::*;

    #[derive(Debug)]
    struct Engines;

    #[async_trait]
    impl PolicyFactory for Engines {
        async fn deciding(&self) -> Arc<dyn Policy> {
            Arc::new(policy(&[("suite.rego", REGO)]).unwrap())
        }

        async fn without_answer(&self) -> Arc<dyn Policy> {
            Arc::new(policy(&[("suite.rego", REGO_WITHOUT_ANSWER)]).unwrap())
        }
    }

    policy_suite!(Engines);
}
