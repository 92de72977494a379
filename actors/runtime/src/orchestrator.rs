//! The root actor, on a thread that hosts nothing else, and the handle to a running tree.

use std::{fmt, sync::Arc, time::Duration};

use actix::{
    Actor, AsyncContext, Context, Handler, ResponseActFuture, WrapFuture, fut::ActorFutureExt,
};
use actix_rt::System;
use tokio::sync::{broadcast, oneshot};

use crate::{
    event::LifecycleEvent,
    guard::install_panic_hook,
    health::UnifiedHealthMonitor,
    host::{Host, Hosts},
    metrics::TreeMetrics,
    registry::Registry,
    report::{Halt, LaunchError, RestartError, StopReport},
    settings::{Settings, Threads},
    supervisor::Brood,
    tree::{Tree, TreeSnapshot},
    watchdog::{Liveness, Watchdog},
};

/// The root of the tree.
///
/// [`launch`](Self::launch) makes it; everything else goes through [`Running`].
pub struct Orchestrator {
    tree: Arc<Tree>,
    brood: Arc<Brood>,
    watchdog: Arc<Watchdog>,
}

impl fmt::Debug for Orchestrator {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Orchestrator").field("brood", &self.brood).finish_non_exhaustive()
    }
}

struct Start;

impl actix::Message for Start {
    type Result = Result<(), LaunchError>;
}

struct Stop;

impl actix::Message for Stop {
    type Result = StopReport;
}

struct Restart(String);

impl actix::Message for Restart {
    type Result = Result<(), RestartError>;
}

impl Orchestrator {
    /// Starts every service of the registry, from the inside out. Call it within an actix system.
    ///
    /// # Errors
    /// The registry is faulty, or a service did not start; what had been started was stopped.
    pub async fn launch(registry: Registry, settings: Settings) -> Result<Running, LaunchError> {
        let plan = registry.check()?;
        tracing::info!(%plan, "launching services");
        install_panic_hook();
        let (tree, host) = plant(settings)?;
        let brood = Brood::adopt(registry, &tree, None)?;
        let watchdog = Watchdog::start(Arc::clone(&tree), Arc::clone(&host))
            .map_err(|error| LaunchError::Orchestrator(error.to_string()))?;
        let monitor = UnifiedHealthMonitor::new(Arc::clone(&tree), Arc::clone(&brood));
        register_metrics(&tree, &brood);
        let root = Self {
            tree: Arc::clone(&tree),
            brood: Arc::clone(&brood),
            watchdog: Arc::clone(&watchdog),
        };
        let root = root_address(root, &host).await?;
        let started = root.send(Start).await;
        let running = Running { inner: Arc::new(Inner { tree, brood, watchdog, monitor, root }) };
        let started =
            started.unwrap_or_else(|error| Err(LaunchError::Orchestrator(error.to_string())));
        match started {
            Ok(()) => running.inner.monitor.run(),
            Err(_) => running.inner.end(),
        }
        started.map(|()| running)
    }

    fn end_all(&self) -> impl Future<Output = StopReport> + use<> {
        let (tree, brood) = (Arc::clone(&self.tree), Arc::clone(&self.brood));
        async move {
            brood.stop(&tree, tree.stop_by()).await;
            let halt = tree.halted.borrow().clone();
            let leaked_threads = tree.hosts.leaked.load(std::sync::atomic::Ordering::Relaxed);
            StopReport { services: brood.endings(), halt, leaked_threads }
        }
    }
}

/// Makes the tree and the root's host.
fn plant(settings: Settings) -> Result<(Arc<Tree>, Arc<Host>), LaunchError> {
    let unrooted = |what: &str| LaunchError::Orchestrator(what.to_owned());
    let system = System::try_current().ok_or_else(|| unrooted("there is no actix system"))?;
    let name: Arc<str> = Arc::from("orchestrator");
    match settings.threads {
        Threads::Caller => {
            let host = Host::here(name).ok_or_else(|| unrooted("there is no arbiter"))?;
            let hosts = Hosts::new(system, Some(Arc::clone(&host)));
            Ok((Tree::new(settings, hosts), host))
        }
        Threads::PerService => {
            let tree = Tree::new(settings, Hosts::new(system, None));
            let host = tree.hosts.own(&name).map_err(|error| unrooted(&error.to_string()))?;
            Ok((tree, host))
        }
    }
}

fn register_metrics(tree: &Arc<Tree>, brood: &Arc<Brood>) {
    let metrics = TreeMetrics::new(Arc::clone(tree), Arc::clone(brood));
    let registered = metrics.and_then(|metrics| tree.settings.metrics.register(Box::new(metrics)));
    if let Err(error) = registered {
        tracing::warn!(%error, "the tree has no metrics");
    }
}

async fn root_address(
    root: Orchestrator,
    host: &Host,
) -> Result<actix::Addr<Orchestrator>, LaunchError> {
    let (sender, receiver) = oneshot::channel();
    host.arbiter().spawn_fn(move || drop(sender.send(root.start())));
    receiver.await.map_err(|error| LaunchError::Orchestrator(error.to_string()))
}

impl Actor for Orchestrator {
    type Context = Context<Self>;

    /// Waits for the death of a critical service, and ends the system in order when it comes.
    fn started(&mut self, context: &mut Self::Context) {
        let mut halted = self.tree.halted.subscribe();
        let death = async move { halted.wait_for(Option::is_some).await.is_ok() };
        context.spawn(death.into_actor(self).then(|_, root, _| {
            let limit = root.tree.settings.halt_deadline;
            root.tree.shorten_stop(root.tree.now() + limit);
            root.watchdog.end_process_after(limit + Duration::from_secs(5), 70);
            root.end_all().into_actor(root).map(|_report, _, _| ())
        }));
    }
}

impl Handler<Start> for Orchestrator {
    type Result = ResponseActFuture<Self, Result<(), LaunchError>>;

    fn handle(&mut self, _: Start, _: &mut Self::Context) -> Self::Result {
        let (tree, brood) = (Arc::clone(&self.tree), Arc::clone(&self.brood));
        Box::pin(async move { brood.start(&tree).await }.into_actor(self))
    }
}

impl Handler<Stop> for Orchestrator {
    type Result = ResponseActFuture<Self, StopReport>;

    fn handle(&mut self, _: Stop, _: &mut Self::Context) -> Self::Result {
        Box::pin(self.end_all().into_actor(self))
    }
}

impl Handler<Restart> for Orchestrator {
    type Result = ResponseActFuture<Self, Result<(), RestartError>>;

    fn handle(&mut self, Restart(name): Restart, _: &mut Self::Context) -> Self::Result {
        let (tree, brood) = (Arc::clone(&self.tree), Arc::clone(&self.brood));
        Box::pin(async move { brood.restart(&tree, &name).await }.into_actor(self))
    }
}

/// A running tree. Clones are handles to the same one.
#[derive(Clone)]
pub struct Running {
    inner: Arc<Inner>,
}

struct Inner {
    tree: Arc<Tree>,
    brood: Arc<Brood>,
    watchdog: Arc<Watchdog>,
    monitor: UnifiedHealthMonitor,
    root: actix::Addr<Orchestrator>,
}

impl Inner {
    /// Lets go of the root's thread and sends the watchdog home.
    fn end(&self) {
        self.tree.over.store(true, std::sync::atomic::Ordering::Relaxed);
        self.tree.hosts.end();
    }
}

impl fmt::Debug for Running {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Running").field("brood", &self.inner.brood).finish_non_exhaustive()
    }
}

impl Running {
    /// Returns the tree as it is now.
    pub fn tree(&self) -> TreeSnapshot {
        let tree = &self.inner.tree;
        TreeSnapshot {
            services: self.inner.brood.snapshot(tree),
            halt: tree.halted.borrow().clone(),
            leaked_threads: tree.hosts.leaked.load(std::sync::atomic::Ordering::Relaxed),
        }
    }

    /// Listens to the changes of state from now on.
    pub fn events(&self) -> broadcast::Receiver<LifecycleEvent> {
        self.inner.tree.events.subscribe()
    }

    /// Returns the health monitor.
    pub fn health(&self) -> &UnifiedHealthMonitor {
        &self.inner.monitor
    }

    /// Returns how long ago each thread was seen to get anywhere, for `/live`.
    pub fn liveness(&self) -> Liveness {
        self.inner.watchdog.liveness()
    }

    /// Replaces a service's incarnation, at any depth, and waits until the new one is ready. It is
    /// no death: budgets and back-off are cleared. A supervisor takes its children with it.
    ///
    /// # Errors
    /// See [`RestartError`].
    pub async fn restart(&self, name: &str) -> Result<(), RestartError> {
        let restarted = self.inner.root.send(Restart(name.to_owned())).await;
        restarted.unwrap_or_else(|_| Err(RestartError::NotRunning(name.to_owned())))
    }

    /// Stops every service in the reverse of the start, within `deadline`, and tells how it went.
    ///
    /// It may be called again while it runs: an earlier deadline then cuts the drains short.
    pub async fn stop(&self, deadline: Duration) -> StopReport {
        let tree = &self.inner.tree;
        tree.shorten_stop(tree.now() + deadline);
        let report = self.inner.root.send(Stop).await.unwrap_or_else(|_| StopReport {
            services: self.inner.brood.endings(),
            halt: tree.halted.borrow().clone(),
            leaked_threads: tree.hosts.leaked.load(std::sync::atomic::Ordering::Relaxed),
        });
        self.inner.end();
        report
    }

    /// Waits for the death of a critical service. The tree is then ending by itself; call
    /// [`stop`](Self::stop) to see it through, and exit with [`StopReport::exit_code`].
    pub async fn halted(&self) -> Halt {
        let mut halted = self.inner.tree.halted.subscribe();
        match halted.wait_for(Option::is_some).await.map(|halt| halt.clone()) {
            Ok(Some(halt)) => halt,
            _ => std::future::pending().await,
        }
    }

    /// Ends the process with `code` after `time`, whatever hangs by then, unless it has ended.
    pub fn end_process_after(&self, time: Duration, code: i32) {
        self.inner.watchdog.end_process_after(time, code);
    }

    /// Makes a service misbehave, once; false if there is none of that name.
    #[cfg(feature = "failpoints")]
    pub fn inject(&self, name: &str, fault: crate::fault::Fault) -> bool {
        let Some(cell) = self.inner.brood.cell(name) else { return false };
        cell.inject(fault);
        true
    }
}
