//! A tool of effect class `once` is never run twice: if it was lost in the middle, model and user
//! are told that nobody knows, and the turn goes on.

use serde_json::json;
use uuid::Uuid;

use crate::support::{
    Engines, Platform, Sent,
    endpoint::{Endpoint, Reply, Request, calls, says, tool_messages},
    log::{check_log, results},
    on_all_engines, until,
};

on_all_engines!(
    a_once_step_that_dies_is_unknown_and_never_run_again,
    a_once_step_that_is_killed_in_the_middle_is_unknown_and_never_run_again,
);

/// Where the process dies, how many lines are there then, and what is told.
const TABLE: &[(&str, usize, &str)] = &[
    ("journal::after_commit", 1, "success"),
    ("steps::before_commit", 1, "success"),
    ("steps::after_commit", 0, "unknown"),
    ("steps::after_claim", 0, "unknown"),
    ("tools::after_run", 1, "unknown"),
    ("settle::before_commit", 1, "unknown"),
    ("settle::after_commit", 1, "success"),
];

const FILE: &str = "list.txt";

/// Appends a line when the user speaks, and then says what the tool has said.
fn script(request: &Request) -> Reply {
    match &tool_messages(request)[..] {
        [] => calls("file_append", &json!({"path": FILE, "line": "eggs"})),
        told => says(&format!("The tool says: {}", told.join(" "))),
    }
}

/// Only the first replica runs, so that the step is its.
async fn first_replica(engines: Engines, model: &Endpoint, failpoint: &str) -> Platform {
    let setup = engines.setup().await.with_model(model);
    let mut setup = setup.set("SA01_SUPERVISION_HANG_LIMIT", "10m");
    setup.arm(Some(failpoint));
    let mut platform = Platform::of(setup).await;
    platform.start_replica(0).await.unwrap();
    platform
}

async fn a_once_step_that_dies_is_unknown_and_never_run_again(engines: Engines) {
    for (failpoint, lines, status) in TABLE {
        let model = Endpoint::model(script).await;
        let armed = format!("{failpoint}=panic(abort)");
        let mut platform = first_replica(engines, &model, &armed).await;
        // The process may die before it has answered, so that the message is sent again.
        let (session, key) = (Uuid::now_v7(), Uuid::now_v7().to_string());
        platform.api().try_send(session, "add eggs to the list", &key).await;
        platform.dies_and_is_restored(failpoint).await;
        let sent = platform.api().send_with(session, "add eggs to the list", &key).await;
        check(&platform, &model, sent, status).await;
        let text = platform.setup.file(FILE).unwrap_or_default();
        assert_eq!(text, "eggs\n".repeat(*lines), "{failpoint}");
    }
}

async fn a_once_step_that_is_killed_in_the_middle_is_unknown_and_never_run_again(engines: Engines) {
    let model = Endpoint::model(script).await;
    // The executor stands still between the tool and its settling.
    let mut platform = first_replica(engines, &model, "tools::after_run=pause").await;
    let sent = platform.api().send(Uuid::now_v7(), "add eggs to the list").await;
    until("the tool has run", async || {
        platform.setup.file(FILE).is_some_and(|text| !text.is_empty())
    })
    .await;
    platform.kill(0);
    platform.setup.arm(None);
    platform.restore().await;
    check(&platform, &model, sent, "unknown").await;
    assert_eq!(platform.setup.file(FILE).unwrap(), "eggs\n");
}

/// The turn has ended once, and everybody was told the same.
async fn check(platform: &Platform, model: &Endpoint, sent: Sent, status: &str) {
    let api = platform.api();
    let terminal = api.terminal(sent.event_id).await;
    assert_eq!(terminal["type"], "assistant.final", "{terminal}");
    let events = api.events(sent.session_id).await;
    check_log(&events, &[sent]);
    assert_eq!(results(&events, "file_append"), [status]);
    let chats = model.seen("/chat/completions");
    let told = tool_messages(chats.last().unwrap());
    assert_eq!(told.len(), 1);
    if status == "unknown" {
        assert!(told[0].contains("[unknown]") && told[0].contains("not run again"), "{told:?}");
        let said = terminal["message"].as_str().unwrap();
        assert!(said.contains("not run again"), "{said}");
    }
}
