//! The state that every request shares.

use std::{fmt, sync::Arc};

use async_trait::async_trait;
use prometheus::Registry;
use serde_json::Value;
use soma_contract::{
    Clock, Ids,
    persona::Persona,
    port::{live::Live, model::Model, policy::Policy, store::Store},
    tool::ToolCatalog,
};
use soma_gateway::Accept;
use soma_runtime::{Io, Outlet};
use tokio::sync::watch;

use super::{
    access::{Access, AccessError},
    health::HealthSource,
    idempotency::InProgress,
    metrics::Metrics,
    rate::Buckets,
    settings::Settings,
};

/// Sets what is logged; an error says what is wrong with the filter.
pub type SetLogLevel = Arc<dyn Fn(&str) -> Result<(), String> + Send + Sync>;

/// The supervision tree, as far as operators see and touch it.
#[async_trait]
pub trait Supervision: Send + Sync + fmt::Debug {
    /// Returns the tree, as an object with `services`: each with state, generation, since when
    /// and why.
    fn tree(&self) -> Value;

    /// Returns what is known of one service, or `None` if there is none of that name.
    fn service(&self, name: &str) -> Option<Value>;

    /// Restarts a service and returns when its new incarnation is ready.
    ///
    /// # Errors
    ///
    /// See [`RestartError`].
    async fn restart(&self, name: &str) -> Result<(), RestartError>;

    /// Makes a service misbehave once; false if there is none of that name. Test builds only.
    #[cfg(feature = "failpoints")]
    fn inject(&self, _name: &str, _fault: soma_runtime::Fault) -> bool {
        false
    }
}

/// Why a service was not restarted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RestartError {
    /// No service has that name.
    #[error("no service is called `{0}`")]
    Unknown(String),
    /// It did not come up, or the process is shutting down.
    #[error("the service did not restart: {0}")]
    Failed(String),
}

/// Everything that the edge is made of.
#[derive(Clone)]
pub struct Parts {
    /// The truth.
    pub store: Arc<dyn Store>,
    /// Deltas, nudges and rate limits.
    pub live: Arc<dyn Live>,
    /// Who may do what.
    pub policy: Arc<dyn Policy>,
    /// Which tools there are.
    pub tools: Arc<dyn ToolCatalog>,
    /// Names the model that answers.
    pub model: Arc<dyn Model>,
    /// The way to the gateway service.
    pub accept: Outlet<Accept>,
    /// The supervision tree.
    pub supervision: Arc<dyn Supervision>,
    /// What the probes have found.
    pub health: Arc<dyn HealthSource>,
    /// Sets what is logged.
    pub set_log_level: SetLogLevel,
    /// The personas that every tenant has, unless it has its own of the same id.
    pub personas: Arc<[Persona]>,
    /// The wall clock.
    pub clock: Arc<dyn Clock>,
    /// Where new ids come from.
    pub ids: Arc<dyn Ids>,
    /// Where port calls run.
    pub io: Io,
    /// Where the metrics are registered and read.
    pub registry: Registry,
    /// The settings.
    pub settings: Settings,
}

impl fmt::Debug for Parts {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Parts").field("settings", &self.settings).finish_non_exhaustive()
    }
}

/// Why the edge cannot be built.
#[derive(Debug, thiserror::Error)]
pub enum EdgeError {
    /// The settings about tokens are of no use.
    #[error("the settings of authentication are unusable")]
    Access(#[from] AccessError),
    /// A metric cannot be registered.
    #[error("the metrics of the edge cannot be registered")]
    Metrics(#[from] prometheus::Error),
}

/// The state that every request shares; cheap to clone.
#[derive(Clone)]
pub struct Edge(Arc<Inner>);

struct Inner {
    parts: Parts,
    access: Access,
    buckets: Buckets,
    in_progress: InProgress,
    metrics: Metrics,
    draining: watch::Sender<bool>,
}

impl fmt::Debug for Edge {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Edge").field("parts", &self.0.parts).finish_non_exhaustive()
    }
}

impl Edge {
    /// Builds the edge; no I/O, and nothing is spawned.
    ///
    /// # Errors
    ///
    /// See [`EdgeError`].
    pub fn new(parts: Parts) -> Result<Self, EdgeError> {
        let access = Access::new(&parts.settings.auth)?;
        let metrics = Metrics::register(&parts.registry)?;
        let (draining, _) = watch::channel(false);
        Ok(Self(Arc::new(Inner {
            parts,
            access,
            buckets: Buckets::default(),
            in_progress: InProgress::default(),
            metrics,
            draining,
        })))
    }

    /// Tells every stream to ask its reader to come back, and to close. Repeatable.
    pub fn drain(&self) {
        self.0.draining.send_replace(true);
    }

    /// Returns what turns true when the drain begins.
    pub(super) fn draining(&self) -> watch::Receiver<bool> {
        self.0.draining.subscribe()
    }

    /// Returns whether the drain has begun.
    pub(super) fn is_draining(&self) -> bool {
        *self.0.draining.borrow()
    }

    /// Returns when a drain has lasted so long that whoever waits for a turn is to be told to come
    /// back, which is better than a connection that breaks.
    pub(super) async fn patience_over(&self) {
        // The sender is ours, so that it cannot be gone.
        self.draining().wait_for(|draining| *draining).await.ok();
        tokio::time::sleep(self.settings().limits.drain_patience).await;
    }

    /// Returns the settings.
    pub fn settings(&self) -> &Settings {
        &self.0.parts.settings
    }

    pub(super) fn parts(&self) -> &Parts {
        &self.0.parts
    }

    pub(super) fn access(&self) -> &Access {
        &self.0.access
    }

    pub(super) fn buckets(&self) -> &Buckets {
        &self.0.buckets
    }

    pub(super) fn in_progress(&self) -> &InProgress {
        &self.0.in_progress
    }

    pub(super) fn metrics(&self) -> &Metrics {
        &self.0.metrics
    }
}
