//! The watchdog: an OS thread of its own that sees threads hang, replaces what hung on them, and
//! can end the process when nothing else can.

use std::{
    collections::HashMap,
    io,
    sync::{Arc, Mutex, atomic::Ordering},
    thread,
    time::Duration,
};

use serde::Serialize;
use tokio::time::Instant;

use crate::{cell::lock, decide::Event, host::Host, tree::Tree};

/// The end of the process, if it has not come by itself by then.
#[derive(Debug, Clone, Copy)]
struct LastResort {
    at: Instant,
    code: i32,
}

/// The watchdog's state that others may see.
#[derive(Debug)]
pub(crate) struct Watchdog {
    tree: Arc<Tree>,
    root: Arc<Host>,
    last_resort: Mutex<Option<LastResort>>,
    ticked: Mutex<Instant>,
    thread: Mutex<Option<thread::Thread>>,
}

/// How long ago a thread was last seen to get anywhere.
#[derive(Debug, Clone, Serialize)]
pub struct ThreadAge {
    /// The service that it belongs to, `shared`, `orchestrator`, `watchdog` or `io`.
    pub name: Arc<str>,
    /// Whether a critical service runs on it.
    pub critical: bool,
    /// The age of its last tick; a thread that waits for work is always fresh.
    pub age: Duration,
}

/// The liveness of all threads.
#[derive(Debug, Clone, Serialize)]
pub struct Liveness {
    /// Every thread of the present generations.
    pub threads: Vec<ThreadAge>,
}

impl Liveness {
    /// Says whether every thread ticked within `limit`, those of critical services within
    /// `critical_limit` (they are replaced by us before a platform should interfere).
    pub fn is_alive(&self, limit: Duration, critical_limit: Duration) -> bool {
        self.threads
            .iter()
            .all(|thread| thread.age <= if thread.critical { critical_limit } else { limit })
    }
}

/// What the watchdog saw of a thread the last time.
#[derive(Debug, Clone, Copy)]
struct Sight {
    progress: (u64, u64),
    stuck: Duration,
}

impl Watchdog {
    pub(crate) fn start(tree: Arc<Tree>, root: Arc<Host>) -> io::Result<Arc<Self>> {
        let watchdog = Arc::new(Self {
            tree,
            root,
            last_resort: Mutex::new(None),
            ticked: Mutex::new(Instant::now()),
            thread: Mutex::new(None),
        });
        if watchdog.tree.hosts.everyone().is_none() {
            let own = Arc::clone(&watchdog);
            let started =
                thread::Builder::new().name("watchdog".to_owned()).spawn(move || own.run())?;
            *lock(&watchdog.thread) = Some(started.thread().clone());
        }
        Ok(watchdog)
    }

    /// Ends the process with `code` after `time`, unless it has ended by then; the earliest counts.
    pub(crate) fn end_process_after(&self, time: Duration, code: i32) {
        let resort = LastResort { at: Instant::now() + time, code };
        let mut last_resort = lock(&self.last_resort);
        if last_resort.is_none_or(|before| resort.at < before.at) {
            *last_resort = Some(resort);
        }
        drop(last_resort);
        if let Some(thread) = &*lock(&self.thread) {
            thread.unpark();
        }
    }

    /// Often enough to see a hang at most a hundredth or ten milliseconds late.
    fn period(&self) -> Duration {
        (self.tree.settings.hang_limit / 100)
            .clamp(Duration::from_millis(1), Duration::from_millis(10))
    }

    fn run(&self) {
        self.tree.hosts.enter();
        let period = self.period();
        let mut sights: HashMap<usize, Sight> = HashMap::new();
        let mut before = Instant::now();
        loop {
            thread::park_timeout(period);
            let now = Instant::now();
            *lock(&self.ticked) = now;
            // Late itself, it cannot tell a hang from a pause of the whole machine.
            let seen = now.duration_since(before).min(period * 2);
            before = now;
            if self.is_last_resort(now) {
                return;
            }
            if self.tree.over.load(Ordering::Relaxed) && lock(&self.last_resort).is_none() {
                return;
            }
            self.look(&mut sights, seen);
        }
    }

    fn is_last_resort(&self, now: Instant) -> bool {
        let due = lock(&self.last_resort).filter(|resort| resort.at <= now);
        if let Some(resort) = due {
            tracing::error!(code = resort.code, "the process did not end in time: ending it");
            (self.tree.settings.exit)(resort.code);
        }
        due.is_some()
    }

    fn look(&self, sights: &mut HashMap<usize, Sight>, seen: Duration) {
        let hosts = self.tree.hosts.all();
        let mut next = HashMap::with_capacity(hosts.len());
        for host in &hosts {
            let Some(progress) = host.progress() else {
                host.stuck_millis.store(0, Ordering::Relaxed);
                continue;
            };
            let key = Arc::as_ptr(host) as usize;
            let stuck = match sights.get(&key) {
                Some(sight) if sight.progress == progress => sight.stuck + seen,
                _ => Duration::ZERO,
            };
            let millis = u64::try_from(stuck.as_millis()).unwrap_or(u64::MAX);
            host.stuck_millis.store(millis, Ordering::Relaxed);
            if stuck >= self.tree.settings.hang_limit {
                self.hung(host);
            } else {
                next.insert(key, Sight { progress, stuck });
            }
        }
        *sights = next;
    }

    /// Moves everything off a thread that hangs.
    fn hung(&self, host: &Arc<Host>) {
        let guilty = host.polling();
        let cells = host.cells();
        if Arc::ptr_eq(host, &self.root) {
            tracing::error!("the orchestrator hangs: ending the process");
            (self.tree.settings.exit)(70);
        }
        self.tree.hosts.lose(host);
        let leaked = self.tree.hosts.leaked.load(Ordering::Relaxed);
        tracing::error!(thread = %host.name, leaked, "a thread hangs and is left behind");
        for cell in cells {
            // A child that hangs is its service's fault; alone on its thread, there is no other.
            let innocent = guilty.is_some_and(|guilty| guilty != cell.id);
            cell.apply(Event::Hung { innocent });
        }
    }

    pub(crate) fn liveness(&self) -> Liveness {
        let mut threads: Vec<_> = self.tree.hosts.all().iter().map(|host| self.age(host)).collect();
        if self.tree.hosts.everyone().is_none() {
            let age = lock(&self.ticked).elapsed();
            threads.push(ThreadAge { name: Arc::from("watchdog"), critical: true, age });
        }
        if let Some(age) = self.tree.settings.io.age() {
            threads.push(ThreadAge { name: Arc::from("io"), critical: false, age });
        }
        Liveness { threads }
    }

    fn age(&self, host: &Arc<Host>) -> ThreadAge {
        let critical =
            Arc::ptr_eq(host, &self.root) || host.cells().iter().any(|cell| cell.terms().critical);
        ThreadAge { name: Arc::clone(&host.name), critical, age: host.stuck() }
    }
}
