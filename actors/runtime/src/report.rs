//! What a launch, a halt and a stop tell afterwards.

use std::{fmt, sync::Arc, time::Duration};

use serde::Serialize;

use crate::{cause::Cause, registry::RegistryError};

/// Why a tree did not come up. What had been started was stopped again, in reverse.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LaunchError {
    /// The registry is faulty; nothing was started.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// A service did not start.
    #[error("start service `{service}`: {cause}")]
    Start {
        /// The service.
        service: Arc<str>,
        /// Why.
        cause: Cause,
    },
    /// The tree's own threads could not be had.
    #[error("start the orchestrator: {0}")]
    Orchestrator(String),
}

/// Why a service was not restarted on order.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RestartError {
    /// No service has that name.
    #[error("no service is called `{0}`")]
    NoSuchService(String),
    /// The tree, or the service's supervisor, is not up.
    #[error("service `{0}` is not running")]
    NotRunning(String),
    /// The new incarnation did not become ready.
    #[error("restart service `{service}`: {cause}")]
    Failed {
        /// The service.
        service: Arc<str>,
        /// Why.
        cause: Cause,
    },
}

/// The death that ended the system.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Halt {
    /// The critical service that died.
    pub service: Arc<str>,
    /// The first fault.
    pub cause: Cause,
}

impl fmt::Display for Halt {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "critical service `{}` died: {}", self.service, self.cause)
    }
}

/// How a service ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Ending {
    /// It drained.
    Drained,
    /// Its drain was cut off at the deadline.
    Forced,
    /// Its thread did not even answer; it was left behind.
    Abandoned,
}

/// One service in a [`StopReport`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ServiceEnding {
    /// The service.
    pub service: Arc<str>,
    /// How it ended.
    pub ending: Ending,
    /// How long it took.
    pub took: Duration,
}

/// How the tree ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct StopReport {
    /// Every service that was running, in the order of declaration.
    pub services: Vec<ServiceEnding>,
    /// The death that ended the system, if it was one.
    pub halt: Option<Halt>,
    /// Threads that hung and were left behind, over the life of the tree.
    pub leaked_threads: u64,
}

impl StopReport {
    /// Says whether every service drained.
    pub fn is_clean(&self) -> bool {
        self.services.iter().all(|service| service.ending == Ending::Drained)
    }

    /// Returns the exit code of the process: 0 drained, 1 forced, 70 the supervisor gave up.
    pub fn exit_code(&self) -> u8 {
        match (&self.halt, self.is_clean()) {
            (Some(_), _) => 70,
            (None, true) => 0,
            (None, false) => 1,
        }
    }
}
