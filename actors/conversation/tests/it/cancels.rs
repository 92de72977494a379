//! Turns that are cancelled while they run.

use std::sync::Arc;

use soma_contract::{
    EventId, EventType, TenantId, TurnId,
    model::ModelEvent,
    port::{
        live::{Live as _, Nudge},
        store::{CancelOutcome, CancelScope, Turns as _},
    },
    testing::Play,
    turn::{StepStatus, TurnStatus},
};

use uuid::Uuid;

use crate::house::{House, Planner, Process, SESSION, paused};

const FIRST: EventId = EventId(Uuid::from_u128(1));

async fn cancel(house: &House) -> TurnId {
    let tenant = TenantId::public();
    let outcome = house.store.cancel(&tenant, SESSION, CancelScope::Lowest).await.unwrap();
    let CancelOutcome::Flagged(turn_id) = outcome else { panic!("not running: {outcome:?}") };
    turn_id
}

/// A turn in the middle of a long answer.
async fn talking(house: &House) -> Process {
    house.model.script(vec![Play::Say(ModelEvent::Delta("one two three".to_owned())), Play::Hang]);
    let process = house.open().await;
    house.say(1, "hello").await;
    let mut ear = house.live.listen(SESSION).await.unwrap();
    process.ring();
    while !house.heard().contains(&"delta one two three".to_owned()) {
        ear.next().await;
    }
    process
}

#[test]
fn a_cancelled_turn_closes_its_model_call_at_once_and_leaves_a_receipt() {
    paused(async {
        let house = House::new();
        let process = talking(&house).await;
        let before = house.clock.now();
        let turn_id = cancel(&house).await;
        house.live.nudge(Nudge::Cancel { session_id: SESSION, turn_id }).await;
        let receipt = house.store.terminal(FIRST).await;
        assert_eq!(receipt.event_type, EventType::Cancelled);
        assert_eq!(receipt.metadata["closed_in_ms"], 0);
        assert_eq!(receipt.metadata["usage"]["output_tokens"], 3);
        assert!(receipt.metadata["usage"]["input_tokens"].as_u64().unwrap() > 1);
        assert_eq!(house.model.open_calls(), 0);
        assert_eq!(house.clock.now(), before, "nothing waited for a timer");
        assert_eq!(house.status(FIRST).await.turn.status, TurnStatus::Cancelled);
        // The session goes on.
        let event_id = house.say(2, "and now?").await;
        process.ring();
        assert_eq!(house.store.terminal(event_id).await.message, "and now?");
        process.stop().await;
    });
}

#[test]
fn a_lost_hint_is_made_up_for_by_the_heartbeat() {
    paused(async {
        let house = House::new();
        let process = talking(&house).await;
        let before = house.clock.now();
        cancel(&house).await;
        let receipt = house.store.terminal(FIRST).await;
        assert_eq!(receipt.event_type, EventType::Cancelled);
        assert!((house.clock.now() - before).num_seconds() <= 10);
        process.stop().await;
    });
}

#[test]
fn a_turn_that_waits_for_a_tool_is_cancelled_and_the_step_withdrawn() {
    paused(async {
        let house = House::of(&Arc::new(Planner::default()));
        let process = house.open().await;
        house.say(1, "hello").await;
        process.ring();
        let mut changes = house.store.changes();
        while process.store.made().last() != Some(&"journal") {
            changes.changed().await.unwrap();
        }
        let turn_id = cancel(&house).await;
        house.live.nudge(Nudge::Cancel { session_id: SESSION, turn_id }).await;
        let receipt = house.store.terminal(FIRST).await;
        assert_eq!(receipt.event_type, EventType::Cancelled);
        assert_eq!(receipt.metadata["usage"]["input_tokens"], 10);
        let steps = house.store.steps(turn_id).await.unwrap();
        assert!(steps[1..].iter().all(|step| step.status == StepStatus::Withdrawn));
        process.stop().await;
    });
}

#[test]
fn a_turn_whose_owner_died_after_the_wish_is_cancelled_by_the_next_one() {
    paused(async {
        let house = House::new();
        let dying = talking(&house).await;
        cancel(&house).await;
        let process = house.inherit().await;
        let receipt = house.store.terminal(FIRST).await;
        assert_eq!(receipt.event_type, EventType::Cancelled);
        assert_eq!(house.model.requests().len(), 1);
        process.stop().await;
        dying.stop().await;
        assert_eq!(house.terminals().await.len(), 1);
    });
}
