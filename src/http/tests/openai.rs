//! OpenAI's shapes.

use std::sync::Arc;

use serde_json::{Value, json};
use soma_contract::{message::prior_messages, testing::sample};

use super::support::{Ask, Site};

const CHAT: &str = "/v1/chat/completions";

fn request(text: &str) -> Value {
    json!({"model": "fake-model", "messages": [{"role": "user", "content": text}]})
}

fn with(mut request: Value, name: &str, value: impl Into<Value>) -> Value {
    request[name] = value.into();
    request
}

fn answering() -> Arc<Site> {
    let site = Arc::new(Site::new());
    site.answer_all();
    site
}

#[tokio::test]
async fn a_completion_has_the_shape_that_clients_know() {
    let site = answering();
    let reply = site.post(CHAT, &request("hello")).await;
    let body = &reply.body;
    assert_eq!((reply.status, &body["object"]), (200, &json!("chat.completion")));
    assert!(body["id"].as_str().unwrap().starts_with("chatcmpl-"));
    assert!(body["created"].is_i64());
    assert_eq!(body["model"], "fake-model");
    assert_eq!(
        body["choices"],
        json!([{
            "index": 0,
            "message": {"role": "assistant", "content": "you said: hello", "refusal": null},
            "logprobs": null,
            "finish_reason": "stop",
        }])
    );
    assert_eq!(
        body["usage"],
        json!({"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5})
    );
    assert!(reply.header("x-session-id").len() == 36);
}

/// Reads a streamed completion whole: its chunks, and whether it ended as it should.
async fn chunks(site: &Site, request: &Value) -> (Vec<Value>, bool) {
    let mut stream = site.stream("POST", CHAT, Ask::json(request)).await;
    let mut chunks = Vec::new();
    while let Some((_, chunk)) = stream.next().await {
        if chunk == "[DONE]" {
            assert_eq!(stream.next().await, None);
            return (chunks, true);
        }
        chunks.push(chunk);
    }
    (chunks, false)
}

#[tokio::test]
async fn a_stream_comes_in_chunks_and_ends_with_done() {
    let site = answering();
    let request = with(request("hello"), "stream", true);
    let (chunks, is_done) = chunks(&site, &request).await;
    assert!(is_done);
    for chunk in &chunks {
        assert_eq!(chunk["object"], "chat.completion.chunk");
        assert_eq!(chunk["id"], chunks[0]["id"]);
        assert!(chunk.get("usage").is_none());
    }
    let deltas: Vec<&Value> = chunks.iter().map(|chunk| &chunk["choices"][0]["delta"]).collect();
    assert_eq!(deltas[0]["role"], "assistant");
    let text: String = deltas.iter().filter_map(|delta| delta["content"].as_str()).collect();
    assert_eq!(text, "you said: hello");
    let last = chunks.last().unwrap();
    assert_eq!(
        last["choices"][0],
        json!({"index": 0, "delta": {}, "logprobs": null, "finish_reason": "stop"})
    );
}

#[tokio::test]
async fn a_stream_tells_the_usage_to_those_who_ask() {
    let site = answering();
    let request = with(request("hello"), "stream", true);
    let request = with(request, "stream_options", json!({"include_usage": true}));
    let (chunks, is_done) = chunks(&site, &request).await;
    assert!(is_done);
    let (last, others) = chunks.split_last().unwrap();
    assert!(others.iter().all(|chunk| chunk["usage"].is_null() && chunk.get("usage").is_some()));
    assert_eq!(last["choices"], json!([]));
    assert_eq!(last["usage"]["total_tokens"], 5);
}

#[tokio::test]
async fn pieces_are_streamed_before_the_end() {
    let site = Site::new();
    let body = with(request("hello"), "stream", true);
    let mut stream = site.stream("POST", CHAT, Ask::json(&body)).await;
    stream.next().await.unwrap();
    let session = stream.headers["x-session-id"].to_str().unwrap().to_owned();
    let claimed = site.claim(&json!({"session_id": session})).await;
    site.piece(&claimed, 0, "Hel").await;
    let (_, chunk) = stream.next().await.unwrap();
    assert_eq!(chunk["choices"][0]["delta"], json!({"content": "Hel"}));
    site.answer(&claimed, "Hello").await;
    let (_, chunk) = stream.next().await.unwrap();
    assert_eq!(chunk["choices"][0]["delta"], json!({"content": "lo"}));
}

#[tokio::test]
async fn a_user_keeps_one_session_and_others_begin_new_ones() {
    let site = answering();
    let mine = with(request("one"), "user", "ann");
    let session =
        async |body: &Value| site.post(CHAT, body).await.header("x-session-id").to_owned();
    let first = session(&mine).await;
    assert_eq!(
        session(&with(mine.clone(), "messages", json!([{"role": "user", "content": "two"}]))).await,
        first
    );
    assert_ne!(session(&with(request("one"), "user", "bob")).await, first);
    assert_ne!(session(&request("one")).await, session(&request("one")).await);
    let named = Ask::json(&mine).header("x-session-id", "00000000-0000-4000-8000-000000000001");
    let reply = site.ask("POST", CHAT, named).await;
    assert_eq!(reply.header("x-session-id"), "00000000-0000-4000-8000-000000000001");
    // A user whose session was deleted begins another one.
    assert_eq!(
        site.ask("DELETE", &format!("/v1/sessions/{first}"), Ask::default()).await.status,
        204
    );
    let second = session(&mine).await;
    assert_ne!(second, first);
    assert_eq!(session(&mine).await, second);
}

#[tokio::test]
async fn a_new_session_hands_over_what_was_said_before() {
    let site = Site::new();
    let body = json!({"model": "fake-model", "stream": true, "messages": [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "one"},
        {"role": "assistant", "content": "uno"},
        {"role": "user", "content": "two"},
    ]});
    let stream = site.stream("POST", CHAT, Ask::json(&body)).await;
    let session = stream.headers["x-session-id"].to_str().unwrap().to_owned();
    let event = site.claim(&json!({"session_id": session})).await.event;
    assert_eq!(event.message, "two");
    let prior = prior_messages(&event);
    assert_eq!(
        prior.iter().map(soma_contract::model::ChatMessage::content).collect::<Vec<_>>(),
        ["be brief", "one", "uno"]
    );
}

#[tokio::test]
async fn a_key_makes_repetitions_mean_one() {
    let site = answering();
    let ask = || Ask::json(&request("hello")).key("k-1");
    let first = site.ask("POST", CHAT, ask()).await;
    let second = site.ask("POST", CHAT, ask()).await;
    assert_eq!(second.header("idempotency-replayed"), "true");
    assert_eq!(first.body, second.body);
    assert_eq!(first.header("x-session-id"), second.header("x-session-id"));
    let reused = site.ask("POST", CHAT, Ask::json(&request("other")).key("k-1")).await;
    reused.is_problem(422, "idempotency_key_reused");
}

#[tokio::test]
async fn a_client_that_goes_away_does_not_cancel_its_turn() {
    let site = Site::new();
    let body = with(request("hello"), "stream", true);
    let mut stream = site.stream("POST", CHAT, Ask::json(&body).key("k-1")).await;
    stream.next().await.unwrap();
    let session = stream.headers["x-session-id"].to_str().unwrap().to_owned();
    drop(stream);
    let claimed = site.claim(&json!({"session_id": session})).await;
    assert!(!claimed.turn.cancel_requested);
    site.answer(&claimed, "still here").await;
    let again = Ask::json(&body).key("k-1");
    let mut stream = site.stream("POST", CHAT, again).await;
    stream.next().await.unwrap();
    let (_, chunk) = stream.next().await.unwrap();
    assert_eq!(chunk["choices"][0]["delta"]["content"], "still here");
}

#[tokio::test]
async fn errors_have_openais_shape_as_well() {
    let site = Site::new();
    let unknown = with(request("hello"), "model", "gpt-0");
    let reply = site.post(CHAT, &unknown).await;
    reply.is_problem(404, "model_not_found");
    assert_eq!(
        reply.body["error"],
        json!({"message": "there is no model `gpt-0`", "type": "invalid_request_error", "param": null, "code": "model_not_found"})
    );
    let tools = with(request("hello"), "tools", json!([{"type": "function"}]));
    site.post(CHAT, &tools).await.is_problem(400, "unsupported_parameter");
    let reply = site.ask("POST", CHAT, Ask::json(&json!("{")).header("x-session-id", "x")).await;
    assert!(reply.body["error"]["message"].is_string());
}

#[tokio::test]
async fn a_failed_turn_is_an_error_in_both_forms() {
    for stream in [false, true] {
        let site = Arc::new(Site::new());
        let failing = Arc::clone(&site);
        let body = with(with(request("hello"), "stream", stream), "user", "ann");
        let fails = async move {
            let mut changes = failing.store.changes();
            loop {
                let ready = failing.store_claimable().await;
                if let Some(session) = ready {
                    let claimed = failing.claim(&json!({"session_id": session})).await;
                    failing.end(&claimed, sample::failed(&claimed, "the model is gone")).await;
                    return;
                }
                changes.changed().await.unwrap();
            }
        };
        if stream {
            let ((chunks, is_done), ()) = tokio::join!(chunks(&site, &body), fails);
            assert!(!is_done, "an error does not end with [DONE]");
            let error = &chunks.last().unwrap()["error"];
            assert_eq!(
                (&error["code"], &error["message"]),
                (&json!("turn_failed"), &json!("the model is gone"))
            );
        } else {
            let (reply, ()) = tokio::join!(site.post(CHAT, &body), fails);
            reply.is_problem(502, "turn_failed");
            assert_eq!(reply.body["error"]["type"], "server_error");
        }
    }
}

#[tokio::test]
async fn models_are_the_model_and_the_personas() {
    let site = answering();
    let put = json!({"prompt": "Arr"});
    site.ask("PUT", "/v1/personas/pirate", Ask::json(&put)).await;
    let models = site.get("/v1/models").await.body;
    let names: Vec<&str> = models["data"]
        .as_array()
        .unwrap()
        .iter()
        .map(|model| model["id"].as_str().unwrap())
        .collect();
    assert_eq!(names, ["fake-model", "persona/default", "persona/pirate"]);
    let one = site.get("/v1/models/persona/pirate").await;
    assert_eq!(one.body["id"], "persona/pirate");
    // As the official Python client writes it.
    let escaped = site.get("/v1/models/persona%2Fpirate").await;
    assert_eq!((escaped.status, &escaped.body), (200, &one.body));
    site.get("/v1/models/gpt-0").await.is_problem(404, "model_not_found");
    let reply = site.post(CHAT, &with(request("hello"), "model", "persona/pirate")).await;
    assert_eq!((reply.status, &reply.body["model"]), (200, &json!("persona/pirate")));
}
