//! Specs: the declaration of one service, before anything is started.

use std::{fmt, sync::Arc, time::Duration};

use crate::{
    cell::{Cell, Place, Terms},
    link::{Link, LinkCore},
    policy::RestartPolicy,
    registry::Registry,
    service::Service,
    supervisor::{Brood, Supervisor},
    worker::{Nudge, Pace, Worker, WorkerService},
};

/// Which thread a service gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Placement {
    /// One of its own; the default.
    OwnArbiter,
    /// One that it shares with every other service placed so. They hang together.
    Shared,
}

/// The declaration of a service of type `S`. It does nothing until a tree of it is launched.
///
/// A [`Registry`] takes it as an [`Entry`], by `into()`.
pub struct Spec<S: Service> {
    core: Arc<LinkCore<S>>,
    entry: Entry,
}

/// A declaration whose service type no longer matters, as a registry keeps it.
pub struct Entry {
    pub(crate) cell: Arc<Cell>,
    pub(crate) place: Arc<dyn Place>,
    pub(crate) needs: Vec<String>,
    pub(crate) terms: Terms,
    pub(crate) children: Option<Children>,
}

/// What a supervisor's spec was given, and where its brood will be found once it is planned.
pub(crate) struct Children {
    pub(crate) registry: Registry,
    pub(crate) brood: Arc<std::sync::OnceLock<Arc<Brood>>>,
}

impl<S: Service> Spec<S> {
    /// Declares a service. `factory` builds the state of each incarnation, on its thread.
    pub fn new(name: impl Into<Arc<str>>, factory: impl Fn() -> S + Send + Sync + 'static) -> Self {
        let cell = Cell::new(name.into());
        let core = LinkCore::new(Arc::clone(&cell), Box::new(factory));
        let place = Arc::clone(&core) as Arc<dyn Place>;
        let terms = Terms::default();
        Self { core, entry: Entry { cell, place, needs: Vec::new(), terms, children: None } }
    }

    /// Returns the link to the service. It may be used before the service is started.
    pub fn link(&self) -> Link<S> {
        Link(Arc::clone(&self.core))
    }

    /// Says whether the system can live without the service. Default: it can.
    #[must_use]
    pub fn critical(mut self, critical: bool) -> Self {
        self.entry.terms.critical = critical;
        self
    }

    /// Names the services that must be ready before this one is started.
    #[must_use]
    pub fn needs(mut self, names: &[&str]) -> Self {
        self.entry.needs = names.iter().map(|name| (*name).to_owned()).collect();
        self
    }

    /// Bounds the time from start to ready. Default: 10 s.
    #[must_use]
    pub fn start_deadline(mut self, deadline: Duration) -> Self {
        self.entry.terms.start_deadline = deadline;
        self
    }

    /// Bounds the time of a drain. Default: 10 s.
    #[must_use]
    pub fn stop_deadline(mut self, deadline: Duration) -> Self {
        self.entry.terms.stop_deadline = deadline;
        self
    }

    /// Bounds the time from sending a message to its answer. Default: 60 s.
    #[must_use]
    pub fn message_deadline(mut self, deadline: Duration) -> Self {
        self.entry.terms.message_deadline = deadline;
        self
    }

    /// Sets the restart policy. Default: the one of the tree's settings, or
    /// [`RestartPolicy::critical`] with the tree's budget.
    #[must_use]
    pub fn restart(mut self, policy: RestartPolicy) -> Self {
        self.entry.terms.policy = Some(policy);
        self
    }

    /// Bounds the calls that may be in flight, waiting ones included. Default: 256.
    #[must_use]
    pub fn bound(mut self, calls: usize) -> Self {
        self.entry.terms.bound = calls;
        self
    }

    /// Says which thread the service gets. Default: [`Placement::OwnArbiter`].
    #[must_use]
    pub fn placement(mut self, placement: Placement) -> Self {
        self.entry.terms.placement = placement;
        self
    }
}

impl<W: Worker> Spec<WorkerService<W>> {
    /// Declares a worker: the runtime makes pass after pass, at the given pace or when nudged.
    pub fn worker(
        name: impl Into<Arc<str>>,
        factory: impl Fn() -> W + Send + Sync + 'static,
        pace: Pace,
        nudge: Nudge,
    ) -> Self {
        Self::new(name, move || WorkerService::new(factory(), pace, nudge.clone()))
    }
}

impl Spec<Supervisor> {
    /// Declares a supervisor of `children`, with the same rules as at the root. It is ready when
    /// they are; when one of them spends its restart budget, it dies of that.
    pub fn supervisor(name: impl Into<Arc<str>>, children: Registry) -> Self {
        let brood = Arc::new(std::sync::OnceLock::new());
        let found = Arc::clone(&brood);
        let mut spec = Self::new(name, move || Supervisor::new(found.get().cloned()));
        spec.entry.children = Some(Children { registry: children, brood });
        // It starts and stops others, which take their own time.
        spec.entry.terms.start_deadline = Duration::from_secs(30);
        spec.entry.terms.stop_deadline = Duration::from_secs(30);
        spec
    }
}

impl<S: Service> From<Spec<S>> for Entry {
    fn from(spec: Spec<S>) -> Self {
        spec.entry
    }
}

impl<S: Service> fmt::Debug for Spec<S> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.entry.fmt(formatter)
    }
}

impl fmt::Debug for Entry {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Spec")
            .field("name", &self.cell.name)
            .field("needs", &self.needs)
            .field("terms", &self.terms)
            .finish_non_exhaustive()
    }
}

impl Default for Terms {
    fn default() -> Self {
        Self {
            critical: false,
            start_deadline: Duration::from_secs(10),
            stop_deadline: Duration::from_secs(10),
            message_deadline: Duration::from_mins(1),
            bound: 256,
            placement: Placement::OwnArbiter,
            policy: None,
        }
    }
}
