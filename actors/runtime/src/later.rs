//! Futures that run in an incarnation's context: answers that come later, and the service's loops.

use std::{
    future::Future,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    task::{Context, Poll},
};

use futures::future::LocalBoxFuture;
use tokio::time::{Instant, Sleep, sleep_until};
use tracing::Span;

use crate::{
    cause::Cause,
    guard::{caught, drop_quietly},
    link::{CallError, Slot},
};

/// A future and where its result goes. It resolves to the cause of death, if it panicked.
///
/// The panic is caught here and not further out, so that the future is never dropped while its
/// thread unwinds: a second panic in its destructor would end the process.
pub(crate) struct Later<T> {
    slot: Option<Slot<T>>,
    work: Option<LocalBoxFuture<'static, T>>,
    deadline: Option<Instant>,
    timer: Option<Pin<Box<Sleep>>>,
    span: Span,
}

impl<T> Later<T> {
    pub(crate) fn new(
        work: LocalBoxFuture<'static, T>,
        slot: Slot<T>,
        deadline: Instant,
        span: Span,
    ) -> Self {
        Self { slot: Some(slot), work: Some(work), deadline: Some(deadline), timer: None, span }
    }

    /// Settles with the caller first: a destructor of the work may panic or take its time.
    fn finish(&mut self, answer: Result<T, CallError>) {
        if let Some(mut slot) = self.slot.take() {
            slot.settle(answer);
        }
        drop_quietly(self.work.take());
    }

    fn poll_deadline(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let Some(deadline) = self.deadline else { return Poll::Pending };
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep_until(deadline)));
        timer.as_mut().poll(context)
    }
}

impl Later<()> {
    /// Runs work that nobody waits for, for as long as it takes.
    pub(crate) fn unasked(work: impl Future<Output = ()> + 'static) -> Self {
        let work: LocalBoxFuture<'static, ()> = Box::pin(work);
        Self { slot: None, work: Some(work), deadline: None, timer: None, span: Span::current() }
    }
}

impl<T> Unpin for Later<T> {}

impl<T> Future for Later<T> {
    type Output = Option<Cause>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Cause>> {
        let this = &mut *self;
        let Some(work) = &mut this.work else { return Poll::Ready(None) };
        let span = this.span.clone();
        let polled =
            catch_unwind(AssertUnwindSafe(|| span.in_scope(|| work.as_mut().poll(context))));
        match polled {
            Ok(Poll::Ready(answer)) => {
                this.finish(Ok(answer));
                Poll::Ready(None)
            }
            Ok(Poll::Pending) => {
                if this.poll_deadline(context).is_pending() {
                    return Poll::Pending;
                }
                this.finish(Err(CallError::TimedOut));
                Poll::Ready(None)
            }
            Err(payload) => {
                let cause = caught(payload);
                this.finish(Err(CallError::Panicked(cause.clone())));
                Poll::Ready(Some(cause))
            }
        }
    }
}

impl<T> Drop for Later<T> {
    fn drop(&mut self) {
        drop(self.slot.take());
        drop_quietly(self.work.take());
    }
}
