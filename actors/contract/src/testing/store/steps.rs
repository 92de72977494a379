//! Who runs which tool step.

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use serde_json::json;

use super::{
    FakeStore,
    rows::{StepRow, TurnRow},
    state::State,
};
use crate::{
    compose, decide,
    ids::{EffectId, Owner},
    memory::MemoryWrite,
    port::store::{Appended, Beat, ClaimedStep, Steps, StoreError, StoreResult},
    tool::ToolOutcome,
    topic::Group,
    turn::{Step, StepStatus},
};

#[async_trait]
impl Steps for FakeStore {
    async fn claim_steps(&self, owner: &Owner, limit: u32) -> StoreResult<Vec<ClaimedStep>> {
        self.run("claim_steps", |state, now| Ok(state.claim_steps(owner, limit, now)))
    }

    async fn beat_step(&self, effect_id: EffectId, epoch: u64) -> StoreResult<Beat> {
        self.run("beat_step", |state, _| {
            let step = state.started(effect_id, epoch)?.step.clone();
            Ok(Beat { cancel_requested: state.stops(&step) })
        })
    }

    async fn settle(
        &self,
        effect_id: EffectId,
        epoch: u64,
        outcome: ToolOutcome,
        memory: Vec<MemoryWrite>,
    ) -> StoreResult<Appended> {
        self.run("settle", |state, now| state.settle(effect_id, epoch, &outcome, memory, now))
    }

    async fn unclaim(&self, effect_id: EffectId, epoch: u64) -> StoreResult<()> {
        self.run("unclaim", |state, now| {
            state.started(effect_id, epoch)?;
            state.request_again(effect_id, now);
            Ok(())
        })
    }

    async fn lose_orphans(&self, owner: &Owner, alive: &[EffectId]) -> StoreResult<u64> {
        self.run("lose_orphans", |state, now| {
            let lost = state.lose_steps(now, |row| {
                row.owner.as_ref() == Some(owner) && !alive.contains(&row.step.effect_id)
            });
            Ok(u64::try_from(lost.len()).unwrap_or(u64::MAX))
        })
    }
}

impl State {
    fn claim_steps(&mut self, owner: &Owner, limit: u32, now: DateTime<Utc>) -> Vec<ClaimedStep> {
        let mut requested: Vec<(u64, EffectId)> = self
            .steps
            .values()
            .filter(|row| row.step.status == StepStatus::Requested && self.may_start(&row.step))
            .map(|row| (row.place, row.step.effect_id))
            .collect();
        requested.sort_unstable();
        requested.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
        requested.into_iter().filter_map(|(_, id)| self.claim_step(owner, id, now)).collect()
    }

    fn claim_step(
        &mut self,
        owner: &Owner,
        effect_id: EffectId,
        now: DateTime<Utc>,
    ) -> Option<ClaimedStep> {
        let row = self.step_mut(effect_id)?;
        row.step.status = StepStatus::Started;
        row.step.epoch += 1;
        row.owner = Some(owner.clone());
        let step = row.step.clone();
        let turn = self.turn(step.turn_id)?.clone();
        let seq = self.append(now, compose::tool_start(&step, Self::place_of(&turn)));
        if self.bus_is_local {
            let header = effect_id.to_string();
            self.acknowledge_where(Group::ToolExecutor, |row| {
                row.headers.get("event_id") == Some(&header)
            });
        }
        Some(ClaimedStep { step, subject: turn.subject, persona_id: turn.persona_id, seq })
    }

    fn started(&mut self, effect_id: EffectId, epoch: u64) -> StoreResult<&mut StepRow> {
        self.step_mut(effect_id)
            .filter(|row| row.step.status == StepStatus::Started && row.step.epoch == epoch)
            .ok_or(StoreError::Fenced)
    }

    fn may_start(&self, step: &Step) -> bool {
        self.turn(step.turn_id).is_some_and(|row| {
            decide::may_start(row.turn.status, row.suspect, row.turn.cancel_requested)
        })
    }

    /// Returns whether the step's turn has ended or is to be cancelled.
    fn stops(&self, step: &Step) -> bool {
        self.turn(step.turn_id)
            .is_none_or(|row| row.turn.status.is_over() || row.turn.cancel_requested)
    }

    fn settle(
        &mut self,
        effect_id: EffectId,
        epoch: u64,
        outcome: &ToolOutcome,
        memory: Vec<MemoryWrite>,
        now: DateTime<Utc>,
    ) -> StoreResult<Appended> {
        let turn_id = self.started(effect_id, epoch)?.step.turn_id;
        let turn = self
            .turn(turn_id)
            .filter(|row| !row.turn.status.is_over())
            .ok_or(StoreError::Fenced)?
            .clone();
        let seq =
            self.settle_as(effect_id, compose::settled_as(outcome.status), outcome, &turn, now);
        for write in memory {
            self.write_memory(write, now);
        }
        Ok(self.appended(turn.turn.session_id, seq, now))
    }

    fn settle_as(
        &mut self,
        effect_id: EffectId,
        status: StepStatus,
        outcome: &ToolOutcome,
        turn: &TurnRow,
        now: DateTime<Utc>,
    ) -> u64 {
        let Some(row) = self.step_mut(effect_id) else { return 0 };
        row.step.status = status;
        row.step.result = json!(outcome);
        row.owner = None;
        let step = row.step.clone();
        let place = Self::place_of(turn);
        let seq = self.append(now, compose::tool_result(&step, place, outcome));
        self.send(now, &step.tenant, compose::tool_result_record(&step, place, outcome));
        seq
    }

    /// Treats these started steps as lost, each by its effect class; says what became of those
    /// whose turn has not ended.
    pub(super) fn lose_steps(
        &mut self,
        now: DateTime<Utc>,
        chosen: impl Fn(&StepRow) -> bool,
    ) -> Vec<StepStatus> {
        let mut lost: Vec<(u64, Step)> = self
            .steps
            .values()
            .filter(|row| row.step.status == StepStatus::Started && chosen(row))
            .map(|row| (row.place, row.step.clone()))
            .collect();
        lost.sort_by_key(|(place, _)| *place);
        lost.into_iter().filter_map(|(_, step)| self.lose(&step, now)).collect()
    }

    fn lose(&mut self, step: &Step, now: DateTime<Utc>) -> Option<StepStatus> {
        let status = decide::after_loss(step.effect, self.stops(step));
        let turn = self.turn(step.turn_id)?.clone();
        let over = turn.turn.status.is_over();
        let outcome = match status {
            StepStatus::Requested => {
                self.request_again(step.effect_id, now);
                return Some(status);
            }
            StepStatus::Withdrawn => compose::withdrawn(),
            _ => compose::lost(),
        };
        if !over {
            self.settle_as(step.effect_id, status, &outcome, &turn, now);
            return Some(status);
        }
        let row = self.step_mut(step.effect_id)?;
        row.step.status = status;
        row.step.result = json!(outcome);
        row.owner = None;
        None
    }

    /// Puts a step back, and wakes the executors.
    fn request_again(&mut self, effect_id: EffectId, now: DateTime<Utc>) {
        let Some(row) = self.step_mut(effect_id) else { return };
        row.step.status = StepStatus::Requested;
        row.owner = None;
        let step = row.step.clone();
        let turn = self.turn(step.turn_id);
        let record = turn.map(|turn| compose::tool_request_record(&step, Self::place_of(turn)));
        if let Some(record) = record {
            self.send(now, &step.tenant, record);
        }
    }
}
