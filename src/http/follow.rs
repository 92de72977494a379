//! Follows a session: durable events from the store, live ones from the live port.
//!
//! A follower first listens, then reads the store, then takes the snapshot of the text so far, then
//! hears pieces beyond it. While the live port is down it reads the store each second.

use std::{sync::Arc, time::Duration};

use soma_contract::{
    Event, EventId, SessionId, TenantId,
    message::Accepted,
    port::{
        live::{Heard, Listener, Live, LiveEvent, Snapshot, TextPosition},
        store::{Store, StoreError, StoreResult},
    },
};
use tokio::time::{sleep, timeout};

use super::{
    edge::Edge,
    text::{Piece, Shown},
};

const PAGE: u32 = 200;
/// A hint that an event was written may be lost: the store is read at least this often.
const DISTRUST: Duration = Duration::from_secs(5);

/// What is told of a session.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Told {
    /// A durable event, in the order of the log.
    Durable(Event),
    /// The text so far; replaces what was told of that step.
    Snapshot(Snapshot),
    /// The next piece of text.
    Piece {
        /// Where it belongs.
        at: TextPosition,
        /// The piece.
        text: String,
    },
    /// The text of this turn's step is void.
    Void(TextPosition),
    /// Something else that is not kept.
    Notice(Event),
}

/// One reader of one session.
#[derive(Debug)]
pub(super) struct Follower {
    store: Arc<dyn Store>,
    live: Arc<dyn Live>,
    tenant: TenantId,
    session_id: SessionId,
    poll: Duration,
    after: u64,
    ear: Option<Box<dyn Listener>>,
    shown: Shown,
    /// The store and the snapshot are to be read before anything is heard.
    behind: bool,
}

impl Follower {
    /// Begins to listen. Nothing is read yet; without a live port it will poll.
    pub(super) async fn open(edge: &Edge, tenant: &TenantId, session_id: SessionId) -> Self {
        let mut follower = Self {
            store: Arc::clone(&edge.parts().store),
            live: Arc::clone(&edge.parts().live),
            tenant: tenant.clone(),
            session_id,
            poll: edge.settings().streams.poll,
            after: 0,
            ear: None,
            shown: Shown::default(),
            behind: true,
        };
        let live = Arc::clone(&follower.live);
        let deadline = edge.settings().streams.poll;
        let ear =
            edge.parts().io.call(deadline, async move { live.listen(session_id).await }).await;
        follower.ear = ear.ok().and_then(Result::ok);
        follower
    }

    /// Begins after this place of the log. `behind`: something may have been written since, before
    /// the follower listened.
    pub(super) fn begin_after(&mut self, seq: u64, behind: bool) {
        self.after = seq;
        self.behind = behind || self.ear.is_none();
    }

    /// Returns what is new, in order; nothing new within `quiet` is an empty answer.
    ///
    /// Not cancel-safe: what was being told is lost with it.
    ///
    /// # Errors
    ///
    /// The session does not exist (any more), or the store does not answer.
    pub(super) async fn next(&mut self, quiet: Duration) -> StoreResult<Vec<Told>> {
        if self.behind {
            return self.catch_up().await;
        }
        let Some(ear) = &mut self.ear else {
            return self.poll(quiet).await;
        };
        match timeout(quiet.min(DISTRUST), ear.next()).await {
            Ok(Heard::Event(event)) => self.hear(event).await,
            Ok(Heard::Lagged) => self.catch_up().await,
            Ok(Heard::Closed) => {
                self.ear = None;
                self.catch_up().await
            }
            Err(_quiet) => self.read().await,
        }
    }

    /// Waits for the terminal event of a message.
    ///
    /// # Errors
    ///
    /// The session was deleted after the message had ended, or the store does not answer.
    pub(super) async fn terminal(&mut self, message: &Accepted) -> StoreResult<Event> {
        loop {
            let told = match self.next(DISTRUST).await {
                Ok(told) => told,
                Err(StoreError::NotFound) => return self.kept_end(message.event_id).await,
                Err(error) => return Err(error),
            };
            for told in told {
                if let Told::Durable(event) = told
                    && event.event_type.is_terminal()
                    && event.turn_id == Some(message.turn_id)
                {
                    return Ok(event);
                }
            }
        }
    }

    /// Returns how a message of a session that was deleted has ended: the log is gone, but the ends
    /// that the deletion itself brought about are kept for those who wait.
    ///
    /// # Errors
    ///
    /// The message had ended before, or the store does not answer.
    pub(super) async fn kept_end(&mut self, event_id: EventId) -> StoreResult<Event> {
        let message = self.store.message(&self.tenant, event_id).await?;
        message.terminal.ok_or(StoreError::NotFound)
    }

    async fn poll(&mut self, quiet: Duration) -> StoreResult<Vec<Told>> {
        sleep(self.poll.min(quiet)).await;
        self.ear = self.live.listen(self.session_id).await.ok();
        if self.ear.is_some() {
            return self.catch_up().await;
        }
        self.read().await
    }

    /// Reads a page of the log, and on its last one the text so far.
    async fn catch_up(&mut self) -> StoreResult<Vec<Told>> {
        let mut told = self.read().await?;
        self.behind = told.len() >= PAGE as usize;
        if !self.behind {
            self.look(&mut told).await;
        }
        Ok(told)
    }

    async fn read(&mut self) -> StoreResult<Vec<Told>> {
        let events = self.store.events(&self.tenant, self.session_id, self.after, PAGE).await?;
        self.behind |= events.len() >= PAGE as usize;
        for event in &events {
            self.after = event.seq.unwrap_or(self.after).max(self.after);
            if event.event_type.is_terminal()
                && let Some(turn_id) = event.turn_id
            {
                self.shown.end(turn_id);
            }
        }
        Ok(events.into_iter().map(Told::Durable).collect())
    }

    /// Takes the snapshot, where there is one; without a live port there is none.
    async fn look(&mut self, told: &mut Vec<Told>) {
        if self.ear.is_none() {
            return;
        }
        if let Ok(Some(snapshot)) = self.live.snapshot(self.session_id).await
            && self.shown.take_snapshot(&snapshot)
        {
            told.push(Told::Snapshot(snapshot));
        }
    }

    async fn hear(&mut self, event: LiveEvent) -> StoreResult<Vec<Told>> {
        let mut told = Vec::new();
        match event {
            LiveEvent::Appended { seq } if seq <= self.after => {}
            LiveEvent::Appended { .. } => return self.read().await,
            LiveEvent::Delta { at, text } => match self.shown.take(at, &text) {
                Piece::Follows { at, text } => told.push(Told::Piece { at, text }),
                Piece::Known => {}
                Piece::Gap => self.look(&mut told).await,
            },
            LiveEvent::Reset { at } => {
                if self.shown.reset(at) {
                    told.push(Told::Void(at));
                }
            }
            LiveEvent::Notice { event } => told.push(Told::Notice(*event)),
        }
        Ok(told)
    }
}
