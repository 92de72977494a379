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

impl Sight {
    /// Looks again after `seen`: a thread that got nowhere has been stuck for so much longer.
    fn next(before: Option<&Self>, progress: (u64, u64), seen: Duration) -> Self {
        let stuck = match before {
            Some(before) if before.progress == progress => before.stuck + seen,
            _ => Duration::ZERO,
        };
        Self { progress, stuck }
    }
}

/// Returns how much counts of the time between two looks. Late itself, the watchdog cannot tell a
/// hang from a pause of the whole machine, and a thread that was paused too deserves its time.
fn credited(elapsed: Duration, period: Duration) -> Duration {
    elapsed.min(period * 2)
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
            let seen = credited(now.duration_since(before), period);
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
            let sight = Sight::next(sights.get(&key), progress, seen);
            let millis = u64::try_from(sight.stuck.as_millis()).unwrap_or(u64::MAX);
            host.stuck_millis.store(millis, Ordering::Relaxed);
            if sight.stuck >= self.tree.settings.hang_limit {
                self.hung(host);
            } else {
                next.insert(key, sight);
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
            // Where nobody's code is running, all are to blame: there is no telling who left it so.
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

#[cfg(test)]
mod tests {
    use std::sync::{atomic::AtomicI32, mpsc};

    use actix_rt::System;

    use super::*;
    use crate::{host::Hosts, io::Io, settings::Settings};

    const PERIOD: Duration = Duration::from_millis(10);

    /// What it makes of a thread that is seen at these times, always in the same poll.
    fn stuck(looks: &[Duration]) -> Duration {
        let sights = looks.iter().fold(None, |before: Option<Sight>, elapsed| {
            Some(Sight::next(before.as_ref(), (2, 7), credited(*elapsed, PERIOD)))
        });
        sights.map_or(Duration::ZERO, |sight| sight.stuck)
    }

    #[test]
    fn a_thread_in_one_poll_is_stuck_for_as_long_as_it_was_watched() {
        assert_eq!(stuck(&[PERIOD; 1_001]), Duration::from_secs(10));
    }

    #[test]
    fn the_watchdogs_own_lateness_is_not_held_against_a_thread() {
        let pause = Duration::from_hours(1);
        assert_eq!(stuck(&[PERIOD, pause]), PERIOD * 2);
        assert_eq!(stuck(&[PERIOD, PERIOD, pause, PERIOD]), PERIOD * 4);
    }

    #[test]
    fn whatever_moves_is_not_stuck() {
        let before = Sight { progress: (2, 7), stuck: Duration::from_secs(9) };
        for progress in [(2, 8), (4, 7)] {
            assert_eq!(Sight::next(Some(&before), progress, PERIOD).stuck, Duration::ZERO);
        }
    }

    static EXITED: AtomicI32 = AtomicI32::new(-1);

    #[actix_rt::test]
    async fn a_hang_of_the_orchestrator_ends_the_process() {
        let settings = Settings {
            hang_limit: Duration::from_millis(100),
            exit: |code| EXITED.store(code, Ordering::SeqCst),
            ..Settings::new(Io::current().unwrap())
        };
        let tree = Tree::new(settings, Hosts::new(System::current(), None));
        let root = tree.hosts.own(&Arc::from("orchestrator")).unwrap();
        let watchdog = Watchdog::start(Arc::clone(&tree), Arc::clone(&root)).unwrap();
        let (kept, never) = mpsc::channel::<()>();
        root.arbiter().spawn_fn(move || never.recv().unwrap_or(()));
        while EXITED.load(Ordering::SeqCst) == -1 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        assert_eq!(EXITED.load(Ordering::SeqCst), 70);
        tree.over.store(true, Ordering::Relaxed);
        drop((kept, watchdog));
    }
}
