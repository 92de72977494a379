//! A worker with everything around it, and processes that come and go.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use futures::{StreamExt, stream, stream::BoxStream};
use soma_contract::{
    Clock, Event, EventId, EventType, Owner, SessionId, TenantId,
    message::NewMessage,
    model::{ChatMessage, ChatRequest, ModelAnswer, ModelEvent, Usage},
    port::{
        live::{Live as _, LiveEvent, Nudge as Hint},
        model::{Model, ModelError},
        store::{MessageStatus, Steps as _, Transcript as _},
    },
    testing::{
        FakeCatalog, FakeLive, FakeMemory, FakeModel, FakePolicy, FakeStore, LogBus, SeqIds,
        WordCounter, sample,
    },
    tool::{Effect, ToolCall},
};
use soma_conversation::{Config, ConversationWorker, Doorbell, Metrics, Ports};
use soma_runtime::{Io, Link, Nudge, Orchestrator, Registry, Running, Settings, Spec, StopReport};
use tokio::{task::JoinHandle, time::Instant};
use uuid::Uuid;

use crate::mortal::{Death, Mortal};

/// A limit that only a deadlock reaches.
pub(crate) const FOREVER: Duration = Duration::from_hours(24);
pub(crate) const SESSION: SessionId = SessionId(Uuid::from_u128(0xA));

/// Runs a test in an actix system whose time is paused.
pub(crate) fn paused<F: Future>(test: F) -> F::Output {
    let system = actix_rt::System::with_tokio_rt(|| {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .start_paused(true)
            .build()
            .unwrap()
    });
    system.block_on(test)
}

/// The wall clock of paused time.
#[derive(Debug)]
struct PausedClock(Instant);

impl Clock for PausedClock {
    fn now(&self) -> DateTime<Utc> {
        DateTime::from_timestamp(1_767_268_800, 0).unwrap() + self.0.elapsed()
    }
}

/// What outlives processes.
pub(crate) struct House {
    pub(crate) store: Arc<FakeStore>,
    pub(crate) live: Arc<FakeLive>,
    pub(crate) memory: Arc<FakeMemory>,
    pub(crate) bus: Arc<LogBus>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) model: Arc<FakeModel>,
    /// Asked instead of `model`, if there is one.
    pub(crate) other_model: Option<Arc<dyn Model>>,
    pub(crate) policy: Arc<FakePolicy>,
    pub(crate) config: Config,
}

/// A process with a worker.
pub(crate) struct Process {
    pub(crate) running: Running,
    pub(crate) link: Link<ConversationWorker>,
    pub(crate) doorbell: Doorbell,
    pub(crate) store: Arc<Mortal>,
    pub(crate) metrics: prometheus::Registry,
}

impl House {
    pub(crate) fn new() -> Self {
        let clock: Arc<dyn Clock> = Arc::new(PausedClock(Instant::now()));
        Self {
            store: Arc::new(FakeStore::new(Arc::clone(&clock))),
            live: Arc::new(FakeLive::new(Arc::clone(&clock))),
            memory: Arc::new(FakeMemory::new()),
            bus: Arc::new(LogBus::new()),
            clock,
            model: Arc::new(FakeModel::new()),
            other_model: None,
            policy: Arc::new(FakePolicy::allowing()),
            config: Config::default(),
        }
    }

    /// Builds a house with a planner for a model.
    pub(crate) fn of(planner: &Arc<Planner>) -> Self {
        Self { other_model: Some(Arc::<Planner>::clone(planner)), ..Self::new() }
    }

    /// Starts the first process.
    pub(crate) async fn open(&self) -> Process {
        self.start(Owner("first".to_owned()), None).await
    }

    /// Starts a process that inherits from one that died.
    pub(crate) async fn inherit(&self) -> Process {
        self.inherit_and_die(None).await
    }

    /// Starts a process that inherits, and may die too.
    pub(crate) async fn inherit_and_die(&self, death: Option<Death>) -> Process {
        let (owner, _) = self.store.crash().await.unwrap();
        self.start(owner, death).await
    }

    pub(crate) async fn start(&self, owner: Owner, death: Option<Death>) -> Process {
        let store = Arc::new(Mortal::new(Arc::clone(&self.store), death));
        let doorbell = Doorbell::new();
        let ports = self.ports(owner, Arc::clone(&store), doorbell.clone());
        let metrics = prometheus::Registry::new();
        let counters = Metrics::new(&metrics).unwrap();
        let config = self.config.clone();
        let spec = Spec::new("conversation-worker", move || {
            ConversationWorker::new(config.clone(), ports.clone(), counters.clone())
        })
        .critical(true)
        .stop_deadline(FOREVER);
        let link = spec.link();
        let settings = Settings { critical_budget: 9, ..Settings::testing().unwrap() };
        let running = Orchestrator::launch(Registry::new([spec.into()]), settings).await.unwrap();
        Process { running, link, doorbell, store, metrics }
    }

    fn ports(&self, owner: Owner, store: Arc<Mortal>, doorbell: Doorbell) -> Ports {
        let model: Arc<dyn Model> = match &self.other_model {
            Some(model) => Arc::clone(model),
            None => Arc::<FakeModel>::clone(&self.model),
        };
        Ports {
            store,
            live: Arc::<FakeLive>::clone(&self.live),
            bus: Arc::<LogBus>::clone(&self.bus),
            model,
            memory: Arc::<FakeMemory>::clone(&self.memory),
            policy: Arc::<FakePolicy>::clone(&self.policy),
            tools: Arc::new(FakeCatalog::new(vec![
                FakeCatalog::tool("echo", Effect::Pure),
                FakeCatalog::tool("pay", Effect::Once),
            ])),
            counter: Arc::new(WordCounter),
            clock: Arc::clone(&self.clock),
            ids: Arc::new(SeqIds::in_space(9)),
            io: Io::current().unwrap(),
            wake_tools: Nudge::new(),
            doorbell,
            owner,
        }
    }

    /// Accepts a message of the session.
    pub(crate) async fn accept(&self, message: NewMessage) -> EventId {
        let mut answers = self.store.accept(vec![message]).await;
        answers.remove(0).unwrap().event_id
    }

    pub(crate) async fn say(&self, number: u128, text: &str) -> EventId {
        self.accept(message(number, text)).await
    }

    pub(crate) async fn status(&self, event_id: EventId) -> MessageStatus {
        self.store.message(&TenantId::public(), event_id).await.unwrap()
    }

    /// Returns the log of the session.
    pub(crate) async fn log(&self) -> Vec<Event> {
        self.store.events(&TenantId::public(), SESSION, 0, 1_000).await.unwrap()
    }

    /// Returns the terminal events of the session, in order.
    pub(crate) async fn terminals(&self) -> Vec<Event> {
        let mut log = self.log().await;
        log.retain(|event| event.event_type.is_terminal());
        log
    }

    /// Returns what readers heard, as words.
    pub(crate) fn heard(&self) -> Vec<String> {
        let words = self.live.published().into_iter().map(|(_, event)| match event {
            LiveEvent::Appended { .. } => "appended".to_owned(),
            LiveEvent::Delta { text, .. } => format!("delta {text}"),
            LiveEvent::Reset { .. } => "reset".to_owned(),
            LiveEvent::Notice { event } => event.metadata["status"].as_str().unwrap().to_owned(),
        });
        words.collect()
    }

    /// Runs tools in the background: settles every step that is requested.
    pub(crate) fn run_tools(&self) -> Tools {
        let (store, live) = (Arc::clone(&self.store), Arc::clone(&self.live));
        let ran = Arc::new(Mutex::new(Vec::new()));
        let told = Arc::clone(&ran);
        let task = tokio::task::spawn_local(async move {
            loop {
                tokio::time::sleep(Duration::from_millis(40)).await;
                for claimed in store.claim_steps(&Owner("tools".to_owned()), 10).await.unwrap() {
                    let step = claimed.step;
                    told.lock().unwrap().push(step.effect_id.to_string());
                    let outcome = sample::outcome(format!("{} ran", step.name));
                    // A turn that has been cancelled meanwhile does not take it.
                    store.settle(step.effect_id, step.epoch, outcome, Vec::new()).await.ok();
                    live.nudge(Hint::Session { session_id: step.session_id }).await;
                }
            }
        });
        Tools { ran, task }
    }
}

/// Whoever runs tools.
pub(crate) struct Tools {
    ran: Arc<Mutex<Vec<String>>>,
    task: JoinHandle<()>,
}

impl Tools {
    /// Returns the effects that ran, in order.
    pub(crate) fn ran(&self) -> Vec<String> {
        self.ran.lock().unwrap().clone()
    }
}

impl Drop for Tools {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Process {
    /// Tells the worker to look at the session.
    pub(crate) fn ring(&self) {
        self.doorbell.ring([SESSION]);
    }

    pub(crate) async fn stop(&self) -> StopReport {
        self.running.stop(FOREVER).await
    }
}

pub(crate) fn message(number: u128, text: &str) -> NewMessage {
    sample::message(SESSION, EventId(Uuid::from_u128(number)), text)
}

pub(crate) fn types(events: &[Event]) -> Vec<EventType> {
    events.iter().map(|event| event.event_type).collect()
}

/// Calls a tool at first and answers when it has the result: what it does follows from the prompt
/// alone, however often it is asked.
#[derive(Debug, Default)]
pub(crate) struct Planner {
    /// Never answers, calls tools for ever.
    insatiable: bool,
    asked: Mutex<Vec<usize>>,
}

impl Planner {
    pub(crate) fn insatiable() -> Self {
        Self { insatiable: true, ..Self::default() }
    }

    /// Returns how many tool results each prompt had.
    pub(crate) fn asked(&self) -> Vec<usize> {
        self.asked.lock().unwrap().clone()
    }
}

#[async_trait]
impl Model for Planner {
    async fn chat(
        &self,
        request: ChatRequest,
    ) -> BoxStream<'static, Result<ModelEvent, ModelError>> {
        let is_result = |message: &&ChatMessage| matches!(message, ChatMessage::Tool { .. });
        let results = request.messages.iter().filter(is_result).count();
        self.asked.lock().unwrap().push(results);
        let mut answer = ModelAnswer {
            text: format!("{results} results"),
            tool_calls: Vec::new(),
            usage: Usage { input_tokens: 10, output_tokens: 2 },
            model: "planner".to_owned(),
            finish_reason: "stop".to_owned(),
        };
        if results == 0 || self.insatiable {
            let call = |name: &str| ToolCall {
                id: "same".to_owned(),
                name: name.to_owned(),
                arguments: String::new(),
            };
            answer.tool_calls = vec![call("echo"), call("echo")];
        }
        let delta = Ok(ModelEvent::Delta(answer.text.clone()));
        stream::iter([delta, Ok(ModelEvent::Answer(answer))]).boxed()
    }

    fn default_model(&self) -> String {
        "planner".to_owned()
    }

    async fn ping(&self) -> Result<(), ModelError> {
        Ok(())
    }
}
