//! Everything besides messages and streams.

use std::{fmt::Write, time::Duration};

use serde_json::{Value, json};
use soma_contract::{
    persona::Persona,
    port::live::Nudge,
    testing::{sample, store::Fault},
    turn::TurnKind,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

use super::support::{Ask, Site};

/// A multipart body: (name, file name, content).
pub(super) fn upload(parts: &[(&str, Option<&str>, &str)]) -> Ask {
    let mut body = String::new();
    for (name, filename, content) in parts {
        write!(body, "--xyz\r\ncontent-disposition: form-data; name=\"{name}\"").unwrap();
        if let Some(filename) = filename {
            write!(body, "; filename=\"{filename}\"\r\ncontent-type: text/plain").unwrap();
        }
        write!(body, "\r\n\r\n{content}\r\n").unwrap();
    }
    body.push_str("--xyz--\r\n");
    Ask::default().header("content-type", "multipart/form-data; boundary=xyz").body(body)
}

/// Serves this JSON to one request and returns where.
pub(super) async fn serve_once_json(json: &'static str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/keys", listener.local_addr().unwrap());
    let answer = async move {
        let (mut socket, _) = listener.accept().await.unwrap();
        let mut request = [0; 4_096];
        assert!(socket.read(&mut request).await.unwrap() > 0);
        let head = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nconnection: close";
        let answer = format!("{head}\r\ncontent-length: {}\r\n\r\n{json}", json.len());
        socket.write_all(answer.as_bytes()).await.unwrap();
    };
    tokio::runtime::Handle::current().spawn(answer);
    url
}

fn session(accepted: &Value) -> String {
    format!("/v1/sessions/{}", accepted["session_id"].as_str().unwrap())
}

#[tokio::test]
async fn sessions_are_listed_by_their_newest_activity() {
    let site = Site::new();
    let first = site.say(None, "one").await;
    site.clock.advance(Duration::from_secs(1));
    let second = site.say(None, "two").await;
    let page = site.get("/v1/sessions?limit=1").await.body;
    assert_eq!(page["items"][0]["session_id"], second["session_id"]);
    let cursor = page["next_cursor"].as_str().unwrap();
    let next = site.get(&format!("/v1/sessions?limit=1&cursor={cursor}")).await.body;
    assert_eq!(next["items"][0]["session_id"], first["session_id"]);
    assert_eq!(site.get(&session(&first)).await.body["last_n"], 1);
}

#[tokio::test]
async fn the_history_is_the_conversation() {
    let site = Site::new();
    let accepted = site.say(None, "hello").await;
    let claimed = site.claim(&accepted).await;
    site.answer(&claimed, "hi").await;
    let reply = site.get(&format!("{}/history", session(&accepted))).await;
    assert_eq!(reply.body["history"], "**user**: hello\n\n**assistant**: hi");
    assert_eq!(reply.body["events"].as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn a_cancel_ends_what_has_not_begun_and_asks_what_has() {
    let site = Site::new();
    let first = site.say(None, "one").await;
    let second = site.say(first["session_id"].as_str(), "two").await;
    let path = format!("{}/cancel", session(&first));
    let claimed = site.claim(&first).await;
    let body = json!({"event_id": second["event_id"]});
    let ended = site.post(&path, &body).await;
    assert_eq!((ended.status, &ended.body["cancelling"]), (200, &Value::Null));
    assert_eq!(ended.body["ended"][0]["type"], "assistant.cancelled");
    let flagged = site.ask("POST", &path, Ask::default()).await;
    assert_eq!((flagged.status, &flagged.body["cancelling"]), (202, &first["turn_id"]));
    let turn_id = claimed.turn.turn_id;
    let session_id = claimed.turn.session_id;
    assert!(site.live.nudged().contains(&Nudge::Cancel { session_id, turn_id }));
    site.end(&claimed, sample::cancelled(&claimed)).await;
    site.post(&path, &json!({})).await.is_problem(409, "nothing_to_cancel");
    site.post(&path, &body).await.is_problem(409, "nothing_to_cancel");
    site.post(&format!("{path}?all=1"), &body).await.is_problem(400, "invalid_query");
    site.say(first["session_id"].as_str(), "three").await;
    site.say(first["session_id"].as_str(), "four").await;
    let all = site.post(&format!("{path}?all=1"), &json!({})).await;
    assert_eq!(all.body["ended"].as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn a_write_that_is_repeated_with_its_key_is_done_once() {
    let site = Site::new();
    let accepted = site.say(None, "one").await;
    let path = format!("{}/cancel", session(&accepted));
    let first = site.ask("POST", &path, Ask::default().key("c-1")).await;
    let again = site.ask("POST", &path, Ask::default().key("c-1")).await;
    assert_eq!((first.status, &first.body), (again.status, &again.body));
    assert_eq!(again.header("idempotency-replayed"), "true");
    let other = Ask::json(&json!({"event_id": accepted["event_id"]})).key("c-1");
    site.ask("POST", &path, other).await.is_problem(422, "idempotency_key_reused");
    let second = site.say(None, "two").await;
    let elsewhere = format!("{}/cancel", session(&second));
    site.ask("POST", &elsewhere, Ask::default().key("c-1"))
        .await
        .is_problem(422, "idempotency_key_reused");

    let deleted = site.ask("DELETE", &session(&accepted), Ask::default().key("d-1")).await;
    let again = site.ask("DELETE", &session(&accepted), Ask::default().key("d-1")).await;
    assert_eq!((deleted.status, again.status), (204, 204));
}

#[tokio::test]
async fn a_refusal_is_not_put_on_record() {
    let site = Site::new();
    let put = || Ask::json(&json!({"prompt": "Arr"})).key("p-1");
    site.store.fail_next("put_persona", Fault::Unavailable);
    let path = "/v1/personas/pirate";
    site.ask("PUT", path, put()).await.is_problem(503, "store_unavailable");
    let second = site.ask("PUT", path, put()).await;
    assert_eq!((second.status, second.header("idempotency-replayed")), (200, ""));
}

#[tokio::test]
async fn a_key_is_shown_once_even_to_a_repetition() {
    let site = Site::new();
    let ask = || Ask::json(&json!({"label": "bot"})).key("k-1");
    let first = site.ask("POST", "/v1/keys", ask()).await;
    assert!(first.body["secret"].as_str().unwrap().starts_with("sk_"));
    let again = site.ask("POST", "/v1/keys", ask()).await;
    assert_eq!((again.status, &again.body["secret"]), (201, &Value::Null));
    assert_eq!(again.body["key_id"], first.body["key_id"]);
    for bad in [
        json!({"label": " "}),
        json!({"label": "x".repeat(101)}),
        json!({"label": "x", "tenant": "../"}),
    ] {
        site.post("/v1/keys", &bad).await.is_problem(400, "invalid_body");
    }
}

#[tokio::test]
async fn a_tool_request_is_a_turn_of_its_own() {
    let site = Site::new();
    let tools = site.get("/v1/tools").await;
    assert_eq!(
        (&tools.body["count"], &tools.body["tools"][0]["name"]),
        (&json!(1), &json!("echo"))
    );
    let body = json!({"tool_name": "echo", "args": {"text": "hi"}});
    let reply = site.post("/v1/tool/request", &body).await;
    assert_eq!(reply.status, 202);
    let claimed = site.claim(&reply.body).await;
    assert_eq!(claimed.turn.kind, TurnKind::Tool);
    assert_eq!(claimed.event.metadata["tool_name"], "echo");
    assert_eq!(claimed.event.metadata["args"], json!({"text": "hi"}));
    for (body, code) in [
        (json!({"tool_name": "rm"}), "unknown_tool"),
        (json!({"tool_name": "echo", "args": [1]}), "invalid_body"),
        (json!({"tool_name": "echo", "metadata": {"args": 1}}), "reserved_metadata"),
        (json!({"tool_name": "echo", "persona_id": "nobody"}), "unknown_persona"),
    ] {
        site.post("/v1/tool/request", &body).await.is_problem(400, code);
    }
    let put = Ask::json(&json!({"prompt": "Arr", "tools": []}));
    site.ask("PUT", "/v1/personas/pirate", put).await;
    let body = json!({"tool_name": "echo", "persona_id": "pirate"});
    site.post("/v1/tool/request", &body).await.is_problem(403, "policy_denied");
}

#[tokio::test]
async fn files_come_back_as_they_were_sent() {
    let site = Site::new();
    let ask = upload(&[("files", Some("../a b.txt"), "hello"), ("files", Some("c.txt"), "")]);
    let reply = site.ask("POST", "/v1/uploads", ask.clone().key("u-1")).await;
    assert_eq!(reply.status, 201, "{reply:?}");
    assert_eq!(
        (&reply.body[0]["filename"], &reply.body[0]["size"]),
        (&json!("a b.txt"), &json!(5))
    );
    let sha = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824";
    assert_eq!(reply.body[0]["sha256"], sha);
    let again = site.ask("POST", "/v1/uploads", ask.key("u-1")).await;
    assert_eq!(again.body, reply.body);
    let file = site.get(reply.body[0]["path"].as_str().unwrap()).await;
    assert_eq!((file.text.as_str(), file.header("content-type")), ("hello", "text/plain"));
    assert_eq!(file.header("content-disposition"), "attachment; filename*=UTF-8''a%20b.txt");
    assert!(file.header("content-security-policy").contains("sandbox"));
    let body = json!({"message": "", "attachments": [reply.body[0]["id"]]});
    assert_eq!(site.post("/v1/session/message", &body).await.status, 202);
}

#[tokio::test]
async fn uploads_are_bounded_and_well_formed() {
    let site = Site::with(|setup| setup.settings.limits.max_upload = 1_000);
    let long = "x".repeat(1_001);
    site.ask("POST", "/v1/uploads", upload(&[("files", Some("a"), &long)]))
        .await
        .is_problem(413, "body_too_large");
    let longer = "x".repeat(100_000);
    site.ask("POST", "/v1/uploads", upload(&[("files", Some("a"), &longer)]))
        .await
        .is_problem(413, "body_too_large");
    let many = vec![("files", Some("a"), "x"); 11];
    let multipart =
        |kind: &str, body: &str| Ask::default().header("content-type", kind).body(body.to_owned());
    for ask in [
        upload(&[]),
        upload(&[("other", Some("a"), "x")]),
        upload(&[("files", Some("a"), "x"), ("session_id", None, "nope")]),
        upload(&many),
        multipart("multipart/form-data; boundary=xyz", "nonsense"),
        multipart("multipart/form-data", "--xyz--"),
        multipart("multipart/form-data; boundary=xyz", "--xyz\r\n\r\n"),
    ] {
        let reply = site.ask("POST", "/v1/uploads", ask).await;
        reply.is_problem(400, "invalid_upload");
    }
    let foreign = "00000000-0000-4000-8000-00000000000f";
    site.ask(
        "POST",
        "/v1/uploads",
        upload(&[("files", Some("a"), "x"), ("session_id", None, foreign)]),
    )
    .await
    .is_problem(404, "not_found");
}

#[tokio::test]
async fn memories_are_written_found_and_forgotten() {
    let site = Site::new();
    let items = json!({"items": [
        {"content": "Ann likes tea", "kind": "preference"},
        {"content": "Bob likes coffee"},
    ]});
    let ask = || Ask::json(&items).key("m-1");
    let written = site.ask("POST", "/v1/memory/batch", ask()).await;
    assert_eq!((written.status, &written.body["items"][0]["version"]), (202, &json!(1)));
    let again = site.ask("POST", "/v1/memory/batch", ask()).await;
    assert_eq!(again.body, written.body);
    let found = site.get("/v1/memory/search?q=tea").await.body;
    assert_eq!(found["results"][0]["memory"]["content"], "Ann likes tea");
    assert_eq!(found["results"].as_array().unwrap().len(), 1);
    let by_kind = site.get("/v1/memory/search?kind=preference").await.body;
    assert_eq!(by_kind["results"].as_array().unwrap().len(), 1);
    let path = format!("/v1/memory/{}", written.body["items"][0]["memory_id"].as_str().unwrap());
    let memory = site.get(&path).await.body;
    assert_eq!(memory["metadata"], json!({"source": "api", "subject": "dev"}));
    assert_eq!(memory["event_id"], written.body["items"][0]["event_id"]);
    let newer =
        json!({"items": [{"memory_id": memory["memory_id"], "content": "Ann likes cocoa"}]});
    assert_eq!(site.post("/v1/memory/batch", &newer).await.body["items"][0]["version"], 2);
    assert_eq!(site.ask("DELETE", &path, Ask::default()).await.status, 204);
    site.get(&path).await.is_problem(404, "not_found");
    site.ask("DELETE", &path, Ask::default()).await.is_problem(404, "not_found");
    for bad in [
        json!({"items": []}),
        json!({"items": [{"content": ""}]}),
        json!({"items": [{"content": "x", "kind": ""}]}),
        json!({"items": vec![json!({"content": "x"}); 501]}),
    ] {
        site.post("/v1/memory/batch", &bad).await.is_problem(400, "invalid_body");
    }
}

#[tokio::test]
async fn memory_writes_ask_the_policy() {
    use soma_contract::testing::FakePolicy;
    let site = Site::with(|setup| setup.policy = FakePolicy::denying("no").into());
    let body = json!({"items": [{"content": "x"}]});
    site.post("/v1/memory/batch", &body).await.is_problem(403, "policy_denied");
    let path = "/v1/memory/00000000-0000-4000-8000-00000000000f";
    site.ask("DELETE", path, Ask::default()).await.is_problem(403, "policy_denied");
    site.get("/v1/services").await.is_problem(403, "policy_denied");
    assert_eq!(site.get("/v1/memory/search?q=x").await.status, 200);
}

#[tokio::test]
async fn an_export_is_whole_or_breaks_off() {
    use soma_contract::{
        TenantId,
        port::{
            memory::Receipt,
            store::{Memories, Shards},
        },
    };
    let site = Site::new();
    for batch in 0..3 {
        let items: Vec<_> =
            (0..150).map(|number| json!({"content": format!("fact {batch}-{number}")})).collect();
        site.post("/v1/memory/batch", &json!({"items": items})).await;
    }
    // The export reads the replica: deliver, as the memory service would.
    let shards = Shards { held: vec![(0, 0)] };
    loop {
        let pending = site.store.pending_writes(&shards, 100).await.unwrap();
        if pending.is_empty() {
            break;
        }
        let delivered = pending.into_iter().map(|write| (write.id, Receipt::default())).collect();
        site.store.settle_writes(&shards, delivered).await.unwrap();
    }
    let reply = site.get("/v1/memory/export").await;
    assert_eq!(reply.header("content-type"), "application/x-ndjson");
    let lines: Vec<Value> =
        reply.text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 450);
    for line in &lines {
        super::described::fits("Memory", line);
    }
    let page = site.store.export_memories(&TenantId::public(), None, 1).await.unwrap();
    assert_eq!(lines[0]["memory_id"], json!(page.items[0].memory_id));
    site.store.set_down(true);
    site.get("/v1/memory/export").await.is_problem(503, "store_unavailable");
}

#[tokio::test]
async fn a_tenants_own_persona_counts_more_than_one_from_a_file() {
    let from_file = Persona {
        persona_id: "pirate".to_owned(),
        prompt: "Arr".to_owned(),
        ..Persona::built_in()
    };
    let site = Site::with(|setup| setup.personas = vec![from_file]);
    let ids = async || {
        let personas = site.get("/v1/personas").await.body;
        let list = personas["personas"].as_array().unwrap().clone();
        list.iter().map(|one| one["persona_id"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(ids().await, ["default", "pirate"]);
    let put = Ask::json(&json!({"prompt": "Ahoy", "tools": ["echo"]}));
    assert_eq!(site.ask("PUT", "/v1/personas/pirate", put).await.body["prompt"], "Ahoy");
    assert_eq!(site.get("/v1/personas/pirate").await.body["prompt"], "Ahoy");
    assert_eq!(ids().await, ["default", "pirate"]);
    site.get("/v1/personas/nobody").await.is_problem(404, "not_found");
    for (body, code) in [
        (json!({"prompt": " "}), "invalid_body"),
        (json!({"prompt": "x".repeat(65_537)}), "invalid_body"),
        (json!({"prompt": "x", "model": ""}), "invalid_body"),
        (json!({"prompt": "x", "tools": ["rm"]}), "unknown_tool"),
    ] {
        site.ask("PUT", "/v1/personas/x", Ask::json(&body)).await.is_problem(400, code);
    }
}

#[tokio::test]
async fn dead_letters_are_looked_at_and_dropped() {
    let site = Site::new();
    let accepted = site.say(None, "hello").await;
    let claimed = site.claim(&accepted).await;
    site.end(&claimed, sample::failed(&claimed, "gone")).await;
    let list = site.get("/v1/admin/dlq").await.body;
    let path = format!("/v1/admin/dlq/{}", list["items"][0]["id"]);
    assert_eq!(site.get(&path).await.body["error"], "gone");
    assert_eq!(site.ask("DELETE", &path, Ask::default()).await.status, 204);
    site.get(&path).await.is_problem(404, "not_found");
    let replay = format!("{path}/replay");
    site.ask("POST", &replay, Ask::default()).await.is_problem(404, "not_found");
}

#[tokio::test]
async fn the_log_level_is_set_and_nonsense_refused() {
    let site = Site::new();
    let set = |level: &str| Ask::json(&json!({"level": level}));
    let reply = site.ask("PUT", "/v1/admin/log-level", set("info,soma_gateway=debug")).await;
    assert_eq!(reply.status, 200);
    assert_eq!(*site.log_levels.lock().unwrap(), ["info,soma_gateway=debug"]);
    site.ask("PUT", "/v1/admin/log-level", set("loud")).await.is_problem(400, "invalid_body");
}

#[tokio::test]
async fn services_are_shown_and_restarted() {
    let site = Site::new();
    let accepted = site.say(None, "hello").await;
    let tree = site.get("/v1/services").await.body;
    assert_eq!(tree["services"][0]["name"], "gateway");
    assert_eq!(tree["stuck_sessions"], json!([]));
    site.clock.advance(Duration::from_mins(1));
    let tree = site.get("/v1/services").await.body;
    assert_eq!(tree["stuck_sessions"][0]["session_id"], accepted["session_id"]);
    site.store.set_down(true);
    let tree = site.get("/v1/services").await;
    assert_eq!(tree.status, 200, "the tree is wanted most when the store is down");
    assert!(tree.body["stuck_sessions_unknown"].is_string());
    assert_eq!(site.get("/v1/services/gateway/health").await.body["state"], "ready");
    site.get("/v1/services/nobody/health").await.is_problem(404, "not_found");
    let restart = async |name: &str| {
        site.ask("POST", &format!("/v1/services/{name}/restart"), Ask::default()).await
    };
    assert_eq!(restart("gateway").await.status, 200);
    restart("nobody").await.is_problem(404, "not_found");
    restart("stuck").await.is_problem(503, "service_restarting");
}

#[tokio::test]
async fn health_is_told_on_both_listeners_without_a_token() {
    let site = Site::with(super::support::Setup::locked);
    let admin = |path: &str| format!("http://{}{path}", site.admin.address());
    for path in ["/v1/health", "/health", "/healthz", "/live", "/startup", "/ready"] {
        assert_eq!(site.get(path).await.status, 200, "{path}");
        assert_eq!(site.ask_at(&admin(path), "GET", Ask::default()).await.status, 200, "{path}");
    }
    *site.health.fault.lock().unwrap() = Some("out of order".to_owned());
    let report = site.get("/v1/health").await;
    assert_eq!((report.status, &report.body["status"]), (200, &json!("down")));
    assert_eq!(report.body["components"]["store"]["last_error"], "out of order");
    assert_eq!(site.get("/v1/health?strict=1").await.status, 503);
    for path in ["/live", "/startup", "/ready"] {
        let reply = site.ask_at(&admin(path), "GET", Ask::default()).await;
        assert_eq!((reply.status, &reply.body["reason"]), (503, &json!("out of order")), "{path}");
    }
    let api = site.ask_at(&admin("/v1/tools"), "GET", Ask::default()).await;
    api.is_problem(404, "no_such_route");
}

#[tokio::test]
async fn the_admin_listener_answers_while_every_thread_of_the_api_is_blocked() {
    let site = Site::new();
    let (release, hold) = std::sync::mpsc::channel::<()>();
    *site.health.hold.lock().unwrap() = Some(hold);
    let threads = std::thread::available_parallelism().unwrap().get();
    // Connections are dealt out in turn, so that each thread gets some.
    let blocked = futures::future::join_all((0..threads * 4).map(|_| site.get("/v1/health")));
    let answers = async {
        while site.health.reports.load(std::sync::atomic::Ordering::SeqCst) < threads {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        for path in ["/live", "/startup", "/ready", "/metrics"] {
            let url = format!("http://{}{path}", site.admin.address());
            assert_eq!(site.ask_at(&url, "GET", Ask::default()).await.status, 200, "{path}");
        }
        drop(release);
    };
    let (replies, ()) = tokio::join!(blocked, answers);
    assert!(replies.iter().all(|reply| reply.status == 200));
}

#[tokio::test]
async fn a_server_that_stops_lets_requests_end() {
    let site = Site::new();
    let body = json!({"message": "hello"});
    let waiting = site.post("/v1/session/message?wait=60s", &body);
    let stop = async {
        let mut changes = site.store.changes();
        while site.store_claimable().await.is_none() {
            changes.changed().await.unwrap();
        }
        let session = site.store_claimable().await.unwrap();
        let claimed = site.claim(&json!({"session_id": session})).await;
        let answer = site.answer(&claimed, "just in time");
        tokio::join!(site.server.stop(), answer);
    };
    let (reply, ()) = tokio::join!(waiting, stop);
    assert_eq!((reply.status, &reply.body["message"]), (200, &json!("just in time")));
    assert!(std::net::TcpStream::connect(site.server.address()).is_err(), "the listener is closed");
}
