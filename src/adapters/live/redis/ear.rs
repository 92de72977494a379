//! The connection on which this process hears: one for all its readers and services.
//!
//! When it is lost all readers are told that the port is gone, since what was told meanwhile is
//! lost; they read the store and listen again. Services go on to listen: when it is back they are
//! told that they missed some.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use futures::StreamExt;
use redis::{
    Client, ErrorKind, Msg, RedisError, RedisResult,
    aio::{PubSubSink, PubSubStream},
};
use soma_contract::{
    SessionId,
    port::live::{Heard, Listener, LiveError, Nudge, NudgeListener},
};
use tokio::{
    runtime::Handle,
    sync::{broadcast, mpsc, oneshot, watch},
    time::{MissedTickBehavior, interval, sleep, timeout},
};

use super::{
    line::PATIENCE,
    metrics::LiveMetrics,
    names::Names,
    rooms::{Rooms, Said},
    task::{Attempts, Task},
    writer::Hint,
};

/// The most hints that a service may be behind before it is told to look at everything.
const NUDGES_KEPT: usize = 256;
/// How often the connection is tried.
const PROBED_EVERY: Duration = Duration::from_secs(1);
/// The most readers that come or go at once.
const ASKS: usize = 256;

/// What the readers want of the connection.
#[derive(Debug)]
enum Ask {
    /// Hear what is told in this session.
    Listen(SessionId, oneshot::Sender<Reader>),
    /// One reader less.
    Left(SessionId),
}

/// The readers and services of this process; the connection's task ends with it.
#[derive(Debug)]
pub(super) struct Ear {
    /// Unbounded, but never longer than there are readers: each waits for its place and leaves it
    /// once.
    asks: mpsc::UnboundedSender<Ask>,
    /// `None`: some were missed.
    nudges: broadcast::Sender<Option<Nudge>>,
    state: watch::Receiver<Result<(), String>>,
    _task: Task,
}

impl Ear {
    /// Begins to connect.
    pub(super) fn open(
        client: Client,
        names: Names,
        metrics: LiveMetrics,
        handle: &Handle,
    ) -> Self {
        let (asks, asked) = mpsc::unbounded_channel();
        let nudges = broadcast::Sender::new(NUDGES_KEPT);
        let (sender, state) = watch::channel(Err("not connected yet".to_owned()));
        let rooms = Arc::<Rooms>::default();
        let hearing = Hearing {
            client,
            names,
            metrics,
            rooms,
            asked,
            asks: asks.clone(),
            nudges: nudges.clone(),
            state: sender,
        };
        Self { asks, nudges, state, _task: Task::spawn(handle, hearing.run()) }
    }

    /// Adds a reader; what is told after this returned is heard.
    ///
    /// # Errors
    ///
    /// The server is away.
    pub(super) async fn listen(
        &self,
        session_id: SessionId,
    ) -> Result<Box<dyn Listener>, LiveError> {
        self.check()?;
        let (reply, reader) = oneshot::channel();
        let away = || LiveError("the connection to redis was lost".to_owned());
        self.asks.send(Ask::Listen(session_id, reply)).map_err(|_ended| away())?;
        let mut state = self.state.clone();
        tokio::select! {
            reader = reader => Ok(Box::new(reader.map_err(|_lost| away())?)),
            _ = state.wait_for(Result::is_err) => Err(away()),
        }
    }

    /// Adds a service.
    pub(super) fn nudges(&self) -> Box<dyn NudgeListener> {
        Box::new(Service(self.nudges.subscribe()))
    }

    /// Hints to the services of this process alone.
    pub(super) fn nudge_here(&self, nudge: Nudge) {
        self.nudges.send(Some(nudge)).ok(); // Nobody listening is no fault: everybody polls as well.
    }

    /// Says whether the server can be heard.
    ///
    /// # Errors
    ///
    /// It is away, and why.
    pub(super) fn check(&self) -> Result<(), LiveError> {
        self.state.borrow().clone().map_err(LiveError)
    }

    /// Waits until the server can be heard.
    pub(super) async fn connected(&self) {
        // The task lives as long as this: the wait cannot fail.
        self.state.clone().wait_for(Result::is_ok).await.ok();
    }
}

/// The task that hears.
struct Hearing {
    client: Client,
    names: Names,
    metrics: LiveMetrics,
    rooms: Arc<Rooms>,
    asked: mpsc::UnboundedReceiver<Ask>,
    asks: mpsc::UnboundedSender<Ask>,
    nudges: broadcast::Sender<Option<Nudge>>,
    state: watch::Sender<Result<(), String>>,
}

impl Hearing {
    async fn run(mut self) {
        let mut attempts = Attempts::default();
        loop {
            let reason = match self.connect().await {
                Ok((sink, stream)) => {
                    attempts.succeeded("channels");
                    self.hear(sink, stream).await.to_string()
                }
                Err(error) => error.to_string(),
            };
            self.metrics.channels_up(false);
            self.state.send_modify(|state| *state = Err(reason.clone()));
            self.rooms.close();
            self.turn_away();
            sleep(attempts.failed("channels", &reason)).await;
        }
    }

    async fn connect(&self) -> RedisResult<(PubSubSink, PubSubStream)> {
        let connecting = async {
            let (mut sink, stream) = self.client.get_async_pubsub().await?.split();
            sink.subscribe(self.names.hints()).await?;
            Ok((sink, stream))
        };
        in_time(connecting).await
    }

    /// Hears until the connection fails; returns how.
    async fn hear(&mut self, mut sink: PubSubSink, mut stream: PubSubStream) -> RedisError {
        self.metrics.channels_up(true);
        self.state.send_modify(|state| *state = Ok(()));
        self.nudges.send(None).ok(); // Without services there is nobody to tell.
        let mut probes = interval(PROBED_EVERY);
        probes.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut asks = Vec::new();
        loop {
            let done = tokio::select! {
                message = stream.next() => match message {
                    Some(message) => {
                        self.pass_on(&message);
                        continue;
                    }
                    None => Err(lost()),
                },
                count = self.asked.recv_many(&mut asks, ASKS), if !self.asked.is_closed() => {
                    debug_assert!(count > 0, "this task holds a sender itself");
                    self.serve(&mut sink, std::mem::take(&mut asks)).await
                }
                _ = probes.tick() => in_time(sink.ping::<redis::Value>()).await.map(drop),
            };
            if let Err(error) = done {
                return error;
            }
        }
    }

    fn pass_on(&self, message: &Msg) {
        let (channel, told) = (message.get_channel_name(), message.get_payload_bytes());
        let outcome = match self.names.session_of(channel) {
            Some(session_id) => serde_json::from_slice(told)
                .map(|event| self.rooms.say(session_id, Said::Event(event))),
            None => serde_json::from_slice(told).map(|hint| self.hint(hint)),
        };
        if let Err(error) = outcome {
            // A newer replica may say what this one does not know yet.
            tracing::debug!(%error, channel, "a message was not understood");
        }
    }

    fn hint(&self, hint: Hint) {
        let nudge = match hint {
            Hint::Nudge(nudge) => Some(nudge),
            Hint::Missed => {
                self.rooms.say_to_all(&Said::Missed);
                None
            }
        };
        self.nudges.send(nudge).ok(); // Without services there is nobody to tell.
    }

    /// Lets readers come and go. Channels that nobody hears are left first: one of them may be
    /// among those that somebody wants to hear.
    async fn serve(&self, sink: &mut PubSubSink, asks: Vec<Ask>) -> RedisResult<()> {
        let (mut wanted, mut unwanted, mut waiting) = (Vec::new(), Vec::new(), Vec::new());
        for ask in asks {
            match ask {
                Ask::Listen(session_id, reply) => {
                    let (said, is_first) = self.rooms.enter(session_id);
                    if is_first {
                        wanted.push(self.names.room(session_id));
                    }
                    let reader = Reader { session_id, said: Some(said), asks: self.asks.clone() };
                    waiting.push((reply, reader));
                }
                Ask::Left(session_id) => {
                    if self.rooms.leave(session_id) {
                        unwanted.push(self.names.room(session_id));
                    }
                }
            }
        }
        if !unwanted.is_empty() {
            in_time(sink.unsubscribe(unwanted)).await?;
        }
        if !wanted.is_empty() {
            in_time(sink.subscribe(wanted)).await?;
        }
        for (reply, reader) in waiting {
            reply.send(reader).ok(); // A reader that has gone meanwhile leaves by being dropped.
        }
        Ok(())
    }

    /// Refuses whoever asked while there was no connection, or waited when it was lost.
    fn turn_away(&mut self) {
        while let Ok(ask) = self.asked.try_recv() {
            drop(ask);
        }
    }
}

async fn in_time<T>(work: impl Future<Output = RedisResult<T>>) -> RedisResult<T> {
    let silent = |_elapsed| RedisError::from((ErrorKind::Io, "redis did not answer in time"));
    timeout(PATIENCE, work).await.map_err(silent)?
}

fn lost() -> RedisError {
    RedisError::from((ErrorKind::Io, "the connection was closed"))
}

/// One reader of one session.
#[derive(Debug)]
struct Reader {
    session_id: SessionId,
    /// `None` only while it is dropped.
    said: Option<broadcast::Receiver<Said>>,
    asks: mpsc::UnboundedSender<Ask>,
}

#[async_trait]
impl Listener for Reader {
    async fn next(&mut self) -> Heard {
        let Some(said) = &mut self.said else { return Heard::Closed };
        match said.recv().await {
            Ok(Said::Event(event)) => Heard::Event(event),
            Ok(Said::Missed) | Err(broadcast::error::RecvError::Lagged(_)) => Heard::Lagged,
            Err(broadcast::error::RecvError::Closed) => Heard::Closed,
        }
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.said = None; // The room counts its readers: this one must be gone first.
        self.asks.send(Ask::Left(self.session_id)).ok(); // The whole port may be gone.
    }
}

/// One service's ear for hints.
#[derive(Debug)]
struct Service(broadcast::Receiver<Option<Nudge>>);

#[async_trait]
impl NudgeListener for Service {
    async fn next(&mut self) -> Option<Nudge> {
        match self.0.recv().await {
            Ok(nudge) => nudge,
            Err(broadcast::error::RecvError::Lagged(_)) => None,
            // The port is gone with the process: nothing will ever be told again.
            Err(broadcast::error::RecvError::Closed) => futures::future::pending().await,
        }
    }
}
