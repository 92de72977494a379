//! The process dies at each commit boundary and around each outside effect, one start per place.
//! Whatever it had acknowledged by then is there afterwards, once.

use std::{collections::BTreeSet, fs, path::Path};

use reqwest::Method;
use serde_json::json;
use uuid::Uuid;

use crate::{
    faults,
    support::{
        Api, Engines, Platform, Sent,
        log::{check_log, memories_are_single, memories_saved},
        on_all_engines, until,
    },
};

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

/// Those of [`TABLE`] at which a replica dies as well. A death costs half a minute of leases there,
/// hence only the commits by which replicas hand work to each other.
const BETWEEN_REPLICAS: &[&str] = &[
    "accept::before_commit",
    "accept::after_commit",
    "claim::before_commit",
    "claim::after_commit",
    "journal::before_commit",
    "journal::after_commit",
    "end::before_commit",
    "end::after_commit",
    "steps::before_commit",
    "steps::after_commit",
];

/// Those that only a drain hits, of a turn that is under way.
const DRAINING: &[&str] = &["lay_down::before_commit", "lay_down::after_commit"];

/// Those that the embedded engines cannot reach, and why.
const OUT_OF_REACH: &[(&str, &str)] = &[
    ("refused", "the local bus takes every record: it is in the store already"),
    ("postpone", "the built-in memory takes every write: it is in the store already"),
    ("refuse_write", "the built-in memory takes every write: it is in the store already"),
    ("replicate", "nobody but the process itself writes to the local bus"),
];

on_all_engines!(
    a_death_at_any_commit_or_effect_loses_and_doubles_nothing,
    a_death_in_the_middle_of_a_drain_loses_and_doubles_nothing,
);

#[expect(clippy::print_stdout, reason = "whatever fails, it was at the place named last")]
async fn a_death_at_any_commit_or_effect_loses_and_doubles_nothing(engines: Engines) {
    let mut survey = Survey { platform: Platform::of(engines.setup().await).await, saved: 0 };
    for (failpoint, passed) in TABLE {
        if !engines.is_embedded() && !BETWEEN_REPLICAS.contains(failpoint) {
            continue;
        }
        println!("{failpoint}");
        if engines.is_embedded() {
            let platform = Platform::of(engines.setup().await).await;
            survey = Survey { platform, saved: 0 };
        }
        survey.survives(failpoint, *passed).await;
    }
}

async fn a_death_in_the_middle_of_a_drain_loses_and_doubles_nothing(engines: Engines) {
    for failpoint in DRAINING {
        let setup = engines.setup().await.set("SA01_MODEL_OFFLINE_WORD_DELAY", "2s");
        let mut platform = Platform::of(setup).await;
        platform.setup.arm(Some(&format!("{failpoint}=panic(abort)")));
        // It runs alone, so that the turn is its.
        platform.start_replica(0).await.unwrap();
        let api = platform.api();
        let session = Uuid::now_v7();
        let sent = api.send(session, "hello").await;
        until("the turn runs", async || api.fate(sent.event_id).await["status"] == "running").await;
        platform.signal("TERM");
        platform.setup.put("SA01_MODEL_OFFLINE_WORD_DELAY", "0s");
        platform.dies_and_is_restored(failpoint).await;
        let api = platform.api();
        api.terminal(sent.event_id).await;
        check_log(&api.events(session).await, &[sent]);
    }
}

/// A platform that dies again and again, and how many memories it must know.
struct Survey {
    platform: Platform,
    saved: usize,
}

impl Survey {
    async fn survives(&mut self, failpoint: &str, passed: usize) {
        self.platform.kill(0);
        self.platform.setup.arm(Some(&format!("{failpoint}={passed}*off->panic(abort)")));
        let mut talks = Vec::new();
        if let Err(how) = self.platform.start_replica(0).await {
            assert!(how.contains("signal: 6"), "{failpoint}: {how}");
            self.platform.setup.arm(None);
            self.platform.restore().await;
        } else {
            self.use_until_death(&mut talks, failpoint).await;
            self.platform.dies_and_is_restored(failpoint).await;
        }
        let api = self.platform.api();
        if talks.is_empty() {
            let mut talk = Talk::new();
            assert!(talk.go_on(&api).await, "{failpoint}");
            talks.push(talk);
        }
        for talk in &mut talks {
            talk.repeat_the_last(&api).await;
            for sent in &talk.sent {
                api.terminal(sent.event_id).await;
            }
            let events = api.events(talk.session).await;
            check_log(&events, &talk.sent);
            self.saved += memories_saved(&events);
        }
        until(failpoint, async || memories_are_single(&api).await == self.saved).await;
    }

    /// Does a little of everything until the first process is gone.
    async fn use_until_death(&mut self, talks: &mut Vec<Talk>, failpoint: &str) {
        let api = self.platform.replica(0).api.clone();
        for _ in 0..ROUNDS {
            let mut talk = Talk::new();
            let lives = talk.go_on(&api).await && administer(&api).await;
            if !talk.sent.is_empty() || !talk.said.is_empty() {
                talks.push(talk);
            }
            if !lives || self.platform.replica(0).has_ended() {
                return;
            }
            if failpoint.starts_with("retire") || failpoint.starts_with("ping") {
                // These go by the clock: the end of the process is waited for.
                return;
            }
        }
        panic!("{failpoint} is not hit by {ROUNDS} rounds");
    }
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

#[test]
fn no_failpoint_of_the_code_is_forgotten() {
    let known: BTreeSet<_> = TABLE
        .iter()
        .map(|(name, _)| *name)
        .chain(DRAINING.iter().copied())
        .chain(faults::COVERED.iter().copied())
        // The tests of shutdown hold the process here.
        .chain(["drain"])
        .collect();
    for found in failpoints_of_the_code() {
        let operation = found.split("::").next().unwrap();
        let is_known = known.contains(found.as_str())
            || OUT_OF_REACH.iter().any(|(name, _)| *name == operation);
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
