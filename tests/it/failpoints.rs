//! The process dies at each commit boundary and around each outside effect, one start per place.
//! Whatever it had acknowledged by then is there afterwards, once.

use std::{collections::BTreeSet, fs, os::unix::process::ExitStatusExt, path::Path};

use reqwest::Method;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::{
    crash::{check_log, memories_are_single, memories_saved},
    support::{Api, Sent, Server, Setup, until},
};

const SIGABRT: i32 = 6;
/// A failpoint that this many rounds do not hit is hit by none.
const ROUNDS: usize = 40;

/// Every failpoint that plain use hits, and how often it is passed before it kills.
const TABLE: &[(&str, usize)] = &[
    ("accept::before_commit", 1),
    ("accept::after_commit", 1),
    ("claim::before_commit", 0),
    ("claim::after_commit", 1),
    ("journal::before_commit", 0),
    ("journal::after_commit", 1),
    ("end::before_commit", 1),
    ("end::after_commit", 0),
    ("steps::before_commit", 0),
    ("steps::after_commit", 1),
    ("settle::before_commit", 1),
    ("settle::after_commit", 0),
    ("write_memories::before_commit", 0),
    ("write_memories::after_commit", 0),
    ("memory::before_commit", 0),
    ("memory::after_commit", 1),
    ("steps::after_claim", 0),
    ("tools::after_run", 1),
    ("turn::before_model_call", 1),
    ("turn::after_model_answer", 0),
    ("memory::after_remember", 0),
    ("memory::after_settle", 1),
    ("inherit::before_commit", 0),
    ("inherit::after_commit", 0),
    ("ping::before_commit", 1),
    ("ping::after_commit", 1),
    ("retire::before_commit", 0),
    ("retire::after_commit", 0),
    ("answer::before_commit", 0),
    ("answer::after_commit", 0),
    ("key::before_commit", 0),
    ("key::after_commit", 0),
    ("persona::before_commit", 0),
    ("persona::after_commit", 0),
    ("cancel::before_commit", 0),
    ("cancel::after_commit", 0),
    ("delete::before_commit", 0),
    ("delete::after_commit", 0),
    ("attachment::before_commit", 0),
    ("attachment::after_commit", 0),
];

/// Those that only a drain hits, of a turn that is under way.
const DRAINING: &[&str] = &["lay_down::before_commit", "lay_down::after_commit"];

/// Those that need a fault first; the suites of the ports and of the services hit them, and the
/// tests of shutdown hold the process at `drain`.
const NEED_A_FAULT: &[&str] = &[
    "drain",
    "relay::after_publish",
    "bury",
    "drop_dead_letter",
    "lose_orphans",
    "postpone",
    "refuse_write",
    "refused",
    "replay",
    "replicate",
    "unclaim",
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[expect(clippy::print_stdout, reason = "whatever fails, it was at the place named last")]
async fn a_death_at_any_commit_or_effect_loses_and_doubles_nothing() {
    for (failpoint, passed) in TABLE {
        println!("{failpoint}");
        survives(failpoint, *passed).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_death_in_the_middle_of_a_drain_loses_and_doubles_nothing() {
    for failpoint in DRAINING {
        let mut setup = Setup::new().set("SA01_MODEL_OFFLINE_WORD_DELAY", "2s");
        setup.arm(Some(&format!("{failpoint}=panic(abort)")));
        let mut server = setup.start().await.unwrap();
        let session = Uuid::now_v7();
        let sent = server.api.send(session, "hello").await;
        until("the turn runs", async || {
            let path = format!("/v1/messages/{}", sent.event_id);
            server.api.get(&path).await["status"] == "running"
        })
        .await;
        server.signal("TERM");
        let status = server.ended().await;
        assert_eq!(status.signal(), Some(SIGABRT), "{failpoint}: {status}");
        setup.arm(None);
        let server = setup.set("SA01_MODEL_OFFLINE_WORD_DELAY", "0s").start().await.unwrap();
        server.api.terminal(sent.event_id).await;
        check_log(&server.api.events(session).await, &[sent]);
    }
}

/// Where a process dies around a run of a `once` tool: how often it has run in the end, and what is
/// told.
const AROUND_A_RUN: &[(&str, usize, &str)] = &[
    ("journal::after_commit", 1, "success"),
    ("tools::after_run", 1, "unknown"),
    ("settle::before_commit", 1, "unknown"),
    ("settle::after_commit", 1, "success"),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_once_tool_never_runs_again_wherever_the_process_dies() {
    for (failpoint, runs, told) in AROUND_A_RUN {
        let mut setup = Setup::new().with_tally();
        setup.arm(Some(&format!("{failpoint}=panic(abort)")));
        let mut server = setup.start().await.unwrap();
        let (session, key) = (Uuid::now_v7(), Uuid::now_v7().to_string());
        let sent = server.api.try_tally(session, &key).await.expect("it is taken");
        assert_eq!(server.ended().await.signal(), Some(SIGABRT), "{failpoint}");
        setup.arm(None);
        let server = setup.start().await.unwrap();
        server.api.terminal(sent.event_id).await;
        let events = server.api.events(session).await;
        let result = events.iter().find(|event| event["type"] == "tool.result").unwrap();
        assert_eq!(result["metadata"]["status"], *told, "{failpoint}: {result}");
        assert_eq!(setup.tallied().len(), *runs, "{failpoint}");
        check_log(&events, &[sent]);
    }
}

async fn survives(failpoint: &str, passed: usize) {
    let mut setup = Setup::new();
    let mut talks = Vec::new();
    setup.arm(Some(&format!("{failpoint}={passed}*off->panic(abort)")));
    match setup.start().await {
        Err(how) => assert!(how.contains("signal: 6"), "{failpoint}: {how}"),
        Ok(mut server) => {
            use_until_death(&mut server, &mut talks, failpoint).await;
            let status = server.ended().await;
            assert_eq!(status.signal(), Some(SIGABRT), "{failpoint}: {status}");
        }
    }
    setup.arm(None);
    let server = setup.start().await.unwrap();
    if talks.is_empty() {
        let mut talk = Talk::new();
        assert!(talk.go_on(&server.api).await, "{failpoint}");
        talks.push(talk);
    }
    let mut saved = 0;
    for talk in &mut talks {
        talk.repeat_the_last(&server.api).await;
        for sent in &talk.sent {
            server.api.terminal(sent.event_id).await;
        }
        let events = server.api.events(talk.session).await;
        check_log(&events, &talk.sent);
        no_step_is_told_twice(&events);
        saved += memories_saved(&events);
    }
    until(failpoint, async || memories_are_single(&server.api).await == saved).await;
}

/// Does a little of everything until the process is gone.
async fn use_until_death(server: &mut Server, talks: &mut Vec<Talk>, failpoint: &str) {
    for _ in 0..ROUNDS {
        let mut talk = Talk::new();
        let lives = talk.go_on(&server.api).await && administer(&server.api).await;
        if !talk.sent.is_empty() || !talk.said.is_empty() {
            talks.push(talk);
        }
        if !lives || server.has_ended() {
            return;
        }
        if failpoint.starts_with("retire") || failpoint.starts_with("ping") {
            // These go by the clock: the end of the process is waited for.
            return;
        }
    }
    panic!("{failpoint} is not hit by {ROUNDS} rounds");
}

/// A conversation whose client repeats what was not acknowledged.
struct Talk {
    session: Uuid,
    said: Vec<(String, String)>,
    sent: Vec<Sent>,
}

impl Talk {
    fn new() -> Self {
        Self { session: Uuid::now_v7(), said: Vec::new(), sent: Vec::new() }
    }

    /// Says everything and waits for the last answer; false once nobody answers any more.
    async fn go_on(&mut self, api: &Api) -> bool {
        let session = self.session;
        for text in [
            "what time is it".to_owned(),
            format!("remember that my number is {session}"),
            format!("write {session} to the file {session}.txt"),
            "hello".to_owned(),
        ] {
            let key = Uuid::now_v7().to_string();
            self.said.push((text.clone(), key.clone()));
            match api.try_send(session, &text, &key).await {
                Some(sent) => self.sent.push(sent),
                None => return false,
            }
        }
        match self.sent.last() {
            Some(last) => api.answered(last.event_id).await,
            None => false,
        }
    }

    /// Sends again what nobody has acknowledged.
    async fn repeat_the_last(&mut self, api: &Api) {
        if self.sent.len() < self.said.len() {
            let (text, key) = &self.said[self.sent.len()];
            self.sent.push(api.try_send(self.session, text, key).await.expect("it is taken now"));
        }
    }
}

/// Does what is neither a message nor a turn.
async fn administer(api: &Api) -> bool {
    let session = Uuid::now_v7();
    let message = json!({"session_id": session, "message": "hello"});
    let memories = json!({"items": [{"content": format!("{session} was here"), "kind": "note"}]});
    let persona = json!({"prompt": "Be brief."});
    let calls = [
        (Method::POST, "/v1/keys".to_owned(), Some(json!({"label": "test"}))),
        (Method::PUT, "/v1/personas/brief".to_owned(), Some(persona)),
        (Method::POST, "/v1/memory/batch".to_owned(), Some(memories)),
        (Method::POST, "/v1/session/message".to_owned(), Some(message.clone())),
        (Method::POST, "/v1/session/message".to_owned(), Some(message)),
        (Method::POST, format!("/v1/sessions/{session}/cancel"), Some(json!({}))),
        (Method::DELETE, format!("/v1/sessions/{session}"), None),
    ];
    if !api.upload(&Uuid::now_v7().to_string()).await {
        return false;
    }
    for (method, path, body) in calls {
        let key = Uuid::now_v7().to_string();
        let Some((status, answer)) = api.try_call(method, &path, body, Some(&key)).await else {
            return false;
        };
        // 409: the turn was over before it could be cancelled.
        assert!(status.is_success() || status == 409, "{path}: {status} {answer}");
    }
    true
}

/// A step that was journaled is not journaled again by the next owner.
fn no_step_is_told_twice(events: &[Value]) {
    for kind in ["tool.start", "tool.result"] {
        let mut places = BTreeSet::new();
        for event in events.iter().filter(|event| event["type"] == kind) {
            let place = format!("{} {}", event["n"], event["metadata"]["call_id"]);
            assert!(places.insert(place), "{kind} is there twice: {event}");
        }
    }
}

#[test]
fn no_failpoint_of_the_code_is_forgotten() {
    let known: BTreeSet<_> =
        TABLE.iter().map(|(name, _)| *name).chain(DRAINING.iter().copied()).collect();
    for found in failpoints_of_the_code() {
        let operation = found.split("::").next().unwrap();
        let is_known = known.contains(found.as_str())
            || NEED_A_FAULT.contains(&found.as_str())
            || (found.ends_with("_commit") && NEED_A_FAULT.contains(&operation));
        assert!(is_known, "no test dies at `{found}`");
    }
}

fn failpoints_of_the_code() -> BTreeSet<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = BTreeSet::new();
    for folder in ["src", "actors"] {
        scan(&root.join(folder), &mut found);
    }
    assert!(found.contains("accept::after_commit") && found.contains("tools::after_run"));
    found
}

fn scan(folder: &Path, found: &mut BTreeSet<String>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            scan(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&path).unwrap();
            found.extend(quoted_after(&text, "fail_point!("));
            if folder.ends_with("store/sqlite") {
                for marker in ["const NAME: &'static str =", "writer.write(", ".write("] {
                    for operation in quoted_after(&text, marker) {
                        found.insert(format!("{operation}::before_commit"));
                        found.insert(format!("{operation}::after_commit"));
                    }
                }
            }
        }
    }
}

/// The string literals that follow a marker.
fn quoted_after(text: &str, marker: &str) -> Vec<String> {
    text.split(marker)
        .skip(1)
        .filter_map(|rest| rest.trim_start().strip_prefix('"')?.split('"').next())
        .map(str::to_owned)
        .collect()
}
