//! Lifecycle events: what the tree tells about its services, as it happens.

use std::{fmt, sync::Arc};

use chrono::{DateTime, Utc};
use serde::Serialize;

use crate::{
    cause::Cause,
    decide::{After, State},
};

/// The state of a service, as people and programs see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ServiceState {
    /// Known, never started.
    Registered,
    /// An incarnation is being started.
    Starting,
    /// It works.
    Ready,
    /// It works, and says that something is wrong.
    Degraded,
    /// It drains before it ends or is restarted.
    Stopping,
    /// It ended as ordered.
    Stopped,
    /// It died and is started again soon.
    Backoff,
    /// It died more often than its budget allows.
    Failed,
}

impl ServiceState {
    /// Every state, in the order of its life.
    pub const ALL: [Self; 8] = [
        Self::Registered,
        Self::Starting,
        Self::Ready,
        Self::Degraded,
        Self::Stopping,
        Self::Stopped,
        Self::Backoff,
        Self::Failed,
    ];

    /// Names the state as metrics, logs and the API spell it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Registered => "registered",
            Self::Starting => "starting",
            Self::Ready => "ready",
            Self::Degraded => "degraded",
            Self::Stopping => "stopping",
            Self::Stopped => "stopped",
            Self::Backoff => "backoff",
            Self::Failed => "failed",
        }
    }

    /// Says whether the service answers.
    pub const fn is_up(self) -> bool {
        matches!(self, Self::Ready | Self::Degraded)
    }
}

impl fmt::Display for ServiceState {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}

impl From<State> for ServiceState {
    fn from(state: State) -> Self {
        match state {
            State::Registered => Self::Registered,
            State::Starting => Self::Starting,
            State::Ready => Self::Ready,
            State::Degraded => Self::Degraded,
            State::Stopping { .. } => Self::Stopping,
            State::Stopped => Self::Stopped,
            State::Backoff { .. } => Self::Backoff,
            State::Failed { .. } => Self::Failed,
        }
    }
}

/// One change of state.
#[derive(Debug, Clone, Serialize)]
pub struct LifecycleEvent {
    /// When it happened.
    pub at: DateTime<Utc>,
    /// The service.
    pub service: Arc<str>,
    /// The incarnation, after the change.
    pub generation: u64,
    /// The state before.
    pub from: ServiceState,
    /// The state after.
    pub to: ServiceState,
    /// The fault that led to it, if one did.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cause: Option<Cause>,
}

impl LifecycleEvent {
    /// Writes the event to the log, as loud as it deserves.
    pub(crate) fn trace(&self) {
        let Self { service, generation, from, to, cause, .. } = self;
        let cause = cause.as_ref().map(tracing::field::display);
        match to {
            ServiceState::Failed => {
                tracing::error!(%service, generation, %from, %to, cause, "service failed");
            }
            ServiceState::Backoff | ServiceState::Degraded => {
                tracing::warn!(%service, generation, %from, %to, cause, "service is unwell");
            }
            ServiceState::Starting if cause.is_some() => {
                tracing::warn!(%service, generation, %from, %to, cause, "service restarts");
            }
            _ if cause.is_some() => {
                tracing::warn!(%service, generation, %from, %to, cause, "service ended by a fault");
            }
            _ => tracing::info!(%service, generation, %from, %to, "service changed state"),
        }
    }
}

/// What callers may expect of a service just now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// It answers.
    Open,
    /// Between two incarnations; a wait of a second may help.
    Closed,
    /// An incarnation drains before the next one; what it has begun, it ends.
    Draining,
    /// Dead for longer; waiting does not help.
    Parked,
    /// On its way out, or gone.
    Leaving,
}

impl From<State> for Phase {
    fn from(state: State) -> Self {
        match state {
            State::Ready | State::Degraded => Self::Open,
            State::Registered | State::Starting | State::Backoff { .. } => Self::Closed,
            State::Stopping { then: After::Restart, .. } => Self::Draining,
            State::Failed { .. } => Self::Parked,
            State::Stopping { then: After::Stop, .. } | State::Stopped => Self::Leaving,
        }
    }
}
