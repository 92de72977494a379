//! Catching panics: who is being polled on this thread, what the hook saw, and the guarded future.

use std::{
    any::Any,
    borrow::Cow,
    cell::RefCell,
    fmt,
    future::Future,
    panic::{self, AssertUnwindSafe, PanicHookInfo},
    pin::Pin,
    sync::{Arc, Once},
    task::{Context, Poll},
};

use crate::{
    cause::{Cause, CauseKind},
    cell::Fence,
};

// Everything here rests on unwinding: a build that aborts on panic supervises nothing.
#[cfg(not(panic = "unwind"))]
compile_error!("soma-runtime needs `panic = \"unwind\"`: with `abort` no panic can be supervised");

thread_local! {
    static CURRENT: RefCell<Option<Arc<Component>>> = const { RefCell::new(None) };
    static LAST: RefCell<Option<Cause>> = const { RefCell::new(None) };
}

/// What is polled: a service's incarnation or one of its children.
#[derive(Debug)]
pub(crate) struct Component {
    service: Arc<str>,
    label: Option<Cow<'static, str>>,
    fence: Option<Fence>,
}

impl Component {
    pub(crate) fn service(service: Arc<str>, fence: Option<Fence>) -> Arc<Self> {
        Arc::new(Self { service, label: None, fence })
    }

    pub(crate) fn child(&self, label: Cow<'static, str>) -> Arc<Self> {
        let service = Arc::clone(&self.service);
        Arc::new(Self { service, label: Some(label), fence: self.fence.clone() })
    }

    /// Makes a component that belongs to no service.
    pub(crate) fn free(label: &str) -> Arc<Self> {
        Arc::new(Self { service: Arc::from(label), label: None, fence: None })
    }
}

impl fmt::Display for Component {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.service)?;
        match &self.label {
            Some(label) => write!(formatter, "/{label}"),
            None => Ok(()),
        }
    }
}

/// Returns the component that this thread is polling.
pub(crate) fn current() -> Option<Arc<Component>> {
    CURRENT.with_borrow(Clone::clone)
}

/// Returns the fence of the component that this thread is polling.
pub(crate) fn current_fence() -> Option<Fence> {
    CURRENT.with_borrow(|component| component.as_ref()?.fence.clone())
}

/// Returns what the hook recorded of the newest panic of this thread.
pub(crate) fn last_panic() -> Option<Cause> {
    LAST.with_borrow(Clone::clone)
}

/// Says what is to be reported of a panic that is about to be resumed on this thread.
pub(crate) fn set_last_panic(cause: Cause) {
    LAST.set(Some(cause));
}

struct Entered(Option<Arc<Component>>);

impl Entered {
    fn new(component: &Arc<Component>) -> Self {
        Self(CURRENT.replace(Some(Arc::clone(component))))
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        CURRENT.set(self.0.take());
    }
}

/// Runs `work` as `component` and turns its panic into a cause.
pub(crate) fn catch<T>(component: &Arc<Component>, work: impl FnOnce() -> T) -> Result<T, Cause> {
    let _entered = Entered::new(component);
    panic::catch_unwind(AssertUnwindSafe(work)).map_err(caught)
}

/// Describes a panic that has just been caught on this thread.
pub(crate) fn caught(payload: Box<dyn Any + Send>) -> Cause {
    let cause = LAST.take().unwrap_or_else(|| Cause::from_payload(payload.as_ref()));
    drop_quietly(payload);
    cause
}

/// Drops a value whose destructor may panic; a panic ends here and has been logged by the hook.
pub(crate) fn drop_quietly<T>(value: T) {
    if let Err(payload) = panic::catch_unwind(AssertUnwindSafe(|| drop(value))) {
        // The payload's own destructor is the one thing left that could panic.
        std::mem::forget(payload);
    }
}

/// Makes panics of components a log line with component, file and line.
///
/// Launching a tree does this. Panics outside of components go to the hook that was set before.
pub fn install_panic_hook() {
    static INSTALLED: Once = Once::new();
    INSTALLED.call_once(|| {
        let previous = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            if !record(info) {
                previous(info);
            }
        }));
    });
}

fn record(info: &PanicHookInfo<'_>) -> bool {
    // A hook may run while its thread is being torn down: no access may panic here.
    let component = CURRENT
        .try_with(|current| current.try_borrow().ok().and_then(|current| current.clone()))
        .ok()
        .flatten();
    let Some(component) = component else { return false };
    let message = info.payload_as_str().unwrap_or("a panic without a message").to_owned();
    let location = info.location().map(|place| format!("{}:{}", place.file(), place.line()));
    tracing::error!(%component, %message, location = location.as_deref(), "panicked");
    let cause = Cause { kind: CauseKind::Panic, message, location };
    LAST.try_with(|last| last.try_borrow_mut().map(|mut last| *last = Some(cause)).is_ok())
        .unwrap_or(false)
}

/// A future whose panic, while polled or dropped, ends here.
pub(crate) struct Guarded<F> {
    component: Arc<Component>,
    inner: Option<Pin<Box<F>>>,
}

impl<F: Future> Guarded<F> {
    pub(crate) fn new(component: Arc<Component>, inner: F) -> Self {
        Self { component, inner: Some(Box::pin(inner)) }
    }
}

impl<F> Guarded<F> {
    fn clear(&mut self) {
        if let Some(inner) = self.inner.take() {
            let _entered = Entered::new(&self.component);
            drop_quietly(inner);
        }
    }
}

impl<F: Future> Future for Guarded<F> {
    type Output = Result<F::Output, Cause>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        let Some(inner) = &mut this.inner else { return Poll::Pending };
        let polled = match catch(&this.component, || inner.as_mut().poll(context)) {
            Ok(Poll::Pending) => return Poll::Pending,
            Ok(Poll::Ready(output)) => Ok(output),
            Err(cause) => Err(cause),
        };
        this.clear();
        Poll::Ready(polled)
    }
}

impl<F> Drop for Guarded<F> {
    fn drop(&mut self) {
        self.clear();
    }
}

/// Runs a future as the component `label`: its panic is logged and becomes an `Err`.
///
/// For work outside of services, such as one HTTP request.
///
/// # Errors
/// The cause, if the future panicked.
pub async fn guarded<F: Future>(
    label: impl Into<Cow<'static, str>>,
    future: F,
) -> Result<F::Output, Cause> {
    Guarded::new(Component::free(&label.into()), future).await
}
