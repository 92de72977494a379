//! Temporary children: one turn, one tool run, one request, each with its own fate.

use std::{
    borrow::Cow,
    fmt,
    future::{Future, poll_fn},
    pin::Pin,
    rc::Rc,
    sync::atomic::Ordering,
    task::{Context, Poll},
};

use futures::FutureExt;
use tokio::{sync::oneshot, task::AbortHandle};

use crate::{
    cause::Cause, cell::Fence, guard::Guarded, host::Watched, scope::Body, service::Service,
};

/// Why a child has no result.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChildFault {
    /// It panicked.
    #[error("panicked: {message}")]
    Panicked {
        /// The panic's message.
        message: String,
        /// `file:line` of the panic.
        location: Option<String>,
    },
    /// It was aborted, or ended with its service's incarnation.
    #[error("aborted")]
    Aborted,
}

impl From<Cause> for ChildFault {
    fn from(cause: Cause) -> Self {
        Self::Panicked { message: cause.message, location: cause.location }
    }
}

/// A running child. Await it for its result; drop it to let it run on by itself.
#[must_use = "a dropped handle lets the child run on; say `.detach()` if that is meant"]
pub struct Child<T> {
    result: oneshot::Receiver<Result<T, ChildFault>>,
    handle: AbortHandle,
}

impl<T> Child<T> {
    /// Ends the child at its next await; awaiting it gives [`ChildFault::Aborted`].
    pub fn abort(&self) {
        self.handle.abort();
    }

    /// Lets the child run on by itself.
    pub fn detach(self) {}

    /// Says whether the child has come to its end.
    pub fn is_finished(&self) -> bool {
        self.handle.is_finished()
    }

    /// Returns a handle that can abort the child from elsewhere.
    pub fn abort_handle(&self) -> AbortHandle {
        self.handle.clone()
    }
}

impl<T> fmt::Debug for Child<T> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Child").field("finished", &self.is_finished()).finish()
    }
}

impl<T> Future for Child<T> {
    type Output = Result<T, ChildFault>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.result)
            .poll(context)
            .map(|result| result.unwrap_or(Err(ChildFault::Aborted)))
    }
}

pub(crate) fn spawn<S, F>(
    body: &Rc<Body<S>>,
    number: u64,
    label: Cow<'static, str>,
    future: F,
) -> Child<F::Output>
where
    S: Service,
    F: Future + 'static,
{
    let component = body.component.child(label);
    let (sender, result) = oneshot::channel();
    let membership = Membership { body: Rc::clone(body), number };
    body.cell().counters.children.fetch_add(1, Ordering::Relaxed);
    let work = fenced(body.fence(), Guarded::new(component, future));
    let task = tokio::task::spawn_local(Watched::new(&body.host, body.cell(), async move {
        let outcome = work.await;
        if matches!(outcome, Err(ChildFault::Panicked { .. })) {
            membership.body.cell().counters.child_panics.fetch_add(1, Ordering::Relaxed);
        }
        drop(membership);
        // Whoever dropped the handle does not want the result.
        drop(sender.send(outcome));
    }));
    let handle = task.abort_handle();
    body.children.borrow_mut().insert(number, handle.clone());
    Child { result, handle }
}

/// Strikes the child off its incarnation's list, however it ends.
struct Membership<S: Service> {
    body: Rc<Body<S>>,
    number: u64,
}

impl<S: Service> Drop for Membership<S> {
    fn drop(&mut self) {
        self.body.cell().counters.children.fetch_sub(1, Ordering::Relaxed);
        if let Ok(mut children) = self.body.children.try_borrow_mut() {
            children.remove(&self.number);
        }
    }
}

/// Ends a child whose incarnation has been replaced: on a thread that was given up and comes back
/// after all, it does not go on where it was.
async fn fenced<F: Future>(fence: Fence, mut work: Guarded<F>) -> Result<F::Output, ChildFault> {
    poll_fn(|context| {
        if !fence.is_current() {
            return Poll::Ready(Err(ChildFault::Aborted));
        }
        work.poll_unpin(context).map(|outcome| outcome.map_err(ChildFault::from))
    })
    .await
}
