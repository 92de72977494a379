//! Cancelling turns.

use std::time::Duration;

use super::{StoreFactory, bench::Bench};
use crate::{
    compose,
    event::{Event, EventType},
    ids::{SessionId, TenantId},
    message::Accepted,
    port::store::{CancelOutcome, CancelScope, LayDown, StoreError},
    testing::sample,
    tool::Effect,
    topic::Group,
    turn::{StepStatus, TurnStatus},
};

impl Bench<'_> {
    async fn cancel(&self, session_id: SessionId, scope: CancelScope) -> CancelOutcome {
        self.store.cancel(&TenantId::public(), session_id, scope).await.unwrap()
    }

    async fn queued(&self, count: usize) -> (SessionId, Vec<Accepted>) {
        let session_id = self.session_id();
        let mut sent = Vec::new();
        for at in 0..count {
            sent.push(self.say(session_id, &at.to_string()).await);
        }
        (session_id, sent)
    }

    async fn status(&self, accepted: &Accepted) -> TurnStatus {
        self.turn(accepted.event_id).await.status
    }
}

fn numbers(events: &[Event]) -> Vec<u64> {
    events.iter().map(|event| event.n.unwrap()).collect()
}

pub async fn the_lowest_unfinished_turn_is_cancelled_by_default(factory: &dyn StoreFactory) {
    let bench = Bench::new(factory).await;
    let (session_id, sent) = bench.queued(2).await;
    let CancelOutcome::Ended(events) = bench.cancel(session_id, CancelScope::Lowest).await else {
        panic!("nobody runs it");
    };
    let turn = bench.turn(sent[0].event_id).await;
    let reason = turn.reason.clone().unwrap();
    let expected = Event { seq: Some(3), ..compose::cancelled(&turn, None, &reason) };
    assert_eq!(events, [expected]);
    assert_eq!(bench.log(session_id).await[2..], events);
    assert_eq!(turn.status, TurnStatus::Cancelled);
    assert_eq!(bench.status(&sent[1]).await, TurnStatus::Queued);
    assert_eq!(bench.claim(session_id).await.turn.n, 2);
}

pub async fn the_turn_of_an_event_is_cancelled(factory: &dyn StoreFactory) {
    let bench = Bench::new(factory).await;
    let (session_id, sent) = bench.queued(3).await;
    let outcome = bench.cancel(session_id, CancelScope::Of(sent[1].event_id)).await;
    let CancelOutcome::Ended(events) = outcome else { panic!("nobody runs it") };
    assert_eq!(numbers(&events), [2]);
    assert_eq!(bench.status(&sent[0]).await, TurnStatus::Queued);
    assert_eq!(bench.status(&sent[1]).await, TurnStatus::Cancelled);
    assert_eq!(bench.status(&sent[2]).await, TurnStatus::Queued);
}

pub async fn all_unfinished_turns_are_cancelled(factory: &dyn StoreFactory) {
    let bench = Bench::new(factory).await;
    let (session_id, sent) = bench.queued(3).await;
    let claimed = bench.claim(session_id).await;
    let CancelOutcome::Both(events, flagged) = bench.cancel(session_id, CancelScope::All).await
    else {
        panic!("one runs, two are queued");
    };
    assert_eq!(numbers(&events), [2, 3]);
    assert_eq!(flagged, claimed.turn.turn_id);
    assert_eq!(bench.status(&sent[0]).await, TurnStatus::Running);
    let (other, _) = bench.queued(2).await;
    let CancelOutcome::Ended(events) = bench.cancel(other, CancelScope::All).await else {
        panic!("nobody runs them");
    };
    assert_eq!(numbers(&events), [1, 2]);
}

pub async fn a_running_turn_is_flagged_and_ended_by_its_owner(factory: &dyn StoreFactory) {
    let bench = Bench::new(factory).await;
    let claimed = bench.running().await;
    let (turn_id, session_id) = (claimed.turn.turn_id, claimed.turn.session_id);
    let beat = bench.store.beat(turn_id, claimed.epoch).await.unwrap();
    assert!(!beat.cancel_requested);
    for _ in 0..2 {
        let outcome = bench.cancel(session_id, CancelScope::Lowest).await;
        assert_eq!(outcome, CancelOutcome::Flagged(turn_id));
    }
    assert!(bench.store.beat(turn_id, claimed.epoch).await.unwrap().cancel_requested);
    assert!(bench.turn(claimed.turn.event_id).await.cancel_requested);
    assert_eq!(bench.told(session_id).await, [EventType::User]);
    // The flag outlives the owner.
    bench.store.lay_down(turn_id, claimed.epoch, LayDown::Drained).await.unwrap();
    let again = bench.claim(session_id).await;
    assert!(again.turn.cancel_requested);
    bench.store.end(turn_id, again.epoch, sample::cancelled(&again)).await.unwrap();
    assert_eq!(bench.told(session_id).await, [EventType::User, EventType::Cancelled]);
}

pub async fn a_waiting_turn_is_ended_by_the_cancel(factory: &dyn StoreFactory) {
    let bench = Bench::new(factory).await;
    let claimed = bench.running().await;
    let waiting =
        LayDown::Waiting { reason: "the model".to_owned(), delay: Duration::from_mins(1) };
    bench.store.lay_down(claimed.turn.turn_id, claimed.epoch, waiting).await.unwrap();
    let outcome = bench.cancel(claimed.turn.session_id, CancelScope::Lowest).await;
    assert!(matches!(outcome, CancelOutcome::Ended(events) if numbers(&events) == [1]));
    let turn = bench.turn(claimed.turn.event_id).await;
    assert_eq!((turn.status, turn.waiting_since), (TurnStatus::Cancelled, None));
}

pub async fn steps_of_a_cancelled_turn_are_withdrawn_and_not_claimed(factory: &dyn StoreFactory) {
    let bench = Bench::new(factory).await;
    let claimed = bench.requested(&[("echo", Effect::Pure), ("add", Effect::Pure)]).await;
    let (turn_id, session_id) = (claimed.turn.turn_id, claimed.turn.session_id);
    bench.store.claim_steps(&bench.owner, 1).await.unwrap();
    bench.cancel(session_id, CancelScope::Lowest).await;
    let steps = bench.store.steps(turn_id).await.unwrap();
    assert_eq!(steps[1].status, StepStatus::Started);
    assert_eq!(steps[2].status, StepStatus::Withdrawn);
    assert_eq!(steps[2].result, serde_json::json!(compose::withdrawn()));
    assert_eq!(bench.records(Group::ToolExecutor).await, []);
    // Journaled by an owner that has not seen the flag yet.
    let late = crate::port::store::JournalEntry {
        answer: Some(sample::model_step(&claimed.turn, 2, "more")),
        calls: vec![sample::tool_step(&claimed.turn, (3, 0), "echo", Effect::Pure)],
        worked_ms: 0,
    };
    bench.store.journal(turn_id, claimed.epoch, late).await.unwrap();
    assert_eq!(bench.claim_steps().await, []);
    // Of a turn that does not run, too.
    let laid = bench.requested(&[("echo", Effect::Pure)]).await;
    bench.store.lay_down(laid.turn.turn_id, laid.epoch, LayDown::Drained).await.unwrap();
    bench.cancel(laid.turn.session_id, CancelScope::Lowest).await;
    let steps = bench.store.steps(laid.turn.turn_id).await.unwrap();
    assert_eq!(steps[1].status, StepStatus::Withdrawn);
}

pub async fn there_may_be_nothing_to_cancel(factory: &dyn StoreFactory) {
    let bench = Bench::new(factory).await;
    let claimed = bench.running().await;
    bench.answer(&claimed, "done").await;
    let session_id = claimed.turn.session_id;
    let scopes = [CancelScope::Lowest, CancelScope::All, CancelScope::Of(claimed.turn.event_id)];
    for scope in scopes {
        assert_eq!(bench.cancel(session_id, scope).await, CancelOutcome::Nothing);
    }
    assert_eq!(bench.told(session_id).await, [EventType::User, EventType::Final]);
}

pub async fn what_does_not_exist_is_not_cancelled(factory: &dyn StoreFactory) {
    let bench = Bench::new(factory).await;
    let (session_id, sent) = bench.queued(1).await;
    let (other, _) = bench.queued(1).await;
    let public = TenantId::public();
    let gone = Err(StoreError::NotFound);
    let unknown = bench.session_id();
    assert_eq!(bench.store.cancel(&public, unknown, CancelScope::All).await, gone);
    let foreign = sample::tenant("other");
    assert_eq!(bench.store.cancel(&foreign, session_id, CancelScope::All).await, gone);
    for (session_id, event_id) in [(session_id, bench.event_id()), (other, sent[0].event_id)] {
        let scope = CancelScope::Of(event_id);
        assert_eq!(bench.store.cancel(&public, session_id, scope).await, gone);
    }
    assert_eq!(bench.status(&sent[0]).await, TurnStatus::Queued);
}
