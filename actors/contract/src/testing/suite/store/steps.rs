//! Claiming and settling tool steps.

use super::{StoreFactory, bench::Bench};
use crate::{
    compose::{self, StepPlace},
    event::{Event, EventType},
    ids::{Owner, TenantId},
    port::store::{CancelScope, ClaimedStep, StoreError},
    testing::sample,
    tool::{Effect, ToolOutcome, ToolStatus},
    topic::Group,
    turn::StepStatus,
};

const PLACE: StepPlace<'static> = StepPlace { n: 1, persona_id: None };

pub async fn a_requested_step_is_claimed_once_and_its_start_is_told(factory: &dyn StoreFactory) {
    let bench = Bench::new(factory).await;
    let claimed = bench.requested(&[("echo", Effect::Pure)]).await;
    let step = bench.claim_steps().await.remove(0);
    assert_eq!(step.step.status, StepStatus::Started);
    assert!(step.step.epoch > 0);
    assert_eq!(step.step.arguments, serde_json::json!({"text": "hi"}));
    assert_eq!(bench.claim_steps().await, []);
    let other = Owner("other".to_owned());
    assert_eq!(bench.store.claim_steps(&other, 10).await.unwrap(), []);
    let log = bench.log(claimed.turn.session_id).await;
    let start = compose::tool_start(&step.step, PLACE);
    assert_eq!(log[1], Event { seq: Some(step.seq), ..start });
    let journal = bench.store.steps(claimed.turn.turn_id).await.unwrap();
    assert_eq!(journal[1], step.step);
}

pub async fn claims_are_bounded_and_in_order(factory: &dyn StoreFactory) {
    let bench = Bench::new(factory).await;
    let first = bench.requested(&[("a", Effect::Pure), ("b", Effect::Pure)]).await;
    bench.requested(&[("c", Effect::Pure)]).await;
    let claimed = bench.store.claim_steps(&bench.owner, 2).await.unwrap();
    let names: Vec<&str> = claimed.iter().map(|claimed| claimed.step.name.as_str()).collect();
    assert_eq!(names, ["a", "b"]);
    assert!(claimed.iter().all(|claimed| claimed.step.turn_id == first.turn.turn_id));
    assert_eq!(bench.claim_steps().await[0].step.name, "c");
}

pub async fn a_claim_tells_who_asked(factory: &dyn StoreFactory) {
    let bench = Bench::new(factory).await;
    let session_id = bench.session_id();
    bench.exchange(session_id, "ann began it", "yes").await;
    let mut message = bench.message(session_id, "ben goes on");
    "ben".clone_into(&mut message.subject);
    message.event.persona_id = Some("pirate".to_owned());
    bench.accept(message).await;
    let claimed = bench.claim(session_id).await;
    bench.journal(&claimed, &[("echo", Effect::Pure)]).await;
    let step = bench.claim_steps().await.remove(0);
    assert_eq!((&*step.subject, step.persona_id.as_deref()), ("ben", Some("pirate")));
    assert_eq!(step.step.tenant, TenantId::public());
    let start = bench.log(session_id).await.pop().unwrap();
    assert_eq!((start.persona_id.as_deref(), start.n), (Some("pirate"), Some(2)));
}

pub async fn a_claim_acknowledges_the_steps_records(factory: &dyn StoreFactory) {
    let bench = Bench::new(factory).await;
    bench.requested(&[("a", Effect::Pure), ("b", Effect::Pure)]).await;
    let claimed = bench.store.claim_steps(&bench.owner, 1).await.unwrap();
    let left = bench.records(Group::ToolExecutor).await;
    assert_eq!(left.len(), 1);
    assert_ne!(left[0].event_id(), Some(claimed[0].step.effect_id.0));
}

pub async fn settling_keeps_result_event_and_memories_together(factory: &dyn StoreFactory) {
    let bench = Bench::with_remote_bus(factory).await;
    let claimed = bench.requested(&[("echo", Effect::Pure)]).await;
    let ClaimedStep { step, .. } = bench.claim_steps().await.remove(0);
    let outcome = ToolOutcome { status: ToolStatus::Error, ..sample::outcome("no") };
    let memory_id = bench.id();
    let memory = vec![sample::put(memory_id, bench.event_id(), "was seen")];
    let appended =
        bench.store.settle(step.effect_id, step.epoch, outcome.clone(), memory).await.unwrap();
    let journal = bench.store.steps(claimed.turn.turn_id).await.unwrap();
    assert_eq!(journal[1].status, StepStatus::Done);
    assert_eq!(journal[1].result, serde_json::json!(outcome));
    let log = bench.log(claimed.turn.session_id).await;
    let result = compose::tool_result(&step, PLACE, &outcome);
    assert_eq!(log[2], Event { seq: Some(appended.seq), ..result });
    assert_eq!(appended.seq, 3);
    let memory = bench.store.memory(&TenantId::public(), memory_id).await.unwrap();
    assert_eq!(memory.content, "was seen");
    let shards = bench.shards().await;
    let rows = bench.store.outbox(&shards, 100).await.unwrap();
    let results = rows.iter().filter(|row| row.topic == crate::topic::Topic::ToolResults);
    assert_eq!(results.count(), 1);
}

pub async fn a_step_settles_once(factory: &dyn StoreFactory) {
    let bench = Bench::new(factory).await;
    let claimed = bench.requested(&[("echo", Effect::Pure)]).await;
    let step = bench.claim_steps().await.remove(0).step;
    let settle = |text: &'static str, epoch| {
        bench.store.settle(step.effect_id, epoch, sample::outcome(text), Vec::new())
    };
    assert_eq!(settle("early", step.epoch + 1).await, Err(StoreError::Fenced));
    settle("first", step.epoch).await.unwrap();
    // A repetition may be answered or refused, but it changes nothing.
    settle("second", step.epoch).await.ok();
    assert_eq!(bench.told(claimed.turn.session_id).await.len(), 3);
    let journal = bench.store.steps(claimed.turn.turn_id).await.unwrap();
    assert_eq!(journal[1].result["output"], "first");
    let unclaimed = bench.store.unclaim(step.effect_id, step.epoch).await;
    assert_eq!(unclaimed, Err(StoreError::Fenced));
}

pub async fn a_step_of_a_turn_that_is_over_does_not_settle(factory: &dyn StoreFactory) {
    let bench = Bench::new(factory).await;
    let claimed = bench.requested(&[("echo", Effect::Pure)]).await;
    let step = bench.claim_steps().await.remove(0).step;
    bench.answer(&claimed, "enough").await;
    let late = bench.store.settle(
        step.effect_id,
        step.epoch,
        sample::outcome("late"),
        vec![sample::put(bench.id(), bench.event_id(), "late")],
    );
    assert_eq!(late.await, Err(StoreError::Fenced));
    let told = [EventType::User, EventType::ToolStart, EventType::Final];
    assert_eq!(bench.told(claimed.turn.session_id).await, told);
    let shards = bench.shards_of_memory().await;
    assert_eq!(bench.store.pending_writes(&shards, 10).await.unwrap(), []);
}

pub async fn an_unclaimed_step_is_requested_again(factory: &dyn StoreFactory) {
    let bench = Bench::new(factory).await;
    let claimed = bench.requested(&[("send", Effect::Once)]).await;
    let first = bench.claim_steps().await.remove(0);
    bench.store.unclaim(first.step.effect_id, first.step.epoch).await.unwrap();
    let journal = bench.store.steps(claimed.turn.turn_id).await.unwrap();
    assert_eq!(journal[1].status, StepStatus::Requested);
    let record = bench.records(Group::ToolExecutor).await.remove(0);
    assert_eq!(record.event_id(), Some(first.step.effect_id.0));
    let second = bench.claim_steps().await.remove(0);
    assert!(second.step.epoch > first.step.epoch);
    assert_eq!(second.seq, first.seq);
    let late = bench.store.settle(
        first.step.effect_id,
        first.step.epoch,
        sample::outcome("late"),
        Vec::new(),
    );
    assert_eq!(late.await, Err(StoreError::Fenced));
}

pub async fn an_executors_orphans_are_lost_each_by_its_effect(factory: &dyn StoreFactory) {
    let bench = Bench::new(factory).await;
    let calls =
        [("a", Effect::Pure), ("b", Effect::Idempotent), ("c", Effect::Once), ("d", Effect::Once)];
    let claimed = bench.requested(&calls).await;
    let steps = bench.claim_steps().await;
    let alive = [steps[3].step.effect_id];
    let stranger = Owner("stranger".to_owned());
    assert_eq!(bench.store.lose_orphans(&stranger, &[]).await.unwrap(), 0);
    assert_eq!(bench.store.lose_orphans(&bench.owner, &alive).await.unwrap(), 3);
    let journal = bench.store.steps(claimed.turn.turn_id).await.unwrap();
    let statuses: Vec<StepStatus> = journal[1..].iter().map(|step| step.status).collect();
    let expected =
        [StepStatus::Requested, StepStatus::Requested, StepStatus::Unknown, StepStatus::Started];
    assert_eq!(statuses, expected);
    assert_eq!(bench.told(claimed.turn.session_id).await.pop(), Some(EventType::ToolResult));
    assert_eq!(bench.store.lose_orphans(&bench.owner, &alive).await.unwrap(), 0);
}

pub async fn a_beat_tells_that_the_turn_stops(factory: &dyn StoreFactory) {
    let bench = Bench::new(factory).await;
    let claimed = bench.requested(&[("echo", Effect::Pure)]).await;
    let step = bench.claim_steps().await.remove(0).step;
    let beat = || bench.store.beat_step(step.effect_id, step.epoch);
    assert!(!beat().await.unwrap().cancel_requested);
    let session_id = claimed.turn.session_id;
    bench.store.cancel(&TenantId::public(), session_id, CancelScope::Lowest).await.unwrap();
    assert!(beat().await.unwrap().cancel_requested);
    let ending = sample::cancelled(&claimed);
    bench.store.end(claimed.turn.turn_id, claimed.epoch, ending).await.unwrap();
    assert!(beat().await.unwrap().cancel_requested);
}
