//! Event streams.

use std::{sync::Arc, time::Duration};

use serde_json::json;
use soma_contract::{
    Event, EventId, EventType, Role,
    port::live::{Live, LiveEvent, TextPosition},
};
use uuid::Uuid;

use super::support::{Ask, Site};

fn path(accepted: &serde_json::Value) -> String {
    format!("/v1/sessions/{}/events", accepted["session_id"].as_str().unwrap())
}

#[tokio::test]
async fn durable_events_have_ids_and_live_ones_do_not() {
    let site = Site::new();
    let accepted = site.say(None, "hello").await;
    let mut stream = site.stream("GET", &path(&accepted), Ask::default()).await;
    assert_eq!(stream.headers["cache-control"], "no-cache, no-transform");
    assert_eq!(stream.headers["x-accel-buffering"], "no");
    let (id, event) = stream.next().await.unwrap();
    assert_eq!((id, &event["type"]), (Some(1), &json!("user")));

    let claimed = site.claim(&accepted).await;
    site.piece(&claimed, 0, "Hel").await;
    site.piece(&claimed, 3, "lo").await;
    let (id, event) = stream.next().await.unwrap();
    assert_eq!(
        (id, &event["type"], &event["message"]),
        (None, &json!("assistant.delta"), &json!("Hel"))
    );
    assert_eq!(event["turn_id"], accepted["turn_id"]);
    assert_eq!(event["metadata"], json!({"epoch": claimed.epoch, "step": 0, "offset": 0}));
    assert_eq!(stream.next().await.unwrap().1["message"], "lo");

    site.answer(&claimed, "Hello").await;
    let (id, event) = stream.next().await.unwrap();
    assert_eq!(
        (id, &event["type"], &event["message"]),
        (Some(2), &json!("assistant.final"), &json!("Hello"))
    );
}

#[tokio::test]
async fn a_reader_resumes_where_it_was() {
    let site = Site::new();
    let accepted = site.say(None, "one").await;
    let claimed = site.claim(&accepted).await;
    site.answer(&claimed, "uno").await;
    site.say(accepted["session_id"].as_str(), "two").await;
    for (query, header, first) in
        [("", Some("1"), 2), ("?after=2", None, 3), ("?after=0", Some("2"), 3)]
    {
        let ask = header.map_or_else(Ask::default, |id| Ask::default().header("last-event-id", id));
        let mut stream = site.stream("GET", &format!("{}{query}", path(&accepted)), ask).await;
        assert_eq!(stream.next().await.unwrap().0, Some(first), "{query} {header:?}");
    }
    let alias = path(&accepted).replace("/sessions/", "/session/");
    assert_eq!(site.stream("GET", &alias, Ask::default()).await.next().await.unwrap().0, Some(1));
    let ask = Ask::default().header("last-event-id", "x");
    site.ask("GET", &path(&accepted), ask).await.is_problem(400, "invalid_id");
}

#[tokio::test]
async fn a_reader_that_is_ahead_of_the_log_hears_what_comes() {
    let site = Site::new();
    let accepted = site.say(None, "one").await;
    let ask = Ask::default().header("last-event-id", "999");
    let mut stream = site.stream("GET", &path(&accepted), ask).await;
    site.say(accepted["session_id"].as_str(), "two").await;
    assert_eq!(stream.next().await.unwrap().0, Some(2));
}

#[tokio::test]
async fn who_joins_late_gets_the_text_so_far_and_what_follows() {
    let site = Site::new();
    let accepted = site.say(None, "hello").await;
    let claimed = site.claim(&accepted).await;
    site.piece(&claimed, 0, "Hello ").await;
    let mut stream = site.stream("GET", &path(&accepted), Ask::default()).await;
    let (_, snapshot) = stream.until("assistant.snapshot").await;
    assert_eq!(snapshot["message"], "Hello ");
    site.piece(&claimed, 6, "world").await;
    let (_, delta) = stream.until("assistant.delta").await;
    assert_eq!((&delta["message"], &delta["metadata"]["offset"]), (&json!("world"), &json!(6)));
}

#[tokio::test]
async fn a_step_computed_anew_voids_what_was_shown() {
    let site = Site::new();
    let accepted = site.say(None, "hello").await;
    let mut stream = site.stream("GET", &path(&accepted), Ask::default()).await;
    stream.until("user").await;
    let claimed = site.claim(&accepted).await;
    site.piece(&claimed, 0, "Good").await;
    stream.until("assistant.delta").await;
    let at = TextPosition {
        turn_id: claimed.turn.turn_id,
        epoch: claimed.epoch + 1,
        step: 0,
        offset: 0,
    };
    site.live.publish(claimed.turn.session_id, LiveEvent::Reset { at }).await;
    let (id, reset) = stream.next().await.unwrap();
    assert_eq!((id, &reset["type"]), (None, &json!("assistant.reset")));
    // Late pieces of the run before are not shown.
    site.piece(&claimed, 4, " day").await;
    let event = LiveEvent::Delta { at, text: "Bad".to_owned() };
    site.live.publish(claimed.turn.session_id, event).await;
    assert_eq!(stream.until("assistant.delta").await.1["message"], "Bad");
}

#[tokio::test]
async fn notices_are_passed_on() {
    let site = Site::new();
    let accepted = site.say(None, "hello").await;
    let mut stream = site.stream("GET", &path(&accepted), Ask::default()).await;
    stream.until("user").await;
    let claimed = site.claim(&accepted).await;
    let session = claimed.turn.session_id;
    let event = Event::new(EventId(Uuid::nil()), session, Role::Assistant, EventType::Thinking);
    site.live.publish(session, LiveEvent::Notice { event: Box::new(event) }).await;
    let (id, event) = stream.next().await.unwrap();
    assert_eq!((id, &event["type"]), (None, &json!("assistant.thinking")));
}

#[tokio::test]
async fn without_the_live_port_the_store_is_polled_and_live_events_return_with_it() {
    let site = Site::with(|setup| setup.settings.streams.poll = Duration::from_millis(20));
    let accepted = site.say(None, "hello").await;
    let mut stream = site.stream("GET", &path(&accepted), Ask::default()).await;
    stream.until("user").await;
    site.live.set_down(true);
    let claimed = site.claim(&accepted).await;
    site.answer(&claimed, "hi").await;
    assert_eq!(stream.next().await.unwrap().1["message"], "hi");

    site.live.set_down(false);
    let second = site.say(accepted["session_id"].as_str(), "more").await;
    stream.until("user").await;
    let claimed = site.claim(&second).await;
    // Whether the stream listens again by now or takes the snapshot later: it shows the text.
    site.piece(&claimed, 0, "text").await;
    let (_, event) = stream.next().await.unwrap();
    assert_eq!(event["message"], "text");
}

#[tokio::test]
async fn a_silent_stream_is_kept_alive() {
    let site = Site::with(|setup| setup.settings.streams.keepalive = Duration::from_millis(20));
    let accepted = site.say(None, "hello").await;
    let mut stream = site.stream("GET", &path(&accepted), Ask::default()).await;
    for _ in 0..2 {
        let (id, event) = stream.until("system.keepalive").await;
        assert_eq!((id, &event["session_id"]), (None, &accepted["session_id"]));
    }
}

#[tokio::test]
async fn a_drain_asks_readers_to_come_back_and_closes() {
    let site = Site::new();
    let accepted = site.say(None, "hello").await;
    let mut stream = site.stream("GET", &path(&accepted), Ask::default()).await;
    stream.until("user").await;
    site.edge.drain();
    let last = stream.raw().await.unwrap();
    assert!(last.starts_with("retry: "), "{last}");
    assert_eq!(stream.raw().await, None);
    assert_eq!(site.get("/v1/tools").await.header("connection"), "close");
}

#[tokio::test]
async fn the_stream_of_a_deleted_session_closes() {
    let site = Site::new();
    let accepted = site.say(None, "hello").await;
    let mut stream = site.stream("GET", &path(&accepted), Ask::default()).await;
    stream.until("user").await;
    let session = path(&accepted).replace("/events", "");
    assert_eq!(site.ask("DELETE", &session, Ask::default()).await.status, 204);
    while stream.raw().await.is_some() {}
    site.ask("GET", &path(&accepted), Ask::default().header("accept", "text/event-stream"))
        .await
        .is_problem(404, "not_found");
}

#[tokio::test]
async fn a_store_that_fails_for_a_while_does_not_end_a_stream() {
    let site = Site::with(|setup| {
        setup.settings.streams.poll = Duration::from_millis(20);
        setup.settings.streams.keepalive = Duration::from_millis(20);
    });
    let accepted = site.say(None, "hello").await;
    let mut stream = site.stream("GET", &path(&accepted), Ask::default()).await;
    stream.until("user").await;
    let claimed = site.claim(&accepted).await;
    site.answer(&claimed, "hi").await;
    stream.until("assistant.final").await;
    site.store.set_down(true);
    stream.until("system.keepalive").await;
    stream.until("system.keepalive").await;
    site.store.set_down(false);
    site.say(accepted["session_id"].as_str(), "still there?").await;
    assert_eq!(stream.until("user").await.1["message"], "still there?");
}

#[tokio::test]
async fn a_reader_that_takes_nothing_is_dropped() {
    let site = Arc::new(Site::with(|setup| {
        setup.settings.streams.buffer = 2;
        setup.settings.streams.stall = Duration::from_millis(50);
    }));
    let accepted = site.say(None, "hello").await;
    let mut stream = site.stream("GET", &path(&accepted), Ask::default()).await;
    let claimed = site.claim(&accepted).await;
    // Far more than any socket buffer holds, and the reader does not read.
    let piece = "x".repeat(256 * 1024);
    let mut offset = 0;
    while !ended(&site, "reader_slow").await {
        site.piece(&claimed, offset, &piece).await;
        offset += piece.len() as u64;
    }
    while stream.raw().await.is_some() {}
    // It comes back and misses nothing durable.
    site.answer(&claimed, "done").await;
    let ask = Ask::default().header("last-event-id", "1");
    let mut again = site.stream("GET", &path(&accepted), ask).await;
    assert_eq!(again.until("assistant.final").await.1["message"], "done");
}

async fn ended(site: &Site, reason: &str) -> bool {
    let url = format!("http://{}/metrics", site.admin.address());
    let metrics = site.ask_at(&url, "GET", Ask::default()).await.text;
    metrics.contains(&format!("http_streams_ended_total{{reason=\"{reason}\"}}"))
}

#[tokio::test]
async fn a_reader_that_goes_away_leaves_nothing_behind() {
    let site = Site::new();
    let accepted = site.say(None, "hello").await;
    let mut stream = site.stream("GET", &path(&accepted), Ask::default()).await;
    stream.until("user").await;
    let url = format!("http://{}/metrics", site.admin.address());
    let open = async || {
        site.ask_at(&url, "GET", Ask::default()).await.text.contains("http_streams_open 1")
    };
    assert!(open().await);
    drop(stream);
    while open().await {}
}

#[tokio::test]
async fn a_page_of_the_log_is_json() {
    let site = Site::new();
    let accepted = site.say(None, "one").await;
    site.say(accepted["session_id"].as_str(), "two").await;
    let page = site.get(&format!("{}?limit=1", path(&accepted))).await;
    assert_eq!(page.body["events"][0]["message"], "one");
    assert_eq!(page.body["next_cursor"], 1);
    let page = site.get(&format!("{}?after=1", path(&accepted))).await;
    assert_eq!(page.body["events"].as_array().unwrap().len(), 1);
    let empty = site.get(&format!("{}?after=2", path(&accepted))).await;
    assert_eq!((&empty.body["events"], &empty.body["next_cursor"]), (&json!([]), &json!(2)));
    for bad in ["limit=0", "limit=501", "after=-1", "after=x"] {
        let reply = site.get(&format!("{}?{bad}", path(&accepted))).await;
        reply.is_problem(400, "invalid_query");
    }
}
