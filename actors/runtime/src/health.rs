//! The health of everything, gathered in the background and read at any time.

use std::{
    collections::BTreeMap,
    fmt,
    future::Future,
    sync::{Arc, Mutex, Weak, atomic::Ordering},
    time::Duration,
};

use chrono::{DateTime, Utc};
use futures::{
    FutureExt,
    future::{BoxFuture, join_all},
};
use serde::Serialize;
use tokio::time::timeout;

use crate::{
    cell::{Cell, lock},
    decide::Event,
    event::ServiceState,
    guard::guarded,
    service::{Health, HealthStatus},
    supervisor::Brood,
    tree::Tree,
};

/// How a component was at its last probe.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ComponentHealth {
    /// How well it is.
    pub status: HealthStatus,
    /// How long the last probe took.
    pub latency_ms: f64,
    /// Since when it has had that status.
    pub since: DateTime<Utc>,
    /// What was last wrong, even if it is well now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_error: Option<String>,
}

/// The health of everything at one moment.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct HealthSnapshot {
    /// `down` when a critical service does not answer, `degraded` when anything is unwell.
    pub status: HealthStatus,
    /// Services and ports, by name.
    pub components: BTreeMap<String, ComponentHealth>,
}

/// What is remembered of a component's probes. Times are the tree's.
#[derive(Debug, Default)]
pub(crate) struct Probed {
    health: Health,
    since: Duration,
    latency: Duration,
    last_error: Option<String>,
    asked: Option<Duration>,
}

impl Probed {
    pub(crate) fn ask(&mut self, now: Duration) {
        self.asked.get_or_insert(now);
    }

    pub(crate) fn answer(&mut self, health: Health, now: Duration) {
        if let Some(asked) = self.asked.take() {
            self.latency = now.saturating_sub(asked);
        }
        if health.status != self.health.status {
            self.since = now;
        }
        if health.detail.is_some() && health.detail != self.last_error {
            self.last_error.clone_from(&health.detail);
        }
        if health != self.health {
            self.health = health;
        }
    }

    pub(crate) fn health(&self) -> Health {
        self.health.clone()
    }

    /// Tells of a component, of which `state` may know worse than its last word.
    fn component(&self, state: Health, since: Duration, tree: &Tree) -> ComponentHealth {
        let now = tree.now();
        let silent = self.asked.map(|asked| now.saturating_sub(asked));
        let overdue = silent.filter(|silent| *silent > tree.settings.probe_period);
        let own = match overdue {
            Some(silent) => Health::degraded(format!("no answer for {} s", silent.as_secs())),
            None => self.health.clone(),
        };
        let worst = own.worst(state);
        let since = if worst.status == self.health.status { self.since } else { since };
        ComponentHealth {
            status: worst.status,
            latency_ms: overdue.unwrap_or(self.latency).as_secs_f64() * 1_000.0,
            since: tree.wall(since),
            last_error: worst.detail.or_else(|| self.last_error.clone()),
        }
    }
}

type PortProbe = Arc<dyn Fn() -> BoxFuture<'static, Health> + Send + Sync>;

struct Port {
    probe: PortProbe,
    probed: Arc<Mutex<Probed>>,
}

/// Probes every service and port in the background and keeps what they say.
///
/// Services are asked out of band of their mailboxes, on their own threads. A probe that does not
/// come back makes its component degraded; it does not hold up the others.
#[derive(Clone)]
pub struct UnifiedHealthMonitor {
    inner: Arc<Monitor>,
}

struct Monitor {
    tree: Arc<Tree>,
    brood: Arc<Brood>,
    ports: Mutex<BTreeMap<String, Port>>,
}

impl fmt::Debug for UnifiedHealthMonitor {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("UnifiedHealthMonitor").finish_non_exhaustive()
    }
}

impl UnifiedHealthMonitor {
    pub(crate) fn new(tree: Arc<Tree>, brood: Arc<Brood>) -> Self {
        Self { inner: Arc::new(Monitor { tree, brood, ports: Mutex::default() }) }
    }

    /// Adds a component that is no service, such as a port; it runs in the I/O runtime.
    pub fn register<F, R>(&self, name: impl Into<String>, probe: F)
    where
        F: Fn() -> R + Send + Sync + 'static,
        R: Future<Output = Health> + Send + 'static,
    {
        let probe: PortProbe = Arc::new(move || probe().boxed());
        let port = Port { probe, probed: Arc::default() };
        lock(&self.inner.ports).insert(name.into(), port);
    }

    /// Returns what is known of every component.
    pub fn snapshot(&self) -> HealthSnapshot {
        self.inner.snapshot()
    }

    /// Probes everything now and waits for the answers, at most for one probe period.
    pub async fn probe(&self) {
        let period = self.inner.tree.settings.probe_period;
        // Whoever has not answered by then is told as such.
        drop(timeout(period, self.inner.probe()).await);
    }

    /// Probes services only, and waits until each has answered.
    pub async fn probe_services(&self) {
        self.inner.probe_services().await;
    }

    pub(crate) fn run(&self) {
        let monitor = Arc::downgrade(&self.inner);
        let settings = &self.inner.tree.settings;
        let period = settings.probe_period;
        settings.io.handle().spawn(watch(monitor, period));
    }
}

async fn watch(monitor: Weak<Monitor>, period: Duration) {
    while let Some(monitor) = monitor.upgrade() {
        if monitor.tree.over.load(Ordering::Relaxed) {
            return;
        }
        drop(timeout(period, monitor.probe()).await);
        drop(monitor);
        tokio::time::sleep(period).await;
    }
}

impl Monitor {
    async fn probe(&self) {
        tokio::join!(self.probe_services(), self.probe_ports());
    }

    async fn probe_services(&self) {
        let now = self.tree.now();
        self.brood.visit(&mut |cell| {
            if cell.gate().placed {
                lock(&cell.probed).ask(now);
            } else {
                // Without a thread it has no clock of its own: its next try may be due.
                cell.apply(Event::Timer);
            }
        });
        for done in self.tree.hosts.all().iter().map(|host| host.probe()).collect::<Vec<_>>() {
            // The sender is dropped when the thread has asked everyone.
            drop(done.await);
        }
    }

    async fn probe_ports(&self) {
        let ports: Vec<_> = lock(&self.ports)
            .iter()
            .map(|(name, port)| (name.clone(), Arc::clone(&port.probe), Arc::clone(&port.probed)))
            .collect();
        let probes = ports.into_iter().map(async |(name, probe, probed)| {
            lock(&probed).ask(self.tree.now());
            let health = guarded(format!("probe of {name}"), async move { probe().await }).await;
            let health = health.unwrap_or_else(|cause| Health::down(cause.to_string()));
            lock(&probed).answer(health, self.tree.now());
        });
        join_all(probes).await;
    }

    fn snapshot(&self) -> HealthSnapshot {
        let mut status = HealthStatus::Ok;
        let mut components = BTreeMap::new();
        self.brood.visit(&mut |cell| {
            let health = self.service(cell);
            let critical_down = health.status == HealthStatus::Down && cell.terms().critical;
            status = status.max(if critical_down {
                HealthStatus::Down
            } else {
                health.status.min(HealthStatus::Degraded)
            });
            components.insert(cell.name.to_string(), health);
        });
        for (name, port) in &*lock(&self.ports) {
            let health = lock(&port.probed).component(Health::ok(), Duration::ZERO, &self.tree);
            status = status.max(health.status.min(HealthStatus::Degraded));
            components.insert(name.clone(), health);
        }
        HealthSnapshot { status, components }
    }

    fn service(&self, cell: &Cell) -> ComponentHealth {
        let record = cell.record();
        let state = match ServiceState::from(record.state) {
            ServiceState::Ready | ServiceState::Degraded => Health::ok(),
            state => {
                let fault = record.last_fault.map(|cause| format!("{state}: {cause}"));
                Health::down(fault.unwrap_or_else(|| state.to_string()))
            }
        };
        lock(&cell.probed).component(state, record.since, &self.tree)
    }
}
