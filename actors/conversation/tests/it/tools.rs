//! Turns that call tools.

use std::{sync::Arc, time::Duration};

use serde_json::json;
use soma_contract::{
    EventType, Owner,
    model::ChatMessage,
    port::store::{Steps as _, Turns as _},
    turn::{StepStatus, TurnKind},
};

use crate::{
    house::{House, Planner, message, paused, types},
    mortal::Death,
};

#[test]
fn results_of_tools_go_back_to_the_model() {
    paused(async {
        let planner = Arc::new(Planner::default());
        let house = House::of(&planner);
        let process = house.open().await;
        let tools = house.run_tools();
        let event_id = house.say(1, "hello").await;
        process.ring();
        let answer = house.store.terminal(event_id).await;
        assert_eq!(answer.message, "2 results");
        assert_eq!(answer.metadata["tool_calls"], 2);
        assert_eq!(answer.metadata["steps"], 2);
        assert_eq!(answer.metadata["usage"], json!({"input_tokens": 20, "output_tokens": 4}));
        assert_eq!(tools.ran().len(), 2);
        assert_eq!(planner.asked(), [0, 2]);
        process.stop().await;
        // The calls had one id twice; in the journal each has its own.
        let steps = house.store.steps(answer.turn_id.unwrap()).await.unwrap();
        let ids: Vec<_> = steps.iter().map(|step| step.call_id.as_str()).collect();
        assert_eq!(ids, ["", "same", "call_1_1"]);
        assert_eq!(steps[0].result["tool_calls"][1]["id"], "call_1_1");
    });
}

#[test]
fn calls_that_cannot_run_go_back_to_the_model_with_the_reason() {
    paused(async {
        let house = House::new();
        house
            .model
            .calls_tools(&[("a", "rm", "{}"), ("", "echo", "{\"text\":"), ("b", "echo", "")])
            .answers("sorry");
        let process = house.open().await;
        let tools = house.run_tools();
        let event_id = house.say(1, "hello").await;
        process.ring();
        let answer = house.store.terminal(event_id).await;
        assert_eq!(answer.message, "sorry");
        assert_eq!(tools.ran().len(), 1);
        process.stop().await;
        let prompt = house.model.requests().pop().unwrap().messages;
        let results: Vec<_> = prompt
            .iter()
            .filter(|message| matches!(message, ChatMessage::Tool { .. }))
            .map(ChatMessage::content)
            .collect();
        assert!(results[0].starts_with("[error] no tool is called `rm`"), "{}", results[0]);
        assert!(results[1].starts_with("[error] bad arguments for `echo`"), "{}", results[1]);
        assert_eq!(results[2], "echo ran");
    });
}

#[test]
fn the_next_owner_waits_for_the_steps_of_the_one_before() {
    paused(async {
        let planner = Arc::new(Planner::default());
        let house = House::of(&planner);
        let event_id = house.say(1, "hello").await;
        // The process dies right after it has journaled the calls.
        let dying = house.start(Owner("first".to_owned()), Some(Death::After(3))).await;
        let mut changes = house.store.changes();
        while dying.store.made().last() != Some(&"journal") {
            changes.changed().await.unwrap();
        }
        let process = house.inherit().await;
        tokio::time::sleep(Duration::from_secs(5)).await;
        assert!(house.terminals().await.is_empty());
        let tools = house.run_tools();
        let answer = house.store.terminal(event_id).await;
        assert_eq!(answer.message, "2 results");
        assert_eq!(tools.ran().len(), 2);
        assert_eq!(planner.asked(), [0, 2], "the journaled answer is not computed again");
        process.stop().await;
    });
}

#[test]
fn an_effect_that_nobody_knows_of_is_told_to_model_and_user() {
    paused(async {
        let house = House::new();
        house.model.calls_tools(&[("a", "pay", "{}")]).answers("I do not know whether I paid");
        let event_id = house.say(1, "pay").await;
        let first = house.open().await;
        let mut changes = house.store.changes();
        let claimed = loop {
            let claimed = house.store.claim_steps(&Owner("tools".to_owned()), 1).await.unwrap();
            if !claimed.is_empty() {
                break claimed;
            }
            changes.borrow_and_update();
            changes.changed().await.unwrap();
        };
        assert_eq!(claimed[0].step.name, "pay");
        // Everything dies while the tool runs.
        let process = house.inherit().await;
        let answer = house.store.terminal(event_id).await;
        assert_eq!(answer.metadata["unknown_effects"], json!(["pay"]));
        let prompt = house.model.requests().pop().unwrap().messages;
        let told = prompt.last().unwrap().content();
        assert!(told.starts_with("[unknown] "), "{told}");
        process.stop().await;
        first.stop().await;
    });
}

#[test]
fn a_turn_of_kind_tool_is_one_step_and_ends_with_the_outcome() {
    paused(async {
        let house = House::new();
        let process = house.open().await;
        let tools = house.run_tools();
        let request = |number, tool: &str| {
            let mut request = message(number, "");
            request.kind = TurnKind::Tool;
            request.event.metadata.insert("tool_name".to_owned(), tool.into());
            request.event.metadata.insert("args".to_owned(), json!({"text": "hi"}));
            request
        };
        let event_id = house.accept(request(1, "echo")).await;
        process.ring();
        let answer = house.store.terminal(event_id).await;
        assert_eq!((answer.event_type, answer.message.as_str()), (EventType::Final, "echo ran"));
        assert_eq!(answer.metadata["status"], "success");
        assert_eq!(answer.metadata["tool"]["status"], "success");
        let event_id = house.accept(request(2, "rm")).await;
        process.ring();
        let answer = house.store.terminal(event_id).await;
        assert_eq!(answer.event_type, EventType::Final);
        assert_eq!(answer.metadata["status"], "error");
        assert_eq!(tools.ran().len(), 1);
        assert!(house.model.requests().is_empty());
        process.stop().await;
        let log = types(&house.log().await);
        let expected = [
            EventType::User,
            EventType::ToolStart,
            EventType::ToolResult,
            EventType::Final,
            EventType::User,
            EventType::Final,
        ];
        assert_eq!(log, expected);
    });
}

#[test]
fn a_turn_that_calls_tools_for_ever_is_capped() {
    paused(async {
        let planner = Arc::new(Planner::insatiable());
        let mut house = House::of(&planner);
        for (model_steps, tool_calls, code) in [(3, 50, "step_cap"), (25, 5, "tool_call_cap")] {
            house.config.caps.model_steps = model_steps;
            house.config.caps.tool_calls = tool_calls;
            let process = house.open().await;
            let _tools = house.run_tools();
            let event_id = house.say(u128::from(model_steps), "hello").await;
            process.ring();
            let error = house.store.terminal(event_id).await;
            assert_eq!(error.event_type, EventType::Error);
            assert_eq!(error.metadata["code"], code);
            assert_eq!(error.metadata["usage"]["input_tokens"], 30);
            process.stop().await;
            let steps = house.store.steps(error.turn_id.unwrap()).await.unwrap();
            assert!(steps.iter().all(|step| step.status == StepStatus::Done));
        }
    });
}
