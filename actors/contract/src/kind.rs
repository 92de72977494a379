//! The four kinds of error; HTTP status, retry and dead letter follow from the kind.

use serde::{Deserialize, Serialize};

/// What an error asks of whoever meets it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// The caller's fault: repeating it unchanged fails again.
    Caller,
    /// Passing: the same call may succeed later.
    Retry,
    /// Something outside refused for good: goes to the dead letters.
    OutOfHands,
    /// A bug of ours.
    Bug,
}

/// An error that says its [`Kind`].
pub trait Classified {
    /// Returns what the error asks of whoever meets it.
    fn kind(&self) -> Kind;
}
