//! The record of one service that all threads share: its state, its gate and its counters.
//!
//! The state is the order. Whoever learns of an event applies it here, on whatever thread; the
//! service's runner, woken, sees what it should be doing and does it.

use std::{
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use futures::task::AtomicWaker;
use tokio::sync::watch;

use crate::{
    cause::{Cause, CauseKind},
    decide::{Action, Event, Record, State, decide},
    event::{Phase, ServiceState},
    health::Probed,
    policy::RestartPolicy,
    report::Ending,
    tree::Tree,
};

/// What a spec fixes about a service.
#[derive(Debug, Clone)]
pub(crate) struct Terms {
    pub(crate) critical: bool,
    pub(crate) start_deadline: Duration,
    pub(crate) stop_deadline: Duration,
    pub(crate) message_deadline: Duration,
    pub(crate) bound: usize,
    pub(crate) placement: crate::spec::Placement,
    /// `None`: the default for its criticality.
    pub(crate) policy: Option<RestartPolicy>,
}

/// What callers and supervisors watch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Gate {
    pub(crate) line: u64,
    pub(crate) phase: Phase,
    pub(crate) state: ServiceState,
    pub(crate) generation: u64,
    /// Whether a runner of the present line exists.
    pub(crate) placed: bool,
}

/// How often things happened to a service.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) restarts: AtomicU64,
    pub(crate) panics: AtomicU64,
    pub(crate) hangs: AtomicU64,
    pub(crate) child_panics: AtomicU64,
    pub(crate) children: AtomicU64,
    pub(crate) in_flight: AtomicU64,
}

/// Gives a service a runner; implemented by the typed part of a link.
pub(crate) trait Place: Send + Sync {
    /// Makes a new mailbox and a runner for it, on the thread that the placement asks for.
    fn place(self: Arc<Self>, line: u64) -> std::io::Result<()>;
}

/// The shared record of a service.
pub(crate) struct Cell {
    pub(crate) id: u64,
    pub(crate) name: Arc<str>,
    pub(crate) gate: watch::Sender<Gate>,
    pub(crate) counters: Counters,
    pub(crate) waker: AtomicWaker,
    pub(crate) probed: Mutex<Probed>,
    /// Whether the newest drain was cut off by its deadline.
    pub(crate) forced: AtomicBool,
    /// How the service ended, once its supervisor has seen it end.
    pub(crate) ending: Mutex<Option<(Ending, Duration)>>,
    #[cfg(feature = "failpoints")]
    pub(crate) fault: Mutex<Option<crate::fault::Fault>>,
    record: Mutex<Record>,
    generation: AtomicU64,
    line: AtomicU64,
    tree: OnceLock<Adopted>,
    place: OnceLock<Weak<dyn Place>>,
}

/// Set once, when a tree takes the service.
struct Adopted {
    tree: Arc<Tree>,
    terms: Terms,
    policy: RestartPolicy,
    parent: Option<Weak<Cell>>,
}

impl fmt::Debug for Cell {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Cell").field("name", &self.name).finish_non_exhaustive()
    }
}

/// Locks a mutex whose holders never leave it half changed.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Cell {
    pub(crate) fn new(name: Arc<str>) -> Arc<Self> {
        static IDS: AtomicU64 = AtomicU64::new(1);
        let gate = Gate {
            line: 0,
            phase: Phase::Closed,
            state: ServiceState::Registered,
            generation: 0,
            placed: false,
        };
        Arc::new(Self {
            id: IDS.fetch_add(1, Ordering::Relaxed),
            name,
            gate: watch::Sender::new(gate),
            counters: Counters::default(),
            waker: AtomicWaker::new(),
            probed: Mutex::new(Probed::default()),
            forced: AtomicBool::new(false),
            ending: Mutex::new(None),
            #[cfg(feature = "failpoints")]
            fault: Mutex::new(None),
            record: Mutex::new(Record::new()),
            generation: AtomicU64::new(0),
            line: AtomicU64::new(0),
            tree: OnceLock::new(),
            place: OnceLock::new(),
        })
    }

    /// Says who makes runners for this service.
    pub(crate) fn set_place(&self, place: Weak<dyn Place>) {
        self.place.get_or_init(|| place);
    }

    /// Puts the service into a tree, for good.
    pub(crate) fn adopt(&self, tree: &Arc<Tree>, terms: Terms, parent: Option<&Arc<Self>>) {
        let mut policy = terms.policy.clone().unwrap_or_else(|| {
            let settings = &tree.settings;
            if terms.critical {
                let window = settings.restart.window;
                RestartPolicy { window, ..RestartPolicy::critical(settings.critical_budget) }
            } else {
                settings.restart.clone()
            }
        });
        if parent.is_some() {
            policy.when_spent = crate::policy::WhenSpent::Escalate;
        }
        let parent = parent.map(Arc::downgrade);
        self.tree.get_or_init(|| Adopted { tree: Arc::clone(tree), terms, policy, parent });
    }

    /// Returns what the spec fixed; the defaults until the service is in a tree.
    pub(crate) fn terms(&self) -> &Terms {
        static DEFAULT: OnceLock<Terms> = OnceLock::new();
        match self.tree.get() {
            Some(adopted) => &adopted.terms,
            None => DEFAULT.get_or_init(Terms::default),
        }
    }

    pub(crate) fn tree(&self) -> Option<&Arc<Tree>> {
        self.tree.get().map(|adopted| &adopted.tree)
    }

    pub(crate) fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    pub(crate) fn line(&self) -> u64 {
        self.line.load(Ordering::Acquire)
    }

    pub(crate) fn gate(&self) -> Gate {
        *self.gate.borrow()
    }

    pub(crate) fn state(&self) -> State {
        lock(&self.record).state
    }

    pub(crate) fn record(&self) -> Record {
        lock(&self.record).clone()
    }

    /// Says whether the service has been up for so long that its past does not count any more,
    /// even if nothing has happened since that would have told its record.
    pub(crate) fn is_healthy(&self, record: &Record, now: Duration) -> bool {
        self.tree.get().is_some_and(|adopted| record.is_healthy(&adopted.policy, now))
    }

    /// Applies an event, whatever the generation.
    pub(crate) fn apply(self: &Arc<Self>, event: Event) {
        self.apply_if(None, event);
    }

    /// Applies what generation `generation` reports of itself, unless it has been replaced.
    pub(crate) fn report(self: &Arc<Self>, generation: u64, event: Event) {
        self.apply_if(Some(generation), event);
    }

    fn apply_if(self: &Arc<Self>, generation: Option<u64>, event: Event) {
        let Some(adopted) = self.tree.get() else { return };
        let Some((action, line)) = self.decide(adopted, generation, event) else { return };
        match action {
            Action::None => {}
            Action::Place => self.place(line),
            Action::Escalate(cause) => self.escalate(adopted, cause),
        }
        self.waker.wake();
    }

    fn decide(
        &self,
        adopted: &Adopted,
        generation: Option<u64>,
        event: Event,
    ) -> Option<(Action, u64)> {
        let tree = &adopted.tree;
        self.count(&event);
        let mut record = lock(&self.record);
        if generation.is_some_and(|generation| generation != record.generation) {
            return None;
        }
        let before = (record.state, record.generation);
        let fault = match &event {
            Event::Died(cause) | Event::Unplaced(cause) => Some(cause.clone()),
            Event::Hung { innocent: false } => {
                Some(Cause::of(CauseKind::Hang, "the thread did not return from a poll"))
            }
            _ => None,
        };
        // At once after a fault, or when the time of a back-off has come; an order is no restart.
        let unordered = fault.is_some() || event == Event::Timer;
        let now = tree.now();
        let action = decide(&mut record, &adopted.policy, event, now, &mut *lock(&tree.rng));
        let told = (before != (record.state, record.generation)).then(|| {
            if unordered && record.state == State::Starting {
                self.counters.restarts.fetch_add(1, Ordering::Relaxed);
            }
            tree.event(&self.name, before.0, &record, fault)
        });
        self.publish(&record, || {
            if let Some(event) = &told {
                tree.tell(event);
            }
        });
        let line = record.line;
        drop(record);
        // Writing may block, so it is done when nobody waits for a lock of ours.
        if let Some(event) = told {
            event.trace();
        }
        Some((action, line))
    }

    fn count(&self, event: &Event) {
        let counter = match event {
            Event::Died(Cause { kind: CauseKind::Panic, .. }) => &self.counters.panics,
            Event::Hung { innocent: false } => &self.counters.hangs,
            _ => return,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    /// Opens or shuts the gate, and tells of it in the same instant: who has seen the one will
    /// not be surprised by the other.
    fn publish(&self, record: &Record, tell: impl FnOnce()) {
        self.generation.store(record.generation, Ordering::Release);
        self.line.store(record.line, Ordering::Release);
        self.gate.send_if_modified(|gate| {
            tell();
            let next = Gate {
                line: record.line,
                phase: record.state.into(),
                state: record.state.into(),
                generation: record.generation,
                placed: gate.placed && gate.line == record.line,
            };
            std::mem::replace(gate, next) != next
        });
    }

    fn place(self: &Arc<Self>, line: u64) {
        let Some(place) = self.place.get().and_then(Weak::upgrade) else { return };
        self.set_placed(line, true);
        if let Err(error) = place.place(line) {
            self.set_placed(line, false);
            let message = format!("get a thread: {error}");
            self.apply(Event::Unplaced(Cause::of(CauseKind::Placement, message)));
        }
    }

    /// Says that the runner of `line` exists, or is gone: the proof of death.
    pub(crate) fn set_placed(&self, line: u64, placed: bool) {
        self.gate.send_if_modified(|gate| {
            gate.line == line && std::mem::replace(&mut gate.placed, placed) != placed
        });
    }

    fn escalate(&self, adopted: &Adopted, cause: Cause) {
        match adopted.parent.as_ref().and_then(Weak::upgrade) {
            Some(parent) => {
                let message = format!("child `{}` spent its restarts: {cause}", self.name);
                parent.apply(Event::Died(Cause {
                    kind: CauseKind::Child,
                    message,
                    location: cause.location,
                }));
            }
            None => adopted.tree.halt(&self.name, cause),
        }
    }

    /// Says whether the service has ended and nothing of it runs any more.
    pub(crate) fn is_gone(&self) -> bool {
        let gate = self.gate();
        !gate.placed && gate.state == ServiceState::Stopped
    }
}

/// A right to act for one generation of a service; it lapses with the generation.
#[derive(Debug, Clone)]
pub struct Fence {
    cell: Arc<Cell>,
    generation: u64,
}

impl Fence {
    pub(crate) fn new(cell: &Arc<Cell>, generation: u64) -> Self {
        Self { cell: Arc::clone(cell), generation }
    }

    /// Says whether the generation that took the fence is still the service's own.
    pub fn is_current(&self) -> bool {
        self.cell.generation() == self.generation
    }
}
