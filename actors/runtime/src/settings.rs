//! The settings of a tree.

use std::{fmt, time::Duration};

use crate::{io::Io, policy::RestartPolicy};

/// Which threads services get.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Threads {
    /// Each one of its own, as its [`Placement`](crate::Placement) says; the orchestrator too.
    PerService,
    /// All run on the calling arbiter. For tests that pause time; nothing watches for hangs.
    Caller,
}

/// The settings of a tree.
#[derive(Clone)]
pub struct Settings {
    /// Which threads services get.
    pub threads: Threads,
    /// Where probes of ports run.
    pub io: Io,
    /// Where metrics are registered.
    pub metrics: prometheus::Registry,
    /// How long a thread may stay in one poll. Default: 10 s.
    pub hang_limit: Duration,
    /// The policy of services whose spec has none and that are not critical; critical ones share
    /// its window.
    pub restart: RestartPolicy,
    /// Deaths of a critical service that are forgiven before the system halts. Default: 0.
    pub critical_budget: u32,
    /// The time between two probes of everything. Default: 2 s.
    pub probe_period: Duration,
    /// How long a halt may drain, before the watchdog ends the process. Default: 40 s.
    pub halt_deadline: Duration,
    /// The seed of all jitter; drawn where it is not given.
    pub seed: Option<u64>,
    /// Ends the process where nothing else can. Default: `std::process::exit`.
    pub exit: fn(i32),
}

impl Settings {
    /// Returns the defaults.
    pub fn new(io: Io) -> Self {
        Self {
            threads: Threads::PerService,
            io,
            metrics: prometheus::Registry::new(),
            hang_limit: Duration::from_secs(10),
            restart: RestartPolicy::default(),
            critical_budget: 0,
            probe_period: Duration::from_secs(2),
            halt_deadline: Duration::from_secs(40),
            seed: None,
            exit: end_process,
        }
    }

    /// Returns settings for a test on one thread, whose time may be paused: everything runs on
    /// the calling arbiter, from a fixed seed. `None` outside of a Tokio runtime.
    pub fn testing() -> Option<Self> {
        let io = Io::current()?;
        Some(Self { threads: Threads::Caller, seed: Some(7), ..Self::new(io) })
    }
}

#[expect(clippy::disallowed_methods, clippy::exit, reason = "the last resort of the watchdog")]
fn end_process(code: i32) {
    std::process::exit(code);
}

impl fmt::Debug for Settings {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Settings")
            .field("threads", &self.threads)
            .field("hang_limit", &self.hang_limit)
            .field("restart", &self.restart)
            .field("critical_budget", &self.critical_budget)
            .field("probe_period", &self.probe_period)
            .field("halt_deadline", &self.halt_deadline)
            .field("seed", &self.seed)
            .finish_non_exhaustive()
    }
}
