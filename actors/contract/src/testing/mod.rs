//! Fakes of the ports, and the one test suite that every adapter of a port passes.

pub mod bus;
pub mod clock;
pub mod live;
pub mod memory;
pub mod model;
pub mod policy;
mod rank;
pub mod sample;
pub mod store;
pub mod suite;
pub mod tools;

pub use bus::{FakeBus, LogBus};
pub use clock::{FakeClock, SeqIds};
pub use live::FakeLive;
pub use memory::FakeMemory;
pub use model::{FakeModel, Play};
pub use policy::FakePolicy;
pub use store::{FakeStore, Fault};
pub use tools::{FakeCatalog, WordCounter};

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Locks although a test that failed may have left the lock poisoned.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
