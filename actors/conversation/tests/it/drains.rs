//! A worker that is told to stop.

use std::{sync::Arc, time::Duration};

use soma_contract::{
    model::{ModelAnswer, ModelEvent, Usage},
    testing::Play,
    tool::ToolCall,
    turn::TurnStatus,
};
use tokio::sync::Notify;

use crate::house::{House, paused};

#[test]
fn a_running_step_ends_is_journaled_and_the_next_process_goes_on_from_there() {
    paused(async {
        let house = House::new();
        let go_on = Arc::new(Notify::new());
        let answer = ModelAnswer {
            text: "let me see".to_owned(),
            tool_calls: vec![ToolCall {
                id: "a".to_owned(),
                name: "echo".to_owned(),
                arguments: "{}".to_owned(),
            }],
            usage: Usage::default(),
            model: "fake".to_owned(),
            finish_reason: "tool_calls".to_owned(),
        };
        house
            .model
            .script(vec![Play::Until(Arc::clone(&go_on)), Play::Say(ModelEvent::Answer(answer))])
            .answers("done");
        let process = house.open().await;
        let event_id = house.say(1, "hello").await;
        process.ring();
        house.model.called(1).await;
        let (report, ()) = tokio::join!(process.stop(), async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            go_on.notify_one();
        });
        assert!(report.is_clean(), "{report:?}");
        let status = house.status(event_id).await;
        assert_eq!((status.turn.status, status.steps), (TurnStatus::Queued, 2));
        assert_eq!(status.turn.tries.attempts, 0);
        let _tools = house.run_tools();
        let next = house.inherit().await;
        assert_eq!(house.store.terminal(event_id).await.message, "done");
        assert_eq!(house.model.requests().len(), 2);
        next.stop().await;
    });
}

#[test]
fn a_last_answer_is_still_given_during_a_drain() {
    paused(async {
        let house = House::new();
        let go_on = Arc::new(Notify::new());
        let mut plays = vec![Play::Until(Arc::clone(&go_on))];
        plays.push(Play::Say(ModelEvent::Answer(ModelAnswer {
            text: "just in time".to_owned(),
            tool_calls: Vec::new(),
            usage: Usage::default(),
            model: "fake".to_owned(),
            finish_reason: "stop".to_owned(),
        })));
        house.model.script(plays);
        let process = house.open().await;
        let event_id = house.say(1, "hello").await;
        // Nobody claims it any more.
        house.say(2, "too late").await;
        process.ring();
        house.model.called(1).await;
        tokio::join!(process.stop(), async { go_on.notify_one() });
        assert_eq!(house.store.terminal(event_id).await.message, "just in time");
        assert_eq!(house.terminals().await.len(), 1);
    });
}

#[test]
fn at_the_end_of_the_grace_a_turn_is_laid_down_and_readers_forget_its_text() {
    paused(async {
        let house = House::new();
        let half = Play::Say(ModelEvent::Delta("half a".to_owned()));
        house.model.script(vec![half, Play::Hang]).answers("a whole answer");
        let process = house.open().await;
        let event_id = house.say(1, "hello").await;
        process.ring();
        house.model.called(1).await;
        let began = house.clock.now();
        let report = process.stop().await;
        assert!(report.is_clean(), "{report:?}");
        assert_eq!((house.clock.now() - began).num_seconds(), 15);
        assert_eq!(house.model.open_calls(), 0);
        let status = house.status(event_id).await;
        assert_eq!(status.turn.status, TurnStatus::Queued);
        assert_eq!(status.turn.tries.attempts, 0);
        assert_eq!(house.heard(), ["thinking", "delta half a", "reset"]);
        let next = house.inherit().await;
        assert_eq!(house.store.terminal(event_id).await.message, "a whole answer");
        next.stop().await;
    });
}
