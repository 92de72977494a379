//! Supervised actix services.
//!
//! A process is a tree of services. Each is an actix actor on a thread of its own, started in the
//! order of its dependencies, restarted when it panics, replaced when its thread hangs, drained
//! when it is told to stop. The crate knows nothing of what the services do.
mod cause;
mod cell;
mod child;
mod decide;
mod event;
#[cfg(feature = "failpoints")]
mod fault;
mod guard;
mod health;
mod host;
mod io;
mod later;
mod link;
mod metrics;
mod orchestrator;
mod policy;
mod registry;
mod report;
mod runner;
mod scope;
mod service;
mod settings;
mod shell;
mod spec;
mod supervisor;
mod tree;
mod watchdog;
mod worker;

#[cfg(feature = "failpoints")]
pub use fault::Fault;
pub use {
    cause::{Cause, CauseKind},
    cell::Fence,
    child::{Child, ChildFault},
    event::{LifecycleEvent, ServiceState},
    guard::{guarded, install_panic_hook},
    health::{ComponentHealth, HealthSnapshot, UnifiedHealthMonitor},
    io::{Io, IoError},
    link::{Asked, CallError, Link, Outlet},
    orchestrator::{Orchestrator, Running},
    policy::{RestartPolicy, WhenSpent},
    registry::{Plan, PlannedService, Registry, RegistryError},
    report::{Ending, Halt, LaunchError, RestartError, ServiceEnding, StopReport},
    scope::{Drain, Scope},
    service::{Answer, Health, HealthStatus, Message, Reply, Service, Starting},
    settings::{Settings, Threads},
    spec::{Entry, Placement, Spec},
    supervisor::Supervisor,
    tree::{ServiceSnapshot, TreeSnapshot},
    watchdog::{Liveness, ThreadAge},
    worker::{Nudge, Pace, Pass, Worker, WorkerService},
};
