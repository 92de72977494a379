//! Claiming turns and laying them down.

use std::time::Duration;

use super::{StoreFactory, bench::Bench};
use crate::{
    ids::{Owner, SessionId},
    port::store::{JournalEntry, LayDown, StoreError},
    testing::sample,
    topic::Group,
    turn::TurnStatus,
};

fn waiting(seconds: u64) -> LayDown {
    LayDown::Waiting { reason: "the model".to_owned(), delay: Duration::from_secs(seconds) }
}

pub async fn one_turn_of_a_session_runs_at_a_time_the_lowest_first(factory: &dyn StoreFactory) {
    let bench = Bench::new(factory).await;
    let session_id = bench.session_id();
    for text in ["one", "two", "three"] {
        bench.say(session_id, text).await;
    }
    let other = Owner("other".to_owned());
    for n in 1..=3 {
        let claimed = bench.claim(session_id).await;
        assert_eq!(claimed.turn.n, n);
        assert_eq!(bench.store.claim(&bench.owner, session_id).await.unwrap(), None);
        assert_eq!(bench.store.claim(&other, session_id).await.unwrap(), None);
        bench.answer(&claimed, "done").await;
    }
    assert_eq!(bench.store.claim(&bench.owner, session_id).await.unwrap(), None);
}

pub async fn a_claim_counts_the_attempt_and_gives_event_and_journal(factory: &dyn StoreFactory) {
    let bench = Bench::new(factory).await;
    let session_id = bench.session_id();
    let accepted = bench.say(session_id, "hello").await;
    let claimed = bench.claim(session_id).await;
    assert_eq!(claimed.turn.turn_id, accepted.turn_id);
    assert_eq!(claimed.turn.status, TurnStatus::Running);
    assert_eq!(claimed.turn.tries.attempts, 1);
    assert_eq!(claimed.event, bench.log(session_id).await[0]);
    assert_eq!(claimed.journal, []);
    assert_eq!(bench.turn(accepted.event_id).await, claimed.turn);
    bench.journal(&claimed, &[("echo", crate::tool::Effect::Pure)]).await;
    bench.lay_down(&claimed, LayDown::Drained).await;
    let again = bench.claim(session_id).await;
    assert_eq!(again.journal, bench.store.steps(accepted.turn_id).await.unwrap());
    assert_eq!(again.journal.len(), 2);
}

pub async fn every_claim_has_a_new_epoch(factory: &dyn StoreFactory) {
    let bench = Bench::new(factory).await;
    let first = bench.running().await;
    let session_id = first.turn.session_id;
    bench.lay_down(&first, LayDown::Drained).await;
    let second = bench.claim(session_id).await;
    assert!(second.epoch > first.epoch);
    bench.answer(&second, "done").await;
    bench.say(session_id, "next").await;
    assert!(bench.claim(session_id).await.epoch > second.epoch);
}

impl Bench<'_> {
    async fn lay_down(&self, claimed: &crate::port::store::ClaimedTurn, why: LayDown) {
        self.store.lay_down(claimed.turn.turn_id, claimed.epoch, why).await.unwrap();
    }
}

pub async fn a_waiting_turn_is_claimed_only_after_its_delay(factory: &dyn StoreFactory) {
    let bench = Bench::new(factory).await;
    let claimed = bench.running().await;
    let session_id = claimed.turn.session_id;
    bench.say(session_id, "do not overtake").await;
    bench.lay_down(&claimed, waiting(10)).await;
    let turn = bench.turn(claimed.turn.event_id).await;
    assert_eq!(turn.status, TurnStatus::Waiting);
    assert_eq!(turn.reason.as_deref(), Some("the model"));
    bench.pass(9).await;
    assert_eq!(bench.store.claim(&bench.owner, session_id).await.unwrap(), None);
    bench.pass(1).await;
    let again = bench.claim(session_id).await;
    assert_eq!((again.turn.n, again.turn.status), (1, TurnStatus::Running));
}

pub async fn a_wait_gives_the_attempt_back_and_keeps_its_beginning(factory: &dyn StoreFactory) {
    let bench = Bench::new(factory).await;
    let claimed = bench.running().await;
    let session_id = claimed.turn.session_id;
    bench.lay_down(&claimed, waiting(1)).await;
    let first = bench.turn(claimed.turn.event_id).await;
    assert_eq!(first.tries.attempts, 0);
    assert!(first.waiting_since.is_some());
    bench.pass(5).await;
    let claimed = bench.claim(session_id).await;
    assert_eq!(claimed.turn.tries.attempts, 1);
    assert_eq!(claimed.turn.waiting_since, first.waiting_since);
    bench.lay_down(&claimed, waiting(1)).await;
    let second = bench.turn(claimed.turn.event_id).await;
    assert_eq!(second.waiting_since, first.waiting_since);
    assert_eq!(second.tries.attempts, 0);
}

pub async fn a_drained_turn_is_queued_with_its_attempt_given_back(factory: &dyn StoreFactory) {
    let bench = Bench::new(factory).await;
    let claimed = bench.running().await;
    bench.lay_down(&claimed, LayDown::Drained).await;
    let turn = bench.turn(claimed.turn.event_id).await;
    assert_eq!((turn.status, turn.tries.attempts), (TurnStatus::Queued, 0));
    assert_eq!(bench.claim(turn.session_id).await.turn.tries.attempts, 1);
}

pub async fn a_panic_is_counted_and_its_attempt_spent(factory: &dyn StoreFactory) {
    let bench = Bench::new(factory).await;
    let claimed = bench.running().await;
    bench.lay_down(&claimed, LayDown::Panicked { reason: "oops".to_owned() }).await;
    let turn = bench.turn(claimed.turn.event_id).await;
    assert_eq!((turn.status, turn.tries.attempts, turn.tries.panics), (TurnStatus::Queued, 1, 1));
    let claimed = bench.claim(turn.session_id).await;
    assert_eq!((claimed.turn.tries.attempts, claimed.turn.tries.panics), (2, 1));
}

pub async fn what_was_laid_down_is_fenced(factory: &dyn StoreFactory) {
    let bench = Bench::new(factory).await;
    let claimed = bench.running().await;
    let (turn_id, epoch) = (claimed.turn.turn_id, claimed.epoch);
    bench.lay_down(&claimed, LayDown::Drained).await;
    for claim_again in [false, true] {
        if claim_again {
            bench.claim(claimed.turn.session_id).await;
        }
        assert_eq!(bench.store.beat(turn_id, epoch).await, Err(StoreError::Fenced));
        let entry = JournalEntry { answer: None, calls: Vec::new(), worked_ms: 1 };
        let journaled = bench.store.journal(turn_id, epoch, entry).await;
        assert_eq!(journaled, Err(StoreError::Fenced));
        let ending = sample::done(&claimed, "late");
        assert_eq!(bench.store.end(turn_id, epoch, ending).await, Err(StoreError::Fenced));
        let laid = bench.store.lay_down(turn_id, epoch, LayDown::Drained).await;
        assert_eq!(laid, Err(StoreError::Fenced));
    }
    assert_eq!(bench.log(claimed.turn.session_id).await.len(), 1);
}

pub async fn orphans_are_laid_down_and_living_turns_kept(factory: &dyn StoreFactory) {
    let bench = Bench::new(factory).await;
    let (kept, orphan) = (bench.running().await, bench.running().await);
    let stranger = Owner("stranger".to_owned());
    let none = bench.store.lay_down_orphans(&stranger, &[]).await.unwrap();
    assert_eq!(none, []);
    let laid = bench.store.lay_down_orphans(&bench.owner, &[kept.turn.turn_id]).await.unwrap();
    assert_eq!(laid, [orphan.turn.session_id]);
    let turn = bench.turn(orphan.turn.event_id).await;
    assert_eq!((turn.status, turn.tries.attempts), (TurnStatus::Queued, 0));
    assert!(bench.store.beat(kept.turn.turn_id, kept.epoch).await.is_ok());
    let beat = bench.store.beat(orphan.turn.turn_id, orphan.epoch).await;
    assert_eq!(beat, Err(StoreError::Fenced));
}

impl Bench<'_> {
    async fn claimable(&self, seconds: u64) -> Vec<SessionId> {
        self.store.claimable(Duration::from_secs(seconds), 10).await.unwrap()
    }
}

pub async fn claimable_lists_idle_sessions_longest_first(factory: &dyn StoreFactory) {
    let bench = Bench::new(factory).await;
    let sessions: Vec<SessionId> = (0..3).map(|_| bench.session_id()).collect();
    for at in [2, 0, 1] {
        bench.say(sessions[at], "hello").await;
        bench.pass(1).await;
    }
    assert_eq!(bench.claimable(0).await, [sessions[2], sessions[0], sessions[1]]);
    assert_eq!(bench.claimable(2).await, [sessions[2], sessions[0]]);
    assert_eq!(bench.claimable(4).await, []);
    let limited = bench.store.claimable(Duration::ZERO, 2).await.unwrap();
    assert_eq!(limited, [sessions[2], sessions[0]]);
    let claimed = bench.claim(sessions[2]).await;
    assert_eq!(bench.claimable(0).await, [sessions[0], sessions[1]]);
    bench.lay_down(&claimed, waiting(10)).await;
    assert_eq!(bench.claimable(0).await, [sessions[0], sessions[1]]);
    bench.pass(11).await;
    assert_eq!(bench.claimable(0).await, [sessions[0], sessions[1], sessions[2]]);
    assert_eq!(bench.claimable(2).await, [sessions[0], sessions[1]]);
}

pub async fn a_session_becomes_claimable_when_the_turn_before_is_over(factory: &dyn StoreFactory) {
    let bench = Bench::new(factory).await;
    let session_id = bench.session_id();
    bench.say(session_id, "one").await;
    bench.say(session_id, "two").await;
    let claimed = bench.claim(session_id).await;
    bench.pass(60).await;
    bench.answer(&claimed, "first").await;
    assert_eq!(bench.claimable(0).await, [session_id]);
    assert_eq!(bench.claimable(1).await, []);
    bench.pass(1).await;
    assert_eq!(bench.claimable(1).await, [session_id]);
}

pub async fn a_claim_acknowledges_the_sessions_records(factory: &dyn StoreFactory) {
    let bench = Bench::new(factory).await;
    let (mine, other) = (bench.session_id(), bench.session_id());
    for session_id in [mine, other, mine] {
        bench.say(session_id, "hello").await;
    }
    assert_eq!(bench.records(Group::ConversationWorker).await.len(), 3);
    bench.claim(mine).await;
    let left = bench.records(Group::ConversationWorker).await;
    let left: Vec<_> = left.iter().map(|record| record.session_id).collect();
    assert_eq!(left, [Some(other)]);
    // A claim that takes nothing has looked at nothing.
    bench.say(mine, "later").await;
    assert_eq!(bench.store.claim(&bench.owner, mine).await.unwrap(), None);
    assert_eq!(bench.records(Group::ConversationWorker).await.len(), 2);
}

pub async fn sessions_without_turns_are_not_claimed(factory: &dyn StoreFactory) {
    let bench = Bench::new(factory).await;
    let unknown = bench.store.claim(&bench.owner, bench.session_id()).await.unwrap();
    assert_eq!(unknown, None);
    assert_eq!(bench.claimable(0).await, []);
}
