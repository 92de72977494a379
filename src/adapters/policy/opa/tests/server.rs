//! The adapter against OPA: its suite, and the shipped policy in both engines.

use std::{
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
};

use soma_contract::{
    Ids,
    ids::RandomIds,
    policy_suite,
    testing::suite::policy::{PolicyFactory, REGO, REGO_WITHOUT_ANSWER},
};

use super::*;
use crate::adapters::{policy::Rego, servers};

fn url() -> String {
    servers::address("SOMA_TEST_OPA_URL", "http://127.0.0.1:58181")
}

/// An engine with these rules, in a package of its own on the shared server.
async fn engine(rego: &str) -> OpaPolicy {
    let package = format!("test_{}", RandomIds.draw().simple());
    let rego = rego.replacen("package soma.policy", &format!("package {package}.policy"), 1);
    let rule = format!("v1/data/{package}/policy/decision");
    let policy = OpaPolicy::of_rule(&settings(&url()), &rule).unwrap();
    let put = address::join(&url(), &format!("v1/policies/{package}")).unwrap();
    let answer = policy.client.put(put).body(rego).send().await;
    let answer = answer.unwrap_or_else(|error| panic!("no OPA: run `make up` ({error})"));
    assert!(answer.status().is_success(), "{}", answer.text().await.unwrap());
    policy
}

mod suite {
    //! What every policy engine does.
    use super::*;

    #[derive(Debug)]
    struct Engines;

    #[async_trait]
    impl PolicyFactory for Engines {
        async fn deciding(&self) -> Arc<dyn Policy> {
            Arc::new(engine(REGO).await)
        }

        async fn without_answer(&self) -> Arc<dyn Policy> {
            Arc::new(engine(REGO_WITHOUT_ANSWER).await)
        }
    }

    policy_suite!(Engines);
}

#[tokio::test]
async fn the_shipped_policy_decides_the_same_by_server_and_in_process() {
    let (server, process) = (policy(&url()), Rego::load(None, PATIENCE).unwrap());
    let actions =
        [Action::ConversationSend, Action::ToolExecute, Action::MemoryWrite, Action::Admin];
    let contexts =
        [json!({}), json!({"admin": true}), json!({"admin": "true", "args": {"text": "Grüß"}})];
    for action in actions {
        for resource in ["message", "echo", "http_fetch", "rm", ""] {
            for context in &contexts {
                for subject in ["ada", ""] {
                    let mut asked = input(action, resource, context.clone());
                    subject.clone_into(&mut asked.subject);
                    let there = server.decide(&asked).await;
                    let there = there.unwrap_or_else(|error| panic!("run `make up` ({error})"));
                    assert_eq!(Ok(there), process.decide(&asked).await, "{asked:?}");
                }
            }
        }
    }
    assert_eq!(server.ping().await, Ok(()));
}

#[tokio::test]
async fn rules_that_contradict_each_other_are_denied_as_in_process() {
    let rego = "package soma.policy\n\
                decision := {\"allow\": true} if input.subject == \"ada\"\n\
                decision := {\"allow\": false} if input.tenant == \"acme\"\n";
    let decision = engine(rego).await.decide(&send()).await;
    assert_eq!(decision, Ok(Decision::Deny("the policy cannot be evaluated".to_owned())));
}

/// The same tests that the engine in this process runs.
#[test]
fn every_test_of_the_shipped_policy_passes_in_opa() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/policy");
    let ran = Command::new(binary())
        .args(["test", "--format", "json"])
        .arg(&folder)
        .output()
        .expect("there is no OPA: run `make up`, which builds it");
    let results: Vec<serde_json::Value> = serde_json::from_slice(&ran.stdout)
        .unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&ran.stderr)));
    let mut passed: Vec<_> = results
        .iter()
        .filter(|result| result.get("fail").is_none() && result.get("error").is_none())
        .map(|result| result["name"].as_str().unwrap())
        .collect();
    let tests = include_str!("../../../../../config/policy/soma_test.rego");
    let mut names: Vec<_> = tests
        .lines()
        .filter_map(|line| line.strip_suffix(" if {"))
        .filter(|name| name.starts_with("test_"))
        .collect();
    passed.sort_unstable();
    names.sort_unstable();
    assert_eq!(passed, names, "{results:?}");
    assert!(ran.status.success());
}

/// The newest OPA that `make up` has built.
fn binary() -> PathBuf {
    let home = servers::address("HOME", "/root");
    let cache = servers::address("XDG_CACHE_HOME", &format!("{home}/.cache"));
    let built = Path::new(&cache).join("somaagent-servers");
    let binaries = std::fs::read_dir(&built).into_iter().flatten().flatten();
    let is_opa = |path: &PathBuf| {
        path.is_file() && path.file_name().unwrap().to_string_lossy().starts_with("opa-")
    };
    let newest = binaries.map(|entry| entry.path()).filter(is_opa).max();
    newest.unwrap_or_else(|| panic!("there is no OPA in `{}`: run `make up`", built.display()))
}
