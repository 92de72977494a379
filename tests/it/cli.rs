//! The command line, as its users see it: texts, exit codes, and what it leaves alone.

use std::{
    io::Write,
    process::{Command, Output, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use serde_json::{Value, json};
use uuid::Uuid;

use crate::{
    faults,
    support::{
        Engines, Server, Setup,
        endpoint::{Endpoint, Reply, says},
        on_all_engines,
    },
};

on_all_engines!(
    an_operator_asks_a_running_server,
    keys_are_made_shown_once_and_open_until_they_are_revoked,
    a_chat_through_a_pipe_shows_the_answer,
    dead_letters_are_listed_shown_replayed_and_dropped,
);

/// What a command said and how it ended.
struct Ran {
    code: Option<i32>,
    out: String,
    err: String,
}

impl From<Output> for Ran {
    fn from(output: Output) -> Self {
        let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
        Self { code: output.status.code(), out: text(&output.stdout), err: text(&output.stderr) }
    }
}

fn run(setup: &Setup, arguments: &[&str]) -> Ran {
    setup.command(arguments).output().unwrap().into()
}

/// Runs a command that talks to this server, which must succeed; returns what it said.
fn ask(setup: &Setup, server: &Server, arguments: &[&str]) -> String {
    let ran: Ran =
        setup.command(arguments).args(["--url", server.api.base()]).output().unwrap().into();
    assert_eq!(ran.code, Some(0), "{arguments:?}: {}{}", ran.out, ran.err);
    ran.out
}

/// Runs a command with an input that ends.
fn with_input(mut command: Command, input: &str) -> Ran {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    child.wait_with_output().unwrap().into()
}

fn refused(setup: &Setup, arguments: &[&str], parts: &[&str]) {
    let ran = run(setup, arguments);
    assert_eq!(ran.code, Some(78), "{arguments:?}: {}{}", ran.out, ran.err);
    for part in parts {
        let told = format!("{}{}", ran.out, ran.err);
        assert!(told.contains(part), "`{part}` is not in: {told}");
    }
}

#[test]
fn faults_of_the_configuration_are_told_all_at_once() {
    for command in ["config", "run"] {
        refused(
            &Setup::new().set("SA01_TURNS_LEASE", "fast"),
            &[command],
            &["the configuration has a fault:", "SA01_TURNS_LEASE=`fast`", "is not a duration"],
        );
    }
    let three = Setup::new()
        .set("SA01_TURNS_LEASE", "fast")
        .set("SA01_TURNS_MAX_STEPS", "0")
        .set("SA01_MODEL_MAX_RETRIES", "few");
    refused(
        &three,
        &["config"],
        &["3 faults", "SA01_TURNS_LEASE", "SA01_TURNS_MAX_STEPS", "SA01_MODEL_MAX_RETRIES"],
    );
    refused(
        &Setup::new().set("SA01_MODLE_NAME", "x"),
        &["config"],
        &["SA01_MODLE_NAME", "is not a setting; did you mean SA01_MODEL_NAME?"],
    );
}

#[test]
fn an_old_name_is_read_with_a_warning() {
    let ran = run(&Setup::new().set("LOG_LEVEL", "WARNING"), &["config"]);
    assert_eq!(ran.code, Some(0), "{}", ran.err);
    assert!(ran.err.contains("LOG_LEVEL") && ran.err.contains("SA01_LOG_LEVEL"), "{}", ran.err);
    assert!(ran.out.contains("warn"), "{}", ran.out);
}

#[test]
fn prod_does_not_start_without_its_servers() {
    refused(
        &Setup::new().set("SA01_DEPLOYMENT_MODE", "prod"),
        &["run"],
        &["SA01_DB_DSN is missing"],
    );
}

#[test]
fn a_flag_that_does_not_exist_is_usage() {
    assert_eq!(run(&Setup::new(), &["run", "--faster"]).code, Some(64));
    assert_eq!(run(&Setup::new(), &["--help"]).code, Some(0));
    assert_eq!(run(&Setup::new(), &["--version"]).code, Some(0));
}

#[test]
fn a_dry_run_on_nothing_says_what_would_be_made_and_makes_nothing() {
    let setup = Setup::new();
    let table = run(&setup, &["run", "--dry-run"]);
    assert_eq!(table.code, Some(0), "{}{}", table.out, table.err);
    for part in ["gateway (critical)", "would be created", "verdict        would start"] {
        assert!(table.out.contains(part), "{}", table.out);
    }
    let json = run(&setup, &["run", "--dry-run", "--json"]);
    assert_eq!(json.code, Some(0), "{}", json.err);
    let outcome: Value = serde_json::from_str(&json.out).unwrap();
    assert_eq!(outcome["verdict"], "ok", "{outcome}");
    assert_eq!(outcome["plan"]["levels"].as_array().unwrap().len(), 4, "{outcome}");
    assert!(!setup.data_dir().exists(), "a dry run makes no directory");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dry_run_knows_the_store_and_who_holds_the_ports() {
    let setup = Setup::new();
    let server = setup.start().await.unwrap();
    let api = server.api.base().trim_start_matches("http://").to_owned();
    let admin = server.admin.trim_start_matches("http://").to_owned();
    let (api, admin) = (format!("SA01_GATEWAY_BIND={api}"), format!("SA01_ADMIN_BIND={admin}"));
    let beside = run(&setup, &["run", "--dry-run", "--set", &api, "--set", &admin]);
    assert_eq!(beside.code, Some(0), "{}{}", beside.out, beside.err);
    assert!(beside.out.contains("is held by a running somaagent"), "{}", beside.out);
    assert!(beside.out.contains(", current"), "{}", beside.out);
    server.kill();
    let after = run(&setup, &["run", "--dry-run"]);
    assert!(after.out.contains(", current"), "{}", after.out);
    let foreign = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let held = format!("SA01_GATEWAY_BIND={}", foreign.local_addr().unwrap());
    let refused = run(&setup, &["run", "--dry-run", "--set", &held]);
    assert_eq!(refused.code, Some(1), "{}", refused.out);
    assert!(refused.out.contains("FAULT"), "{}", refused.out);
    assert!(refused.out.contains("would not start"), "{}", refused.out);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dry_run_fails_where_a_start_would_and_with_its_code() {
    let owner = Setup::new();
    let server = owner.start().await.unwrap();
    let held = owner.data_dir().display().to_string();
    for (name, value, told) in [
        ("SA01_DATA_DIR", held.as_str(), format!("in use by process {}", server.pid())),
        ("SA01_DATA_DIR", "/dev/null/data", "cannot lock data directory".to_owned()),
        ("SA01_TURNS_PERSONAS", "/nowhere.json", "read personas `/nowhere.json`".to_owned()),
        ("SA01_POLICY_DIR", "/nowhere", "cannot read `/nowhere`".to_owned()),
        ("SA01_AUTH_JWT_PUBLIC_KEY", "no key", "neither an RSA nor a P-256 key".to_owned()),
    ] {
        let setup = Setup::new().set(name, value);
        let dry = run(&setup, &["run", "--dry-run"]);
        assert_eq!(dry.code, Some(78), "{name}: {}", dry.out);
        assert!(dry.out.contains(&told), "{name}: {}", dry.out);
        assert!(dry.out.contains("would not start"), "{name}: {}", dry.out);
        let refused = setup.start().await.unwrap_err();
        assert!(refused.contains("exit status: 78"), "{name}: {refused}");
        assert!(refused.contains(&told), "{name}: {refused}");
    }
}

async fn an_operator_asks_a_running_server(engines: Engines) {
    let setup = engines.setup().await;
    let server = setup.start().await.unwrap();
    let services = ask(&setup, &server, &["services"]);
    for name in ["unified-memory", "  outbox-sync", "conversation-worker", "housekeeping"] {
        assert!(services.contains(name), "{services}");
    }
    let restarted = ask(&setup, &server, &["services", "--restart", "housekeeping"]);
    assert!(restarted.contains("`housekeeping` is restarted"), "{restarted}");
    let health = ask(&setup, &server, &["health"]);
    assert!(health.contains("store"), "{health}");
    let health: Value = serde_json::from_str(&ask(&setup, &server, &["health", "--json"])).unwrap();
    assert!(health["components"]["store"].is_object(), "{health}");
    assert_eq!(ask(&setup, &server, &["dlq", "list"]), "no dead letters\n");
}

async fn keys_are_made_shown_once_and_open_until_they_are_revoked(engines: Engines) {
    // Who has the secret that tokens are signed with needs no key to make the first one.
    let setup = engines
        .setup()
        .await
        .set("SA01_AUTH_REQUIRED", "true")
        .set("SA01_AUTH_JWT_SECRET", "a secret of the test, long enough to sign with");
    let server = setup.start().await.unwrap();
    let secret = ask(&setup, &server, &["keys", "create", "for a test", "--admin"]);
    assert!(secret.trim().len() > 32, "{secret}");
    let list = ask(&setup, &server, &["keys", "list"]);
    assert!(list.contains("for a test") && !list.contains(secret.trim()), "{list}");
    let id = list.lines().last().unwrap().split_whitespace().next().unwrap();
    let file = setup.folder().join("key").display().to_string();
    std::fs::write(&file, &secret).unwrap();
    let with_key = ["services", "--url", server.api.base(), "--key-file", &file];
    assert_eq!(run(&setup, &with_key).code, Some(0));
    let revoked = ask(&setup, &server, &["keys", "revoke", id]);
    assert!(revoked.contains("opens nothing any more"), "{revoked}");
    let refused = run(&setup, &with_key);
    assert_eq!(refused.code, Some(1), "{}", refused.out);
    assert!(refused.err.contains("HTTP 401"), "{}", refused.err);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_is_read_from_a_backup_that_was_made_while_the_server_ran() {
    let setup = Setup::new();
    let server = setup.start().await.unwrap();
    let session = Uuid::now_v7();
    let sent = server.api.send(session, "remember that tea is at five").await;
    server.api.terminal(sent.event_id).await;
    let before = server.api.events(session).await;
    let file = setup.folder().join("backup.db").display().to_string();
    let made = run(&setup, &["backup", &file]);
    assert_eq!(made.code, Some(0), "{}", made.err);
    let again = run(&setup, &["backup", &file]);
    assert_eq!(again.code, Some(1), "a backup never overwrites: {}", again.out);
    let used = run(&setup, &["restore", &file]);
    assert_eq!(used.code, Some(1), "a directory in use is not filled: {}", used.out);

    let other = Setup::new();
    let restored = run(&other, &["restore", &file]);
    assert_eq!(restored.code, Some(0), "{}", restored.err);
    let copy = other.start().await.unwrap();
    assert_eq!(copy.api.events(session).await, before);
    let sent = copy.api.send(session, "what time is it").await;
    assert_eq!(sent.n, 2);
    copy.api.terminal(sent.event_id).await;
}

async fn a_chat_through_a_pipe_shows_the_answer(engines: Engines) {
    let setup = engines.setup().await.set("SA01_MODEL_OFFLINE_WORD_DELAY", "5ms");
    let server = setup.start().await.unwrap();
    let chat = setup.command(&["chat", "--url", server.api.base()]);
    let ran = with_input(chat, "echo a blue heron\n");
    assert_eq!(ran.code, Some(0), "{}{}", ran.out, ran.err);
    let session = ran.out.split("--session ").nth(1).expect("it tells its session");
    let session: Uuid = session.split_whitespace().next().unwrap().parse().unwrap();
    let events = server.api.events(session).await;
    let last = events.last().unwrap();
    assert_eq!(last["type"], "assistant.final");
    let words = last["message"].as_str().unwrap();
    let first_line = words.lines().next().unwrap();
    assert!(ran.out.contains(first_line), "`{first_line}` is not in: {}", ran.out);
    assert!(ran.out.contains("blue heron"), "{}", ran.out);
}

async fn dead_letters_are_listed_shown_replayed_and_dropped(engines: Engines) {
    let refuses = Arc::new(AtomicBool::new(true));
    let asked = Arc::clone(&refuses);
    let model = Endpoint::model(move |_| {
        if asked.load(Ordering::Relaxed) {
            Reply::Json(400, json!({"error": {"message": "such prompts are refused"}}))
        } else {
            says("better now")
        }
    })
    .await;
    let setup = engines.setup().await.with_model(&model);
    let server = setup.start().await.unwrap();
    let (kept, _) = faults::fail(&server.api).await;
    let (dropped, letter) = faults::fail(&server.api).await;
    let id = letter.rsplit('/').next().unwrap();

    let list = ask(&setup, &server, &["dlq", "list"]);
    let mut rows = list.lines();
    assert!(rows.next().unwrap().contains("why"), "{list}");
    let newest = rows.next().unwrap();
    assert!(newest.starts_with(id) && newest.contains("such prompts are refused"), "{list}");
    let oldest = rows.next().unwrap().split_whitespace().next().unwrap();
    assert_eq!(rows.next(), None, "{list}");
    assert_eq!(ask(&setup, &server, &["dlq", "list", "--limit", "1"]).lines().count(), 2);

    let shown: Value = serde_json::from_str(&ask(&setup, &server, &["dlq", "show", id])).unwrap();
    assert_eq!(shown["id"].to_string(), id, "{shown}");
    assert_eq!(shown["event"]["session_id"], dropped.session_id.to_string(), "{shown}");

    refuses.store(false, Ordering::Relaxed);
    let replay = ["dlq", "replay", oldest];
    let queued = ask(&setup, &server, &replay);
    assert_eq!(queued, format!("dead letter {oldest}: queued\n"));
    let terminal = server.api.terminal(kept.event_id).await;
    assert_eq!(terminal["message"], "better now", "{terminal}");
    let again = ask(&setup, &server, &replay);
    assert_eq!(again, format!("dead letter {oldest}: already_replayed\n"));

    let told = ask(&setup, &server, &["dlq", "drop", id]);
    assert_eq!(told, format!("dead letter {id} is dropped\n"));
    for what in ["show", "replay", "drop"] {
        let gone = run(&setup, &["dlq", what, id, "--url", server.api.base()]);
        assert_eq!(gone.code, Some(1), "{what}: {}", gone.out);
        assert!(gone.out.is_empty(), "{what}: {}", gone.out);
        for part in ["not_found", "HTTP 404", "request "] {
            assert!(gone.err.contains(part), "{what}: `{part}` is not in: {}", gone.err);
        }
    }
    let left = ask(&setup, &server, &["dlq", "list"]);
    assert!(left.contains(oldest) && left.lines().count() == 2, "{left}");
}

#[test]
fn a_dead_letter_without_a_number_is_usage() {
    for arguments in [&["dlq"][..], &["dlq", "show"], &["dlq", "drop", "the last one"]] {
        let ran = run(&Setup::new(), arguments);
        assert_eq!(ran.code, Some(64), "{arguments:?}: {}", ran.err);
        assert!(ran.err.contains("--help") || ran.err.contains("Usage: "), "{}", ran.err);
    }
}

#[test]
fn nobody_at_the_address_is_told_with_a_way_out() {
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let url = format!("http://{nobody}");
    for command in [&["services"][..], &["dlq", "list"], &["dlq", "drop", "7"], &["keys", "list"]] {
        let ran = run(&Setup::new(), &[command, &["--url", &url]].concat());
        assert_eq!(ran.code, Some(1), "{command:?}");
        for part in [url.as_str(), "start one with `somaagent`"] {
            assert!(ran.err.contains(part), "{command:?}: {}", ran.err);
        }
    }
}

#[test]
fn completions_complete_the_commands() {
    let ran = run(&Setup::new(), &["completions", "bash"]);
    assert_eq!(ran.code, Some(0));
    assert!(ran.out.contains("_somaagent") && ran.out.contains("backup"), "{}", ran.out);
}
