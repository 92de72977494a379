//! Messages on their way in.

use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering},
};

use serde_json::{Value, json};
use soma_contract::{
    port::policy::Decision,
    testing::{
        FakePolicy, sample,
        store::{FakeStore, Fault},
    },
};
use soma_gateway::Accept;
use soma_runtime::{CallError, Outlet};

use super::support::{Ask, Reply, Site, commit};

const SEND: &str = "/v1/session/message";

#[tokio::test]
async fn a_message_is_accepted_and_its_way_can_be_followed() {
    let site = Site::new();
    let accepted = site.say(None, "hello").await;
    assert_eq!((&accepted["n"], &accepted["seq"]), (&json!(1), &json!(1)));
    let second = site.say(accepted["session_id"].as_str(), "and you?").await;
    assert_eq!(second["n"], 2);

    let path =
        |accepted: &Value| format!("/v1/messages/{}", accepted["event_id"].as_str().unwrap());
    let queued = site.get(&path(&second)).await;
    assert_eq!((&queued.body["status"], &queued.body["place"]), (&json!("queued"), &json!(1)));
    let claimed = site.claim(&accepted).await;
    let running = site.get(&path(&accepted)).await;
    assert_eq!((&running.body["status"], &running.body["step"]), (&json!("running"), &json!(1)));
    site.answer(&claimed, "hi").await;
    let done = site.get(&path(&accepted)).await;
    assert_eq!(done.body["status"], "done");
    assert_eq!(done.body["terminal"]["message"], "hi");
}

#[tokio::test]
async fn the_platform_says_whose_a_message_is_and_keeps_its_trace() {
    let site = Site::new();
    let trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let ask = Ask::json(&json!({"message": "hello", "metadata": {"colour": "red"}}))
        .header("x-request-id", "req-7")
        .header("traceparent", trace);
    let reply = site.ask("POST", SEND, ask).await;
    assert_eq!(reply.header("x-request-id"), "req-7");
    assert!(reply.header("traceparent").contains("4bf92f3577b34da6a3ce929d0e0e4736"));
    let event = site.claim(&reply.body).await.event;
    assert_eq!(
        json!(event.metadata),
        json!({"colour": "red", "tenant": "public", "subject": "dev"})
    );
    assert_eq!(event.trace_context.request_id(), Some("req-7"));
    assert_eq!(event.trace_context.0["traceparent"], reply.header("traceparent"));
}

#[tokio::test]
async fn whoever_waits_gets_the_terminal_event() {
    let site = Arc::new(Site::new());
    site.answer_all();
    let reply = site.post("/v1/session/message?wait=60s", &json!({"message": "hello"})).await;
    assert_eq!(reply.status, 200);
    assert_eq!(reply.body["type"], "assistant.final");
    assert_eq!(reply.body["message"], "you said: hello");
    assert!(reply.header("location").starts_with("/v1/messages/"));
}

#[tokio::test]
async fn whoever_waits_too_short_gets_what_was_accepted() {
    let site = Site::new();
    let reply = site.post("/v1/session/message?wait=1ms", &json!({"message": "hello"})).await;
    assert_eq!(reply.status, 202);
    assert_eq!(reply.body["n"], 1);
}

#[tokio::test]
async fn waiting_works_without_the_live_port() {
    let site = Arc::new(Site::with(|setup| {
        setup.settings.streams.poll = std::time::Duration::from_millis(20);
    }));
    site.live.set_down(true);
    site.answer_all();
    let reply = site.post("/v1/session/message?wait=60s", &json!({"message": "hello"})).await;
    assert_eq!(reply.body["message"], "you said: hello");
}

#[tokio::test]
async fn a_key_makes_repetitions_mean_one() {
    let site = Site::new();
    let ask = |text: &str| Ask::json(&json!({"message": text})).key("k-1");
    let first = site.ask("POST", SEND, ask("hello")).await;
    assert_eq!(first.header("idempotency-replayed"), "");
    let second = site.ask("POST", SEND, ask("hello")).await;
    assert_eq!(second.header("idempotency-replayed"), "true");
    assert_eq!((first.status, &first.body), (second.status, &second.body));
    site.ask("POST", SEND, ask("other")).await.is_problem(422, "idempotency_key_reused");
    let long = "k".repeat(256);
    for bad in ["", "a b", &long] {
        let ask = Ask::json(&json!({"message": "x"})).key(bad);
        site.ask("POST", SEND, ask).await.is_problem(400, "invalid_idempotency_key");
    }
}

#[tokio::test]
async fn a_repetition_that_waits_finds_the_answer_of_the_first() {
    let site = Site::new();
    let ask = || Ask::json(&json!({"message": "hello"})).key("k-1");
    let first = site.ask("POST", SEND, ask()).await;
    let claimed = site.claim(&first.body).await;
    site.answer(&claimed, "hi").await;
    let again = site.ask("POST", "/v1/session/message?wait=60s", ask()).await;
    assert_eq!((again.status, &again.body["message"]), (200, &json!("hi")));
    assert_eq!(again.header("idempotency-replayed"), "true");
}

#[tokio::test]
async fn a_deleted_session_is_gone_and_a_foreign_one_does_not_exist() {
    let site = Site::with(super::support::Setup::locked);
    let acme = super::support::token("acme", "ann", "");
    let other = super::support::token("other", "bob", "");
    let body = json!({"message": "hello"});
    let reply = site.ask("POST", SEND, Ask::json(&body).token(&acme)).await;
    let session = reply.body["session_id"].as_str().unwrap().to_owned();
    let body = json!({"session_id": session, "message": "hello"});
    let foreign = site.ask("POST", SEND, Ask::json(&body).token(other)).await;
    foreign.is_problem(404, "not_found");
    let path = format!("/v1/sessions/{session}");
    assert_eq!(site.ask("DELETE", &path, Ask::default().token(&acme)).await.status, 204);
    let gone = site.ask("POST", SEND, Ask::json(&body).token(&acme)).await;
    gone.is_problem(410, "session_deleted");
    site.ask("GET", &path, Ask::default().token(&acme)).await.is_problem(404, "not_found");
}

/// Sends requests about a session that all wait for their turns; `then` happens once all wait.
async fn all_waiting(
    site: &Site,
    session: &str,
    asks: &[(&str, Value)],
    then: impl Future<Output = ()>,
) -> Vec<Reply> {
    let waiting = asks.iter().map(|(path, body)| async move {
        let ask = Ask::json(body).header("x-session-id", session);
        site.ask_at(&site.url(path), "POST", ask).await
    });
    let path = format!("/v1/sessions/{session}");
    let acting = async {
        // One that nobody waits for was there before.
        while site.get(&path).await.body["unfinished"] != asks.len() + 1 {
            tokio::task::yield_now().await;
        }
        then.await;
    };
    tokio::join!(futures::future::join_all(waiting), acting).0
}

fn completion(stream: bool) -> Value {
    let messages = json!([{"role": "user", "content": "hello"}]);
    json!({"model": "fake-model", "stream": stream, "messages": messages})
}

#[tokio::test]
async fn whoever_waits_learns_that_a_deletion_has_ended_the_turn() {
    let site = Site::new();
    let session = site.say(None, "hello").await["session_id"].as_str().unwrap().to_owned();
    let asks = [
        ("/v1/session/message?wait=60s", json!({"session_id": session, "message": "hello"})),
        ("/v1/chat/completions", completion(false)),
        ("/v1/chat/completions", completion(true)),
    ];
    let replies = all_waiting(&site, &session, &asks, async {
        let path = format!("/v1/sessions/{session}");
        assert_eq!(site.ask("DELETE", &path, Ask::default()).await.status, 204);
    })
    .await;
    let [message, whole, streamed] = &replies[..] else { panic!("{replies:?}") };
    assert_eq!((message.status, &message.body["type"]), (200, &json!("assistant.cancelled")));
    assert_eq!((whole.status, &whole.body["error"]["code"]), (409, &json!("cancelled")));
    assert!(streamed.text.contains(r#""code":"cancelled""#), "{}", streamed.text);
}

#[tokio::test]
async fn whoever_waits_in_a_drain_is_told_that_the_message_is_accepted() {
    let site = Site::with(|setup| {
        setup.settings.limits.drain_patience = std::time::Duration::ZERO;
    });
    let session = site.say(None, "hello").await["session_id"].as_str().unwrap().to_owned();
    let asks = [
        ("/v1/session/message?wait=60s", json!({"session_id": session, "message": "hello"})),
        ("/v1/chat/completions", completion(false)),
        ("/v1/chat/completions", completion(true)),
    ];
    let replies = all_waiting(&site, &session, &asks, async { site.edge.drain() }).await;
    let [message, whole, streamed] = &replies[..] else { panic!("{replies:?}") };
    assert_eq!((message.status, &message.body["session_id"]), (202, &json!(session)));
    assert_eq!((whole.status, &whole.body["error"]["code"]), (504, &json!("timed_out")));
    assert!(streamed.text.contains(r#""code":"timed_out""#), "{}", streamed.text);
}

/// A gateway that fails first in each of these ways, and counts how often it is asked.
fn failing(store: &Arc<FakeStore>, failures: Vec<CallError>) -> (Outlet<Accept>, Arc<AtomicU32>) {
    let asked = Arc::new(AtomicU32::new(0));
    let (store, count) = (Arc::clone(store), Arc::clone(&asked));
    let outlet = Outlet::from_fn(move |Accept(message)| {
        let number = count.fetch_add(1, Ordering::SeqCst) as usize;
        let (store, failure) = (Arc::clone(&store), failures.get(number).cloned());
        async move {
            match failure {
                // It had been begun: the message is stored, and nobody was told.
                Some(CallError::Abandoned) => {
                    drop(commit(&store, None, message).await);
                    Err(CallError::Abandoned)
                }
                Some(failure) => Err(failure),
                None => Ok(commit(&store, None, message).await),
            }
        }
    });
    (outlet, asked)
}

#[tokio::test]
async fn the_edge_rides_through_a_restart_of_the_gateway() {
    let mut asked = None;
    let site = Site::with(|setup| {
        let failures = vec![CallError::Restarting, CallError::Abandoned, CallError::TimedOut];
        let (outlet, count) = failing(&setup.store, failures);
        (setup.accept, asked) = (Some(outlet), Some(count));
    });
    let accepted = site.say(None, "hello").await;
    assert_eq!(accepted["n"], 1, "the repetition is the same message");
    assert_eq!(asked.unwrap().load(Ordering::SeqCst), 4);
    let path = format!("/v1/sessions/{}", accepted["session_id"].as_str().unwrap());
    assert_eq!(site.get(&path).await.body["last_n"], 1);
}

#[tokio::test]
async fn an_unknown_outcome_is_found_out_by_asking_again() {
    let site = Site::with(|setup| {
        setup.store.fail_next("accept", Fault::UnknownAfter);
        setup.store.fail_next("accept", Fault::UnknownBefore);
    });
    assert_eq!(site.say(None, "hello").await["n"], 1);
}

#[tokio::test]
async fn what_is_not_accepted_says_whether_to_come_back() {
    for (failure, status, code) in [
        (CallError::Restarting, 503, "service_restarting"),
        (CallError::Full, 503, "overloaded"),
        (CallError::Stopped, 503, "draining"),
    ] {
        let site = Site::with(|setup| {
            setup.accept = Some(failing(&setup.store, vec![failure; 1_000]).0);
        });
        let reply = site.post(SEND, &json!({"message": "hello"})).await;
        reply.is_problem(status, code);
        assert_eq!(reply.header("retry-after"), "1");
    }
    let site = Site::new();
    site.store.set_down(true);
    let reply = site.post(SEND, &json!({"message": "hello"})).await;
    reply.is_problem(503, "store_unavailable");
}

#[tokio::test]
async fn the_policy_decides_and_no_answer_means_no() {
    let denying = Site::with(|setup| setup.policy = Arc::new(FakePolicy::denying("not today")));
    let reply = denying.post(SEND, &json!({"message": "hello"})).await;
    reply.is_problem(403, "policy_denied");
    assert_eq!(reply.body["detail"], "not today");
    let silent = Site::with(|setup| setup.policy = Arc::new(FakePolicy::unreachable()));
    silent.post(SEND, &json!({"message": "hello"})).await.is_problem(503, "policy_unavailable");
}

#[tokio::test]
async fn the_policy_is_asked_about_tenant_subject_persona_and_session_alone() {
    let policy = Arc::new(FakePolicy::new(|_| Ok(Decision::Allow)));
    let kept = Arc::clone(&policy);
    let site = Site::with(|setup| setup.policy = kept);
    site.post(SEND, &json!({"message": "secret", "persona_id": "default"})).await;
    let asked = policy.asked().remove(0);
    assert_eq!((asked.resource.as_str(), asked.subject.as_str()), ("message", "dev"));
    assert_eq!(asked.persona_id.as_deref(), Some("default"));
    assert!(!json!(asked).to_string().contains("secret"));
}

#[tokio::test]
async fn what_a_worker_relies_on_is_checked_first() {
    let site = Site::new();
    for (body, code) in [
        (json!({"message": " "}), "invalid_body"),
        (json!({"message": "x", "persona_id": "nobody"}), "unknown_persona"),
        (json!({"message": "x", "persona_id": "../etc"}), "unknown_persona"),
        (json!({"message": "x", "attachments": ["nope"]}), "unknown_attachment"),
        (
            json!({"message": "x", "attachments": ["00000000-0000-4000-8000-000000000001"]}),
            "unknown_attachment",
        ),
        (json!({"message": "x", "metadata": {"requeue_override": true}}), "reserved_metadata"),
        (json!({"message": "x", "metadata": {"tenant": "acme"}}), "reserved_metadata"),
        (json!({"message": "a\u{0}b"}), "invalid_text"),
        (json!({"message": "x", "metadata": {"a": ["\u{0}"]}}), "invalid_text"),
        (json!({"message": "x", "session_id": "not-a-uuid"}), "invalid_body"),
        (json!({"message": "x", "sesion_id": null}), "invalid_body"),
    ] {
        let reply = site.post(SEND, &body).await;
        assert_eq!((reply.status, reply.code()), (400, code), "{body}");
    }
    for bad in ["soon", "1h", "301s", "-1s"] {
        let reply = site.post(&format!("{SEND}?wait={bad}"), &json!({"message": "x"})).await;
        reply.is_problem(400, "invalid_query");
    }
}

#[tokio::test]
async fn a_failed_turn_tells_why_and_a_replay_hides_the_old_end() {
    let site = Site::new();
    let accepted = site.say(None, "hello").await;
    let claimed = site.claim(&accepted).await;
    site.end(&claimed, sample::failed(&claimed, "the model is gone")).await;
    let path = format!("/v1/messages/{}", accepted["event_id"].as_str().unwrap());
    let failed = site.get(&path).await;
    assert_eq!(
        (&failed.body["status"], &failed.body["reason"]),
        (&json!("failed"), &json!("the model is gone"))
    );
    let letters = site.get("/v1/admin/dlq").await;
    let id = letters.body["items"][0]["id"].as_i64().unwrap();
    let replayed = site.ask("POST", &format!("/v1/admin/dlq/{id}/replay"), Ask::default()).await;
    assert_eq!((replayed.status, &replayed.body["status"]), (202, &json!("queued")));
    let queued = site.get(&path).await;
    assert_eq!((&queued.body["status"], &queued.body["replay"]), (&json!("queued"), &json!(1)));
    assert!(queued.body.get("terminal").is_none());
    let again = site.ask("POST", &format!("/v1/admin/dlq/{id}/replay"), Ask::default()).await;
    assert_eq!(again.body["status"], "already_replayed");
}
