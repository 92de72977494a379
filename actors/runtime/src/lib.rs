//! Supervised actix services: a tree of them is started, watched, restarted and drained.
//!
//! Each service is an actix actor, by default on a thread of its own. It is started when what it
//! needs is ready, restarted when it panics, replaced when its thread hangs, and drained when it
//! is told to stop. The crate knows nothing of what the services do.
//!
//! # Writing a service
//!
//! A service has one of two shapes. It *answers* messages, or it *converges*: it makes pass after
//! pass over what is true.
//!
//! ```
//! use std::time::Duration;
//! use soma_runtime::*;
//!
//! /// Answers: typed messages in, one typed answer out.
//! struct Greeter {
//!     greeting: String,
//! }
//!
//! struct Greet(String);
//!
//! impl Message for Greet {
//!     type Result = String;
//! }
//!
//! impl Service for Greeter {}
//!
//! impl Answer<Greet> for Greeter {
//!     fn answer(&mut self, Greet(name): Greet, scope: &Scope<Self>) -> Reply<String> {
//!         let greeting = format!("{}, {name}", self.greeting);
//!         // What may fail by itself runs in a child: its panic is this item's failure alone.
//!         let child = scope.child("greeting", async move { greeting });
//!         Reply::later(async move { child.await.unwrap_or_else(|fault| fault.to_string()) })
//!     }
//! }
//!
//! /// Converges: the runtime owns the loop.
//! struct Sweeper;
//!
//! impl Worker for Sweeper {
//!     async fn pass(&mut self) -> Result<Pass, Cause> {
//!         Ok(Pass::Idle)
//!     }
//! }
//!
//! # fn main() {
//! actix_rt::System::new().block_on(async {
//!     let greeter = Spec::new("greeter", || Greeter { greeting: "Hello".to_owned() })
//!         .critical(true)
//!         .bound(64);
//!     let outlet = greeter.link().outlet::<Greet>();
//!     let pace = Pace::every(Duration::from_secs(5));
//!     let sweeper = Spec::worker("sweeper", || Sweeper, pace, Nudge::new()).needs(&["greeter"]);
//!
//!     let registry = Registry::new([greeter.into(), sweeper.into()]);
//!     let settings = Settings::new(Io::new(1).unwrap());
//!     let running = Orchestrator::launch(registry, settings).await.unwrap();
//!
//!     let greeting = outlet.send(Greet("world".to_owned())).await;
//!     assert_eq!(greeting, Ok("Hello, world".to_owned()));
//!
//!     let report = running.stop(Duration::from_secs(10)).await;
//!     assert_eq!(report.exit_code(), 0);
//! });
//! # }
//! ```
//!
//! # What to rely on
//!
//! 1. **State is built by the factory, once per incarnation, on the service's thread.** It need not
//!    be `Send`. Whatever must outlive a panic is in a store before the answer is given.
//! 2. **A panic in an answer, a [`Reply::Later`], a start, a stop, a health report or a worker's
//!    pass is a death of the service.** The next incarnation has the same [`Link`]. The caller
//!    whose message it was gets [`CallError::Panicked`]; callers of answers that were under way get
//!    [`CallError::Abandoned`]; mail not yet begun is answered by the next incarnation.
//! 3. **A panic in a [child](Scope::child) is that child's failure alone.** Work that a caller's
//!    input can break belongs into a child. Children end with the incarnation.
//! 4. **An error is not a death.** A dependency that cannot be reached is reported by
//!    [`Service::health`] as degraded; a pass that returns `Err` is followed by a back-off.
//! 5. **Never block the thread.** One that does not return from a poll within the hang limit is
//!    given up, with everything on it. Input and output go through [`Io::call`].
//! 6. **Calls are bounded**, by the spec's [`bound`](Spec::bound), from sending to answer, and end
//!    at the [`message_deadline`](Spec::message_deadline) at the latest.
//! 7. **A drain refuses new calls**, lets answers that were begun come to their end, and delivers
//!    what children [`notify`](Scope::notify). [`Scope::draining`] tells children and loops.
//! 8. **The order of a registry is the order of life**: a service starts after what it needs, and
//!    stops before it.
//!
//! # When something dies
//!
//! [`RestartPolicy`] says how often. A service that spends its budget is parked as `failed` and
//! tried once a minute; a critical one halts the system ([`Running::halted`]); a child of a
//! [supervisor](Spec::supervisor) takes the supervisor with it.
//!
//! # In tests
//!
//! [`Settings::testing`] puts a tree on the calling arbiter, where time can be paused.
//! [`Outlet::testing`] and [`Outlet::from_fn`] stand for services that are not there. With the
//! feature `failpoints`, `Link::inject` makes a service panic or block.

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
