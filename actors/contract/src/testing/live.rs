//! A live port within the process, which goes down when told.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use tokio::sync::broadcast::{self, error::RecvError};

use super::locked;
use crate::{
    ids::{Clock, SessionId},
    port::live::{
        Admission, Heard, Listener, Live, LiveError, LiveEvent, Nudge, NudgeListener, Snapshot,
        TextPosition,
    },
};

/// How much a reader may leave unheard.
const CAPACITY: usize = 64;

/// Tells its readers at once, remembers what was told, and goes down when told.
#[derive(Debug)]
pub struct FakeLive {
    clock: Arc<dyn Clock>,
    nudges: broadcast::Sender<Nudge>,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    down: bool,
    rooms: HashMap<SessionId, broadcast::Sender<LiveEvent>>,
    texts: HashMap<SessionId, Snapshot>,
    buckets: HashMap<String, Bucket>,
    published: Vec<(SessionId, LiveEvent)>,
    nudged: Vec<Nudge>,
}

#[derive(Debug)]
struct Bucket {
    tokens: f64,
    filled_at: DateTime<Utc>,
}

impl FakeLive {
    /// Builds a port whose buckets fill by this clock.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self { clock, nudges: broadcast::Sender::new(CAPACITY), inner: Mutex::default() }
    }

    /// Takes the port down, which closes its readers, or brings it up again.
    pub fn set_down(&self, down: bool) {
        let mut inner = locked(&self.inner);
        inner.down = down;
        if down {
            inner.rooms.clear();
        }
    }

    /// Returns everything that was told.
    pub fn published(&self) -> Vec<(SessionId, LiveEvent)> {
        locked(&self.inner).published.clone()
    }

    /// Returns every hint that was given.
    pub fn nudged(&self) -> Vec<Nudge> {
        locked(&self.inner).nudged.clone()
    }
}

impl Inner {
    fn answer(&self) -> Result<(), LiveError> {
        if self.down {
            return Err(LiveError("the fake is down".to_owned()));
        }
        Ok(())
    }

    fn keep(&mut self, session_id: SessionId, event: &LiveEvent) {
        match event {
            LiveEvent::Delta { at, text } => self.grow(session_id, *at, text),
            LiveEvent::Reset { at } => {
                if !self.is_late(session_id, at) {
                    self.texts.insert(session_id, empty(*at));
                }
            }
            LiveEvent::Appended { .. } | LiveEvent::Notice { .. } => {}
        }
    }

    fn grow(&mut self, session_id: SessionId, at: TextPosition, text: &str) {
        if self.is_late(session_id, &at) {
            return;
        }
        let kept = self.texts.entry(session_id).or_insert_with(|| empty(at));
        if kept.at != empty(at).at {
            *kept = empty(at);
        }
        if at.offset == 0 {
            kept.text.clear();
        }
        if u64::try_from(kept.text.len()) == Ok(at.offset) {
            kept.text.push_str(text);
        } else {
            // A piece before this one was lost: no text is better than one with a hole.
            self.texts.remove(&session_id);
        }
    }

    /// Returns whether this comes from an owner that was fenced, or from an earlier step.
    fn is_late(&self, session_id: SessionId, at: &TextPosition) -> bool {
        let age = |at: &TextPosition| (at.epoch, at.step);
        self.texts.get(&session_id).is_some_and(|kept| age(at) < age(&kept.at))
    }
}

/// Returns the text of a step of which nothing was told yet.
const fn empty(at: TextPosition) -> Snapshot {
    Snapshot { at: TextPosition { offset: 0, ..at }, text: String::new() }
}

impl Bucket {
    #[expect(clippy::cast_precision_loss, reason = "milliseconds of a test are few")]
    fn take(&mut self, now: DateTime<Utc>, per_second: u32, burst: u32) -> Admission {
        let elapsed = (now - self.filled_at).num_milliseconds().max(0) as f64 / 1_000.0;
        self.tokens = (self.tokens + elapsed * f64::from(per_second)).min(f64::from(burst));
        self.filled_at = now;
        if self.tokens >= 1.0 {
            self.tokens -= 1.0;
            return Admission::Granted;
        }
        Admission::Limited(Duration::from_secs_f64((1.0 - self.tokens) / f64::from(per_second)))
    }
}

#[async_trait]
impl Live for FakeLive {
    async fn publish(&self, session_id: SessionId, event: LiveEvent) {
        let mut inner = locked(&self.inner);
        if inner.down {
            return;
        }
        inner.keep(session_id, &event);
        inner.published.push((session_id, event.clone()));
        if let Some(room) = inner.rooms.get(&session_id) {
            // Nobody listens any more.
            room.send(event).ok();
        }
    }

    async fn listen(&self, session_id: SessionId) -> Result<Box<dyn Listener>, LiveError> {
        let mut inner = locked(&self.inner);
        inner.answer()?;
        let room =
            inner.rooms.entry(session_id).or_insert_with(|| broadcast::Sender::new(CAPACITY));
        Ok(Box::new(FakeListener(room.subscribe())))
    }

    async fn snapshot(&self, session_id: SessionId) -> Result<Option<Snapshot>, LiveError> {
        let inner = locked(&self.inner);
        inner.answer()?;
        Ok(inner.texts.get(&session_id).cloned())
    }

    async fn clear(&self, session_id: SessionId) {
        locked(&self.inner).texts.remove(&session_id);
    }

    async fn nudge(&self, nudge: Nudge) {
        let mut inner = locked(&self.inner);
        if inner.down {
            return;
        }
        inner.nudged.push(nudge.clone());
        // Nobody listens any more.
        self.nudges.send(nudge).ok();
    }

    async fn nudges(&self) -> Box<dyn NudgeListener> {
        Box::new(FakeNudges(self.nudges.subscribe()))
    }

    async fn take(
        &self,
        bucket: &str,
        per_second: u32,
        burst: u32,
    ) -> Result<Admission, LiveError> {
        let now = self.clock.now();
        let mut inner = locked(&self.inner);
        inner.answer()?;
        let full = || Bucket { tokens: f64::from(burst), filled_at: now };
        let bucket = inner.buckets.entry(bucket.to_owned()).or_insert_with(full);
        Ok(bucket.take(now, per_second, burst))
    }

    async fn ping(&self) -> Result<(), LiveError> {
        locked(&self.inner).answer()
    }
}

#[derive(Debug)]
struct FakeListener(broadcast::Receiver<LiveEvent>);

#[async_trait]
impl Listener for FakeListener {
    async fn next(&mut self) -> Heard {
        match self.0.recv().await {
            Ok(event) => Heard::Event(event),
            Err(RecvError::Lagged(_)) => Heard::Lagged,
            Err(RecvError::Closed) => Heard::Closed,
        }
    }
}

#[derive(Debug)]
struct FakeNudges(broadcast::Receiver<Nudge>);

#[async_trait]
impl NudgeListener for FakeNudges {
    async fn next(&mut self) -> Option<Nudge> {
        match self.0.recv().await {
            Ok(nudge) => Some(nudge),
            Err(RecvError::Lagged(_)) => None,
            // The port itself is gone: there is nothing to hear any more.
            Err(RecvError::Closed) => std::future::pending().await,
        }
    }
}
