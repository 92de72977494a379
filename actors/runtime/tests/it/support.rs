//! A service to mistreat, and the ways to launch it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use soma_runtime::{
    Answer, Entry, Io, LaunchError, LifecycleEvent, Message, Orchestrator, Registry, Reply,
    Running, Scope, Service, ServiceState, Settings, Threads,
};
use tokio::sync::broadcast::Receiver;

/// A limit that only a deadlock reaches.
pub(crate) const FOREVER: Duration = Duration::from_mins(10);

/// Does what it is told.
#[derive(Debug, Default)]
pub(crate) struct Victim {
    /// What `Count` counts; gone with the incarnation.
    count: u64,
}

impl Service for Victim {}

/// Adds one and answers the sum of this incarnation.
pub(crate) struct Count;

impl Message for Count {
    type Result = u64;
}

impl Answer<Count> for Victim {
    fn answer(&mut self, _: Count, _: &Scope<Self>) -> Reply<u64> {
        self.count += 1;
        Reply::Now(self.count)
    }
}

type Work = Box<dyn FnOnce(&Scope<Victim>) -> Reply<u64> + Send>;

/// Runs a function in the handler.
pub(crate) struct Run(Work);

impl Run {
    pub(crate) fn new(work: impl FnOnce(&Scope<Victim>) -> Reply<u64> + Send + 'static) -> Self {
        Self(Box::new(work))
    }
}

impl Message for Run {
    type Result = u64;
}

impl Answer<Run> for Victim {
    fn answer(&mut self, Run(work): Run, scope: &Scope<Self>) -> Reply<u64> {
        work(scope)
    }
}

/// Everything on the calling arbiter.
pub(crate) async fn launch_here(
    specs: impl IntoIterator<Item = Entry>,
) -> Result<Running, LaunchError> {
    Orchestrator::launch(Registry::new(specs), Settings::testing().unwrap()).await
}

/// Settings with threads per service and a seed.
pub(crate) fn threads() -> Settings {
    let io = Io::current().unwrap();
    Settings { threads: Threads::PerService, seed: Some(7), exit: |_| {}, ..Settings::new(io) }
}

/// Runs a test in an actix system whose time is paused.
pub(crate) fn paused<F: Future>(test: F) -> F::Output {
    let runner = actix_rt::System::with_tokio_rt(|| {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .start_paused(true)
            .build()
            .unwrap()
    });
    runner.block_on(test)
}

/// Waits for the event that brings `service` into `state`.
pub(crate) async fn until(
    events: &mut Receiver<LifecycleEvent>,
    service: &str,
    state: ServiceState,
) -> LifecycleEvent {
    loop {
        let event = tokio::time::timeout(FOREVER, events.recv()).await.expect("event").unwrap();
        if &*event.service == service && event.to == state {
            return event;
        }
    }
}

/// A number that tests share between incarnations.
#[derive(Debug, Clone, Default)]
pub(crate) struct Tally(Arc<AtomicU64>);

impl Tally {
    pub(crate) fn add(&self) -> u64 {
        self.0.fetch_add(1, Ordering::SeqCst) + 1
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::SeqCst)
    }
}
