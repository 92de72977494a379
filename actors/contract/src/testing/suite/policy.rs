//! What every policy engine does.

use std::{fmt, sync::Arc};

use async_trait::async_trait;
use serde_json::json;

use crate::{
    ids::TenantId,
    port::policy::{Action, Decision, Policy, PolicyInput},
};

/// The rules of the suite, in the package that is asked.
pub const REGO: &str = r#"
package soma.policy

import rego.v1

default allow := false

allow if {
	input.action == "conversation.send"
	input.tenant == "acme"
	input.subject != "mallory"
}

allow if {
	input.action == "tool.execute"
	input.resource == "echo"
	input.persona_id == "pirate"
	input.context.args.text == "ahoy"
}

allow if {
	input.action == "memory.write"
	input.resource == "memory"
}

allow if {
	input.action == "admin"
	input.context.admin == true
}

decision := {"allow": true, "reason": "allowed"} if allow

decision := {"allow": false, "reason": "the suite says no"} if not allow
"#;

/// Says the same as [`REGO`], for engines that do not read it.
pub fn same_as_rego(input: &PolicyInput) -> Decision {
    let allowed = match input.action {
        Action::ConversationSend => input.tenant.0 == "acme" && input.subject != "mallory",
        Action::ToolExecute => {
            input.resource == "echo"
                && input.persona_id.as_deref() == Some("pirate")
                && input.context["args"]["text"] == "ahoy"
        }
        Action::MemoryWrite => input.resource == "memory",
        Action::Admin => input.context["admin"] == true,
    };
    if allowed { Decision::Allow } else { Decision::Deny("the suite says no".to_owned()) }
}

/// Rules that answer with something that is neither yes nor no, and truthy.
pub const REGO_WITHOUT_ANSWER: &str = r#"
package soma.policy

import rego.v1

decision := {"reason": "none"} if input.tenant == "acme"
"#;

/// Makes policy engines of one kind; one factory serves one test.
#[async_trait]
pub trait PolicyFactory: fmt::Debug + Send + Sync {
    /// Makes an engine with the rules of [`REGO`].
    async fn deciding(&self) -> Arc<dyn Policy>;

    /// Makes an engine with the rules of [`REGO_WITHOUT_ANSWER`], or one that cannot be reached.
    async fn without_answer(&self) -> Arc<dyn Policy>;
}

/// Expands into the tests of a policy engine; the expression makes a [`PolicyFactory`].
#[macro_export]
macro_rules! policy_suite {
    ($factory:expr) => {
        $crate::suite_cases! { $factory; policy {
            each_part_of_the_input_is_decided_on
            a_denial_says_why
            a_decision_repeated_is_the_same
            no_answer_means_no
            a_policy_that_answers_pings
        }}
    };
}

fn asked(action: Action) -> PolicyInput {
    let (resource, context) = match action {
        Action::ConversationSend => ("message", json!({"session_id": "s"})),
        Action::ToolExecute => ("echo", json!({"args": {"text": "ahoy"}})),
        Action::MemoryWrite => ("memory", json!({})),
        Action::Admin => ("/v1/admin/dlq", json!({"admin": true})),
    };
    PolicyInput {
        tenant: TenantId("acme".to_owned()),
        subject: "ann".to_owned(),
        persona_id: Some("pirate".to_owned()),
        action,
        resource: resource.to_owned(),
        context,
    }
}

/// One input that is allowed per action, then one change each that is not.
fn inputs() -> Vec<(PolicyInput, bool)> {
    let allowed = [
        asked(Action::ConversationSend),
        asked(Action::ToolExecute),
        asked(Action::MemoryWrite),
        asked(Action::Admin),
    ];
    let send = || asked(Action::ConversationSend);
    let tool = || asked(Action::ToolExecute);
    let denied = [
        PolicyInput { tenant: TenantId("other".to_owned()), ..send() },
        PolicyInput { subject: "mallory".to_owned(), ..send() },
        PolicyInput { resource: "format_disk".to_owned(), ..tool() },
        PolicyInput { persona_id: None, ..tool() },
        PolicyInput { context: json!({"args": {"text": "avast"}}), ..tool() },
        PolicyInput { resource: "elsewhere".to_owned(), ..asked(Action::MemoryWrite) },
        PolicyInput { context: json!({"admin": "true"}), ..asked(Action::Admin) },
        PolicyInput { context: json!({}), ..asked(Action::Admin) },
    ];
    let allowed = allowed.into_iter().map(|input| (input, true));
    allowed.chain(denied.into_iter().map(|input| (input, false))).collect()
}

pub async fn each_part_of_the_input_is_decided_on(factory: &dyn PolicyFactory) {
    let policy = factory.deciding().await;
    for (input, allowed) in inputs() {
        let decision = policy.decide(&input).await.unwrap();
        assert_eq!(decision == Decision::Allow, allowed, "{input:?}");
        assert_eq!(same_as_rego(&input) == Decision::Allow, allowed, "{input:?}");
    }
}

pub async fn a_denial_says_why(factory: &dyn PolicyFactory) {
    let policy = factory.deciding().await;
    let input = PolicyInput { subject: "mallory".to_owned(), ..asked(Action::ConversationSend) };
    let decision = policy.decide(&input).await.unwrap();
    assert_eq!(decision, Decision::Deny("the suite says no".to_owned()));
}

pub async fn a_decision_repeated_is_the_same(factory: &dyn PolicyFactory) {
    let policy = factory.deciding().await;
    for (input, _) in inputs() {
        let first = policy.decide(&input).await.unwrap();
        assert_eq!(policy.decide(&input).await.unwrap(), first);
    }
}

pub async fn no_answer_means_no(factory: &dyn PolicyFactory) {
    let policy = factory.without_answer().await;
    for (input, _) in inputs() {
        assert_ne!(policy.decide(&input).await, Ok(Decision::Allow), "{input:?}");
    }
}

pub async fn a_policy_that_answers_pings(factory: &dyn PolicyFactory) {
    factory.deciding().await.ping().await.unwrap();
}
