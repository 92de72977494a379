//! A connection for commands: watched, and opened anew with back-off whenever it is lost.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use redis::{AsyncConnectionConfig, Client, RedisError, RedisResult, aio::MultiplexedConnection};
use soma_contract::port::live::LiveError;
use tokio::{
    runtime::Handle,
    sync::{Notify, watch},
    time::sleep,
};

use super::{
    metrics::LiveMetrics,
    task::{Attempts, Task},
};

/// How often the connection is tried.
const PROBED_EVERY: Duration = Duration::from_secs(1);
/// How long connecting, and any answer, may take.
pub(super) const PATIENCE: Duration = Duration::from_secs(2);

/// The connection, or why there is none.
type State = Result<MultiplexedConnection, String>;

/// A connection that is there or is being opened; its task ends with it.
pub(super) struct Line {
    shared: Arc<Shared>,
    state: watch::Receiver<State>,
    _task: Task,
}

#[derive(Debug, Default)]
struct Shared {
    /// The connection is to be tried at once.
    doubt: Notify,
    /// An answer is overdue: nobody else need wait until it is known what is wrong.
    is_slow: AtomicBool,
}

impl fmt::Debug for Line {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Line").field("is_up", &self.is_up()).finish_non_exhaustive()
    }
}

impl Line {
    /// Begins to connect. The probe is a key that may be written.
    pub(super) fn open(
        client: Client,
        probe: String,
        metrics: LiveMetrics,
        handle: &Handle,
    ) -> Self {
        let shared = Arc::<Shared>::default();
        let (sender, state) = watch::channel(Err("not connected yet".to_owned()));
        let keeper = Keeper { client, probe, metrics, shared: Arc::clone(&shared), state: sender };
        Self { shared, state, _task: Task::spawn(handle, keeper.run()) }
    }

    /// The connection, to send commands over.
    ///
    /// # Errors
    ///
    /// There is none at the moment, or it does not answer.
    pub(super) fn connection(&self) -> Result<MultiplexedConnection, LiveError> {
        if self.shared.is_slow.load(Ordering::Relaxed) {
            return Err(LiveError("redis is slow to answer".to_owned()));
        }
        self.state.borrow().clone().map_err(LiveError)
    }

    /// Says whether commands can be sent.
    pub(super) fn is_up(&self) -> bool {
        self.state.borrow().is_ok()
    }

    /// Takes note of a command that failed.
    pub(super) fn failed(&self, error: &RedisError) -> LiveError {
        self.shared.doubt.notify_one();
        LiveError(error.to_string())
    }

    /// Takes note of an answer that did not come in time: until the next probe is answered,
    /// nobody waits for this server.
    pub(super) fn overdue(&self) -> LiveError {
        self.shared.is_slow.store(true, Ordering::Relaxed);
        self.shared.doubt.notify_one();
        LiveError("redis did not answer in time".to_owned())
    }

    /// Waits until there is a connection.
    pub(super) async fn connected(&self) {
        // The keeper lives as long as this: the wait cannot fail.
        self.state.clone().wait_for(Result::is_ok).await.ok();
    }
}

/// The task that keeps the connection.
struct Keeper {
    client: Client,
    probe: String,
    metrics: LiveMetrics,
    shared: Arc<Shared>,
    state: watch::Sender<State>,
}

impl Keeper {
    async fn run(self) {
        let mut attempts = Attempts::default();
        loop {
            let reason = match self.connect().await {
                Ok(connection) => {
                    attempts.succeeded("commands");
                    self.watch_over(connection).await
                }
                Err(error) => error.to_string(),
            };
            self.metrics.commands_up(false);
            self.state.send_modify(|state| *state = Err(reason.clone()));
            sleep(attempts.failed("commands", &reason)).await;
        }
    }

    async fn connect(&self) -> RedisResult<MultiplexedConnection> {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(PATIENCE))
            .set_response_timeout(Some(PATIENCE));
        let mut connection =
            self.client.get_multiplexed_async_connection_with_config(&config).await?;
        self.try_out(&mut connection).await?;
        Ok(connection)
    }

    /// Lets the connection be used until it fails; returns how.
    async fn watch_over(&self, mut connection: MultiplexedConnection) -> String {
        self.metrics.commands_up(true);
        self.state.send_modify(|state| *state = Ok(connection.clone()));
        loop {
            tokio::select! {
                () = self.shared.doubt.notified() => {}
                () = sleep(PROBED_EVERY) => {}
            }
            if let Err(error) = self.try_out(&mut connection).await {
                return error.to_string();
            }
        }
    }

    /// Writes: a replica that has lost its primary's place, or a server without memory, answers
    /// pings and is of no use.
    async fn try_out(&self, connection: &mut MultiplexedConnection) -> RedisResult<()> {
        let mut probe = redis::cmd("SET");
        probe.arg(&self.probe).arg(1).arg("EX").arg(60);
        probe.exec_async(connection).await?;
        self.shared.is_slow.store(false, Ordering::Relaxed);
        Ok(())
    }
}
