//! What goes wrong, and how the turn ends or goes on.

use std::{sync::Arc, time::Duration};

use soma_contract::{
    EventId, EventType,
    model::{ModelAnswer, ModelEvent, Usage},
    port::{model::ModelError, store::Registry as _},
    testing::{Fault, Play},
};
use soma_runtime::Fault as Injected;
use tokio::sync::Notify;
use uuid::Uuid;

use crate::house::{House, message, paused};

fn unavailable() -> ModelError {
    ModelError::Unavailable { reason: "503".to_owned(), retry_after: None }
}

#[test]
fn a_turn_waits_for_a_model_that_is_down_and_says_so() {
    paused(async {
        let house = House::new();
        let half = Play::Say(ModelEvent::Delta("w".repeat(2_000)));
        house.model.fails(unavailable()).script(vec![half, Play::Fail(unavailable())]);
        house.model.answers("back again");
        let process = house.open().await;
        let event_id = house.say(1, "hello").await;
        process.ring();
        let answer = house.store.terminal(event_id).await;
        assert_eq!(answer.message, "back again");
        process.stop().await;
        let status = house.status(event_id).await;
        assert_eq!(status.turn.tries.attempts, 1, "waiting gives the attempt back");
        let mut heard = house.heard();
        heard.retain(|word| word.len() < 100);
        let expected = [
            "thinking",
            "waiting",
            "thinking",
            "reset",
            "waiting",
            "thinking",
            "delta back again",
            "appended",
        ];
        assert_eq!(heard, expected);
    });
}

#[test]
fn a_model_that_stays_down_ends_the_turn_after_a_quarter_of_an_hour() {
    paused(async {
        let house = House::new();
        for _ in 0..100 {
            house.model.fails(unavailable());
        }
        let process = house.open().await;
        let event_id = house.say(1, "hello").await;
        process.ring();
        let began = house.clock.now();
        let error = house.store.terminal(event_id).await;
        assert_eq!(error.event_type, EventType::Error);
        assert_eq!(error.metadata["code"], "unavailable");
        let waited = (house.clock.now() - began).num_seconds();
        assert!((900..=905).contains(&waited), "{waited} s");
        process.stop().await;
        assert_eq!(house.store.dead_letters(None, None, 10).await.unwrap().items.len(), 1);
    });
}

#[test]
fn what_waiting_cannot_mend_ends_the_turn_at_once() {
    paused(async {
        for (error, code) in [
            (ModelError::KeyRefused("401".to_owned()), "model_key_refused"),
            (ModelError::NoSuchModel("gpt-0".to_owned()), "model_unknown"),
            (ModelError::Refused("too long".to_owned()), "model_refused"),
        ] {
            let house = House::new();
            let reason = error.to_string();
            house.model.fails(error);
            let process = house.open().await;
            let event_id = house.say(1, "hello").await;
            process.ring();
            let event = house.store.terminal(event_id).await;
            assert_eq!(event.metadata["code"], code);
            assert_eq!(event.message, reason);
            process.stop().await;
        }
    });
}

#[test]
fn a_panic_fails_its_turn_the_third_time_and_nobody_else() {
    paused(async {
        let house = House::new();
        for _ in 0..3 {
            house.model.script(vec![Play::Panic("on purpose".to_owned())]);
        }
        let process = house.open().await;
        let event_id = house.say(1, "hello").await;
        process.ring();
        let error = house.store.terminal(event_id).await;
        assert_eq!(error.metadata["code"], "panicked");
        let event_id = house.say(2, "still there?").await;
        process.ring();
        assert_eq!(house.store.terminal(event_id).await.message, "still there?");
        assert_eq!(process.running.tree().find("conversation-worker").unwrap().generation, 1);
        process.stop().await;
    });
}

#[test]
fn two_panics_are_forgiven() {
    paused(async {
        let house = House::new();
        for _ in 0..2 {
            house.model.script(vec![Play::Panic("on purpose".to_owned())]);
        }
        let process = house.open().await;
        let event_id = house.say(1, "hello").await;
        process.ring();
        assert_eq!(house.store.terminal(event_id).await.message, "hello");
        process.stop().await;
    });
}

#[test]
fn a_new_incarnation_goes_on_with_the_turns_of_the_one_before() {
    paused(async {
        let house = House::new();
        house.model.script(vec![Play::Hang]).answers("done");
        let process = house.open().await;
        let event_id = house.say(1, "hello").await;
        process.ring();
        house.model.called(1).await;
        process.link.inject(Injected::Panic);
        let answer = house.store.terminal(event_id).await;
        assert_eq!(answer.message, "done");
        assert_eq!(house.model.open_calls(), 0);
        process.stop().await;
        let status = house.status(event_id).await;
        assert_eq!(status.turn.tries.attempts, 1, "the worker's death is not the turn's");
        assert_eq!(house.terminals().await.len(), 1);
    });
}

#[test]
fn a_store_that_stumbles_at_any_call_does_not_hinder_the_end() {
    paused(async {
        for method in ["claim", "persona", "search_pending", "end", "claimable"] {
            for fault in [Fault::Unavailable, Fault::UnknownBefore, Fault::UnknownAfter] {
                let house = House::new();
                let process = house.open().await;
                let event_id = house.say(1, "hello").await;
                for _ in 0..3 {
                    house.store.fail_next(method, fault);
                }
                process.ring();
                let answer = house.store.terminal(event_id).await;
                assert_eq!(answer.message, "hello", "{method} {fault:?}");
                process.stop().await;
                assert_eq!(house.terminals().await.len(), 1, "{method} {fault:?}");
            }
        }
    });
}

#[test]
fn a_store_that_is_down_for_a_minute_is_waited_for_with_the_answer_in_hand() {
    paused(async {
        let house = House::new();
        let go_on = Arc::new(Notify::new());
        house.model.script(vec![
            Play::Until(Arc::clone(&go_on)),
            Play::Say(ModelEvent::Delta("dear".to_owned())),
            Play::Say(ModelEvent::Answer(ModelAnswer {
                text: "dear answer".to_owned(),
                tool_calls: Vec::new(),
                usage: Usage::default(),
                model: "fake".to_owned(),
                finish_reason: "stop".to_owned(),
            })),
        ]);
        let process = house.open().await;
        let event_id = house.say(1, "hello").await;
        process.ring();
        house.model.called(1).await;
        house.store.set_down(true);
        go_on.notify_one();
        tokio::time::sleep(Duration::from_mins(1)).await;
        house.store.set_down(false);
        assert_eq!(house.store.terminal(event_id).await.message, "dear answer");
        assert_eq!(house.model.requests().len(), 1, "the model is not asked again");
        process.stop().await;
    });
}

#[test]
fn a_turn_that_works_for_too_long_is_stopped() {
    paused(async {
        let house = House::new();
        house.model.script(vec![Play::Hang]);
        let process = house.open().await;
        let event_id = house.say(1, "hello").await;
        process.ring();
        let error = house.store.terminal(event_id).await;
        assert_eq!(error.metadata["code"], "work_cap");
        assert_eq!(house.model.open_calls(), 0);
        process.stop().await;
    });
}

#[test]
fn the_tokens_of_a_day_are_limited() {
    paused(async {
        let mut house = House::new();
        house.config.caps.tokens_per_day = 12;
        let process = house.open().await;
        house.say(1, "one").await;
        house.say(2, "two").await;
        let third = house.say(3, "three").await;
        process.ring();
        house.store.terminal(third).await;
        process.stop().await;
        let ends: Vec<_> =
            house.terminals().await.into_iter().map(|event| event.event_type).collect();
        assert_eq!(ends, [EventType::Final, EventType::Final, EventType::Error]);
        assert_eq!(house.status(third).await.terminal.unwrap().metadata["code"], "token_cap");
    });
}

#[test]
fn turns_of_many_sessions_share_the_permits() {
    paused(async {
        let mut house = House::new();
        house.config.concurrency = 2;
        for number in 1..=20 {
            let mut said = message(number, "hello");
            said.event.session_id.0 = Uuid::from_u128(0x100 + number);
            house.accept(said).await;
        }
        let process = house.open().await;
        for number in 1..=20 {
            house.store.terminal(EventId(Uuid::from_u128(number))).await;
        }
        process.stop().await;
        assert_eq!(house.model.requests().len(), 20);
    });
}
