//! The loop that claims steps while there are permits and starts a child for each.

use std::{
    cell::RefCell, collections::HashMap, future::Future, pin::Pin, rc::Rc, sync::Arc,
    time::Duration,
};

use futures::{StreamExt, stream::FuturesUnordered};
use soma_contract::{
    EffectId, TurnId,
    port::store::{ClaimedStep, StoreResult},
    turn::Step,
};
use soma_runtime::{ChildFault, Scope};
use tokio::{
    sync::Notify,
    time::{Instant, sleep_until},
};
use tracing::Instrument;

use crate::{
    actor::ToolExecutor,
    decide::{PutBack, pause},
    parts::Parts,
    run::{self, StepEnd},
};

/// What the incarnation runs, and what troubles it; shared by its loop, its ears and its health.
#[derive(Debug, Default)]
pub(crate) struct Desk {
    running: RefCell<HashMap<(EffectId, u64), Running>>,
    trouble: RefCell<Option<String>>,
    /// Set by the ears: there may be steps.
    pub(crate) wake: Notify,
}

#[derive(Debug)]
struct Running {
    turn_id: TurnId,
    look: Rc<Notify>,
}

impl Desk {
    /// Returns what the executor cannot reach, if anything.
    pub(crate) fn trouble(&self) -> Option<String> {
        self.trouble.borrow().clone()
    }

    /// Makes the running steps of a turn, or all, look at once whether they are cancelled.
    pub(crate) fn look(&self, turn_id: Option<TurnId>) {
        for running in self.running.borrow().values() {
            if turn_id.is_none_or(|turn_id| running.turn_id == turn_id) {
                running.look.notify_one();
            }
        }
    }

    fn alive(&self) -> Vec<EffectId> {
        self.running.borrow().keys().map(|(effect_id, _)| *effect_id).collect()
    }
}

type Ending = Pin<Box<dyn Future<Output = (Step, Result<StepEnd, ChildFault>)>>>;

/// The loop's own state.
pub(crate) struct Claims {
    parts: Arc<Parts>,
    desk: Rc<Desk>,
    scope: Scope<ToolExecutor>,
    endings: FuturesUnordered<Ending>,
    /// When steps that are owned here and not run here are looked for next: at first at once,
    /// since what the incarnation before this one ran has ended with it.
    sweep_at: Instant,
    failures: u32,
    not_before: Instant,
    /// Whether the policy engine has to answer before more is claimed.
    ask_policy: bool,
}

impl Claims {
    pub(crate) fn new(parts: Arc<Parts>, desk: Rc<Desk>, scope: Scope<ToolExecutor>) -> Self {
        let now = Instant::now();
        Self {
            parts,
            desk,
            scope,
            endings: FuturesUnordered::new(),
            sweep_at: now,
            failures: 0,
            not_before: now,
            ask_policy: false,
        }
    }

    /// Claims and runs steps until the drain has begun and everything that runs has ended.
    pub(crate) async fn run(mut self) {
        let drain = self.scope.draining();
        loop {
            if !drain.is_draining() {
                self.pass().await;
            }
            // The drain may have begun during the pass.
            let draining = drain.is_draining();
            if draining && self.endings.is_empty() {
                return;
            }
            let listening = !draining && self.has_permits();
            let look_again = sleep_until(self.next_look());
            tokio::select! {
                Some((step, end)) = self.endings.next() => self.ended(step, end),
                () = self.parts.wake.wait(), if listening => {}
                () = self.desk.wake.notified(), if listening => {}
                () = look_again, if !draining => {}
                () = drain.wait(), if !draining => {}
            }
        }
    }

    fn permits(&self) -> usize {
        self.parts.config.max_concurrent.saturating_sub(self.endings.len())
    }

    fn has_permits(&self) -> bool {
        self.permits() > 0
    }

    fn next_look(&self) -> Instant {
        (Instant::now() + self.parts.config.poll).max(self.not_before)
    }

    /// Claims as many steps as there are permits; does nothing during a pause.
    async fn pass(&mut self) {
        if Instant::now() < self.not_before || !self.has_permits() {
            return;
        }
        if self.ask_policy {
            match self.ping_policy().await {
                Ok(()) => self.ask_policy = false,
                Err(reason) => return self.troubled(reason),
            }
        }
        match self.claim().await {
            Ok(claimed) => {
                self.desk.trouble.replace(None);
                for step in claimed {
                    self.begin(step);
                }
            }
            Err(error) => {
                // It may have been committed: those steps would be ours without our knowing.
                self.sweep_at = Instant::now();
                self.troubled(error.to_string());
            }
        }
    }

    async fn ping_policy(&self) -> Result<(), String> {
        let policy = Arc::clone(&self.parts.policy);
        let ping = async move { policy.ping().await };
        match self.parts.io.call(self.parts.config.port_deadline, ping).await {
            Ok(answer) => answer.map_err(|error| error.to_string()),
            Err(error) => Err(format!("the policy engine is unavailable: {error}")),
        }
    }

    async fn claim(&mut self) -> StoreResult<Vec<ClaimedStep>> {
        if Instant::now() >= self.sweep_at {
            self.sweep().await?;
            self.sweep_at = Instant::now() + self.parts.config.sweep;
        }
        let owner = self.parts.owner.clone();
        let limit = u32::try_from(self.permits()).unwrap_or(u32::MAX);
        let claimed =
            self.parts.ask(|store| async move { store.claim_steps(&owner, limit).await }).await?;
        if !claimed.is_empty() {
            fail::fail_point!("steps::after_claim");
        }
        Ok(claimed)
    }

    async fn sweep(&self) -> StoreResult<()> {
        let (owner, alive) = (self.parts.owner.clone(), self.desk.alive());
        let lost =
            self.parts.ask(|store| async move { store.lose_orphans(&owner, &alive).await }).await?;
        if lost > 0 {
            tracing::warn!(lost, "tool steps had lost their executor");
        }
        Ok(())
    }

    fn begin(&mut self, claimed: ClaimedStep) {
        let step = claimed.step.clone();
        let look = Rc::new(Notify::new());
        let running = Running { turn_id: step.turn_id, look: Rc::clone(&look) };
        self.desk.running.borrow_mut().insert((step.effect_id, step.epoch), running);
        let span = tracing::info_span!(
            "tool",
            tool = step.name,
            tenant = %step.tenant,
            session_id = %step.session_id,
            effect_id = %step.effect_id,
        );
        let parts = Arc::clone(&self.parts);
        let work = run::carry_out(parts, claimed, look, self.scope.draining());
        self.watch_over(step, work.instrument(span));
    }

    /// Runs work on a step in a child and waits for it among the others.
    fn watch_over(&mut self, step: Step, work: impl Future<Output = StepEnd> + 'static) {
        let child = self.scope.child("step", work);
        self.endings.push(Box::pin(async move { (step, child.await) }));
        self.show_busy();
    }

    fn show_busy(&self) {
        self.parts.metrics.busy(self.endings.len(), self.parts.config.max_concurrent);
    }

    fn ended(&mut self, step: Step, end: Result<StepEnd, ChildFault>) {
        self.show_busy();
        if let Err(ChildFault::Panicked { message, .. }) = &end
            && self.desk.running.borrow_mut().remove(&(step.effect_id, step.epoch)).is_some()
        {
            let work = run::give_up(Arc::clone(&self.parts), step.clone(), message.clone());
            return self.watch_over(step, work);
        }
        self.desk.running.borrow_mut().remove(&(step.effect_id, step.epoch));
        match end {
            Ok(StepEnd::Settled(_)) => self.failures = 0,
            Ok(StepEnd::PutBack(PutBack::Unavailable(reason))) => {
                self.ask_policy = true;
                // Calls that fail together are one failure.
                if Instant::now() >= self.not_before {
                    self.troubled(reason);
                }
            }
            Ok(StepEnd::PutBack(PutBack::Drained) | StepEnd::Lost) => {}
            Err(_) => self.sweep_at = Instant::now(),
        }
    }

    fn troubled(&mut self, reason: String) {
        self.failures = self.failures.saturating_add(1);
        let delay: Duration = pause(self.failures);
        self.not_before = Instant::now() + delay;
        tracing::warn!(reason, failures = self.failures, ?delay, "no tool steps are claimed");
        self.desk.trouble.replace(Some(reason));
    }
}
