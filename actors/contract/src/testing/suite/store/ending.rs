//! Ending turns, and what is counted of them.

use super::{StoreFactory, bench::Bench};
use crate::{
    event::EventType,
    ids::{EventId, TenantId},
    port::store::{Backlog, CancelScope, JournalEntry, LayDown, StoreError},
    testing::sample,
    tool::Effect,
    turn::{StepStatus, TurnStatus},
};

pub async fn a_turn_ends_once(factory: &dyn StoreFactory) {
    let bench = Bench::new(factory).await;
    let claimed = bench.running().await;
    let (turn_id, epoch) = (claimed.turn.turn_id, claimed.epoch);
    let appended = bench.answer(&claimed, "done").await;
    assert_eq!(appended.seq, 2);
    let event = bench.log(claimed.turn.session_id).await.remove(1);
    let expected = sample::done(&claimed, "done").event;
    assert_eq!(event, crate::event::Event { seq: Some(2), ..expected });
    assert_eq!(event.event_id, EventId::terminal(turn_id, 0));
    // Over is over, for each other call.
    assert_eq!(bench.store.beat(turn_id, epoch).await, Err(StoreError::Fenced));
    let laid = bench.store.lay_down(turn_id, epoch, LayDown::Drained).await;
    assert_eq!(laid, Err(StoreError::Fenced));
    let entry = JournalEntry {
        answer: Some(sample::model_step(&claimed.turn, 5, "late")),
        calls: Vec::new(),
        worked_ms: 1,
    };
    let journaled = bench.store.journal(turn_id, epoch, entry).await;
    assert_eq!(journaled, Err(StoreError::Fenced));
    let wrong_epoch = bench.store.end(turn_id, epoch + 1, sample::done(&claimed, "")).await;
    assert_eq!(wrong_epoch, Err(StoreError::Fenced));
    assert_eq!(bench.turn(claimed.turn.event_id).await.status, TurnStatus::Done);
    assert_eq!(bench.store.claim(&bench.owner, claimed.turn.session_id).await.unwrap(), None);
}

pub async fn an_end_repeated_under_its_epoch_answers_what_was_stored(factory: &dyn StoreFactory) {
    let bench = Bench::new(factory).await;
    let claimed = bench.running().await;
    let session_id = claimed.turn.session_id;
    let first = bench.answer(&claimed, "done").await;
    // The caller never heard of it and comes again, also after the next turn has begun.
    assert_eq!(bench.answer(&claimed, "done").await, first);
    bench.say(session_id, "next").await;
    assert!(bench.answer(&claimed, "done").await.more);
    bench.claim(session_id).await;
    let again = bench.answer(&claimed, "another answer").await;
    assert_eq!((again.seq, again.more), (first.seq, false));
    let told = [EventType::User, EventType::Final, EventType::User];
    assert_eq!(bench.told(session_id).await, told);
    assert_eq!(bench.log(session_id).await[1].message, "done");
    assert_eq!(bench.store.tokens_today(&TenantId::public()).await.unwrap(), 5);
}

pub async fn an_end_that_contradicts_itself_is_refused(factory: &dyn StoreFactory) {
    let bench = Bench::new(factory).await;
    let claimed = bench.running().await;
    let (turn_id, epoch) = (claimed.turn.turn_id, claimed.epoch);
    let good = sample::done(&claimed, "done");
    let mut other_status = good.clone();
    other_status.status = TurnStatus::Failed;
    let mut no_end = good.clone();
    no_end.status = TurnStatus::Queued;
    let mut other_replay = good.clone();
    other_replay.event.event_id = EventId::terminal(turn_id, 1);
    for bad in [other_status, no_end, other_replay] {
        let refused = bench.store.end(turn_id, epoch, bad).await;
        assert!(matches!(refused, Err(StoreError::Refused(_))));
    }
    assert_eq!(bench.told(claimed.turn.session_id).await, [EventType::User]);
    bench.store.end(turn_id, epoch, good).await.unwrap();
}

pub async fn an_end_that_was_overtaken_by_a_cancel_is_fenced(factory: &dyn StoreFactory) {
    let bench = Bench::new(factory).await;
    let claimed = bench.running().await;
    let (turn_id, epoch) = (claimed.turn.turn_id, claimed.epoch);
    bench.store.lay_down(turn_id, epoch, LayDown::Drained).await.unwrap();
    let session_id = claimed.turn.session_id;
    bench.store.cancel(&TenantId::public(), session_id, CancelScope::Lowest).await.unwrap();
    let late = bench.store.end(turn_id, epoch, sample::done(&claimed, "late")).await;
    assert_eq!(late, Err(StoreError::Fenced));
    assert_eq!(bench.told(session_id).await, [EventType::User, EventType::Cancelled]);
}

pub async fn an_end_withdraws_what_was_not_begun(factory: &dyn StoreFactory) {
    let bench = Bench::new(factory).await;
    let claimed = bench.requested(&[("echo", Effect::Pure), ("add", Effect::Pure)]).await;
    let begun = bench.store.claim_steps(&bench.owner, 1).await.unwrap().remove(0).step;
    bench.answer(&claimed, "enough").await;
    let steps = bench.store.steps(claimed.turn.turn_id).await.unwrap();
    assert_eq!(steps[1].effect_id, begun.effect_id);
    assert_eq!(steps[1].status, StepStatus::Started);
    assert_eq!(steps[2].status, StepStatus::Withdrawn);
    assert_eq!(bench.claim_steps().await, []);
}

pub async fn an_end_keeps_memories_tokens_and_dead_letter_with_it(factory: &dyn StoreFactory) {
    let bench = Bench::new(factory).await;
    let claimed = bench.running().await;
    let mut ending = sample::failed(&claimed, "boom");
    let memory_id = bench.id();
    ending.memory = vec![sample::put(memory_id, bench.event_id(), "was said")];
    let (turn_id, epoch) = (claimed.turn.turn_id, claimed.epoch);
    bench.store.end(turn_id, epoch, ending).await.unwrap();
    let public = TenantId::public();
    assert_eq!(bench.store.memory(&public, memory_id).await.unwrap().version, 1);
    assert_eq!(bench.store.tokens_today(&public).await.unwrap(), 5);
    let letters = bench.letters().await;
    assert_eq!(letters.len(), 1);
    assert_eq!(letters[0].turn_id, Some(turn_id));
    assert_eq!((&*letters[0].error, &letters[0].tenant), ("boom", &Some(public)));
    assert_eq!(letters[0].replayed_at, None);
    assert_eq!(bench.turn(claimed.turn.event_id).await.status, TurnStatus::Failed);
}

pub async fn an_end_tells_whether_more_waits(factory: &dyn StoreFactory) {
    let bench = Bench::new(factory).await;
    let claimed = bench.running().await;
    let session_id = claimed.turn.session_id;
    bench.say(session_id, "two").await;
    assert!(bench.answer(&claimed, "first").await.more);
    let claimed = bench.claim(session_id).await;
    assert!(!bench.answer(&claimed, "second").await.more);
}

pub async fn tokens_count_for_the_day_and_the_tenant(factory: &dyn StoreFactory) {
    let bench = Bench::new(factory).await;
    for _ in 0..2 {
        let claimed = bench.running().await;
        bench.answer(&claimed, "done").await;
    }
    let public = TenantId::public();
    assert_eq!(bench.store.tokens_today(&public).await.unwrap(), 10);
    assert_eq!(bench.store.tokens_today(&sample::tenant("other")).await.unwrap(), 0);
    bench.pass(24 * 60 * 60).await;
    assert_eq!(bench.store.tokens_today(&public).await.unwrap(), 0);
}

pub async fn the_backlog_counts_unfinished_turns_by_tenant(factory: &dyn StoreFactory) {
    let bench = Bench::new(factory).await;
    assert_eq!(bench.store.backlog().await.unwrap(), Backlog::default());
    let session_id = bench.session_id();
    for text in ["one", "two", "three"] {
        bench.say(session_id, text).await;
    }
    let mut foreign = bench.message(bench.session_id(), "hello");
    foreign.tenant = sample::tenant("other");
    bench.accept(foreign).await;
    let claimed = bench.claim(session_id).await;
    bench.pass(2).await;
    let backlog = bench.store.backlog().await.unwrap();
    assert_eq!(backlog.total, 4);
    let tenants = [(TenantId::public(), 3), (sample::tenant("other"), 1)];
    assert_eq!(backlog.tenants, tenants);
    assert!(backlog.oldest_ms >= 2_000);
    bench.answer(&claimed, "first").await;
    assert_eq!(bench.store.backlog().await.unwrap().total, 3);
}
