//! Why something died or failed: one value from the panic or error to event, log line and caller.

use std::{any::Any, error::Error, fmt};

use serde::Serialize;

/// The kind of thing that ended an incarnation, a start or a pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum CauseKind {
    /// Code returned an error.
    Error,
    /// Code panicked.
    Panic,
    /// The start did not report ready before its deadline.
    StartTimeout,
    /// The thread did not return from a poll within the hang limit.
    Hang,
    /// A child of a supervisor spent its restart budget.
    Child,
    /// No thread could be had for the service.
    Placement,
}

impl CauseKind {
    /// Names the kind as metrics and logs spell it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Panic => "panic",
            Self::StartTimeout => "start_timeout",
            Self::Hang => "hang",
            Self::Child => "child",
            Self::Placement => "placement",
        }
    }
}

/// Why a service died, failed to start, or could not finish a pass.
///
/// Every error converts into it, with the messages of its sources, so that `?` works in a start
/// and in a pass. It is not an error itself: whoever gets one reports it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Cause {
    /// What kind of event it was.
    pub kind: CauseKind,
    /// What was said: the panic's message or the chain of errors.
    pub message: String,
    /// `file:line` of a panic.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub location: Option<String>,
}

impl Cause {
    /// Makes a cause of kind [`CauseKind::Error`] from what is to be said.
    pub fn new(message: impl Into<String>) -> Self {
        Self::of(CauseKind::Error, message)
    }

    pub(crate) fn of(kind: CauseKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), location: None }
    }

    /// Describes a caught panic of which the hook saw nothing (it was resumed, or no hook is set).
    pub(crate) fn from_payload(payload: &(dyn Any + Send)) -> Self {
        let message = payload
            .downcast_ref::<&'static str>()
            .map(|text| (*text).to_owned())
            .or_else(|| payload.downcast_ref::<String>().cloned());
        Self::of(
            CauseKind::Panic,
            message.unwrap_or_else(|| "a panic without a message".to_owned()),
        )
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.kind, &self.location) {
            (CauseKind::Panic, Some(location)) => {
                write!(formatter, "panicked at {location}: {}", self.message)
            }
            (CauseKind::Panic, None) => write!(formatter, "panicked: {}", self.message),
            _ => formatter.write_str(&self.message),
        }
    }
}

impl<E: Error> From<E> for Cause {
    fn from(error: E) -> Self {
        let mut message = error.to_string();
        let mut source = error.source();
        while let Some(next) = source {
            message.push_str(": ");
            message.push_str(&next.to_string());
            source = next.source();
        }
        Self::new(message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("open the store")]
    struct Outer(#[source] std::io::Error);

    #[test]
    fn an_error_becomes_a_cause_with_the_messages_of_its_sources() {
        let cause = Cause::from(Outer(std::io::Error::other("disk is gone")));
        assert_eq!(cause.to_string(), "open the store: disk is gone");
        assert_eq!(cause.kind, CauseKind::Error);
    }

    #[test]
    fn a_panic_is_told_with_its_place() {
        let cause = Cause {
            kind: CauseKind::Panic,
            message: "index out of bounds".to_owned(),
            location: Some("src/turn.rs:12".to_owned()),
        };
        assert_eq!(cause.to_string(), "panicked at src/turn.rs:12: index out of bounds");
    }
}
