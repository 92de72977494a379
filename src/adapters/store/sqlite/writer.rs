//! The one writer: owns the write connection and commits for many callers at once.
//!
//! It takes what was asked for while the previous commit ran ([`Queue`] says how much of it), runs
//! each kind of write as one set under a savepoint, commits once and then answers. A set that fails is rolled back alone and
//! tried again one by one, so that only the guilty request fails.

use std::{io, ops::ControlFlow, sync::Arc, thread};

use futures::future::BoxFuture;
use soma_contract::{
    Clock,
    port::store::{StoreError, StoreResult},
};
use sqlx::{ConnectOptions, Connection, SqliteConnection, sqlite::SqliteConnectOptions};
use tokio::{
    runtime::{Builder, Handle},
    sync::{mpsc, oneshot},
};

use super::{
    batch::{Batch, Gone, control},
    checkpoint::Checkpoints,
    fault::Fault,
    queue::Queue,
    work::{Once, Operation, Set, Terms, Work, lost},
};

/// Calls that may wait for a commit; beyond it callers wait to be queued.
const QUEUE: usize = 1_024;

/// A handle to the writer.
#[derive(Debug)]
pub(super) struct Writer {
    queue: mpsc::Sender<Letter>,
}

enum Letter {
    Work(Box<dyn Work>),
    Close(oneshot::Sender<()>),
}

impl Writer {
    /// Starts the writer on a thread of its own: each statement is a wait, and on the I/O runtime
    /// everybody's work would come before the end of it. The checkpoints run on `io`.
    ///
    /// # Errors
    ///
    /// There is no thread to be had.
    pub(super) fn start(
        io: &Handle,
        connection: SqliteConnection,
        options: SqliteConnectOptions,
        clock: Arc<dyn Clock>,
        bus_is_local: bool,
    ) -> io::Result<Self> {
        let (queue, letters) = mpsc::channel(QUEUE);
        let checkpoints = Checkpoints::new(io.clone(), options.clone());
        let task = Task { connection: Some(connection), options, clock, bus_is_local, checkpoints };
        let runtime = Builder::new_current_thread().build()?;
        let thread = thread::Builder::new().name("store-commits".to_owned());
        thread.spawn(move || runtime.block_on(task.run(letters)))?;
        Ok(Self { queue })
    }

    /// Has requests of one kind done, with one answer each in their order.
    pub(super) async fn submit<O: Operation>(
        &self,
        requests: Vec<O>,
    ) -> Vec<StoreResult<O::Answer>> {
        let count = requests.len();
        let (reply, answers) = oneshot::channel();
        let set = Set::new(requests, reply);
        if self.queue.send(Letter::Work(Box::new(set))).await.is_err() {
            return (0..count).map(|_| Err(closed())).collect();
        }
        answers.await.unwrap_or_else(|_| (0..count).map(|_| Err(lost())).collect())
    }

    /// Has one request done.
    pub(super) async fn submit_one<O: Operation>(&self, request: O) -> StoreResult<O::Answer> {
        self.submit(vec![request]).await.pop().unwrap_or_else(|| Err(lost()))
    }

    /// Has a write done that is rarely asked for.
    pub(super) async fn write<A: Send + 'static>(
        &self,
        name: &'static str,
        run: impl for<'c> FnOnce(&'c mut SqliteConnection, Terms) -> BoxFuture<'c, Result<A, Fault>>
        + Send
        + 'static,
    ) -> StoreResult<A> {
        let (reply, answer) = oneshot::channel();
        let once = Once::new(name, Box::new(run), reply);
        if self.queue.send(Letter::Work(Box::new(once))).await.is_err() {
            return Err(closed());
        }
        answer.await.unwrap_or_else(|_| Err(lost()))
    }

    /// Ends the writer after everything that was queued before, and closes its connection.
    pub(super) async fn close(&self) {
        let (reply, done) = oneshot::channel();
        if self.queue.send(Letter::Close(reply)).await.is_ok() {
            done.await.ok();
        }
    }
}

fn closed() -> StoreError {
    StoreError::Unavailable("the store is closed".to_owned())
}

struct Task {
    connection: Option<SqliteConnection>,
    options: SqliteConnectOptions,
    clock: Arc<dyn Clock>,
    bus_is_local: bool,
    checkpoints: Checkpoints,
}

impl Task {
    async fn run(mut self, mut letters: mpsc::Receiver<Letter>) {
        let mut queue = Queue::default();
        let closed = loop {
            if let ControlFlow::Break(closed) = receive(&mut letters, &mut queue).await {
                break closed;
            }
            self.commit(queue.next()).await;
        };
        letters.close();
        while !queue.is_empty() {
            self.commit(queue.next()).await;
        }
        self.checkpoints.close().await;
        if let Some(connection) = self.connection.take() {
            connection.close().await.ok();
        }
        if let Some(closed) = closed {
            closed.send(()).ok();
        }
    }

    /// Runs everything in one transaction and answers.
    async fn commit(&mut self, mut works: Vec<Box<dyn Work>>) {
        let outcome = self.run_batch(&mut works).await;
        if outcome.is_err() {
            self.recover().await;
        }
        let instead = outcome.err();
        for work in works {
            work.answer(instead.clone());
        }
        if let Some(connection) = &mut self.connection {
            self.checkpoints.tend(connection).await;
        }
    }

    async fn run_batch(&mut self, works: &mut [Box<dyn Work>]) -> Result<(), StoreError> {
        let terms = Terms { now: self.clock.now(), bus_is_local: self.bus_is_local };
        let connection = self.connection().await.map_err(unavailable)?;
        let mut batch = Batch::begin(connection, terms).await.map_err(unavailable)?;
        for work in works.iter_mut() {
            batch.run(work.as_mut()).await.map_err(|Gone(why)| StoreError::Unavailable(why))?;
        }
        fail_points(works, "before_commit");
        let committed = batch.commit().await;
        fail_points(works, "after_commit");
        committed.map_err(|error| StoreError::OutcomeUnknown(error.to_string()))
    }

    async fn connection(&mut self) -> Result<&mut SqliteConnection, sqlx::Error> {
        let connection = match self.connection.take() {
            Some(connection) => connection,
            None => self.options.connect().await?,
        };
        Ok(self.connection.insert(connection))
    }

    /// Leaves no transaction open; a connection that cannot even roll back is replaced.
    async fn recover(&mut self) {
        let Some(mut connection) = self.connection.take() else { return };
        let rolled_back = control(&mut connection, "ROLLBACK").await;
        let idle = match &rolled_back {
            Ok(()) => true,
            // SQLite has rolled back by itself.
            Err(sqlx::Error::Database(error)) => error.message().contains("no transaction"),
            Err(_) => false,
        };
        if idle {
            self.connection = Some(connection);
        } else {
            tracing::warn!(?rolled_back, "replacing the store's write connection");
        }
    }
}

/// Takes in what has been asked for, and waits if that is nothing. Breaks where somebody asks to
/// close, or nobody is left to ask for anything.
async fn receive(
    letters: &mut mpsc::Receiver<Letter>,
    queue: &mut Queue,
) -> ControlFlow<Option<oneshot::Sender<()>>> {
    if queue.is_empty() {
        match letters.recv().await {
            Some(Letter::Work(work)) => queue.push(work),
            Some(Letter::Close(closed)) => return ControlFlow::Break(Some(closed)),
            None => return ControlFlow::Break(None),
        }
    }
    while queue.len() < QUEUE {
        match letters.try_recv() {
            Ok(Letter::Work(work)) => queue.push(work),
            Ok(Letter::Close(closed)) => return ControlFlow::Break(Some(closed)),
            Err(_nothing_now) => break,
        }
    }
    ControlFlow::Continue(())
}

/// Stops at the failpoints of everything in the batch, where they are compiled in.
fn fail_points(works: &[Box<dyn Work>], moment: &str) {
    if fail::has_failpoints() {
        for work in works {
            let name = format!("{}::{moment}", work.name());
            fail::fail_point!(name.as_str());
            drop(name);
        }
    }
}

#[expect(clippy::needless_pass_by_value, reason = "used as `map_err(unavailable)`")]
fn unavailable(error: sqlx::Error) -> StoreError {
    StoreError::Unavailable(error.to_string())
}
