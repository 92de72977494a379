//! The journal of a turn.

use std::time::Duration;

use super::{StoreFactory, bench::Bench};
use crate::{
    port::store::{JournalEntry, LayDown, answer_of},
    testing::sample,
    tool::Effect,
    topic::{Group, Topic},
    turn::{StepKind, StepStatus, Tries},
};

pub async fn a_repeated_entry_is_one(factory: &dyn StoreFactory) {
    let bench = Bench::new(factory).await;
    let claimed = bench.running().await;
    let (turn_id, epoch) = (claimed.turn.turn_id, claimed.epoch);
    let entry = sample::entry(&claimed.turn, &[("echo", Effect::Pure), ("add", Effect::Once)]);
    bench.store.journal(turn_id, epoch, entry.clone()).await.unwrap();
    let journal = bench.store.steps(turn_id).await.unwrap();
    // Repeated as it was, and by an owner that computed something else meanwhile.
    let mut other = entry.clone();
    other.answer = Some(sample::model_step(&claimed.turn, 0, "something else"));
    for repetition in [entry, other] {
        bench.store.journal(turn_id, epoch, repetition).await.unwrap();
        assert_eq!(bench.store.steps(turn_id).await.unwrap(), journal);
    }
    assert_eq!(bench.records(Group::ToolExecutor).await.len(), 2);
    assert_eq!(answer_of(&journal[0]).unwrap().text, "let me see");
    assert_eq!(bench.turn(claimed.turn.event_id).await.worked_ms, 10);
}

pub async fn steps_are_read_in_order(factory: &dyn StoreFactory) {
    let bench = Bench::new(factory).await;
    let claimed = bench.running().await;
    let turn = &claimed.turn;
    for step in [0, 2, 10] {
        let entry = JournalEntry {
            answer: Some(sample::model_step(turn, step, "go on")),
            calls: (0..12)
                .map(|index| sample::tool_step(turn, (step + 1, index), "echo", Effect::Pure))
                .collect(),
            worked_ms: 0,
        };
        bench.store.journal(turn.turn_id, claimed.epoch, entry.clone()).await.unwrap();
        let read = bench.store.steps(turn.turn_id).await.unwrap();
        let expected: Vec<_> = entry.answer.into_iter().chain(entry.calls).collect();
        assert_eq!(read[read.len() - 13..], expected);
    }
    let places: Vec<_> = bench.store.steps(turn.turn_id).await.unwrap();
    assert!(places.is_sorted_by_key(|step| (step.step, step.index)));
    assert_eq!(bench.store.steps(crate::ids::TurnId(bench.id())).await.unwrap(), []);
}

pub async fn progress_clears_the_tries_and_the_wait(factory: &dyn StoreFactory) {
    let bench = Bench::new(factory).await;
    let claimed = bench.running().await;
    let session_id = claimed.turn.session_id;
    let panicked = LayDown::Panicked { reason: "oops".to_owned() };
    bench.store.lay_down(claimed.turn.turn_id, claimed.epoch, panicked).await.unwrap();
    let claimed = bench.claim(session_id).await;
    let waiting =
        LayDown::Waiting { reason: "the model".to_owned(), delay: Duration::from_secs(1) };
    bench.store.lay_down(claimed.turn.turn_id, claimed.epoch, waiting).await.unwrap();
    bench.pass(2).await;
    let claimed = bench.claim(session_id).await;
    let before = claimed.turn.tries;
    assert_eq!((before.attempts, before.panics), (2, 1));
    bench.journal(&claimed, &[]).await;
    let turn = bench.turn(claimed.turn.event_id).await;
    assert_eq!((turn.tries, turn.waiting_since), (Tries::default(), None));
}

pub async fn requested_calls_are_records_for_the_tool_executor(factory: &dyn StoreFactory) {
    let bench = Bench::new(factory).await;
    let claimed = bench.requested(&[("echo", Effect::Pure), ("add", Effect::Once)]).await;
    let steps = bench.store.steps(claimed.turn.turn_id).await.unwrap();
    let records = bench.records(Group::ToolExecutor).await;
    assert_eq!(records.len(), 2);
    for (record, step) in records.iter().zip(&steps[1..]) {
        assert_eq!(record.topic, Topic::ToolRequests);
        assert_eq!(record.session_id, Some(step.session_id));
        assert_eq!(record.event_id(), Some(step.effect_id.0));
        let payload: serde_json::Value = serde_json::from_slice(&record.payload).unwrap();
        assert_eq!(payload["tool_name"], step.name.as_str());
        assert_eq!(payload["args"], step.arguments);
    }
}

pub async fn calls_that_come_settled_ask_for_nothing(factory: &dyn StoreFactory) {
    let bench = Bench::new(factory).await;
    let claimed = bench.running().await;
    let mut malformed = sample::tool_step(&claimed.turn, (1, 0), "ecco", Effect::Pure);
    malformed.status = StepStatus::Done;
    malformed.result = serde_json::json!(sample::outcome("no such tool"));
    let entry = JournalEntry {
        answer: Some(sample::model_step(&claimed.turn, 0, "hm")),
        calls: vec![malformed.clone()],
        worked_ms: 0,
    };
    bench.store.journal(claimed.turn.turn_id, claimed.epoch, entry).await.unwrap();
    assert_eq!(bench.records(Group::ToolExecutor).await, []);
    assert_eq!(bench.claim_steps().await, []);
    let steps = bench.store.steps(claimed.turn.turn_id).await.unwrap();
    assert_eq!(steps[1], malformed);
    assert_eq!(steps[0].kind, StepKind::Model);
}

pub async fn worked_time_adds_up_over_claims(factory: &dyn StoreFactory) {
    let bench = Bench::new(factory).await;
    let claimed = bench.running().await;
    let session_id = claimed.turn.session_id;
    let entry = |step, worked_ms| JournalEntry {
        answer: Some(sample::model_step(&claimed.turn, step, "go on")),
        calls: Vec::new(),
        worked_ms,
    };
    let (turn_id, epoch) = (claimed.turn.turn_id, claimed.epoch);
    bench.store.journal(turn_id, epoch, entry(0, 100)).await.unwrap();
    bench.store.journal(turn_id, epoch, entry(1, 250)).await.unwrap();
    bench.store.lay_down(turn_id, epoch, LayDown::Drained).await.unwrap();
    let again = bench.claim(session_id).await;
    assert_eq!(again.turn.worked_ms, 250);
    bench.store.journal(turn_id, again.epoch, entry(2, 40)).await.unwrap();
    assert_eq!(bench.turn(claimed.turn.event_id).await.worked_ms, 290);
}
