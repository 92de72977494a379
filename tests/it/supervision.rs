//! The tree of the real process: everything starts, what dies comes back, and what may not die
//! ends the process in order.

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::{Engines, Server, Setup, on_all_engines, until};

on_all_engines!(
    every_service_starts_and_is_ready,
    every_service_can_be_restarted_by_hand,
    a_panic_of_housekeeping_disturbs_nobody,
    a_hang_of_housekeeping_is_replaced,
    the_death_of_a_critical_service_ends_the_process_in_order,
    a_critical_service_with_a_budget_comes_back,
);

const SERVICES: &[&str] = &[
    "conversation-worker",
    "gateway",
    "housekeeping",
    "memory-replicator",
    "memory-sync",
    "outbox-sync",
    "tool-executor",
    "unified-memory",
];

/// Returns every service of the tree, children too.
fn flat(services: &Value) -> Vec<&Value> {
    let services = services.as_array().map_or(&[][..], Vec::as_slice);
    services
        .iter()
        .flat_map(|service| [vec![service], flat(&service["children"])].concat())
        .collect()
}

async fn service(server: &Server, name: &str) -> Value {
    server.api.get(&format!("/v1/services/{name}/health")).await
}

async fn panics(server: &Server, name: &str) {
    let path = format!("/v1/services/{name}/fault");
    let (status, answer) = server.api.call(Method::POST, &path, json!({"kind": "panic"})).await;
    assert_eq!(status, StatusCode::NO_CONTENT, "{answer}");
}

/// Waits until a service has had more incarnations than `generation`, and is ready.
async fn comes_back(server: &Server, name: &str, generation: u64) {
    until(name, async || {
        let now = service(server, name).await;
        now["generation"].as_u64().unwrap() > generation && now["state"] == "ready"
    })
    .await;
}

async fn generation(server: &Server, name: &str) -> u64 {
    service(server, name).await["generation"].as_u64().unwrap()
}

/// A message is answered.
async fn works(server: &Server) {
    let sent = server.api.send(Uuid::now_v7(), "what time is it").await;
    let terminal = server.api.terminal(sent.event_id).await;
    assert_eq!(terminal["type"], "assistant.final", "{terminal}");
}

async fn every_service_starts_and_is_ready(engines: Engines) {
    let setup = engines.setup().await;
    let server = setup.start().await.unwrap();
    let tree = server.api.get("/v1/services").await;
    let all = flat(&tree["services"]);
    let mut names: Vec<_> = all.iter().map(|service| service["name"].as_str().unwrap()).collect();
    names.sort_unstable();
    assert_eq!(names, SERVICES);
    for service in all {
        assert_eq!(service["state"], "ready", "{service}");
        assert_eq!(service["restarts"], 0, "{service}");
    }
    works(&server).await;
}

async fn every_service_can_be_restarted_by_hand(engines: Engines) {
    let setup = engines.setup().await;
    let server = setup.start().await.unwrap();
    for name in SERVICES {
        let before = generation(&server, name).await;
        let path = format!("/v1/services/{name}/restart");
        let (status, after) = server.api.call(Method::POST, &path, Value::Null).await;
        assert_eq!(status, StatusCode::OK, "{name}: {after}");
        assert!(after["generation"].as_u64().unwrap() > before, "{name}: {after}");
        works(&server).await;
    }
    let (status, _) =
        server.api.call(Method::POST, "/v1/services/no-such/restart", Value::Null).await;
    assert_eq!(status, StatusCode::NOT_FOUND);
}

async fn a_panic_of_housekeeping_disturbs_nobody(engines: Engines) {
    let setup = engines.setup().await;
    let server = setup.start().await.unwrap();
    let before = generation(&server, "housekeeping").await;
    panics(&server, "housekeeping").await;
    works(&server).await;
    comes_back(&server, "housekeeping", before).await;
    let housekeeping = service(&server, "housekeeping").await;
    assert_eq!((&housekeeping["panics"], &housekeeping["restarts"]), (&json!(1), &json!(1)));
    assert_eq!(housekeeping["cause"]["message"], "injected panic", "the tree tells why");
    let logged = server.logged("panicked");
    let panic = logged.first().map(ToString::to_string).unwrap_or_default();
    assert!(panic.contains("housekeeping") && panic.contains("fault.rs:"), "{panic}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_child_of_unified_memory_that_spends_its_budget_ends_the_process() {
    let mut server =
        Setup::new().set("SA01_SUPERVISION_RESTART_BUDGET", "1").start().await.unwrap();
    let before = generation(&server, "outbox-sync").await;
    panics(&server, "outbox-sync").await;
    comes_back(&server, "outbox-sync", before).await;
    works(&server).await;
    panics(&server, "outbox-sync").await;
    assert_eq!(server.ended().await.code(), Some(70));
    let last = server.last_line().to_string();
    assert!(last.contains("unified-memory") && last.contains("outbox-sync"), "{last}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_that_spends_its_budget_degrades_the_process_until_it_is_restarted() {
    let server = Setup::new().set("SA01_SUPERVISION_RESTART_BUDGET", "0").start().await.unwrap();
    panics(&server, "housekeeping").await;
    until("it has failed", async || service(&server, "housekeeping").await["state"] == "failed")
        .await;
    assert_eq!(server.api.get("/v1/health").await["status"], "degraded");
    works(&server).await;
    let path = "/v1/services/housekeeping/restart";
    let (status, after) = server.api.call(Method::POST, path, Value::Null).await;
    assert_eq!((status, &after["state"]), (StatusCode::OK, &json!("ready")), "{after}");
    until("all is well", async || server.api.get("/v1/health").await["status"] == "ok").await;
}

async fn a_hang_of_housekeeping_is_replaced(engines: Engines) {
    let setup = engines.setup().await.set("SA01_SUPERVISION_HANG_LIMIT", "5s");
    let server = setup.start().await.unwrap();
    let before = generation(&server, "housekeeping").await;
    let fault = json!({"kind": "block", "for_ms": 3_600_000});
    server.api.call(Method::POST, "/v1/services/housekeeping/fault", fault).await;
    comes_back(&server, "housekeeping", before).await;
    works(&server).await;
}

async fn the_death_of_a_critical_service_ends_the_process_in_order(engines: Engines) {
    for name in ["gateway", "memory-sync"] {
        let setup = engines.setup().await;
        let mut server = setup.start().await.unwrap();
        if name == "memory-sync" {
            // Its supervisor restarts it; the supervisor itself is critical.
            let before = generation(&server, name).await;
            panics(&server, name).await;
            comes_back(&server, name, before).await;
            panics(&server, "unified-memory").await;
        } else {
            panics(&server, name).await;
        }
        assert_eq!(server.ended().await.code(), Some(70), "{name}");
        let last = server.last_line();
        let named = if name == "memory-sync" { "unified-memory" } else { name };
        for part in [named, "the supervisor gave up", "injected panic", "fault.rs:"] {
            assert!(last.to_string().contains(part), "{part} is not in {last}");
        }
    }
}

async fn a_critical_service_with_a_budget_comes_back(engines: Engines) {
    let setup = engines.setup().await.set("SA01_SUPERVISION_CRITICAL_BUDGET", "3");
    let server = setup.start().await.unwrap();
    for name in ["gateway", "conversation-worker", "tool-executor"] {
        let before = generation(&server, name).await;
        panics(&server, name).await;
        comes_back(&server, name, before).await;
        works(&server).await;
    }
}
