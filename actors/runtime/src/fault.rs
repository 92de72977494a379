//! Faults that a test build can inject, to see what the tree makes of them.

use std::{sync::Arc, time::Duration};

use crate::cell::{Cell, lock};

/// What a service is made to do, once, at its next turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Panic.
    Panic,
    /// Block the thread.
    Block(Duration),
}

impl Cell {
    pub(crate) fn inject(self: &Arc<Self>, fault: Fault) {
        *lock(&self.fault) = Some(fault);
        self.waker.wake();
    }

    /// Suffers the injected fault, if there is one.
    #[expect(clippy::panic, clippy::disallowed_methods, reason = "it is what was asked for")]
    pub(crate) fn suffer(&self) {
        let fault = lock(&self.fault).take();
        match fault {
            None => {}
            Some(Fault::Panic) => panic!("injected panic"),
            Some(Fault::Block(time)) => std::thread::sleep(time),
        }
    }
}
