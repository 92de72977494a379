//! The one multi-threaded runtime that owns sockets and outlives every arbiter.

use std::{
    fmt,
    future::{Future, poll_fn},
    io,
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use tokio::{
    runtime::{Builder, Handle, Runtime},
    task::JoinHandle,
    time::{Instant, timeout},
};
use tracing::Instrument;

use crate::{
    cause::Cause,
    cell::{Fence, lock},
    guard::{Component, Guarded, current, current_fence, set_last_panic},
};

/// Why an I/O call has no result of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum IoError {
    /// It did not end before its deadline and was dropped.
    #[error("the call did not end in time")]
    TimedOut,
    /// The I/O runtime has been shut down.
    #[error("the i/o runtime has ended")]
    Closed,
    /// The incarnation that made the call has been replaced; it was not begun.
    #[error("the caller has been replaced")]
    Fenced,
}

/// How often the runtime shows that its workers get round to new work.
const HEARTBEAT: Duration = Duration::from_millis(500);

/// Tasks that a worker runs before it looks at what came from other threads. Most of it does: calls of
/// services, answers of the store; each would wait for 61 tasks of those who were there before.
const LOOK_OUTSIDE: u32 = 5;

/// The I/O runtime. Connections belong to the runtime in which they were opened, so all are
/// opened and used in here; services wait for the results.
#[derive(Clone)]
pub struct Io {
    handle: Handle,
    owned: Option<Arc<Owned>>,
    beat: Option<Arc<Beat>>,
}

struct Owned(Mutex<Option<Runtime>>);

#[derive(Debug)]
struct Beat {
    origin: Instant,
    millis: AtomicU64,
}

impl fmt::Debug for Io {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Io").field("owned", &self.owned.is_some()).finish_non_exhaustive()
    }
}

impl Io {
    /// Starts the runtime with `workers` threads.
    ///
    /// # Errors
    /// The threads could not be had.
    pub fn new(workers: usize) -> io::Result<Self> {
        let runtime = Builder::new_multi_thread()
            .worker_threads(workers.max(1))
            .thread_name("io")
            .global_queue_interval(LOOK_OUTSIDE)
            .enable_all()
            .build()?;
        let handle = runtime.handle().clone();
        let beat = Arc::new(Beat { origin: Instant::now(), millis: AtomicU64::new(0) });
        let beating = Arc::downgrade(&beat);
        handle.spawn(async move {
            while let Some(beat) = beating.upgrade() {
                beat.strike();
                drop(beat);
                tokio::time::sleep(HEARTBEAT).await;
            }
        });
        let owned = Arc::new(Owned(Mutex::new(Some(runtime))));
        Ok(Self { handle, owned: Some(owned), beat: Some(beat) })
    }

    /// Uses the calling runtime. For tests, as it shares the test's clock; `None` outside of one.
    pub fn current() -> Option<Self> {
        let handle = Handle::try_current().ok()?;
        Some(Self { handle, owned: None, beat: None })
    }

    /// Returns the runtime's handle, for libraries that ask for one.
    pub const fn handle(&self) -> &Handle {
        &self.handle
    }

    /// Runs `future` in the I/O runtime, within the current span, until `deadline` has passed.
    ///
    /// Dropped, the call is aborted. A panic in it is resumed in the caller. A caller whose
    /// incarnation has been replaced does not get to make the call, and one that is replaced
    /// meanwhile does not get to finish it.
    ///
    /// # Errors
    /// See [`IoError`].
    pub async fn call<F>(&self, deadline: Duration, future: F) -> Result<F::Output, IoError>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        let fence = current_fence();
        if is_stale(fence.as_ref()) {
            return Err(IoError::Fenced);
        }
        let component = match current() {
            Some(component) => component.child("io".into()),
            None => Component::free("io"),
        };
        let work = Guarded::new(component, fenced(fence, deadline, future)).in_current_span();
        match (Aborting { task: self.handle.spawn(work) }).await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(cause)) => resume(cause),
            Err(_cancelled) => Err(IoError::Closed),
        }
    }

    /// Returns how long ago the runtime got round to new work; `None` for a borrowed runtime.
    pub fn age(&self) -> Option<Duration> {
        self.beat.as_deref().map(Beat::age)
    }

    /// Ends the runtime: what runs in it is dropped at its next await.
    pub fn shutdown(&self) {
        if let Some(owned) = &self.owned {
            owned.shutdown();
        }
    }
}

fn is_stale(fence: Option<&Fence>) -> bool {
    fence.is_some_and(|fence| !fence.is_current())
}

/// A call that ends at its deadline, and with the generation that made it: a thread that hangs
/// cannot abort its calls itself.
async fn fenced<F: Future>(
    fence: Option<Fence>,
    deadline: Duration,
    future: F,
) -> Result<F::Output, IoError> {
    let call = timeout(deadline, future);
    tokio::pin!(call);
    poll_fn(|context| {
        if is_stale(fence.as_ref()) {
            // Cut off half way, like one that is late; nobody of that generation will read it.
            return Poll::Ready(Err(IoError::TimedOut));
        }
        call.as_mut().poll(context).map(|done| done.map_err(|_elapsed| IoError::TimedOut))
    })
    .await
}

/// Resumes a panic in the caller; the hook has seen it where it happened.
fn resume(cause: Cause) -> ! {
    let message = cause.message.clone();
    set_last_panic(cause);
    std::panic::resume_unwind(Box::new(message))
}

/// A task that ends with its caller.
struct Aborting<T> {
    task: JoinHandle<T>,
}

impl<T> Future for Aborting<T> {
    type Output = Result<T, tokio::task::JoinError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.task).poll(context)
    }
}

impl<T> Drop for Aborting<T> {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Owned {
    fn shutdown(&self) {
        // A runtime may not be dropped inside of another one, except like this.
        if let Some(runtime) = lock(&self.0).take() {
            runtime.shutdown_background();
        }
    }
}

impl Drop for Owned {
    fn drop(&mut self) {
        self.shutdown();
    }
}

impl Beat {
    fn strike(&self) {
        self.millis.store(self.elapsed(), Ordering::Relaxed);
    }

    fn age(&self) -> Duration {
        let last = self.millis.load(Ordering::Relaxed);
        Duration::from_millis(self.elapsed().saturating_sub(last))
    }

    fn elapsed(&self) -> u64 {
        u64::try_from(self.origin.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}
