//! Workers: services that converge. The runtime owns the loop, the worker one pass.

use std::{cell::RefCell, fmt, future::Future, rc::Rc, sync::Arc, time::Duration};

use futures::future::LocalBoxFuture;
use tokio::{
    sync::{Notify, oneshot},
    time::{Instant, sleep},
};

use crate::{
    cause::Cause,
    policy::RestartPolicy,
    scope::{Drain, Scope},
    service::{Health, Service, Starting},
};

/// A pass that has been running for longer than this is told as degraded.
const LONG_PASS: Duration = Duration::from_mins(1);

/// A service that converges: each pass reads what is true and does a bounded amount.
///
/// Write `async fn pass(&mut self) -> Result<Pass, Cause>`; any error converts with `?`.
pub trait Worker: Unpin + 'static {
    /// Makes one pass. It takes no input, is bounded and safe to repeat.
    ///
    /// An `Err` is followed by a back-off (0.1 s × 2ⁿ to 10 s, full jitter) and shown as degraded;
    /// it is not a death. A panic is one: the next incarnation starts from the factory.
    fn pass(&mut self) -> impl Future<Output = Result<Pass, Cause>>;

    /// Tells how the worker is; asked after each pass.
    fn health(&self) -> Health {
        Health::ok()
    }

    /// Flushes what is to be flushed, after the last pass before an ordered end.
    fn stop(&mut self) -> impl Future<Output = ()> {
        async {}
    }
}

/// What a pass found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pass {
    /// Nothing (more) to do: the next pass is after the pace's time, or at a nudge.
    Idle,
    /// There may be more: again at once.
    Busy,
}

/// How often an idle worker looks again. The time doubles from `min_period` to `period`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pace {
    /// The longest time between two passes.
    pub period: Duration,
    /// The time after the first idle pass.
    pub min_period: Duration,
}

impl Pace {
    /// Looks again each `period`, always.
    pub const fn every(period: Duration) -> Self {
        Self { period, min_period: period }
    }

    /// Looks again after `min_period`, doubling to `period` while there is nothing to do.
    pub const fn between(min_period: Duration, period: Duration) -> Self {
        Self { period, min_period }
    }
}

/// Wakes an idle worker. A nudge that comes during a pass is kept for its end.
#[derive(Debug, Clone, Default)]
pub struct Nudge(Arc<Notify>);

impl Nudge {
    /// Makes a nudge that wakes nobody yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Wakes the worker.
    pub fn wake(&self) {
        self.0.notify_one();
    }

    /// Waits for the next [`wake`](Self::wake).
    pub async fn wait(&self) {
        self.0.notified().await;
    }
}

/// The service around a worker; made by [`Spec::worker`](crate::Spec::worker).
pub struct WorkerService<W> {
    worker: Option<W>,
    pace: Pace,
    nudge: Nudge,
    progress: Rc<RefCell<Progress>>,
    ended: Option<oneshot::Receiver<()>>,
}

/// What the loop shows to probes.
#[derive(Debug, Default)]
struct Progress {
    health: Health,
    fault: Option<String>,
    pass_began: Option<Instant>,
}

impl<W> fmt::Debug for WorkerService<W> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("WorkerService").field("pace", &self.pace).finish_non_exhaustive()
    }
}

impl<W> WorkerService<W> {
    pub(crate) fn new(worker: W, pace: Pace, nudge: Nudge) -> Self {
        Self { worker: Some(worker), pace, nudge, progress: Rc::default(), ended: None }
    }
}

impl<W: Worker> Service for WorkerService<W> {
    fn start(&mut self, scope: &Scope<Self>) -> Starting {
        let Some(worker) = self.worker.take() else { return Starting::ready() };
        let (end, ended) = oneshot::channel();
        self.ended = Some(ended);
        let run = Loop {
            worker,
            pace: self.pace,
            nudge: self.nudge.clone(),
            drain: scope.draining(),
            progress: Rc::clone(&self.progress),
            jitter: scope.0.jitter(),
        };
        scope.run(async move {
            run.run().await;
            drop(end);
        });
        Starting::ready()
    }

    fn health(&self) -> Health {
        let progress = self.progress.borrow();
        if let Some(fault) = &progress.fault {
            return Health::degraded(fault.clone());
        }
        match progress.pass_began.map(|began| began.elapsed()) {
            Some(age) if age > LONG_PASS => {
                Health::degraded(format!("a pass has been running for {} s", age.as_secs()))
            }
            _ => progress.health.clone(),
        }
    }

    fn stop(&mut self, _scope: &Scope<Self>) -> LocalBoxFuture<'static, ()> {
        let ended = self.ended.take();
        Box::pin(async move {
            if let Some(ended) = ended {
                // The loop drops its end when it is through.
                drop(ended.await);
            }
        })
    }
}

struct Loop<W> {
    worker: W,
    pace: Pace,
    nudge: Nudge,
    drain: Drain,
    progress: Rc<RefCell<Progress>>,
    jitter: Jitter,
}

/// Draws a delay up to a bound, from the tree's randomness.
pub(crate) type Jitter = Box<dyn Fn(Duration) -> Duration>;

impl<W: Worker> Loop<W> {
    async fn run(mut self) {
        let mut idle = self.pace.min_period;
        let mut failures = 0_u32;
        while !self.drain.is_draining() {
            match self.pass().await {
                Ok(Pass::Busy) => {
                    (idle, failures) = (self.pace.min_period, 0);
                    // Others on the thread get their turn between two passes.
                    tokio::task::yield_now().await;
                }
                Ok(Pass::Idle) => {
                    failures = 0;
                    let nudged = self.rest(idle, true).await;
                    idle = if nudged { self.pace.min_period } else { self.slower(idle) };
                }
                Err(cause) => {
                    failures = failures.saturating_add(1);
                    tracing::warn!(%cause, failures, "a pass failed");
                    self.rest(self.back_off(failures), false).await;
                }
            }
        }
        self.worker.stop().await;
    }

    async fn pass(&mut self) -> Result<Pass, Cause> {
        self.progress.borrow_mut().pass_began = Some(Instant::now());
        let result = self.worker.pass().await;
        let mut progress = self.progress.borrow_mut();
        progress.pass_began = None;
        progress.fault = result.as_ref().err().map(ToString::to_string);
        progress.health = self.worker.health();
        drop(progress);
        result
    }

    fn slower(&self, idle: Duration) -> Duration {
        (idle * 2).clamp(self.pace.min_period, self.pace.period.max(self.pace.min_period))
    }

    fn back_off(&self, failures: u32) -> Duration {
        (self.jitter)(RestartPolicy::default().delay_bound(failures.saturating_add(1)))
    }

    /// Waits for `time`, the drain or (if that counts) a nudge, and says whether it was a nudge.
    async fn rest(&self, time: Duration, nudges: bool) -> bool {
        tokio::select! {
            biased;
            () = self.drain.wait() => false,
            () = self.nudge.wait(), if nudges => true,
            () = sleep(time) => false,
        }
    }
}
