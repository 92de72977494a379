//! What an heir finds after the process died.

use super::{StoreFactory, bench::Bench};
use crate::{
    compose,
    event::EventType,
    ids::SessionId,
    port::store::{Inherited, JournalEntry, LayDown, StoreError},
    testing::sample,
    tool::Effect,
    turn::{StepStatus, TurnStatus},
};

pub async fn what_was_answered_survives_a_crash(factory: &dyn StoreFactory) {
    let mut bench = Bench::new(factory).await;
    let session_id = bench.session_id();
    bench.exchange(session_id, "one", "first").await;
    bench.say(session_id, "two").await;
    let claimed = bench.claim(session_id).await;
    bench.journal(&claimed, &[("echo", Effect::Pure)]).await;
    let memory_id = bench.id();
    let write = sample::put(memory_id, bench.event_id(), "was said");
    bench.store.write_memories(vec![write]).await.unwrap();
    let log = bench.log(session_id).await;
    let steps = bench.store.steps(claimed.turn.turn_id).await.unwrap();
    bench.crash().await;
    assert_eq!(bench.log(session_id).await, log);
    let again = bench.claim(session_id).await;
    assert_eq!(again.journal, steps);
    assert_eq!(again.event, claimed.event);
    let memory = bench.store.memory(&crate::ids::TenantId::public(), memory_id).await;
    assert_eq!(memory.unwrap().content, "was said");
    assert_eq!(bench.say(session_id, "three").await.n, 3);
}

pub async fn an_heir_queues_what_ran_with_its_attempt_spent(factory: &dyn StoreFactory) {
    let mut bench = Bench::new(factory).await;
    let claimed = bench.running().await;
    let queued = bench.say(bench.session_id(), "waits").await;
    let inherited = bench.crash().await;
    assert_eq!(inherited, Inherited { turns: 1, steps_again: 0, steps_unknown: 0 });
    let turn = bench.turn(claimed.turn.event_id).await;
    assert_eq!((turn.status, turn.tries.attempts), (TurnStatus::Queued, 1));
    assert_eq!(bench.turn(queued.event_id).await.tries.attempts, 0);
    let again = bench.claim(claimed.turn.session_id).await;
    assert_eq!(again.turn.tries.attempts, 2);
    assert!(again.epoch > claimed.epoch);
}

pub async fn after_a_take_over_every_call_of_the_old_owner_is_fenced(factory: &dyn StoreFactory) {
    let mut bench = Bench::new(factory).await;
    let old = bench.requested(&[("echo", Effect::Pure)]).await;
    let old_step = bench.claim_steps().await.remove(0).step;
    bench.crash().await;
    for claimed_again in [false, true] {
        if claimed_again {
            bench.claim(old.turn.session_id).await;
            bench.claim_steps().await;
        }
        let before = bench.log(old.turn.session_id).await;
        let (turn_id, epoch) = (old.turn.turn_id, old.epoch);
        let fenced = StoreError::Fenced;
        assert_eq!(bench.store.beat(turn_id, epoch).await, Err(fenced.clone()));
        let entry = JournalEntry {
            answer: Some(sample::model_step(&old.turn, 7, "late")),
            calls: Vec::new(),
            worked_ms: 1,
        };
        assert_eq!(bench.store.journal(turn_id, epoch, entry).await, Err(fenced.clone()));
        let ending = sample::done(&old, "late");
        assert_eq!(bench.store.end(turn_id, epoch, ending).await, Err(fenced.clone()));
        let laid = bench.store.lay_down(turn_id, epoch, LayDown::Drained).await;
        assert_eq!(laid, Err(fenced.clone()));
        let (effect_id, epoch) = (old_step.effect_id, old_step.epoch);
        assert_eq!(bench.store.beat_step(effect_id, epoch).await, Err(fenced.clone()));
        let late = bench.store.settle(effect_id, epoch, sample::outcome("late"), Vec::new());
        assert_eq!(late.await, Err(fenced.clone()));
        assert_eq!(bench.store.unclaim(effect_id, epoch).await, Err(fenced));
        assert_eq!(bench.log(old.turn.session_id).await, before);
    }
    assert_eq!(bench.turn(old.turn.event_id).await.status, TurnStatus::Running);
}

pub async fn suspects_run_one_at_a_time(factory: &dyn StoreFactory) {
    let mut bench = Bench::new(factory).await;
    let (one, two) = (bench.running().await.turn, bench.running().await.turn);
    bench.crash().await;
    let first = bench.claim(one.session_id).await;
    assert_eq!(bench.store.claim(&bench.owner, two.session_id).await.unwrap(), None);
    let claimable = bench.store.claimable(std::time::Duration::ZERO, 10).await.unwrap();
    assert_eq!(claimable, []);
    // Others run beside it.
    bench.running().await;
    bench.answer(&first, "survived").await;
    bench.claim(two.session_id).await;
}

pub async fn only_the_deaths_of_suspects_count(factory: &dyn StoreFactory) {
    let mut bench = Bench::new(factory).await;
    let suspect = bench.running().await.turn;
    bench.crash().await;
    assert_eq!(bench.deaths(suspect.session_id).await, 0);
    let bystander = bench.running().await.turn;
    bench.crash().await;
    assert_eq!(bench.deaths(suspect.session_id).await, 1);
    assert_eq!(bench.turn(bystander.event_id).await.tries.deaths, 0);
    bench.crash().await;
    assert_eq!(bench.deaths(suspect.session_id).await, 2);
}

impl Bench<'_> {
    /// Claims the session's turn and tells its deaths.
    async fn deaths(&self, session_id: SessionId) -> u32 {
        self.claim(session_id).await.turn.tries.deaths
    }
}

pub async fn a_lost_once_step_is_unknown_and_told(factory: &dyn StoreFactory) {
    let mut bench = Bench::new(factory).await;
    let claimed = bench.requested(&[("send", Effect::Once), ("send", Effect::Once)]).await;
    bench.store.claim_steps(&bench.owner, 1).await.unwrap();
    let inherited = bench.crash().await;
    assert_eq!(inherited, Inherited { turns: 1, steps_again: 0, steps_unknown: 1 });
    let steps = bench.store.steps(claimed.turn.turn_id).await.unwrap();
    assert_eq!(steps[1].status, StepStatus::Unknown);
    assert_eq!(steps[1].result, serde_json::json!(compose::lost()));
    let log = bench.log(claimed.turn.session_id).await;
    let told: Vec<_> = log.iter().map(|event| event.event_type).collect();
    assert_eq!(told, [EventType::User, EventType::ToolStart, EventType::ToolResult]);
    assert_eq!(log[2].metadata["status"], "unknown");
    // The other one had not begun: nothing is known to have happened. It waits for its turn, which
    // is a suspect.
    assert_eq!(bench.claim_steps().await, []);
    bench.claim(claimed.turn.session_id).await;
    let again = bench.claim_steps().await;
    assert_eq!(again.len(), 1);
    assert_eq!(again[0].step.effect_id, steps[2].effect_id);
}

pub async fn a_lost_repeatable_step_runs_again_under_its_effect_id(factory: &dyn StoreFactory) {
    let mut bench = Bench::new(factory).await;
    let calls = [("echo", Effect::Pure), ("put", Effect::Idempotent)];
    let claimed = bench.requested(&calls).await;
    let before = bench.claim_steps().await;
    let inherited = bench.crash().await;
    assert_eq!(inherited, Inherited { turns: 1, steps_again: 2, steps_unknown: 0 });
    bench.claim(claimed.turn.session_id).await;
    let again = bench.claim_steps().await;
    assert_eq!(again.len(), 2);
    for (again, before) in again.iter().zip(&before) {
        assert_eq!(again.step.effect_id, before.step.effect_id);
        assert!(again.step.epoch > before.step.epoch);
        assert_eq!(again.seq, before.seq);
    }
    let told = [EventType::User, EventType::ToolStart, EventType::ToolStart];
    assert_eq!(bench.told(claimed.turn.session_id).await, told);
    let step = &again[0].step;
    let settled = bench.store.settle(step.effect_id, step.epoch, sample::outcome("hi"), Vec::new());
    settled.await.unwrap();
}

pub async fn the_steps_of_a_suspect_wait_until_it_runs(factory: &dyn StoreFactory) {
    let mut bench = Bench::new(factory).await;
    let one = bench.requested(&[("echo", Effect::Pure)]).await.turn;
    let two = bench.requested(&[("echo", Effect::Pure)]).await.turn;
    bench.crash().await;
    assert_eq!(bench.claim_steps().await, []);
    let first = bench.claim(one.session_id).await;
    let started = bench.claim_steps().await;
    assert_eq!(started.len(), 1);
    assert_eq!(started[0].step.turn_id, one.turn_id);
    bench.answer(&first, "survived").await;
    bench.claim(two.session_id).await;
    assert_eq!(bench.claim_steps().await[0].step.turn_id, two.turn_id);
}

pub async fn an_heir_of_nothing_changes_nothing(factory: &dyn StoreFactory) {
    let mut bench = Bench::new(factory).await;
    let session_id = bench.session_id();
    bench.exchange(session_id, "one", "first").await;
    let waiting = bench.say(session_id, "two").await;
    let log = bench.log(session_id).await;
    for _ in 0..2 {
        assert_eq!(bench.crash().await, Inherited::default());
    }
    assert_eq!(bench.log(session_id).await, log);
    assert_eq!(bench.turn(waiting.event_id).await.tries.attempts, 0);
}
