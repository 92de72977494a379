//! Who sits where: the live sessions of one incarnation, and the turns that run.

use std::{
    cell::RefCell,
    collections::{HashMap, HashSet},
    rc::Rc,
};

use soma_contract::{SessionId, TurnId};
use soma_runtime::Drain;
use tokio::{
    sync::{RwLock, Semaphore, watch},
    time::timeout,
};

use crate::{
    Config, Metrics, Ports,
    run::{Shared, Signals},
    stream::Interrupt,
};

/// What the parts of one incarnation share.
#[derive(Debug)]
pub(crate) struct Desk {
    pub(crate) shared: Rc<Shared>,
    /// How many turns may run at once.
    pub(crate) permits: Semaphore,
    /// Held for reading while a claim is under way, for writing while orphans are looked for: a turn
    /// that has just been claimed is no orphan.
    pub(crate) claiming: RwLock<()>,
    /// What the store said last, if it did not answer.
    pub(crate) trouble: RefCell<Option<String>>,
    seats: RefCell<HashMap<SessionId, Rc<Signals>>>,
    alive: RefCell<HashSet<TurnId>>,
    /// Claims under way and turns that run.
    busy: watch::Sender<usize>,
    /// Whether all is done and the last loops may end.
    closed: watch::Sender<bool>,
}

impl Desk {
    pub(crate) fn new(config: Config, ports: Ports, metrics: Metrics, drain: Drain) -> Self {
        let permits = Semaphore::new(config.concurrency.max(1));
        let grace_over = watch::Sender::new(false);
        Self {
            shared: Rc::new(Shared { ports, config, metrics, drain, grace_over }),
            permits,
            claiming: RwLock::new(()),
            trouble: RefCell::default(),
            seats: RefCell::default(),
            alive: RefCell::default(),
            busy: watch::Sender::new(0),
            closed: watch::Sender::new(false),
        }
    }

    /// Returns how to reach the session's child, if it has one.
    pub(crate) fn seat(&self, session_id: SessionId) -> Option<Rc<Signals>> {
        self.seats.borrow().get(&session_id).cloned()
    }

    /// Wakes every child: hints were missed.
    pub(crate) fn wake_all(&self) {
        for signals in self.seats.borrow().values() {
            signals.wake.notify_one();
        }
    }

    /// Returns the turns that run.
    pub(crate) fn alive(&self) -> Vec<TurnId> {
        self.alive.borrow().iter().copied().collect()
    }

    /// Notes whether the store answers; a change is logged.
    pub(crate) fn note(&self, trouble: Option<String>) {
        let before = self.trouble.replace(trouble.clone());
        match (before, trouble) {
            (None, Some(trouble)) => tracing::warn!(trouble, "no turn can be claimed"),
            (Some(_), None) => tracing::info!("turns can be claimed again"),
            _ => {}
        }
    }

    /// Waits for running turns: to their next step boundary, or to the end of the grace.
    pub(crate) async fn drain(&self) {
        let grace = self.shared.config.drain_grace;
        if timeout(grace, self.is_idle()).await.is_err() {
            tracing::warn!(turns = self.alive.borrow().len(), "the drain interrupts turns");
            self.shared.grace_over.send_replace(true);
            for signals in self.seats.borrow().values() {
                signals.interrupt(Interrupt::Drain);
            }
            self.is_idle().await;
        }
        self.closed.send_replace(true);
    }

    async fn is_idle(&self) {
        // The sender is ours, so that it cannot be gone.
        self.busy.subscribe().wait_for(|busy| *busy == 0).await.ok();
    }

    /// Waits until all is done.
    pub(crate) async fn is_closed(&self) {
        self.closed.subscribe().wait_for(|closed| *closed).await.ok();
    }
}

/// A session's seat; given up when dropped, also by a panic.
#[derive(Debug)]
pub(crate) struct Seat {
    desk: Rc<Desk>,
    session_id: SessionId,
}

impl Seat {
    /// Takes a seat for a session that has none.
    pub(crate) fn take(desk: &Rc<Desk>, session_id: SessionId) -> (Self, Rc<Signals>) {
        let signals = Rc::new(Signals::default());
        desk.seats.borrow_mut().insert(session_id, Rc::clone(&signals));
        desk.shared.metrics.sessions.inc();
        (Self { desk: Rc::clone(desk), session_id }, signals)
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.desk.seats.borrow_mut().remove(&self.session_id);
        self.desk.shared.metrics.sessions.dec();
    }
}

/// Keeps the drain waiting while a claim or a turn is under way.
#[derive(Debug)]
pub(crate) struct Busy(Rc<Desk>);

impl Busy {
    pub(crate) fn new(desk: &Rc<Desk>) -> Self {
        desk.busy.send_modify(|busy| *busy += 1);
        Self(Rc::clone(desk))
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.busy.send_modify(|busy| *busy -= 1);
    }
}

/// Keeps a turn from being taken for an orphan.
#[derive(Debug)]
pub(crate) struct Alive {
    desk: Rc<Desk>,
    turn_id: TurnId,
}

impl Alive {
    pub(crate) fn new(desk: &Rc<Desk>, turn_id: TurnId) -> Self {
        desk.alive.borrow_mut().insert(turn_id);
        desk.shared.metrics.running.inc();
        Self { desk: Rc::clone(desk), turn_id }
    }
}

impl Drop for Alive {
    fn drop(&mut self) {
        self.desk.alive.borrow_mut().remove(&self.turn_id);
        self.desk.shared.metrics.running.dec();
    }
}
