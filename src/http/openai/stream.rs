//! A completion in chunks.

use std::time::Duration;

use actix_web::{HttpResponse, web::Bytes};
use serde_json::{Value, json};
use soma_contract::{Event, message::Accepted, port::store::StoreError};
use tokio::{sync::mpsc, time::Instant};

use super::{
    answer::{Heading, failure, finish_reason},
    said::Said,
    unfinished,
};
use crate::http::{
    call::Call,
    follow::{Follower, Told},
    problem::Problem,
    sse::{self, Frames},
};

/// Answers with chunks. Whatever goes wrong from here on is told within the stream.
pub(super) fn respond(
    call: &Call,
    follower: Follower,
    accepted: &Accepted,
    heading: Heading,
    with_usage: bool,
) -> HttpResponse {
    let settings = call.edge.settings().streams;
    let (frames, buffer) = mpsc::channel(settings.buffer.max(1));
    let writer = Writer {
        accepted: accepted.clone(),
        heading,
        with_usage,
        frames,
        stall: settings.stall,
        keepalive: settings.keepalive,
    };
    let deadline = call.edge.settings().limits.completion_timeout;
    let metrics = call.edge.metrics().clone();
    let edge = call.edge.clone();
    let task = call.edge.parts().io.handle().spawn(async move {
        let reason = tokio::select! {
            written = writer.run(follower) => match written {
                Ok(()) => "ended",
                Err(Gone) => "reader_gone",
            },
            () = tokio::time::sleep(deadline) => "timed_out",
            () = edge.patience_over() => "drained",
        };
        if matches!(reason, "timed_out" | "drained") {
            // Best effort: the reader may be what is late.
            drop(writer.frames.try_send(error_frame(&unfinished(&writer.accepted))));
        }
        metrics.stream_ended(reason);
    });
    sse::stream(Frames::new(buffer, task, &call.edge))
}

/// The reader has gone, or takes nothing.
struct Gone;

struct Writer {
    accepted: Accepted,
    heading: Heading,
    with_usage: bool,
    frames: mpsc::Sender<Bytes>,
    stall: Duration,
    keepalive: Duration,
}

impl Writer {
    async fn run(&self, mut follower: Follower) -> Result<(), Gone> {
        self.delta(&json!({"role": "assistant", "content": "", "refusal": null})).await?;
        let mut said = Said::default();
        let mut spoken = Instant::now();
        loop {
            let quiet = self.keepalive.saturating_sub(spoken.elapsed());
            let told = tokio::select! {
                () = self.frames.closed() => return Err(Gone),
                told = follower.next(quiet) => told,
            };
            let told = match told {
                Ok(told) => told,
                Err(error) => {
                    let event = match error {
                        StoreError::NotFound => follower.kept_end(self.accepted.event_id).await,
                        other => Err(other),
                    };
                    return match event {
                        Ok(event) => self.end(&mut said, &event).await,
                        Err(error) => self.send(error_frame(&Problem::from(error))).await,
                    };
                }
            };
            if told.is_empty() && spoken.elapsed() >= self.keepalive {
                self.send(Bytes::from_static(b": keepalive\n\n")).await?;
                spoken = Instant::now();
            }
            for told in told {
                spoken = Instant::now();
                if let Some(end) = self.tell(&mut said, told).await? {
                    return self.end(&mut said, &end).await;
                }
            }
        }
    }

    /// Tells what belongs to our turn; returns its terminal event.
    async fn tell(&self, said: &mut Said, told: Told) -> Result<Option<Event>, Gone> {
        let fresh = match told {
            Told::Piece { at, text } if at.turn_id == self.accepted.turn_id => {
                said.piece(at, &text)
            }
            Told::Snapshot(snapshot) if snapshot.at.turn_id == self.accepted.turn_id => {
                said.snapshot(snapshot.at, &snapshot.text)
            }
            Told::Void(at) if at.turn_id == self.accepted.turn_id => {
                said.void(at);
                None
            }
            Told::Durable(event)
                if event.event_type.is_terminal()
                    && event.turn_id == Some(self.accepted.turn_id) =>
            {
                return Ok(Some(event));
            }
            _ => None,
        };
        if let Some(fresh) = fresh {
            self.delta(&json!({"content": fresh})).await?;
        }
        Ok(None)
    }

    async fn end(&self, said: &mut Said, event: &Event) -> Result<(), Gone> {
        if let Some(problem) = failure(event) {
            return self.send(error_frame(&problem)).await;
        }
        if let Some(rest) = said.end(&event.message) {
            self.delta(&json!({"content": rest})).await?;
        }
        let finish = Some(finish_reason(event));
        self.data(&self.heading.chunk(&json!({}), finish, self.with_usage)).await?;
        if self.with_usage {
            self.data(&self.heading.usage_chunk(event)).await?;
        }
        self.send(Bytes::from_static(b"data: [DONE]\n\n")).await
    }

    async fn delta(&self, delta: &Value) -> Result<(), Gone> {
        self.data(&self.heading.chunk(delta, None, self.with_usage)).await
    }

    async fn data(&self, value: &Value) -> Result<(), Gone> {
        self.send(Bytes::from(format!("data: {value}\n\n"))).await
    }

    async fn send(&self, frame: Bytes) -> Result<(), Gone> {
        self.frames.send_timeout(frame, self.stall).await.map_err(|_gone| Gone)
    }
}

/// An error within a stream ends it without `[DONE]`.
fn error_frame(problem: &Problem) -> Bytes {
    Bytes::from(format!("data: {}\n\n", json!({"error": problem.openai_error()})))
}
