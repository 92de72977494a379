//! A store with what its callers hold of it, and the operations done to it.

use std::sync::Arc;

use serde::Serialize;
use serde_json::{Value, json};

use super::{
    draw::{Fate, How, Operation},
    view::plain,
};
use crate::{
    event::Event,
    ids::Owner,
    memory::MemoryWrite,
    message::AcceptError,
    port::{
        bus::Position,
        memory::Receipt,
        store::{
            Appended, CancelOutcome, ClaimedStep, ClaimedTurn, DeadLetter, JournalEntry, Replayed,
            Store, StoreError, StoreResult,
        },
    },
    testing::{sample, suite::store::StoreFactory},
    tool::{Effect, ToolOutcome, ToolStatus},
    topic::Group,
};

/// A store and its callers.
#[derive(Debug)]
pub(super) struct World {
    pub(super) store: Arc<dyn Store>,
    owner: Owner,
    pub(super) claims: Vec<ClaimedTurn>,
    pub(super) steps: Vec<ClaimedStep>,
}

/// Tells an answer in the words that both stores share.
fn told<T>(answer: StoreResult<T>, say: impl FnOnce(T) -> Value) -> Value {
    match answer {
        Ok(answer) => say(answer),
        Err(StoreError::Refused(_)) => json!("refused"),
        Err(error) => json!(error.to_string()),
    }
}

fn said(value: impl Serialize) -> Value {
    plain(json!(value))
}

impl World {
    pub(super) async fn new(store: Arc<dyn Store>) -> Self {
        let owner = Owner("first".to_owned());
        store.inherit(&owner).await.unwrap();
        Self { store, owner, claims: Vec::new(), steps: Vec::new() }
    }

    /// Does one operation; returns its answer.
    pub(super) async fn act(&mut self, operation: &Operation, factory: &dyn StoreFactory) -> Value {
        let store = &self.store;
        match operation.clone() {
            Operation::Accept(batch) => {
                let answers = store.accept(batch).await;
                answers.into_iter().map(accepted).collect()
            }
            Operation::Claim(session_id) => {
                let claimed = store.claim(&self.owner, session_id).await.unwrap();
                self.claims.extend(claimed.clone());
                json!(
                    claimed.map(|claimed| { said((claimed.turn, claimed.event, claimed.journal)) })
                )
            }
            Operation::Beat { claim } => {
                let claimed = &self.claims[claim];
                let beat = store.beat(claimed.turn.turn_id, claimed.epoch).await;
                told(beat, |beat| json!(beat.cancel_requested))
            }
            Operation::Journal { claim, step, calls, worked_ms } => {
                self.journal(claim, step, &calls, worked_ms).await
            }
            Operation::End { claim, how, memory } => self.end(claim, how, memory).await,
            Operation::LayDown { claim, why } => {
                let claimed = &self.claims[claim];
                let laid = store.lay_down(claimed.turn.turn_id, claimed.epoch, why).await;
                told(laid, |()| json!("laid down"))
            }
            Operation::LayDownOrphans { alive } => {
                let alive: Vec<_> =
                    alive.into_iter().map(|claim| self.claims[claim].turn.turn_id).collect();
                let mut laid = store.lay_down_orphans(&self.owner, &alive).await.unwrap();
                laid.sort_unstable();
                json!(laid)
            }
            Operation::Cancel(tenant, session_id, scope) => {
                told(store.cancel(&tenant, session_id, scope).await, cancelled)
            }
            Operation::Delete { tenant, session_id, forget } => {
                let deleted = store.delete_session(&tenant, session_id, forget).await;
                told(deleted, |()| json!("deleted"))
            }
            Operation::Crash => self.crash(factory).await,
            Operation::ClaimSteps(limit) => self.claim_steps(limit).await,
            Operation::BeatStep { step } => {
                let step = &self.steps[step].step;
                let beat = store.beat_step(step.effect_id, step.epoch).await;
                told(beat, |beat| json!(beat.cancel_requested))
            }
            Operation::Settle { step, status, memory } => self.settle(step, status, memory).await,
            Operation::Unclaim { step } => {
                let step = &self.steps[step].step;
                let put_back = store.unclaim(step.effect_id, step.epoch).await;
                told(put_back, |()| json!("put back"))
            }
            Operation::LoseOrphans { alive } => {
                let alive: Vec<_> =
                    alive.into_iter().map(|step| self.steps[step].step.effect_id).collect();
                json!(store.lose_orphans(&self.owner, &alive).await.unwrap())
            }
            Operation::Remember(writes) => json!(store.write_memories(writes).await.unwrap()),
            Operation::Deliver(fates) => self.deliver(&fates).await,
            Operation::Replicate(write) => {
                json!(store.replicate(*write, Receipt::default()).await.unwrap())
            }
            Operation::Replay { letter } => {
                let Some(letter) = self.letter(letter).await else { return Value::Null };
                told(store.replay(None, letter.id).await, replayed)
            }
            Operation::DropLetter { letter } => {
                let Some(letter) = self.letter(letter).await else { return Value::Null };
                told(store.drop_dead_letter(None, letter.id).await, |()| json!("dropped"))
            }
            Operation::Acknowledge(group, count) => self.acknowledge(group, count).await,
            Operation::Pass(time) => {
                factory.advance(time).await;
                Value::Null
            }
        }
    }

    async fn journal(&self, claim: usize, step: u32, calls: &[Effect], worked_ms: u64) -> Value {
        let claimed = &self.claims[claim];
        let turn = &claimed.turn;
        let calls = (0..).zip(calls);
        let entry = JournalEntry {
            answer: Some(sample::model_step(turn, step, "let me see")),
            calls: calls
                .map(|(index, effect)| sample::tool_step(turn, (step + 1, index), "echo", *effect))
                .collect(),
            worked_ms,
        };
        told(self.store.journal(turn.turn_id, claimed.epoch, entry).await, |()| json!("journaled"))
    }

    async fn end(&self, claim: usize, how: How, memory: Vec<MemoryWrite>) -> Value {
        let claimed = &self.claims[claim];
        let mut ending = match how {
            How::Done => sample::done(claimed, "done"),
            How::Failed => sample::failed(claimed, "boom"),
            How::Cancelled => sample::cancelled(claimed),
        };
        ending.memory = memory;
        told(self.store.end(claimed.turn.turn_id, claimed.epoch, ending).await, appended)
    }

    async fn crash(&mut self, factory: &dyn StoreFactory) -> Value {
        let nothing = crate::testing::FakeStore::new(Arc::new(crate::ids::SystemClock));
        let store = std::mem::replace(&mut self.store, Arc::new(nothing));
        self.store = factory.reopen_after_crash(store).await;
        self.owner = Owner(format!("{}'", self.owner));
        let inherited = self.store.inherit(&self.owner).await.unwrap();
        json!([inherited.turns, inherited.steps_again, inherited.steps_unknown])
    }

    async fn claim_steps(&mut self, limit: u32) -> Value {
        let claimed = self.store.claim_steps(&self.owner, limit).await.unwrap();
        self.steps.extend(claimed.clone());
        let claimed = claimed.into_iter();
        claimed.map(|step| said((step.step, step.subject, step.persona_id, step.seq))).collect()
    }

    async fn settle(&self, step: usize, status: ToolStatus, memory: Vec<MemoryWrite>) -> Value {
        let step = &self.steps[step].step;
        let outcome = ToolOutcome { status, ..sample::outcome("hi") };
        told(self.store.settle(step.effect_id, step.epoch, outcome, memory).await, appended)
    }

    async fn deliver(&self, fates: &[Fate]) -> Value {
        let store = &self.store;
        let shards = store.hold_shards("memory-sync", &self.owner).await.unwrap();
        let pending = store.pending_writes(&shards, 8).await.unwrap();
        let mut told = Vec::new();
        for (write, fate) in pending.into_iter().zip(fates) {
            let id = write.id;
            told.push(said((&write.write, write.attempts)));
            match fate {
                Fate::Taken => {
                    store.settle_writes(&shards, vec![(id, Receipt::default())]).await.unwrap();
                }
                Fate::Postponed => {
                    let delay = std::time::Duration::from_secs(3);
                    store.postpone_write(&shards, id, "later", delay).await.unwrap();
                }
                Fate::Refused => store.refuse_write(&shards, id, "malformed").await.unwrap(),
            }
        }
        told.into()
    }

    async fn letter(&self, place: usize) -> Option<DeadLetter> {
        let letters = self.store.dead_letters(None, None, 100).await.unwrap().items;
        letters.into_iter().nth(place)
    }

    /// Acknowledges the oldest records of a group.
    async fn acknowledge(&self, group: Group, count: usize) -> Value {
        let records = self.store.records(group, &[], 1_000).await.unwrap();
        let rows: Vec<i64> = records
            .iter()
            .filter_map(|record| match record.position {
                Position::Row(row) => Some(row),
                Position::Offset { .. } => None,
            })
            .take(count)
            .collect();
        self.store.acknowledge(group, &rows).await.unwrap();
        json!(rows.len())
    }
}

fn accepted(answer: Result<crate::message::Accepted, AcceptError>) -> Value {
    match answer {
        Ok(accepted) => json!([accepted, accepted.replayed]),
        Err(AcceptError::Refused(_)) => json!("refused"),
        Err(error) => json!(error.to_string()),
    }
}

fn appended(appended: Appended) -> Value {
    json!([appended.seq, appended.more])
}

fn cancelled(outcome: CancelOutcome) -> Value {
    let events = |events: Vec<Event>| said(events);
    match outcome {
        CancelOutcome::Ended(ended) => events(ended),
        CancelOutcome::Flagged(turn_id) => json!(turn_id),
        CancelOutcome::Both(ended, turn_id) => json!([events(ended), turn_id]),
        CancelOutcome::Nothing => Value::Null,
    }
}

fn replayed(replayed: Replayed) -> Value {
    match replayed {
        Replayed::Turn(session_id) => json!(session_id),
        Replayed::Requeued => json!("requeued"),
        Replayed::Already => json!("already"),
    }
}
