//! The executor on the fakes of all ports, on one thread whose time is paused.

mod foreign;
mod loss;
mod permission;
mod steps;

use std::{future::Future, sync::Arc, time::Duration};

use serde_json::{Value, json};
use soma_contract::{
    Clock, EventId, Owner, SessionId, TenantId,
    port::store::{ClaimedTurn, Store, Transcript, Turns},
    testing::{FakeClock, FakeLive, FakePolicy, FakeStore, LogBus, sample},
    tool::{Effect, ToolOutcome, ToolStatus},
    turn::{Step, StepKind, StepStatus},
};
use soma_runtime::{Io, Nudge, Orchestrator, Registry, Running, ServiceState, Settings, Spec};
use tokio::time::{Instant, timeout};
use uuid::Uuid;

use crate::{
    Parts, Tool, ToolExecutor, ToolLimits, ToolMetrics, Toolbox, ToolsConfig, testing::Scripted,
};

/// A limit, in paused time, that only a deadlock reaches.
const FOREVER: Duration = Duration::from_hours(1);
const NAME: &str = "tool-executor";

/// Runs a test in an actix system whose time is paused.
fn paused<F: Future>(test: F) -> F::Output {
    let runner = actix_rt::System::with_tokio_rt(|| {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .start_paused(true)
            .build()
            .unwrap()
    });
    runner.block_on(async { timeout(FOREVER, test).await.expect("a deadlock") })
}

/// An executor with everything around it.
struct Stage {
    store: Arc<FakeStore>,
    live: Arc<FakeLive>,
    policy: Arc<FakePolicy>,
    bus: Arc<LogBus>,
    wake: Nudge,
    parts: Arc<Parts>,
    running: Option<Running>,
}

impl Stage {
    /// Sets the stage, without the executor.
    fn set(tools: &[&Scripted], policy: FakePolicy) -> Self {
        Self::set_with(tools, policy, ToolsConfig::default())
    }

    fn set_with(tools: &[&Scripted], policy: FakePolicy, config: ToolsConfig) -> Self {
        let tools = tools.iter().map(|tool| Arc::new((*tool).clone()) as Arc<dyn Tool>);
        Self::set_tools(tools.collect(), policy, config)
    }

    fn set_tools(tools: Vec<Arc<dyn Tool>>, policy: FakePolicy, config: ToolsConfig) -> Self {
        let clock: Arc<dyn Clock> = Arc::new(FakeClock::new());
        let store = Arc::new(FakeStore::with_remote_bus(Arc::clone(&clock)));
        let live = Arc::new(FakeLive::new(clock));
        let (policy, bus) = (Arc::new(policy), Arc::new(LogBus::new()));
        let wake = Nudge::new();
        let parts = Arc::new(Parts {
            owner: Owner("me".into()),
            toolbox: Toolbox::new(tools, ToolLimits::default()).unwrap(),
            store: Arc::clone(&store) as Arc<dyn Store>,
            live: Arc::clone(&live) as _,
            bus: Arc::clone(&bus) as _,
            policy: Arc::clone(&policy) as _,
            io: Io::current().unwrap(),
            wake: wake.clone(),
            metrics: ToolMetrics::new(&prometheus::Registry::new()).unwrap(),
            config,
        });
        Self { store, live, policy, bus, wake, parts, running: None }
    }

    /// Starts the executor.
    async fn start(&mut self) {
        let parts = Arc::clone(&self.parts);
        let spec = Spec::new(NAME, move || ToolExecutor::new(Arc::clone(&parts)))
            .stop_deadline(Duration::from_mins(1));
        let registry = Registry::new([spec.into()]);
        self.running =
            Some(Orchestrator::launch(registry, Settings::testing().unwrap()).await.unwrap());
    }

    fn running(&self) -> &Running {
        self.running.as_ref().unwrap()
    }

    async fn stop(&self) {
        let report = self.running().stop(FOREVER).await;
        assert!(report.is_clean(), "{report:?}");
    }

    /// Accepts message `number` in a session of its own, and claims its turn.
    async fn turn(&self, number: u128) -> ClaimedTurn {
        let session_id = SessionId(Uuid::from_u128(number));
        let message = sample::message(session_id, EventId(Uuid::from_u128(1_000 + number)), "go");
        self.store.accept(vec![message]).await.remove(0).unwrap();
        self.store.claim(&Owner("worker".into()), session_id).await.unwrap().unwrap()
    }

    /// Journals calls of these tools as one step of the turn.
    async fn request(&self, turn: &ClaimedTurn, calls: &[(&str, Effect)]) {
        let entry = sample::entry(&turn.turn, calls);
        self.store.journal(turn.turn.turn_id, turn.epoch, entry).await.unwrap();
        self.wake.wake();
    }

    /// Returns the tool steps of a turn.
    async fn calls(&self, turn: &ClaimedTurn) -> Vec<Step> {
        let mut steps = self.store.steps(turn.turn.turn_id).await.unwrap();
        steps.retain(|step| step.kind == StepKind::Tool);
        steps
    }

    /// Waits until the turn's calls are as asked for.
    async fn until(&self, turn: &ClaimedTurn, wanted: impl Fn(&[Step]) -> bool) -> Vec<Step> {
        let mut changes = self.store.changes();
        loop {
            changes.borrow_and_update();
            let calls = self.calls(turn).await;
            changes.borrow_and_update();
            if wanted(&calls) {
                return calls;
            }
            changes.changed().await.unwrap();
        }
    }

    /// Waits until all calls of the turn are settled and returns how each ended.
    async fn outcomes(&self, turn: &ClaimedTurn) -> Vec<ToolOutcome> {
        let settled = |steps: &[Step]| steps.iter().all(|step| step.status.is_settled());
        let steps = self.until(turn, settled).await;
        steps.into_iter().map(|step| serde_json::from_value(step.result).unwrap()).collect()
    }

    async fn outcome(&self, turn: &ClaimedTurn) -> ToolOutcome {
        self.outcomes(turn).await.remove(0)
    }

    /// Waits until the service is in this state.
    async fn until_state(&self, state: ServiceState) {
        let mut events = self.running().events();
        let now = || self.running().tree().find(NAME).unwrap().state;
        while now() != state {
            events.recv().await.unwrap();
        }
    }

    fn generation(&self) -> u64 {
        self.running().tree().find(NAME).unwrap().generation
    }
}

fn statuses(outcomes: &[ToolOutcome]) -> Vec<ToolStatus> {
    outcomes.iter().map(|outcome| outcome.status).collect()
}

fn text(outcome: &ToolOutcome) -> &str {
    outcome.output.as_str().unwrap_or_default()
}

/// Waits for one permit and uses it up.
async fn one(of: &tokio::sync::Semaphore) {
    of.acquire().await.unwrap().forget();
}
