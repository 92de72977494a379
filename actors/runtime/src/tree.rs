//! What all services of one tree share, and the tree as it is shown.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use chrono::{DateTime, TimeDelta, Utc};
use rand::{SeedableRng, rngs::SmallRng};
use serde::Serialize;
use tokio::{
    sync::{broadcast, watch},
    time::Instant,
};

use crate::{
    cause::Cause,
    decide::{Record, State},
    event::{LifecycleEvent, ServiceState},
    host::Hosts,
    report::Halt,
    service::Health,
    settings::Settings,
};

/// Events that a slow listener may be behind before it loses the oldest.
const EVENTS: usize = 1024;

/// What all services of one tree share.
#[derive(Debug)]
pub(crate) struct Tree {
    pub(crate) settings: Settings,
    pub(crate) hosts: Hosts,
    pub(crate) rng: Mutex<SmallRng>,
    pub(crate) events: broadcast::Sender<LifecycleEvent>,
    pub(crate) halted: watch::Sender<Option<Halt>>,
    /// The time, in milliseconds of the tree, at which every drain is to be over.
    stop_by_millis: AtomicU64,
    /// Set when the tree has ended; the watchdog goes home.
    pub(crate) over: AtomicBool,
    origin: Instant,
    began: DateTime<Utc>,
}

impl Tree {
    pub(crate) fn new(settings: Settings, hosts: Hosts) -> Arc<Self> {
        let seed = settings.seed.unwrap_or_else(rand::random);
        tracing::debug!(seed, "launching a tree");
        Arc::new(Self {
            settings,
            hosts,
            rng: Mutex::new(SmallRng::seed_from_u64(seed)),
            events: broadcast::Sender::new(EVENTS),
            halted: watch::Sender::new(None),
            stop_by_millis: AtomicU64::new(u64::MAX),
            over: AtomicBool::new(false),
            origin: Instant::now(),
            began: Utc::now(),
        })
    }

    /// Returns the time since the tree was launched.
    pub(crate) fn now(&self) -> Duration {
        self.origin.elapsed()
    }

    pub(crate) fn instant(&self, time: Duration) -> Instant {
        self.origin + time
    }

    pub(crate) fn wall(&self, time: Duration) -> DateTime<Utc> {
        self.began + TimeDelta::from_std(time).unwrap_or(TimeDelta::zero())
    }

    /// Orders every drain to be over at `by`; only an earlier order counts.
    pub(crate) fn shorten_stop(&self, by: Duration) {
        let millis = u64::try_from(by.as_millis()).unwrap_or(u64::MAX);
        self.stop_by_millis.fetch_min(millis, Ordering::AcqRel);
    }

    pub(crate) fn stop_by(&self) -> Duration {
        Duration::from_millis(self.stop_by_millis.load(Ordering::Acquire))
    }

    /// Says whether the tree is ending, so that nothing is restarted by hand any more.
    pub(crate) fn is_ending(&self) -> bool {
        self.stop_by_millis.load(Ordering::Acquire) != u64::MAX || self.halted.borrow().is_some()
    }

    /// Describes a change of state.
    pub(crate) fn event(
        &self,
        service: &Arc<str>,
        before: State,
        record: &Record,
        cause: Option<Cause>,
    ) -> LifecycleEvent {
        LifecycleEvent {
            at: self.wall(record.since),
            service: Arc::clone(service),
            generation: record.generation,
            from: before.into(),
            to: record.state.into(),
            cause,
        }
    }

    /// Tells of a change of state to whoever listens.
    pub(crate) fn tell(&self, event: &LifecycleEvent) {
        if self.events.receiver_count() > 0 {
            // The last listener may just have left.
            drop(self.events.send(event.clone()));
        }
    }

    /// Ends the system because a critical service died; the first such death is the cause.
    pub(crate) fn halt(&self, service: &Arc<str>, cause: Cause) {
        let halt = Halt { service: Arc::clone(service), cause };
        self.halted.send_if_modified(|halted| {
            if halted.is_some() {
                return false;
            }
            tracing::error!(service = %halt.service, cause = %halt.cause, "halting");
            *halted = Some(halt);
            true
        });
    }
}

/// The supervision tree at one moment.
#[derive(Debug, Clone, Serialize)]
pub struct TreeSnapshot {
    /// The services, in the order of declaration.
    pub services: Vec<ServiceSnapshot>,
    /// The death that is ending the system, if there was one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub halt: Option<Halt>,
    /// Threads that hung and were left behind.
    pub leaked_threads: u64,
}

/// A service at one moment.
#[derive(Debug, Clone, Serialize)]
pub struct ServiceSnapshot {
    /// Its name.
    pub name: Arc<str>,
    /// Where it stands.
    pub state: ServiceState,
    /// The number of its incarnation.
    pub generation: u64,
    /// Since when it has been in that state.
    pub since: DateTime<Utc>,
    /// Whether the system halts when it dies.
    pub critical: bool,
    /// What must be ready before it.
    pub needs: Vec<String>,
    /// The first fault since it was last healthy.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cause: Option<Cause>,
    /// The newest fault of all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_fault: Option<Cause>,
    /// When it is tried again, where it is not running.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_try: Option<DateTime<Utc>>,
    /// What it last said of itself.
    pub health: Health,
    /// How often it was restarted after a fault.
    pub restarts: u64,
    /// How often it panicked.
    pub panics: u64,
    /// How often its thread hung.
    pub hangs: u64,
    /// Temporary children that are running.
    pub temporary_children: u64,
    /// How often one of those panicked.
    pub child_panics: u64,
    /// Calls in flight.
    pub in_flight: u64,
    /// Calls that may be in flight.
    pub bound: usize,
    /// What it supervises.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub children: Vec<Self>,
}

impl TreeSnapshot {
    /// Finds a service by its name, at any depth.
    pub fn find(&self, name: &str) -> Option<&ServiceSnapshot> {
        self.services.iter().find_map(|service| service.find(name))
    }
}

impl ServiceSnapshot {
    fn find(&self, name: &str) -> Option<&Self> {
        if &*self.name == name {
            return Some(self);
        }
        self.children.iter().find_map(|child| child.find(name))
    }
}
