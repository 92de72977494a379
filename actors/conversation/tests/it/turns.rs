//! Messages that are answered.

use std::time::Duration;

use serde_json::json;
use soma_contract::{
    EventId, EventType, TenantId,
    memory::MemoryQuery,
    model::ChatMessage,
    persona::Persona,
    port::{
        model::ModelError,
        store::{Memories as _, Registry as _, Replayed},
    },
    testing::FakePolicy,
};
use uuid::Uuid;

use crate::house::{House, message, paused};

#[test]
fn a_message_is_answered_once_with_its_receipt() {
    paused(async {
        let house = House::new();
        let process = house.open().await;
        let event_id = house.say(1, "hello world").await;
        process.ring();
        let answer = house.store.terminal(event_id).await;
        assert_eq!(answer.event_type, EventType::Final);
        assert_eq!(answer.message, "hello world");
        assert_eq!(answer.metadata["usage"], json!({"input_tokens": 10, "output_tokens": 2}));
        assert_eq!(answer.metadata["steps"], 1);
        process.stop().await;
        assert_eq!(house.terminals().await.len(), 1);
        assert_eq!(house.heard(), ["thinking", "delta hello world", "appended"]);
    });
}

#[test]
fn a_plain_turn_asks_little_of_the_store() {
    paused(async {
        let house = House::new();
        let process = house.open().await;
        let event_id = house.say(1, "hello").await;
        process.ring();
        house.store.terminal(event_id).await;
        process.stop().await;
        assert_eq!(process.store.made(), ["claim", "persona", "search_pending", "end"]);
    });
}

#[test]
fn messages_of_a_session_are_answered_in_order_with_what_was_said_before() {
    paused(async {
        let house = House::new();
        for (number, text) in [(1, "one"), (2, "two"), (3, "three")] {
            house.say(number, text).await;
        }
        let process = house.open().await;
        house.store.terminal(EventId(Uuid::from_u128(3))).await;
        process.stop().await;
        let texts: Vec<_> =
            house.terminals().await.into_iter().map(|event| event.message).collect();
        assert_eq!(texts, ["one", "two", "three"]);
        let last = house.model.requests().pop().unwrap().messages;
        let said: Vec<_> = last[1..].iter().map(ChatMessage::content).collect();
        assert_eq!(said, ["one", "one", "two", "two", "three"]);
    });
}

#[test]
fn without_any_hint_the_poll_finds_what_waits() {
    paused(async {
        let house = House::new();
        let process = house.open().await;
        tokio::time::sleep(Duration::from_secs(5)).await;
        let event_id = house.say(1, "hello").await;
        let began = house.clock.now();
        house.store.terminal(event_id).await;
        assert!((house.clock.now() - began).num_seconds() <= 3);
        process.stop().await;
    });
}

#[test]
fn what_was_said_becomes_a_memory_and_is_recalled_in_another_session() {
    paused(async {
        let house = House::new();
        let process = house.open().await;
        let event_id = house.say(1, "my cat is called Mia").await;
        process.ring();
        house.store.terminal(event_id).await;
        let mut elsewhere = message(2, "what is my cat called");
        elsewhere.event.session_id.0 = Uuid::from_u128(0xB);
        let event_id = house.accept(elsewhere).await;
        house.store.terminal(event_id).await;
        process.stop().await;
        let prompt = house.model.requests().pop().unwrap();
        let system = prompt.messages[0].content();
        assert!(system.contains("my cat is called Mia"), "{system}");
    });
}

#[test]
fn a_policy_that_forbids_memories_is_obeyed() {
    paused(async {
        for policy in [FakePolicy::denying("private"), FakePolicy::unreachable()] {
            let house = House { policy: policy.into(), ..House::new() };
            let process = house.open().await;
            let event_id = house.say(1, "a secret").await;
            process.ring();
            house.store.terminal(event_id).await;
            process.stop().await;
            let query = MemoryQuery { limit: 10, ..MemoryQuery::default() };
            let kept = house.store.search_pending(&TenantId::public(), &query).await.unwrap();
            assert!(kept.is_empty(), "{kept:?}");
        }
    });
}

#[test]
fn a_persona_speaks_and_a_memory_that_is_down_stops_nobody() {
    paused(async {
        let house = House::new();
        house.memory.set_down(true);
        let persona = Persona {
            persona_id: "pirate".to_owned(),
            prompt: "Arr.".to_owned(),
            model: Some("big".to_owned()),
            tools: Some(vec!["pay".to_owned()]),
        };
        house.store.put_persona(&TenantId::public(), persona).await.unwrap();
        let process = house.open().await;
        let mut said = message(1, "hello");
        said.event.persona_id = Some("pirate".to_owned());
        let event_id = house.accept(said).await;
        process.ring();
        let answer = house.store.terminal(event_id).await;
        assert_eq!(answer.persona_id.as_deref(), Some("pirate"));
        process.stop().await;
        let request = house.model.requests().remove(0);
        assert_eq!(request.messages[0].content(), "Arr.");
        assert_eq!(request.model.as_deref(), Some("big"));
        let tools: Vec<_> = request.tools.iter().map(|tool| tool.name.as_str()).collect();
        assert_eq!(tools, ["pay"]);
    });
}

#[test]
fn a_replay_of_a_failed_turn_has_a_terminal_event_of_its_own() {
    paused(async {
        let house = House::new();
        house.model.fails(ModelError::KeyRefused("401".to_owned()));
        let process = house.open().await;
        let event_id = house.say(1, "hello").await;
        process.ring();
        assert_eq!(house.store.terminal(event_id).await.event_type, EventType::Error);
        let letter = house.store.dead_letters(None, None, 10).await.unwrap().items.remove(0);
        let replayed = house.store.replay(None, letter.id).await.unwrap();
        assert!(matches!(replayed, Replayed::Turn(_)));
        assert_eq!(house.store.terminal(event_id).await.event_type, EventType::Final);
        process.stop().await;
        let terminals = house.terminals().await;
        assert_eq!(terminals.len(), 2);
        assert_ne!(terminals[0].event_id, terminals[1].event_id);
    });
}

#[test]
fn a_child_without_work_leaves_and_a_later_message_gets_a_new_one() {
    paused(async {
        let house = House::new();
        let process = house.open().await;
        let event_id = house.say(1, "hello").await;
        process.ring();
        house.store.terminal(event_id).await;
        let sessions = || {
            let families = process.metrics.gather();
            let live = families
                .iter()
                .find(|family| family.name() == "conversation_sessions_live")
                .unwrap();
            live.get_metric()[0].get_gauge().get_value()
        };
        tokio::time::sleep(Duration::from_mins(4)).await;
        assert!((sessions() - 1.0).abs() < f64::EPSILON);
        tokio::time::sleep(Duration::from_mins(2)).await;
        assert!(sessions().abs() < f64::EPSILON);
        let event_id = house.say(2, "still there?").await;
        process.ring();
        house.store.terminal(event_id).await;
        let report = process.stop().await;
        assert!(report.is_clean(), "{report:?}");
    });
}
