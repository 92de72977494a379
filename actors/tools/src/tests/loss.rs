//! Executors that die, drain, or lose the store in the middle.

use async_trait::async_trait;
use soma_contract::{
    port::policy::{Decision, Policy, PolicyError, PolicyInput},
    testing::store::Fault as StoreFault,
};
use soma_runtime::Fault;
use tokio::sync::Semaphore;

use super::*;
use crate::{ToolError, testing::Act};

#[test]
fn a_once_call_is_never_run_again_after_its_executor_is_lost() {
    paused(async {
        let tool = Scripted::named("pay").with(Effect::Once, Act::Hang);
        let mut stage = Stage::set(&[&tool], FakePolicy::allowing());
        stage.start().await;
        let turn = stage.turn(1).await;
        stage.request(&turn, &[("pay", Effect::Once)]).await;
        one(&tool.begun).await;
        assert!(stage.running().inject(NAME, Fault::Panic));
        let outcome = stage.outcome(&turn).await;
        assert_eq!(outcome.status, ToolStatus::Unknown);
        assert_eq!(stage.generation(), 2);
        one(&tool.over).await;
        assert_eq!(tool.count(), 1);
        stage.stop().await;
    });
}

#[test]
fn what_may_be_repeated_is_run_again_under_the_same_effect_id() {
    paused(async {
        let gate = Arc::new(Semaphore::new(0));
        let tool = Scripted::named("read").with(Effect::Idempotent, Act::Wait(Arc::clone(&gate)));
        let mut stage = Stage::set(&[&tool], FakePolicy::allowing());
        stage.start().await;
        let turn = stage.turn(1).await;
        stage.request(&turn, &[("read", Effect::Idempotent)]).await;
        one(&tool.begun).await;
        stage.running().inject(NAME, Fault::Panic);
        one(&tool.begun).await;
        gate.add_permits(1);
        assert_eq!(stage.outcome(&turn).await.status, ToolStatus::Success);
        assert_eq!(tool.count(), 2);
        let [step] = <[_; 1]>::try_from(stage.calls(&turn).await).unwrap();
        assert_eq!(step.epoch, 2);
        stage.stop().await;
    });
}

#[test]
fn a_drain_puts_back_what_may_be_repeated_and_waits_for_the_rest() {
    paused(async {
        let gate = Arc::new(Semaphore::new(0));
        let read = Scripted::named("read").with(Effect::Pure, Act::Hang);
        let pay = Scripted::named("pay").with(Effect::Once, Act::Wait(Arc::clone(&gate)));
        let mut stage = Stage::set(&[&read, &pay], FakePolicy::allowing());
        stage.start().await;
        let turn = stage.turn(1).await;
        stage.request(&turn, &[("read", Effect::Pure), ("pay", Effect::Once)]).await;
        one(&read.begun).await;
        one(&pay.begun).await;
        let releasing = async {
            // The drain has begun once the first has been stopped.
            one(&read.over).await;
            gate.add_permits(1);
        };
        futures::join!(stage.stop(), releasing);
        let calls = stage.calls(&turn).await;
        assert_eq!(calls[0].status, StepStatus::Requested);
        assert_eq!(calls[1].status, StepStatus::Done);
        assert_eq!((read.count(), pay.count()), (1, 1));
    });
}

/// A policy engine that is away, and whose answer to the first ping is kept back.
#[derive(Debug)]
struct KeptBack {
    asked: Semaphore,
    gate: Semaphore,
}

#[async_trait]
impl Policy for KeptBack {
    async fn decide(&self, _input: &PolicyInput) -> Result<Decision, PolicyError> {
        Err(PolicyError("away".to_owned()))
    }

    async fn ping(&self) -> Result<(), PolicyError> {
        self.asked.add_permits(1);
        one(&self.gate).await;
        Ok(())
    }
}

#[test]
fn a_drain_that_begins_in_the_middle_of_a_pass_is_no_panic() {
    paused(async {
        let tool = Scripted::named("read");
        let mut stage = Stage::set(&[&tool], FakePolicy::allowing());
        let policy = Arc::new(KeptBack { asked: Semaphore::new(0), gate: Semaphore::new(0) });
        stage.parts =
            Arc::new(Parts { policy: Arc::clone(&policy) as _, ..(*stage.parts).clone() });
        stage.start().await;
        let turn = stage.turn(1).await;
        stage.request(&turn, &[("read", Effect::Pure)]).await;
        one(&policy.asked).await;
        // Nothing is left to claim when the pass goes on.
        let failed = sample::failed(&turn, "gave up");
        stage.store.end(turn.turn.turn_id, turn.epoch, failed).await.unwrap();
        let opening = async {
            stage.until_state(ServiceState::Stopping).await;
            // The order to stop has arrived before the pass goes on.
            tokio::time::sleep(Duration::from_millis(1)).await;
            policy.gate.add_permits(1);
        };
        futures::join!(stage.stop(), opening);
        assert_eq!(stage.running().tree().find(NAME).unwrap().panics, 0);
    });
}

#[test]
fn an_ordered_restart_loses_nothing() {
    paused(async {
        let gate = Arc::new(Semaphore::new(0));
        let tool = Scripted::named("read").with(Effect::Pure, Act::Wait(Arc::clone(&gate)));
        let mut stage = Stage::set(&[&tool], FakePolicy::allowing());
        stage.start().await;
        let turn = stage.turn(1).await;
        stage.request(&turn, &[("read", Effect::Pure)]).await;
        one(&tool.begun).await;
        stage.running().restart(NAME).await.unwrap();
        one(&tool.begun).await;
        gate.add_permits(1);
        assert_eq!(stage.outcome(&turn).await.status, ToolStatus::Success);
        stage.stop().await;
    });
}

#[test]
fn a_result_is_settled_once_the_store_is_back() {
    for fault in [StoreFault::Unavailable, StoreFault::UnknownBefore, StoreFault::UnknownAfter] {
        paused(async {
            let tool =
                Scripted::named("pay").with(Effect::Once, Act::Return(Ok(json!("paid").into())));
            let mut stage = Stage::set(&[&tool], FakePolicy::allowing());
            stage.store.fail_next("settle", fault);
            stage.start().await;
            let turn = stage.turn(1).await;
            stage.request(&turn, &[("pay", Effect::Once)]).await;
            let outcome = stage.outcome(&turn).await;
            assert_eq!((outcome.status, text(&outcome)), (ToolStatus::Success, "paid"));
            assert_eq!(tool.count(), 1);
            stage.stop().await;
        });
    }
}

#[test]
fn steps_that_were_claimed_unawares_are_found() {
    paused(async {
        let tool = Scripted::named("read");
        let mut stage = Stage::set(&[&tool], FakePolicy::allowing());
        let turn = stage.turn(1).await;
        stage.request(&turn, &[("read", Effect::Pure)]).await;
        stage.store.fail_next("claim_steps", StoreFault::UnknownAfter);
        stage.start().await;
        assert_eq!(stage.outcome(&turn).await.status, ToolStatus::Success);
        assert_eq!(tool.count(), 1);
        stage.stop().await;
    });
}

#[test]
fn an_executor_starts_without_its_store_and_says_so() {
    paused(async {
        let tool = Scripted::named("read");
        let mut stage = Stage::set(&[&tool], FakePolicy::allowing());
        let turn = stage.turn(1).await;
        stage.request(&turn, &[("read", Effect::Pure)]).await;
        stage.store.set_down(true);
        stage.start().await;
        stage.until_state(ServiceState::Degraded).await;
        stage.store.set_down(false);
        assert_eq!(stage.outcome(&turn).await.status, ToolStatus::Success);
        stage.until_state(ServiceState::Ready).await;
        assert_eq!(stage.generation(), 1);
        stage.stop().await;
    });
}

#[test]
fn an_unavailable_part_of_ours_puts_the_call_back() {
    paused(async {
        let unavailable = Act::Return(Err(ToolError::Unavailable("no store".into())));
        let read = Scripted::named("read").with(Effect::Pure, unavailable.clone());
        let pay = Scripted::named("pay").with(Effect::Once, unavailable);
        let mut stage = Stage::set(&[&read, &pay], FakePolicy::allowing());
        stage.start().await;
        let turn = stage.turn(1).await;
        stage.request(&turn, &[("read", Effect::Pure), ("pay", Effect::Once)]).await;
        let calls = stage.until(&turn, |steps| steps[1].status.is_settled()).await;
        assert!(!calls[0].status.is_settled());
        one(&read.begun).await;
        one(&read.begun).await;
        assert_eq!(pay.count(), 1);
        stage.stop().await;
    });
}

#[test]
fn a_turn_that_ended_meanwhile_takes_no_result() {
    paused(async {
        let gate = Arc::new(Semaphore::new(0));
        let tool = Scripted::named("read").with(Effect::Pure, Act::Wait(Arc::clone(&gate)));
        let mut stage = Stage::set(&[&tool], FakePolicy::allowing());
        stage.start().await;
        let turn = stage.turn(1).await;
        stage.request(&turn, &[("read", Effect::Pure)]).await;
        one(&tool.begun).await;
        let (turn_id, epoch) = (turn.turn.turn_id, turn.epoch);
        stage.store.end(turn_id, epoch, sample::failed(&turn, "gave up")).await.unwrap();
        let events = || stage.store.events(&turn.turn.tenant, turn.turn.session_id, 0, 100);
        let before = events().await.unwrap().len();
        gate.add_permits(1);
        stage.stop().await;
        assert_eq!(events().await.unwrap().len(), before);
    });
}
