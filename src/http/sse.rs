//! Event streams: frames, keep-alives, and readers that are too slow.
//!
//! A task on the I/O runtime follows the session and fills a bounded buffer that the connection
//! empties. A live frame that finds the buffer full ends the stream; older events, of which there
//! may be more than any buffer holds, wait for room, but not for ever. A dropped reader comes back
//! with `Last-Event-ID` and misses nothing durable.

use std::{
    fmt::Write,
    pin::Pin,
    task::{Context, Poll},
};

use actix_web::{
    HttpResponse,
    http::header::{self, HeaderName, HeaderValue},
    web::Bytes,
};
use futures::Stream;
use rand::Rng;
use soma_contract::{
    Event, EventId, EventType, Role, SessionId,
    port::{live::TextPosition, store::StoreError},
};
use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
    time::Instant,
};
use uuid::Uuid;

use super::{
    edge::Edge,
    follow::{Follower, Told},
    metrics::InFlight,
    settings::Streams,
};

const ACCEL_BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");

/// Answers with the session's stream.
pub(super) fn respond(edge: &Edge, session_id: SessionId, follower: Follower) -> HttpResponse {
    let settings = edge.settings().streams;
    let (frames, buffer) = mpsc::channel(settings.buffer.max(1));
    let metrics = edge.metrics().clone();
    let draining = edge.draining();
    let pump = Pump { session_id, settings, frames, draining };
    let task = edge.parts().io.handle().spawn(async move {
        let reason = pump.run(follower).await;
        tracing::debug!(%session_id, reason, "a stream ended");
        metrics.stream_ended(reason);
    });
    stream(Frames::new(buffer, task, edge))
}

/// Answers with frames as they come.
pub(super) fn stream<S>(frames: S) -> HttpResponse
where
    S: Stream<Item = Result<Bytes, actix_web::Error>> + 'static,
{
    let mut response =
        HttpResponse::Ok().content_type("text/event-stream; charset=utf-8").streaming(frames);
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache, no-transform"));
    headers.insert(ACCEL_BUFFERING, HeaderValue::from_static("no"));
    response
}

/// The connection's end of the buffer; dropped with the connection, it ends the task.
pub(super) struct Frames {
    buffer: mpsc::Receiver<Bytes>,
    task: JoinHandle<()>,
    _open: InFlight,
}

impl Frames {
    /// Joins the connection's end of a buffer with the task that fills it.
    pub(super) fn new(buffer: mpsc::Receiver<Bytes>, task: JoinHandle<()>, edge: &Edge) -> Self {
        Self { buffer, task, _open: edge.metrics().stream() }
    }
}

impl Stream for Frames {
    type Item = Result<Bytes, actix_web::Error>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.buffer.poll_recv(context).map(|frame| frame.map(Ok))
    }
}

impl Drop for Frames {
    fn drop(&mut self) {
        self.buffer.close();
        // A task that waits for the session's next word has nobody left to tell.
        if !self.task.is_finished() {
            self.task.abort();
        }
    }
}

struct Pump {
    session_id: SessionId,
    settings: Streams,
    frames: mpsc::Sender<Bytes>,
    draining: watch::Receiver<bool>,
}

/// Why a stream ends.
type Reason = &'static str;

impl Pump {
    async fn run(self, mut follower: Follower) -> Reason {
        let mut draining = self.draining.clone();
        let mut spoken = Instant::now();
        loop {
            let quiet = self.settings.keepalive.saturating_sub(spoken.elapsed());
            let told = tokio::select! {
                biased;
                _ = draining.wait_for(|draining| *draining) => return self.farewell(),
                () = self.frames.closed() => return "reader_gone",
                told = follower.next(quiet) => told,
            };
            let told = match told {
                Ok(told) => told,
                Err(StoreError::NotFound) => return "session_deleted",
                // The store will be back; meanwhile the reader knows that the stream is alive.
                Err(_unavailable) => {
                    tokio::time::sleep(self.settings.poll).await;
                    Vec::new()
                }
            };
            for told in told {
                if let Err(reason) = self.tell(told).await {
                    return reason;
                }
                spoken = Instant::now();
            }
            if spoken.elapsed() >= self.settings.keepalive {
                if self.frames.try_send(keepalive(self.session_id)).is_err() {
                    return "reader_slow";
                }
                spoken = Instant::now();
            }
        }
    }

    async fn tell(&self, told: Told) -> Result<(), Reason> {
        match told {
            Told::Durable(event) => {
                let frame = frame(event.seq, &event);
                let sent = self.frames.send_timeout(frame, self.settings.stall).await;
                sent.map_err(|_stalled| "reader_slow")
            }
            live => {
                let frame = frame(None, &live_event(self.session_id, live));
                self.frames.try_send(frame).map_err(|_full| "reader_slow")
            }
        }
    }

    /// Asks the reader to come back, not all at the same moment, and ends the stream.
    fn farewell(&self) -> Reason {
        let retry = rand::rng().random_range(200..2_000);
        // A reader without room for this comes back when it likes.
        drop(self.frames.try_send(Bytes::from(format!("retry: {retry}\n\n"))));
        "drained"
    }
}

/// Composes the event of what is not kept. Its id follows from its place, so that a reader on two
/// connections can tell that it is the same.
fn live_event(session_id: SessionId, told: Told) -> Event {
    let (event_type, at, text) = match told {
        Told::Durable(event) | Told::Notice(event) => return event,
        Told::Snapshot(snapshot) => (EventType::Snapshot, snapshot.at, snapshot.text),
        Told::Piece { at, text } => (EventType::Delta, at, text),
        Told::Void(at) => (EventType::Reset, at, String::new()),
    };
    let TextPosition { turn_id, epoch, step, offset } = at;
    let name = format!("{}/{epoch}/{step}/{offset}", event_type.as_str());
    let event_id = EventId(Uuid::new_v5(&turn_id.0, name.as_bytes()));
    let mut event = Event::new(event_id, session_id, Role::Assistant, event_type)
        .with("epoch", epoch)
        .with("step", step)
        .with("offset", offset);
    event.message = text;
    event.turn_id = Some(turn_id);
    event
}

fn keepalive(session_id: SessionId) -> Bytes {
    let event_id = EventId(Uuid::new_v5(&session_id.0, b"keepalive"));
    frame(None, &Event::new(event_id, session_id, Role::System, EventType::Keepalive))
}

/// Writes a frame: no event name, as clients listen to `message`; an id only where there is a
/// place in the log to resume from.
fn frame(id: Option<u64>, event: &Event) -> Bytes {
    let mut text = String::with_capacity(512);
    if let Some(id) = id {
        // Writing to a string does not fail.
        writeln!(text, "id: {id}").unwrap_or_default();
    }
    let json = serde_json::to_string(event).unwrap_or_default();
    text.push_str("data: ");
    text.push_str(&json);
    text.push_str("\n\n");
    Bytes::from(text)
}
