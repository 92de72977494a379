//! Live within one process: fan-out, text so far, nudges and rate limits in memory.

mod buckets;
mod rooms;
pub(in crate::adapters::live) mod text;

use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use soma_contract::{
    SessionId,
    port::live::{
        Admission, Heard, Listener, Live, LiveError, LiveEvent, Nudge, NudgeListener, Snapshot,
    },
};
use tokio::{sync::broadcast, time::Instant};

use self::{buckets::Buckets, rooms::Rooms};

/// The most hints that a service may be behind before it is told to look at everything.
const NUDGES_KEPT: usize = 256;

/// The live port of a process that is alone.
///
/// A session takes memory only while it has readers or a step that is being computed.
#[derive(Debug)]
pub struct LocalLive {
    rooms: Arc<Rooms>,
    nudges: broadcast::Sender<Nudge>,
    buckets: Mutex<Buckets>,
}

impl LocalLive {
    /// Builds a port without readers, texts or buckets.
    pub fn new() -> Self {
        Self {
            rooms: Arc::new(Rooms::default()),
            nudges: broadcast::Sender::new(NUDGES_KEPT),
            buckets: Mutex::new(Buckets::default()),
        }
    }
}

impl Default for LocalLive {
    fn default() -> Self {
        Self::new()
    }
}

#[async_trait]
impl Live for LocalLive {
    async fn publish(&self, session_id: SessionId, event: LiveEvent) {
        self.rooms.publish(session_id, event);
    }

    async fn listen(&self, session_id: SessionId) -> Result<Box<dyn Listener>, LiveError> {
        let events = self.rooms.enter(session_id);
        Ok(Box::new(Reader { rooms: Arc::clone(&self.rooms), session_id, events: Some(events) }))
    }

    async fn snapshot(&self, session_id: SessionId) -> Result<Option<Snapshot>, LiveError> {
        Ok(self.rooms.snapshot(session_id))
    }

    async fn clear(&self, session_id: SessionId) {
        self.rooms.clear(session_id);
    }

    async fn nudge(&self, nudge: Nudge) {
        self.nudges.send(nudge).ok(); // Nobody listening is no fault: everybody polls as well.
    }

    async fn nudges(&self) -> Box<dyn NudgeListener> {
        Box::new(Ear(self.nudges.subscribe()))
    }

    async fn take(
        &self,
        bucket: &str,
        per_second: u32,
        burst: u32,
    ) -> Result<Admission, LiveError> {
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(buckets.take(bucket, per_second, burst, Instant::now()))
    }

    async fn ping(&self) -> Result<(), LiveError> {
        Ok(())
    }
}

/// One reader of one session.
#[derive(Debug)]
struct Reader {
    rooms: Arc<Rooms>,
    session_id: SessionId,
    /// `None` only while it is dropped.
    events: Option<broadcast::Receiver<LiveEvent>>,
}

#[async_trait]
impl Listener for Reader {
    async fn next(&mut self) -> Heard {
        let Some(events) = &mut self.events else { return Heard::Closed };
        match events.recv().await {
            Ok(event) => Heard::Event(event),
            Err(broadcast::error::RecvError::Lagged(_)) => Heard::Lagged,
            Err(broadcast::error::RecvError::Closed) => Heard::Closed,
        }
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.events = None; // The room counts its readers: this one must be gone first.
        self.rooms.leave(self.session_id);
    }
}

/// One service's ear for hints.
#[derive(Debug)]
struct Ear(broadcast::Receiver<Nudge>);

#[async_trait]
impl NudgeListener for Ear {
    async fn next(&mut self) -> Option<Nudge> {
        match self.0.recv().await {
            Ok(nudge) => Some(nudge),
            Err(broadcast::error::RecvError::Lagged(_)) => None,
            // The port is gone with the process: nothing will ever be told again.
            Err(broadcast::error::RecvError::Closed) => futures::future::pending().await,
        }
    }
}

#[cfg(test)]
mod tests {
    use soma_contract::{TurnId, port::live::TextPosition};
    use uuid::Uuid;

    use super::*;

    fn session(number: u128) -> SessionId {
        SessionId(Uuid::from_u128(number))
    }

    fn delta(offset: u64, text: &str) -> LiveEvent {
        let turn_id = TurnId::of(session(1), 1);
        LiveEvent::Delta {
            at: TextPosition { turn_id, epoch: 1, step: 0, offset },
            text: text.to_owned(),
        }
    }

    #[tokio::test]
    async fn a_room_without_readers_and_text_takes_no_memory() {
        let live = LocalLive::new();
        let first = live.listen(session(1)).await.unwrap();
        let second = live.listen(session(1)).await.unwrap();
        drop(first);
        live.publish(session(1), delta(0, "text")).await;
        drop(second);
        assert_eq!(live.rooms.len(), 1);
        live.clear(session(1)).await;
        live.publish(session(2), LiveEvent::Appended { seq: 1 }).await;
        assert_eq!(live.rooms.len(), 0);
    }
}

#[cfg(test)]
mod suite {
    use std::time::Duration;

    use soma_contract::{live_suite, testing::suite::live::LiveFactory};

    use super::*;

    #[derive(Debug)]
    struct Locals;

    #[async_trait]
    impl LiveFactory for Locals {
        async fn fresh(&self) -> Arc<dyn Live> {
            Arc::new(LocalLive::new())
        }

        async fn pass(&self, time: Duration) {
            tokio::time::sleep(time).await;
        }
    }

    live_suite!(Locals);
}
