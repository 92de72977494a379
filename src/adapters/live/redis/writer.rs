//! What is told, on its way to Redis: a bounded queue that nobody waits for, emptied in batches.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use redis::Pipeline;
use serde::{Deserialize, Serialize};
use soma_contract::{
    SessionId,
    port::live::{LiveError, LiveEvent, Nudge},
};
use tokio::{
    runtime::Handle,
    sync::{mpsc, oneshot},
};

use super::{line::Line, metrics::LiveMetrics, names::Names, scripts, task::Task};

/// The most that may wait. What comes then is dropped, and everybody is told that some was missed.
const QUEUE: usize = 4_096;
/// The most that is sent at once.
const BATCH: usize = 256;

/// What is told.
#[derive(Debug)]
pub(super) enum Write {
    /// To the readers of a session.
    Event(SessionId, LiveEvent),
    /// To all services.
    Nudge(Nudge),
    /// The text so far is to be forgotten.
    Clear(SessionId),
    /// Somebody waits until everything before this was sent.
    Passed(oneshot::Sender<()>),
}

/// What is heard on the channel for services.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Hint {
    /// A hint.
    Nudge(Nudge),
    /// Some replica could not tell something: look at everything.
    Missed,
}

/// The queue; its task ends with it.
#[derive(Debug)]
pub(super) struct Writer {
    queue: mpsc::Sender<Write>,
    line: Arc<Line>,
    lost: Arc<AtomicBool>,
    metrics: LiveMetrics,
    _task: Task,
}

impl Writer {
    /// Starts to send over this line.
    pub(super) fn start(
        line: Arc<Line>,
        names: Names,
        metrics: LiveMetrics,
        handle: &Handle,
    ) -> Self {
        let (queue, writes) = mpsc::channel(QUEUE);
        let lost = Arc::<AtomicBool>::default();
        let sender = Sender {
            writes,
            line: Arc::clone(&line),
            lost: Arc::clone(&lost),
            names,
            metrics: metrics.clone(),
        };
        Self { queue, line, lost, metrics, _task: Task::spawn(handle, sender.run()) }
    }

    /// Puts something into the queue, without waiting; returns whether there was room and a server.
    pub(super) fn write(&self, write: Write) -> bool {
        let is_taken = self.line.is_up() && self.queue.try_send(write).is_ok();
        if !is_taken {
            self.lost.store(true, Ordering::Relaxed);
            self.metrics.dropped(1);
        }
        is_taken
    }

    /// Returns how much was dropped.
    #[cfg(test)]
    #[cfg(feature = "cluster-tests")]
    pub(super) fn dropped(&self) -> u64 {
        self.metrics.dropped_so_far()
    }

    /// Waits until everything that was put into the queue before has been sent.
    ///
    /// # Errors
    ///
    /// The server is away.
    pub(super) async fn flush(&self) -> Result<(), LiveError> {
        self.line.connection()?;
        let (passed, has_passed) = oneshot::channel();
        let ended = |()| LiveError("the queue to redis has ended".to_owned());
        self.queue.send(Write::Passed(passed)).await.map_err(|_ended| ended(()))?;
        has_passed.await.map_err(|_ended| ended(()))
    }
}

/// The task that empties the queue.
struct Sender {
    writes: mpsc::Receiver<Write>,
    line: Arc<Line>,
    lost: Arc<AtomicBool>,
    names: Names,
    metrics: LiveMetrics,
}

impl Sender {
    async fn run(mut self) {
        let mut batch = Vec::with_capacity(BATCH);
        while self.writes.recv_many(&mut batch, BATCH).await > 0 {
            self.send(&batch).await;
            for write in batch.drain(..) {
                if let Write::Passed(passed) = write {
                    passed.send(()).ok(); // Whoever asked may be gone.
                }
            }
        }
    }

    async fn send(&self, batch: &[Write]) {
        let mut pipeline = self.pipeline(batch);
        // Whoever reads the store because of this finds what could not be told.
        let lost = self.lost.swap(false, Ordering::Relaxed);
        if lost {
            pipeline.publish(self.names.hints(), json(&Hint::Missed)).ignore();
        }
        if pipeline.is_empty() {
            return;
        }
        let sent = match self.line.connection() {
            Ok(mut connection) => {
                pipeline.exec_async(&mut connection).await.map_err(|error| self.line.failed(&error))
            }
            Err(error) => Err(error),
        };
        if let Err(error) = sent {
            tracing::debug!(%error, writes = batch.len(), "redis was not told");
            self.metrics.dropped(batch.len());
            self.lost.store(true, Ordering::Relaxed);
        }
    }

    fn pipeline(&self, batch: &[Write]) -> Pipeline {
        let mut pipeline = Pipeline::with_capacity(batch.len() + 2);
        let has_text = |write: &Write| {
            let Write::Event(_, event) = write else { return false };
            matches!(event, LiveEvent::Delta { .. } | LiveEvent::Reset { .. })
        };
        if batch.iter().any(has_text) {
            pipeline.add_command(scripts::load()).ignore();
        }
        for write in batch {
            match write {
                Write::Event(session_id, event) => {
                    self.add_event(&mut pipeline, *session_id, event);
                }
                Write::Nudge(nudge) => {
                    let hint = Hint::Nudge(nudge.clone());
                    pipeline.publish(self.names.hints(), json(&hint)).ignore();
                }
                Write::Clear(session_id) => {
                    pipeline.del(self.names.text(*session_id)).ignore();
                }
                Write::Passed(_) => {}
            }
        }
        pipeline
    }

    fn add_event(&self, pipeline: &mut Pipeline, session_id: SessionId, event: &LiveEvent) {
        let (channel, told) = (self.names.room(session_id), json(event));
        let (at, piece) = match event {
            LiveEvent::Delta { at, text } => (at, Some(text.as_str())),
            LiveEvent::Reset { at } => (at, None),
            LiveEvent::Appended { .. } | LiveEvent::Notice { .. } => {
                pipeline.publish(channel, told).ignore();
                return;
            }
        };
        let key = self.names.text(session_id);
        pipeline.add_command(scripts::tell(&key, &channel, &told, at, piece)).ignore();
    }
}

/// Writes what both ends know; that cannot fail, as all keys are strings.
fn json<T: Serialize>(told: &T) -> Vec<u8> {
    serde_json::to_vec(told).unwrap_or_default()
}
