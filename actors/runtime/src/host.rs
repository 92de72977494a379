//! Threads: the arbiters that host services, and what can be read of them from outside.

use std::{
    cell::RefCell,
    collections::HashMap,
    future::Future,
    io,
    pin::Pin,
    rc::{Rc, Weak as RcWeak},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use actix_rt::{Arbiter, ArbiterHandle, System};
use tokio::runtime::{Builder, Handle, RuntimeMetrics};

use crate::{
    cell::{Cell, lock},
    scope::Probe,
};

thread_local! {
    /// The incarnations that this thread hosts, by the id of their cell.
    static ROSTER: RefCell<HashMap<u64, RcWeak<dyn Probe>>> = RefCell::default();
}

/// One thread that hosts services.
#[derive(Debug)]
pub(crate) struct Host {
    pub(crate) name: Arc<str>,
    handle: ArbiterHandle,
    arbiter: Mutex<Option<Arbiter>>,
    metrics: RuntimeMetrics,
    /// Bumped at each poll of a service or child: a busy thread that makes progress is not stuck.
    ticks: AtomicU64,
    /// The cell whose code is running, or 0.
    polling: AtomicU64,
    cells: Mutex<HashMap<u64, Arc<Cell>>>,
    /// For how long the watchdog has seen the thread in one poll.
    pub(crate) stuck_millis: AtomicU64,
    pub(crate) lost: AtomicBool,
}

impl Host {
    /// Starts a new thread.
    pub(crate) fn spawn(name: Arc<str>) -> io::Result<Arc<Self>> {
        let (sender, receiver) = std::sync::mpsc::channel();
        let arbiter = Arbiter::try_with_tokio_rt(move || {
            let runtime = Builder::new_current_thread().enable_all().build()?;
            sender.send(runtime.metrics()).map_err(io::Error::other)?;
            Ok(runtime)
        })?;
        let metrics = receiver.recv().map_err(io::Error::other)?;
        Ok(Self::over(name, arbiter.handle(), Some(arbiter), metrics))
    }

    /// Makes a host of the calling arbiter, so that all share its thread and clock.
    pub(crate) fn here(name: Arc<str>) -> Option<Arc<Self>> {
        let handle = Arbiter::try_current()?;
        Some(Self::over(name, handle, None, Handle::try_current().ok()?.metrics()))
    }

    fn over(
        name: Arc<str>,
        handle: ArbiterHandle,
        arbiter: Option<Arbiter>,
        metrics: RuntimeMetrics,
    ) -> Arc<Self> {
        Arc::new(Self {
            name,
            handle,
            arbiter: Mutex::new(arbiter),
            metrics,
            ticks: AtomicU64::new(0),
            polling: AtomicU64::new(0),
            cells: Mutex::default(),
            stuck_millis: AtomicU64::new(0),
            lost: AtomicBool::new(false),
        })
    }

    pub(crate) fn arbiter(&self) -> &ArbiterHandle {
        &self.handle
    }

    /// Runs a future that need not be `Send` on the thread.
    pub(crate) fn run<F>(&self, make: impl FnOnce() -> F + Send + 'static) -> io::Result<()>
    where
        F: Future<Output = ()> + 'static,
    {
        let sent = self.handle.spawn_fn(move || {
            tokio::task::spawn_local(make());
        });
        if sent { Ok(()) } else { Err(io::Error::other("the thread has ended")) }
    }

    /// Notes that code of `cell` runs on the thread, until the returned value is dropped.
    pub(crate) fn enter(&self, cell: u64) -> Polling<'_> {
        self.ticks.fetch_add(1, Ordering::Relaxed);
        self.polling.store(cell, Ordering::Relaxed);
        Polling(self)
    }

    /// Returns the id of the cell whose code is running, if one is.
    pub(crate) fn polling(&self) -> Option<u64> {
        Some(self.polling.load(Ordering::Relaxed)).filter(|id| *id != 0)
    }

    /// Returns what changes whenever the thread gets anywhere, or `None` while it is parked.
    pub(crate) fn progress(&self) -> Option<(u64, u64)> {
        let parks = self.metrics.worker_park_unpark_count(0);
        parks.is_multiple_of(2).then(|| (parks, self.ticks.load(Ordering::Relaxed)))
    }

    pub(crate) fn add(&self, cell: &Arc<Cell>) {
        lock(&self.cells).insert(cell.id, Arc::clone(cell));
    }

    /// Takes a cell off the host and says whether it was the last.
    pub(crate) fn remove(&self, cell: &Arc<Cell>) -> bool {
        let mut cells = lock(&self.cells);
        cells.remove(&cell.id);
        cells.is_empty()
    }

    pub(crate) fn cells(&self) -> Vec<Arc<Cell>> {
        lock(&self.cells).values().cloned().collect()
    }

    pub(crate) fn stuck(&self) -> Duration {
        Duration::from_millis(self.stuck_millis.load(Ordering::Relaxed))
    }

    /// Ends the thread, if it is this host's own; does not wait for it.
    pub(crate) fn retire(&self) {
        if let Some(arbiter) = lock(&self.arbiter).take() {
            arbiter.stop();
        }
    }

    /// Asks all incarnations on the thread how they are; the receiver resolves when they were.
    pub(crate) fn probe(&self) -> tokio::sync::oneshot::Receiver<()> {
        let (sender, done) = tokio::sync::oneshot::channel();
        self.handle.spawn_fn(move || {
            probe_roster();
            drop(sender);
        });
        done
    }
}

/// A future of a service, its runner or a child of it: the watchdog sees whose turn it is, and
/// blames the right one of those that share a thread.
pub(crate) struct Watched<F> {
    host: Arc<Host>,
    cell: u64,
    inner: Pin<Box<F>>,
}

impl<F> Watched<F> {
    pub(crate) fn new(host: &Arc<Host>, cell: &Cell, inner: F) -> Self {
        Self { host: Arc::clone(host), cell: cell.id, inner: Box::pin(inner) }
    }
}

impl<F: Future> Future for Watched<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        let this = &mut *self;
        let _polling = this.host.enter(this.cell);
        this.inner.as_mut().poll(context)
    }
}

/// The mark that a cell is being polled.
#[derive(Debug)]
pub(crate) struct Polling<'host>(&'host Host);

impl Drop for Polling<'_> {
    fn drop(&mut self) {
        self.0.polling.store(0, Ordering::Relaxed);
    }
}

/// Lists an incarnation on its thread, so that probes find it.
pub(crate) fn enlist(cell: u64, probe: &Rc<impl Probe + 'static>) {
    let probe: RcWeak<dyn Probe> = Rc::downgrade(probe) as RcWeak<dyn Probe>;
    ROSTER.with_borrow_mut(|roster| roster.insert(cell, probe));
}

/// Strikes an incarnation off its thread's list.
pub(crate) fn dismiss(cell: u64) {
    ROSTER.with_borrow_mut(|roster| roster.remove(&cell));
}

fn probe_roster() {
    // Copied, as a service may do anything when asked.
    let roster: Vec<_> = ROSTER.with_borrow(|roster| roster.values().cloned().collect());
    for probe in roster {
        if let Some(probe) = probe.upgrade() {
            probe.probe();
        }
    }
}

/// The threads of a tree.
#[derive(Debug)]
pub(crate) struct Hosts {
    system: System,
    /// Where all services are put if they do not get threads of their own.
    everyone: Option<Arc<Host>>,
    shared: Mutex<Option<Arc<Host>>>,
    all: Mutex<Vec<Arc<Host>>>,
    pub(crate) leaked: AtomicU64,
}

impl Hosts {
    pub(crate) fn new(system: System, everyone: Option<Arc<Host>>) -> Self {
        let all = everyone.iter().cloned().collect();
        Self {
            system,
            everyone,
            shared: Mutex::new(None),
            all: Mutex::new(all),
            leaked: AtomicU64::new(0),
        }
    }

    /// Lets the calling thread start arbiters.
    pub(crate) fn enter(&self) {
        System::set_current(self.system.clone());
    }

    pub(crate) fn all(&self) -> Vec<Arc<Host>> {
        lock(&self.all).clone()
    }

    /// Returns the one host of everything, where services get no threads of their own.
    pub(crate) fn everyone(&self) -> Option<&Arc<Host>> {
        self.everyone.as_ref()
    }

    /// Returns a thread of its own for a service.
    pub(crate) fn own(&self, name: &Arc<str>) -> io::Result<Arc<Host>> {
        if let Some(everyone) = &self.everyone {
            return Ok(Arc::clone(everyone));
        }
        self.enter();
        let host = Host::spawn(Arc::clone(name))?;
        lock(&self.all).push(Arc::clone(&host));
        Ok(host)
    }

    /// Returns the thread that services share which asked for none of their own.
    pub(crate) fn shared(&self) -> io::Result<Arc<Host>> {
        if let Some(everyone) = &self.everyone {
            return Ok(Arc::clone(everyone));
        }
        let mut shared = lock(&self.shared);
        if let Some(host) = shared.as_ref().filter(|host| !host.lost.load(Ordering::Relaxed)) {
            return Ok(Arc::clone(host));
        }
        let host = self.own(&Arc::from("shared"))?;
        *shared = Some(Arc::clone(&host));
        Ok(host)
    }

    /// Ends a host that nothing runs on any more; the shared one stays.
    pub(crate) fn release(&self, host: &Arc<Host>) {
        let is_shared = lock(&self.shared).as_ref().is_some_and(|shared| Arc::ptr_eq(shared, host));
        let is_everyone = self.everyone.as_ref().is_some_and(|every| Arc::ptr_eq(every, host));
        if !is_shared && !is_everyone {
            self.forget(host);
            host.retire();
        }
    }

    /// Counts a thread as leaked: it hangs and can be neither ended nor joined.
    pub(crate) fn lose(&self, host: &Arc<Host>) {
        if self.everyone().is_some() {
            return;
        }
        host.lost.store(true, Ordering::Relaxed);
        self.leaked.fetch_add(1, Ordering::Relaxed);
        self.forget(host);
        host.retire();
    }

    /// Counts the thread of a service that cannot even be stopped as leaked.
    pub(crate) fn lose_thread_of(&self, cell: &Arc<Cell>) {
        for host in self.all() {
            let cells = host.cells();
            if cells.len() == 1 && cells.iter().any(|hosted| Arc::ptr_eq(hosted, cell)) {
                self.lose(&host);
            }
        }
    }

    /// Ends every thread of the tree's own; does not wait for them.
    pub(crate) fn end(&self) {
        for host in self.all() {
            self.forget(&host);
            host.retire();
        }
    }

    fn forget(&self, host: &Arc<Host>) {
        lock(&self.all).retain(|known| !Arc::ptr_eq(known, host));
    }
}
