//! A claimed turn in the hands of its owner: what it knows, its signs, its calls of the store.

use std::{cell::Cell, rc::Rc, sync::Arc, time::Duration};

use futures::FutureExt as _;
use soma_contract::{
    Event, TurnId,
    model::Usage,
    port::store::{ClaimedTurn, LayDown, Store, StoreError, StoreResult},
    turn::{Step, Turn},
};
use soma_runtime::Drain;
use tokio::{
    sync::{Notify, watch},
    time::{Instant, sleep},
};

use crate::{
    caps::Spent,
    config::Config,
    ending::Subject,
    failure::{Code, Failure},
    metrics::Metrics,
    ports::Ports,
    progress::Progress,
    stream::Interrupt,
};

/// The pauses between repetitions of a call that the store did not answer.
const RETRY: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));

/// What all turns of one incarnation share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) ports: Ports,
    pub(crate) config: Config,
    pub(crate) metrics: Metrics,
    pub(crate) drain: Drain,
    /// Whether a drain has waited long enough.
    pub(crate) grace_over: watch::Sender<bool>,
}

impl Shared {
    async fn grace_is_over(&self) {
        // The sender is ours, so that it cannot be gone.
        self.grace_over.subscribe().wait_for(|over| *over).await.ok();
    }
}

/// How others reach the turn that a session runs, and the child that waits for the next one.
#[derive(Debug, Default)]
pub(crate) struct Signals {
    /// Look again: a turn may be claimable, a step may have settled.
    pub(crate) wake: Notify,
    pub(crate) interrupt: watch::Sender<Interrupt>,
    /// The turn that somebody asked to cancel last; the hint may come before the claim's answer.
    cancelled: Cell<Option<TurnId>>,
    current: Cell<Option<TurnId>>,
    interrupted_at: Cell<Option<Instant>>,
}

impl Signals {
    /// Forgets hints so far: what is asked of the store next knows all that they told.
    pub(crate) fn hear_all(&self) {
        while self.wake.notified().now_or_never().is_some() {}
    }

    /// Notes that no turn runs.
    pub(crate) fn rest(&self) {
        self.current.set(None);
    }

    /// Notes which turn runs from now on.
    pub(crate) fn begin(&self, turn: &Turn) {
        self.current.set(Some(turn.turn_id));
        self.interrupted_at.set(None);
        self.interrupt.send_replace(Interrupt::None);
        if turn.cancel_requested || self.cancelled.take() == Some(turn.turn_id) {
            self.interrupt(Interrupt::Cancel);
        }
    }

    /// Cancels this turn if it runs or is just being claimed.
    pub(crate) fn cancel(&self, turn_id: TurnId) {
        if self.current.get() == Some(turn_id) {
            self.interrupt(Interrupt::Cancel);
        } else {
            self.cancelled.set(Some(turn_id));
        }
    }

    /// Tells the running turn to stop; a stronger sign replaces a weaker one.
    pub(crate) fn interrupt(&self, why: Interrupt) {
        self.interrupt.send_if_modified(|now| {
            let stronger = why > *now;
            if stronger {
                *now = why;
                self.interrupted_at.set(Some(Instant::now()));
            }
            stronger
        });
    }

    /// Returns how long ago the turn was told to stop.
    pub(crate) fn closed_in(&self) -> Duration {
        self.interrupted_at.get().map_or(Duration::ZERO, |at| at.elapsed())
    }
}

/// Why a turn goes no further in this claim.
#[derive(Debug)]
pub(crate) enum Stop {
    /// It ends by failure; an answer that is not journaled took this much.
    Failed(Failure, Usage),
    /// It was cancelled; a call that was closed took about this much.
    Cancelled(Usage),
    /// It is to be laid down.
    LaidDown(LayDown),
    /// Somebody else has taken over, or the store cannot be told: nothing more is written.
    Lost,
}

impl From<Failure> for Stop {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure, Usage::default())
    }
}

/// A turn that runs.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) shared: Rc<Shared>,
    pub(crate) signals: Rc<Signals>,
    pub(crate) turn: Turn,
    pub(crate) said: Event,
    pub(crate) epoch: u64,
    pub(crate) journal: Vec<Step>,
    begun: Instant,
    /// The first step that was not journaled when the turn was claimed.
    claimed_steps: u32,
}

impl Run {
    pub(crate) fn new(shared: Rc<Shared>, signals: Rc<Signals>, claimed: ClaimedTurn) -> Self {
        let ClaimedTurn { turn, epoch, event: said, journal } = claimed;
        let claimed_steps = journal.iter().map(|step| step.step + 1).max().unwrap_or_default();
        Self { shared, signals, turn, said, epoch, journal, begun: Instant::now(), claimed_steps }
    }

    pub(crate) fn subject(&self) -> Subject<'_> {
        Subject { turn: &self.turn, said: &self.said }
    }

    /// Returns how long this claim has run.
    pub(crate) fn elapsed(&self) -> Duration {
        self.begun.elapsed()
    }

    /// Returns the work of all claims.
    pub(crate) fn worked(&self) -> Duration {
        Duration::from_millis(self.turn.worked_ms) + self.elapsed()
    }

    /// Returns how long this claim has run, in milliseconds.
    pub(crate) fn elapsed_ms(&self) -> u64 {
        u64::try_from(self.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    pub(crate) fn spent(&self, progress: &Progress, tokens_before: u64) -> Spent {
        Spent {
            model_steps: progress.model_steps,
            tool_calls: progress.tool_calls,
            worked: self.worked(),
            tokens_today: tokens_before.saturating_add(progress.usage.total()),
        }
    }

    /// Returns whether an earlier owner may have published text of this step. Who lays a turn down
    /// has told the readers to forget; who died has not, and its attempt counts.
    pub(crate) fn may_have_spoken(&self, step: u32) -> bool {
        let next_of_journal = self.claimed_steps == step;
        next_of_journal && (self.turn.tries.attempts > 1 || self.turn.replay > 0)
    }

    /// Stops at a step boundary if the turn was cancelled or the worker drains.
    pub(crate) fn boundary(&self) -> Result<(), Stop> {
        match *self.signals.interrupt.borrow() {
            Interrupt::Cancel => return Err(Stop::Cancelled(Usage::default())),
            Interrupt::Drain => return Err(Stop::LaidDown(LayDown::Drained)),
            Interrupt::None => {}
        }
        if self.shared.drain.is_draining() {
            return Err(Stop::LaidDown(LayDown::Drained));
        }
        Ok(())
    }

    /// As [`persist`].
    pub(crate) async fn persist<T, F>(
        &self,
        what: &'static str,
        call: impl FnMut(Arc<dyn Store>) -> F,
    ) -> Result<T, Stop>
    where
        T: Send + 'static,
        F: Future<Output = StoreResult<T>> + Send + 'static,
    {
        persist(&self.shared, what, call).await
    }
}

/// Makes a call of the store, again and again until it has an answer.
///
/// The work that a turn has done is worth more than anybody's patience: only the end of a drain's
/// grace gives it up.
pub(crate) async fn persist<T, F>(
    shared: &Shared,
    what: &'static str,
    mut call: impl FnMut(Arc<dyn Store>) -> F,
) -> Result<T, Stop>
where
    T: Send + 'static,
    F: Future<Output = StoreResult<T>> + Send + 'static,
{
    let mut pause = RETRY.0;
    loop {
        let error = match shared.ports.store(shared.config.store_deadline, &mut call).await {
            Ok(answer) => return Ok(answer),
            Err(StoreError::Fenced | StoreError::NotFound) => return Err(Stop::Lost),
            Err(StoreError::Refused(reason)) => {
                let reason = format!("{what}: the store refused the data: {reason}");
                return Err(Failure::new(Code::Internal, reason).into());
            }
            Err(error) => error,
        };
        if pause == RETRY.0 {
            tracing::warn!(what, %error, "the store does not answer; trying again");
        }
        tokio::select! {
            () = sleep(pause) => {}
            () = shared.grace_is_over() => return Err(Stop::Lost),
        }
        pause = RETRY.1.min(pause * 2);
    }
}
