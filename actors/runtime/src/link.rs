//! The way to a service: a link that outlives incarnations, outlets for one message, typed errors.

use std::{
    fmt,
    future::Future,
    sync::{
        Arc, PoisonError, RwLock, Weak,
        atomic::{AtomicU8, Ordering},
    },
    time::Duration,
};

use actix::Addr;
use futures::future::BoxFuture;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, TryAcquireError, mpsc, oneshot, watch},
    time::{Instant, sleep_until, timeout_at},
};
use tracing::Span;

use crate::{
    cause::{Cause, CauseKind},
    cell::{Cell, Gate, Place},
    event::Phase,
    guard::last_panic,
    runner,
    service::{Answer, Message, Service},
    shell::{Shell, mailbox},
};

/// How long a caller waits for a new incarnation, and for a permit.
const PATIENCE: Duration = Duration::from_secs(1);

/// Why a call has no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// As many calls as the service's bound allows are in flight. Not begun: try later.
    #[error("the service has as many calls in flight as it may")]
    Full,
    /// The service has no incarnation that answers, and got none in time. Not begun: try later.
    #[error("the service is restarting")]
    Restarting,
    /// The service panicked over this very message.
    #[error("the service {0}")]
    Panicked(Cause),
    /// The incarnation ended while the call was in flight. It may or may not have had effects.
    #[error("the service was restarted before it answered")]
    Abandoned,
    /// The service is stopping or has stopped. Not begun.
    #[error("the service has stopped")]
    Stopped,
    /// The answer did not come before the message's deadline; its handler was dropped.
    #[error("the service did not answer in time")]
    TimedOut,
}

impl CallError {
    /// Says whether the message was certainly not begun, so that sending it again is safe.
    pub const fn is_unbegun(&self) -> bool {
        matches!(self, Self::Full | Self::Restarting | Self::Stopped)
    }
}

/// A service's address. It is the same over incarnations and threads.
pub struct Link<S: Service>(pub(crate) Arc<LinkCore<S>>);

impl<S: Service> Clone for Link<S> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<S: Service> fmt::Debug for Link<S> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_tuple("Link").field(&self.0.cell.name).finish()
    }
}

impl<S: Service> Link<S> {
    /// Returns the service's name.
    pub fn name(&self) -> &str {
        &self.0.cell.name
    }

    /// Returns an outlet for messages of type `M`.
    pub fn outlet<M: Message>(&self) -> Outlet<M>
    where
        S: Answer<M>,
    {
        Outlet { port: Arc::clone(&self.0) as Arc<dyn Port<M>> }
    }

    /// Makes the service misbehave, once.
    #[cfg(feature = "failpoints")]
    pub fn inject(&self, fault: crate::fault::Fault) {
        self.0.cell.inject(fault);
    }
}

pub(crate) struct LinkCore<S: Service> {
    pub(crate) cell: Arc<Cell>,
    pub(crate) factory: Box<dyn Fn() -> S + Send + Sync>,
    line: RwLock<Option<Arc<Line<S>>>>,
}

/// One mailbox and its permits. A thread that hangs keeps both; its successor gets new ones.
struct Line<S: Service> {
    number: u64,
    address: Addr<Shell<S>>,
    permits: Arc<Semaphore>,
}

impl<S: Service> LinkCore<S> {
    pub(crate) fn new(cell: Arc<Cell>, factory: Box<dyn Fn() -> S + Send + Sync>) -> Arc<Self> {
        Arc::new_cyclic(|core| {
            cell.set_place(Weak::<Self>::clone(core));
            Self { cell, factory, line: RwLock::new(None) }
        })
    }

    fn line(&self) -> Option<Arc<Line<S>>> {
        self.line.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set_line(&self, line: Arc<Line<S>>) {
        let before = self.line.write().unwrap_or_else(PoisonError::into_inner).replace(line);
        if let Some(before) = before {
            before.permits.close();
        }
    }
}

impl<S: Service> Place for LinkCore<S> {
    fn place(self: Arc<Self>, number: u64) -> std::io::Result<()> {
        let (address, receiver) = mailbox();
        let permits = Arc::new(Semaphore::new(self.cell.terms().bound));
        self.set_line(Arc::new(Line { number, address, permits }));
        runner::spawn(self, number, receiver)
    }
}

/// A way to send one type of message, to whatever answers it.
pub struct Outlet<M: Message> {
    port: Arc<dyn Port<M>>,
}

impl<M: Message> Clone for Outlet<M> {
    fn clone(&self) -> Self {
        Self { port: Arc::clone(&self.port) }
    }
}

impl<M: Message> fmt::Debug for Outlet<M> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Outlet<{}>", std::any::type_name::<M>())
    }
}

impl<M: Message> Outlet<M> {
    /// Sends a message and returns the answer.
    ///
    /// Waits at most a second for a permit, and at most a second for a new incarnation where the
    /// service is between two. Dropping the future withdraws a message that has not been begun;
    /// one that has been begun is brought to its end.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn send(&self, message: M) -> Result<M::Result, CallError> {
        Arc::clone(&self.port).call(message, Patience::Wait).await
    }

    /// Sends a message and returns the answer, but waits neither for a permit nor for a new
    /// incarnation.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn try_send(&self, message: M) -> Result<M::Result, CallError> {
        Arc::clone(&self.port).call(message, Patience::None).await
    }

    /// Makes an outlet that a function answers.
    pub fn from_fn<F, R>(answer: F) -> Self
    where
        F: Fn(M) -> R + Send + Sync + 'static,
        R: Future<Output = Result<M::Result, CallError>> + Send + 'static,
    {
        Self { port: Arc::new(FnPort(answer)) }
    }

    /// Makes an outlet for a test, and the stream of what was asked through it.
    pub fn testing() -> (Self, mpsc::UnboundedReceiver<Asked<M>>) {
        let (asked, requests) = mpsc::unbounded_channel();
        let outlet = Self::from_fn(move |message| {
            let (answer, answered) = oneshot::channel();
            let sent = asked.send(Asked { message, answer });
            async move {
                sent.map_err(|_closed| CallError::Stopped)?;
                answered.await.map_err(|_dropped| CallError::Abandoned)
            }
        });
        (outlet, requests)
    }
}

/// What a test sees of a message that was sent to [`Outlet::testing`].
#[derive(Debug)]
pub struct Asked<M: Message> {
    /// The message.
    pub message: M,
    /// Where its answer goes; dropped, the caller gets [`CallError::Abandoned`].
    pub answer: oneshot::Sender<M::Result>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Patience {
    Wait,
    None,
}

trait Port<M: Message>: Send + Sync {
    fn call(
        self: Arc<Self>,
        message: M,
        patience: Patience,
    ) -> BoxFuture<'static, Result<M::Result, CallError>>;
}

struct FnPort<F>(F);

impl<M, F, R> Port<M> for FnPort<F>
where
    M: Message,
    F: Fn(M) -> R + Send + Sync + 'static,
    R: Future<Output = Result<M::Result, CallError>> + Send + 'static,
{
    fn call(
        self: Arc<Self>,
        message: M,
        _patience: Patience,
    ) -> BoxFuture<'static, Result<M::Result, CallError>> {
        Box::pin((self.0)(message))
    }
}

impl<S: Answer<M>, M: Message> Port<M> for LinkCore<S> {
    fn call(
        self: Arc<Self>,
        message: M,
        patience: Patience,
    ) -> BoxFuture<'static, Result<M::Result, CallError>> {
        Box::pin(call(self, message, patience))
    }
}

async fn call<S: Answer<M>, M: Message>(
    core: Arc<LinkCore<S>>,
    message: M,
    patience: Patience,
) -> Result<M::Result, CallError> {
    let mut gate = core.cell.gate.subscribe();
    let (line, permit) = loop {
        let line = open_line(&core, &mut gate, patience).await?;
        match permit(&line, patience).await {
            Ok(permit) => break (line, permit),
            // The permits belong to a line that was replaced while we waited.
            Err(TryAcquireError::Closed) => {}
            Err(TryAcquireError::NoPermits) => return Err(CallError::Full),
        }
    };
    let (mail, call) = Mail::new(message, permit, &core.cell);
    if line.address.try_send(mail).is_err() {
        return Err(CallError::Abandoned);
    }
    drop(core);
    answered(call, gate, line.number).await
}

/// Waits until the service answers, within the caller's patience.
async fn open_line<S: Service>(
    core: &LinkCore<S>,
    gate: &mut watch::Receiver<Gate>,
    patience: Patience,
) -> Result<Arc<Line<S>>, CallError> {
    let mut until = None;
    loop {
        let now = *gate.borrow_and_update();
        match now.phase {
            Phase::Open => {
                if let Some(line) = core.line().filter(|line| line.number == now.line) {
                    return Ok(line);
                }
            }
            Phase::Leaving => return Err(CallError::Stopped),
            Phase::Parked => return Err(CallError::Restarting),
            Phase::Closed | Phase::Draining => {}
        }
        if patience == Patience::None {
            return Err(CallError::Restarting);
        }
        let until = *until.get_or_insert_with(|| Instant::now() + PATIENCE);
        match timeout_at(until, gate.changed()).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) => return Err(CallError::Stopped),
            Err(_) => return Err(CallError::Restarting),
        }
    }
}

async fn permit<S: Service>(
    line: &Line<S>,
    patience: Patience,
) -> Result<OwnedSemaphorePermit, TryAcquireError> {
    let refused = match Arc::clone(&line.permits).try_acquire_owned() {
        Ok(permit) => return Ok(permit),
        Err(refused) => refused,
    };
    if patience == Patience::None || refused == TryAcquireError::Closed {
        return Err(refused);
    }
    let acquired = Arc::clone(&line.permits).acquire_owned();
    match timeout_at(Instant::now() + PATIENCE, acquired).await {
        Ok(acquired) => acquired.map_err(|_closed| TryAcquireError::Closed),
        Err(_) => Err(TryAcquireError::NoPermits),
    }
}

/// Waits for the answer, for the loss of the line, or for a second without an incarnation that
/// would begin the message. One that was begun is waited for: it is answered or abandoned.
async fn answered<T>(
    mut call: Call<T>,
    mut gate: watch::Receiver<Gate>,
    line: u64,
) -> Result<T, CallError> {
    let mut closed_until: Option<Instant> = None;
    loop {
        let patience = async {
            match closed_until {
                Some(until) => sleep_until(until).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            answer = &mut call.answer => {
                return answer.unwrap_or_else(|_unbegun| Err(unbegun(&gate)));
            }
            changed = gate.changed() => {
                let now = *gate.borrow_and_update();
                if now.line != line || changed.is_err() {
                    return call.lost();
                }
                match now.phase {
                    Phase::Closed | Phase::Parked | Phase::Draining => {
                        closed_until.get_or_insert_with(|| Instant::now() + PATIENCE);
                    }
                    Phase::Leaving if call.turn.withdraw() => return Err(CallError::Stopped),
                    Phase::Open | Phase::Leaving => closed_until = None,
                }
            }
            () = patience => {
                if call.turn.withdraw() {
                    return Err(CallError::Restarting);
                }
                closed_until = None;
            }
        }
    }
}

/// Says why a message was dropped that nobody had begun.
fn unbegun(gate: &watch::Receiver<Gate>) -> CallError {
    match gate.borrow().phase {
        Phase::Leaving => CallError::Stopped,
        Phase::Closed | Phase::Parked | Phase::Draining => CallError::Restarting,
        Phase::Open => CallError::Abandoned,
    }
}

/// Whether a message was begun or withdrawn, whichever came first. Both sides go by it, so that a
/// caller who is told that nothing was begun can rely on it.
#[derive(Debug, Default)]
struct Begin(AtomicU8);

impl Begin {
    const WAITING: u8 = 0;
    const BEGUN: u8 = 1;
    const WITHDRAWN: u8 = 2;

    /// Says whether the service may begin.
    fn begin(&self) -> bool {
        self.settle(Self::BEGUN)
    }

    /// Says whether the caller may go, as nobody has begun and nobody will.
    fn withdraw(&self) -> bool {
        self.settle(Self::WITHDRAWN)
    }

    fn settle(&self, as_what: u8) -> bool {
        let (waiting, order) = (Self::WAITING, Ordering::AcqRel);
        self.0.compare_exchange(waiting, as_what, order, Ordering::Acquire).is_ok()
    }

    fn is_begun(&self) -> bool {
        self.0.load(Ordering::Acquire) == Self::BEGUN
    }
}

/// The caller's end of a message on its way.
struct Call<T> {
    answer: oneshot::Receiver<Result<T, CallError>>,
    turn: Arc<Begin>,
}

impl<T> Call<T> {
    /// Says what became of a message whose mailbox was lost with its thread.
    fn lost(mut self) -> Result<T, CallError> {
        if self.turn.withdraw() {
            return Err(CallError::Restarting);
        }
        self.answer.try_recv().unwrap_or(Err(CallError::Abandoned))
    }
}

/// A message on its way, with its permit and the way back.
pub(crate) struct Mail<M: Message> {
    message: M,
    slot: Slot<M::Result>,
    deadline: Instant,
    span: Span,
}

/// A message that is being answered.
pub(crate) struct Begun<M: Message> {
    pub(crate) message: M,
    pub(crate) slot: Slot<M::Result>,
    pub(crate) deadline: Instant,
    pub(crate) span: Span,
}

impl<M: Message> actix::Message for Mail<M> {
    type Result = ();
}

impl<M: Message> Mail<M> {
    fn new(message: M, permit: OwnedSemaphorePermit, cell: &Arc<Cell>) -> (Self, Call<M::Result>) {
        let (reply, answer) = oneshot::channel();
        let turn = Arc::<Begin>::default();
        cell.counters.in_flight.fetch_add(1, Ordering::Relaxed);
        let slot = Slot {
            reply: Some(reply),
            turn: Arc::clone(&turn),
            cell: Arc::clone(cell),
            _permit: permit,
        };
        let deadline = Instant::now() + cell.terms().message_deadline;
        (Self { message, slot, deadline, span: Span::current() }, Call { answer, turn })
    }

    /// Begins a message, unless its caller has gone or its time is over.
    pub(crate) fn begin(mut self) -> Option<Begun<M>> {
        if self.slot.reply.as_ref().is_none_or(oneshot::Sender::is_closed) {
            return None;
        }
        if Instant::now() >= self.deadline {
            self.slot.settle(Err(CallError::TimedOut));
            return None;
        }
        if !self.slot.turn.begin() {
            return None;
        }
        let Self { message, slot, deadline, span } = self;
        Some(Begun { message, slot, deadline, span })
    }
}

/// The way back to a caller. Dropped after the message was begun, it tells the caller why.
pub(crate) struct Slot<T> {
    reply: Option<oneshot::Sender<Result<T, CallError>>>,
    turn: Arc<Begin>,
    cell: Arc<Cell>,
    _permit: OwnedSemaphorePermit,
}

impl<T> Slot<T> {
    pub(crate) fn settle(&mut self, answer: Result<T, CallError>) {
        if let Some(reply) = self.reply.take() {
            // A caller that has gone does not need its answer.
            drop(reply.send(answer));
        }
    }
}

impl<T> Drop for Slot<T> {
    fn drop(&mut self) {
        self.cell.counters.in_flight.fetch_sub(1, Ordering::Relaxed);
        if !self.turn.is_begun() {
            return;
        }
        if std::thread::panicking() {
            let cause = last_panic();
            let cause = cause.unwrap_or_else(|| Cause::of(CauseKind::Panic, "in the handler"));
            self.settle(Err(CallError::Panicked(cause)));
        } else {
            self.settle(Err(CallError::Abandoned));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Ask;

    impl Message for Ask {
        type Result = ();
    }

    fn mail() -> (Mail<Ask>, Call<()>) {
        let permits = Arc::new(Semaphore::new(1));
        let permit = permits.try_acquire_owned().unwrap();
        Mail::new(Ask, permit, &Cell::new(Arc::from("asked")))
    }

    #[tokio::test]
    async fn a_message_is_begun_or_withdrawn_but_never_both() {
        let (mail, call) = mail();
        assert!(call.turn.withdraw());
        assert!(mail.begin().is_none(), "its caller was told that nobody has begun it");
        let (mail, call) = self::mail();
        let begun = mail.begin().unwrap();
        assert!(!call.turn.withdraw(), "it may have had effects");
        assert!(!call.turn.begin(), "once is enough");
        drop(begun);
        assert_eq!(call.lost(), Err(CallError::Abandoned));
        let (_mail, call) = self::mail();
        assert_eq!(call.lost(), Err(CallError::Restarting));
    }
}
