//! What the edge shows of the process: health, the supervision tree, restarts on order.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use serde_json::Value;
use soma_runtime::{HealthStatus as RuntimeStatus, Running};

use crate::http::{
    ComponentHealth, HealthReport, HealthSource, HealthStatus, RestartError, Supervision,
};

/// A thread that has not ticked for this long is dead to `/live`.
const LIVE_LIMIT: Duration = Duration::from_secs(10);
/// Critical services are replaced by us first.
const CRITICAL_LIVE_LIMIT: Duration = Duration::from_secs(30);

/// The running process, as far as it has come up. Clones are handles to the same one.
#[derive(Debug, Clone, Default)]
pub(super) struct Watch {
    inner: Arc<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    running: OnceLock<Running>,
    serving: AtomicBool,
    draining: AtomicBool,
    ready_needs_store: AtomicBool,
}

impl Watch {
    /// Makes a watch over a process that has not come up. With `ready_needs_store`, `/ready` says
    /// no while the store does not answer.
    pub(super) fn new(ready_needs_store: bool) -> Self {
        let watch = Self::default();
        watch.inner.ready_needs_store.store(ready_needs_store, Ordering::Relaxed);
        watch
    }

    /// Tells that the tree is up.
    pub(super) fn started(&self, running: Running) {
        if self.inner.running.set(running).is_err() {
            tracing::error!("the tree was started twice");
        }
    }

    /// Tells that requests are served.
    pub(super) fn serving(&self) {
        self.inner.serving.store(true, Ordering::Relaxed);
    }

    /// Tells that the process drains: no new requests, please.
    pub(super) fn draining(&self) {
        self.inner.draining.store(true, Ordering::Relaxed);
    }

    fn running(&self) -> Result<&Running, String> {
        self.inner.running.get().ok_or_else(|| "the services are starting".to_owned())
    }
}

impl HealthSource for Watch {
    fn live(&self) -> Result<(), String> {
        let Ok(running) = self.running() else { return Ok(()) };
        if self.inner.draining.load(Ordering::Relaxed) || running.tree().halt.is_some() {
            return Ok(());
        }
        let liveness = running.liveness();
        if liveness.is_alive(LIVE_LIMIT, CRITICAL_LIVE_LIMIT) {
            return Ok(());
        }
        let stuck: Vec<_> = liveness
            .threads
            .iter()
            .filter(|thread| thread.age > LIVE_LIMIT)
            .map(|thread| format!("{} has not moved for {} s", thread.name, thread.age.as_secs()))
            .collect();
        Err(stuck.join(", "))
    }

    fn started(&self) -> Result<(), String> {
        self.running()?;
        if self.inner.serving.load(Ordering::Relaxed) {
            Ok(())
        } else {
            Err("the API does not listen yet".to_owned())
        }
    }

    fn ready(&self) -> Result<(), String> {
        HealthSource::started(self)?;
        if self.inner.draining.load(Ordering::Relaxed) {
            return Err("draining".to_owned());
        }
        let running = self.running()?;
        if let Some(halt) = running.tree().halt {
            return Err(halt.to_string());
        }
        let overloaded = running
            .tree()
            .services
            .iter()
            .find(|service| service.bound > 0 && service.in_flight * 10 >= service.bound as u64 * 9)
            .map(|service| format!("{} is overloaded", service.name));
        if let Some(reason) = overloaded {
            return Err(reason);
        }
        let store_down = self.inner.ready_needs_store.load(Ordering::Relaxed)
            && self.report().components.get("store").is_some_and(|c| c.status != HealthStatus::Ok);
        if store_down { Err("the store does not answer".to_owned()) } else { Ok(()) }
    }

    fn report(&self) -> HealthReport {
        let Ok(running) = self.running() else {
            return HealthReport { status: HealthStatus::Down, components: [].into() };
        };
        let snapshot = running.health().snapshot();
        let components: BTreeMap<_, _> = snapshot
            .components
            .into_iter()
            .map(|(name, health)| {
                let component = ComponentHealth {
                    status: status(health.status),
                    latency_ms: Some(health.latency_ms),
                    since: Some(health.since),
                    last_error: health.last_error,
                };
                (name, component)
            })
            .collect();
        // Without the store nothing can be accepted or answered; without another port, less.
        let store_down = components.get("store").is_some_and(|c| c.status == HealthStatus::Down);
        let whole = if store_down { HealthStatus::Down } else { status(snapshot.status) };
        HealthReport { status: whole, components }
    }
}

fn status(status: RuntimeStatus) -> HealthStatus {
    match status {
        RuntimeStatus::Ok => HealthStatus::Ok,
        RuntimeStatus::Degraded => HealthStatus::Degraded,
        RuntimeStatus::Down => HealthStatus::Down,
    }
}

#[async_trait]
impl Supervision for Watch {
    fn tree(&self) -> Value {
        self.running()
            .ok()
            .and_then(|running| serde_json::to_value(running.tree()).ok())
            .unwrap_or_default()
    }

    fn service(&self, name: &str) -> Option<Value> {
        let tree = self.running().ok()?.tree();
        serde_json::to_value(tree.find(name)?).ok()
    }

    async fn restart(&self, name: &str) -> Result<(), RestartError> {
        let running = self.running().map_err(RestartError::Failed)?;
        running.restart(name).await.map_err(|error| match error {
            soma_runtime::RestartError::NoSuchService(name) => RestartError::Unknown(name),
            other => RestartError::Failed(other.to_string()),
        })
    }

    #[cfg(feature = "failpoints")]
    fn inject(&self, name: &str, fault: soma_runtime::Fault) -> bool {
        self.running().is_ok_and(|running| running.inject(name, fault))
    }
}
