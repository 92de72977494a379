//! A store in memory: what every method means, said in the plainest way.
//!
//! It behaves as an embedded store: its one owner inherits everything at once, and no lease runs
//! out. A call either changes all that it should or nothing.

mod ending;
mod letters;
mod memories;
mod outbox;
mod registry;
mod rows;
mod state;
mod steps;
mod transcript;
mod turns;

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex},
};

use chrono::{DateTime, Utc};
use tokio::sync::watch;

use self::state::State;
use super::locked;
use crate::{
    event::Event,
    ids::{Clock, EventId, Owner},
    port::store::{Inherited, StoreError, StoreResult, Turns as _},
};

/// How the next call of a method fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Nothing is changed, and the caller knows.
    Unavailable,
    /// Nothing is changed, and the caller does not know.
    UnknownBefore,
    /// Everything is changed, and the caller does not know.
    UnknownAfter,
}

/// Keeps everything in memory and fails when told.
#[derive(Debug)]
pub struct FakeStore {
    clock: Arc<dyn Clock>,
    inner: Mutex<Inner>,
    changes: watch::Sender<u64>,
}

#[derive(Debug)]
struct Inner {
    down: bool,
    faults: HashMap<&'static str, VecDeque<Fault>>,
    state: State,
    owners: u32,
}

impl FakeStore {
    /// Builds an empty store beside a local bus.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self::build(clock, true)
    }

    /// Builds an empty store whose outbox rows go to a bus elsewhere.
    pub fn with_remote_bus(clock: Arc<dyn Clock>) -> Self {
        Self::build(clock, false)
    }

    fn build(clock: Arc<dyn Clock>, bus_is_local: bool) -> Self {
        let state = State::new(bus_is_local);
        let inner = Inner { down: false, faults: HashMap::new(), state, owners: 0 };
        Self { clock, inner: Mutex::new(inner), changes: watch::Sender::new(0) }
    }

    /// Fails the next call of this method (by its name in the port) that no earlier call of
    /// `fail_next` fails.
    pub fn fail_next(&self, method: &'static str, fault: Fault) {
        locked(&self.inner).faults.entry(method).or_default().push_back(fault);
    }

    /// Makes every call fail as `Unavailable` until it is up again.
    pub fn set_down(&self, down: bool) {
        locked(&self.inner).down = down;
    }

    /// Lets the process die and another one inherit; returns the new owner.
    ///
    /// # Errors
    ///
    /// As [`crate::port::store::Turns::inherit`].
    pub async fn crash(&self) -> StoreResult<(Owner, Inherited)> {
        let owner = {
            let mut inner = locked(&self.inner);
            inner.owners += 1;
            Owner(format!("heir-{}", inner.owners))
        };
        let inherited = self.inherit(&owner).await?;
        Ok((owner, inherited))
    }

    /// Counts calls that have been made; tests wait for a change of it.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// Waits until the message has ended and returns its newest terminal event.
    pub async fn terminal(&self, event_id: EventId) -> Event {
        let mut changes = self.changes();
        loop {
            let ended = locked(&self.inner).state.terminal_of(event_id);
            if let Some(event) = ended {
                return event;
            }
            // The sender is ours, so that it cannot be gone.
            changes.changed().await.ok();
        }
    }

    /// Runs one transaction, or one that fails.
    fn run<T>(
        &self,
        method: &'static str,
        act: impl FnOnce(&mut State, DateTime<Utc>) -> StoreResult<T>,
    ) -> StoreResult<T> {
        let now = self.clock.now();
        let mut inner = locked(&self.inner);
        let outcome = match inner.next_fault(method) {
            None => act(&mut inner.state, now),
            Some(Fault::Unavailable) => Err(StoreError::Unavailable("told to fail".to_owned())),
            Some(Fault::UnknownBefore) => Err(unknown()),
            Some(Fault::UnknownAfter) => act(&mut inner.state, now).and_then(|_| Err(unknown())),
        };
        drop(inner);
        self.changes.send_modify(|changes| *changes += 1);
        outcome
    }
}

impl Inner {
    fn next_fault(&mut self, method: &'static str) -> Option<Fault> {
        if self.down {
            return Some(Fault::Unavailable);
        }
        self.faults.get_mut(method)?.pop_front()
    }
}

fn unknown() -> StoreError {
    StoreError::OutcomeUnknown("told to fail".to_owned())
}
