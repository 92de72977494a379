//! Records that outside systems write to `tool.requests`.

use std::collections::BTreeMap;

use soma_contract::{port::store::Registry as _, topic::Topic, turn::TurnKind};

use super::*;

fn headers(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

#[test]
fn a_foreign_request_becomes_a_turn_once() {
    paused(async {
        let mut stage = Stage::set(&[&Scripted::named("quick")], FakePolicy::allowing());
        let (session_id, event_id) = (Uuid::from_u128(5), Uuid::from_u128(6));
        let payload = json!({
            "event_id": event_id, "session_id": session_id, "tool_name": "quick", "args": {},
            "metadata": {"requeue_override": true, "tenant": "mallory"},
        });
        for _ in 0..2 {
            let headers = headers(&[("tenant_id", "acme"), ("traceparent", "00-1-2-01")]);
            stage.bus.write_foreign(Topic::ToolRequests, headers, payload.to_string());
        }
        let mut changes = stage.store.changes();
        stage.start().await;
        let tenant = TenantId("acme".into());
        let status = loop {
            match stage.store.message(&tenant, EventId(event_id)).await {
                Ok(status) => break status,
                Err(_) => changes.changed().await.unwrap(),
            }
        };
        assert_eq!((status.turn.kind, status.n), (TurnKind::Tool, 1));
        stage.stop().await;
        let events = stage.store.events(&tenant, SessionId(session_id), 0, 10).await.unwrap();
        let [event] = events.as_slice() else { panic!("{events:?}") };
        assert_eq!(
            Value::Object(event.metadata.clone()),
            json!({"tool_name": "quick", "args": {}})
        );
        assert_eq!(event.trace_context.0["traceparent"], "00-1-2-01");
    });
}

#[test]
fn what_cannot_become_a_turn_is_a_dead_letter() {
    paused(async {
        let mut stage = Stage::set(&[&Scripted::named("quick")], FakePolicy::allowing());
        let unknown = json!({"session_id": Uuid::nil(), "tool_name": "rm", "args": {}}).to_string();
        for payload in [b"\xff\xfe".to_vec(), b"not json".to_vec(), unknown.into_bytes()] {
            stage.bus.write_foreign(Topic::ToolRequests, BTreeMap::new(), payload);
        }
        let mut changes = stage.store.changes();
        stage.start().await;
        let letters = loop {
            let letters = stage.store.dead_letters(None, None, 10).await.unwrap().items;
            if letters.len() == 3 {
                break letters;
            }
            changes.changed().await.unwrap();
        };
        let mut told: Vec<_> = letters.iter().map(|letter| letter.error.as_str()).collect();
        told.sort_unstable();
        assert_eq!(told[0], "no tool is called `rm`; there are: quick");
        assert!(told[1].starts_with("not a tool request"), "{told:?}");
        let contents: Vec<_> = letters.iter().map(|letter| letter.event.clone()).collect();
        assert!(contents.contains(&json!({"base64": "//4="})), "{contents:?}");
        assert!(contents.contains(&json!("not json")), "{contents:?}");
        stage.stop().await;
    });
}

#[test]
fn a_bus_that_is_down_stops_no_tool() {
    paused(async {
        let mut stage = Stage::set(&[&Scripted::named("quick")], FakePolicy::allowing());
        stage.bus.set_down(true);
        stage.start().await;
        let turn = stage.turn(1).await;
        stage.request(&turn, &[("quick", Effect::Pure)]).await;
        assert_eq!(stage.outcome(&turn).await.status, ToolStatus::Success);
        stage.stop().await;
    });
}
