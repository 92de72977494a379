//! What is sent: the same bytes to the product and to every limit.

use std::{io::Write as _, net::SocketAddr};

use uuid::Uuid;

/// Sessions are shared by this many messages in turn, so that none becomes a queue of its own.
const SESSIONS: u64 = 1024;

/// What a person might write; the `offline` model answers it without a tool.
const TEXT: &str = "Good morning. I have been reading about the history of lighthouses, and I \
    wonder how their keepers spent the long winter nights. Please describe one such night to me \
    in a few sentences.";

/// A series of messages, each with an `Idempotency-Key`, as the project's own clients send them.
#[derive(Debug, Clone)]
pub(crate) struct Messages {
    /// Keeps the keys and sessions of two runs apart.
    run: Uuid,
    waits: bool,
}

impl Messages {
    /// A series whose answers are `202 Accepted`.
    pub(crate) fn accepted() -> Self {
        Self { run: Uuid::now_v7(), waits: false }
    }

    /// A series whose answers are terminal events.
    pub(crate) fn answered() -> Self {
        Self { run: Uuid::now_v7(), waits: true }
    }

    /// Writes request `index` in place of what `out` held.
    pub(super) fn write(&self, server: SocketAddr, index: u64, out: &mut Vec<u8>) {
        let session = self.session(index);
        let wait = if self.waits { "?wait=30s" } else { "" };
        let body = format!(r#"{{"session_id":"{session}","message":"{TEXT}"}}"#);
        out.clear();
        let written = write!(
            out,
            "POST /v1/session/message{wait} HTTP/1.1\r\nHost: {server}\r\n\
             Content-Type: application/json\r\nIdempotency-Key: {}-{index}\r\n\
             Content-Length: {}\r\n\r\n{body}",
            self.run,
            body.len(),
        );
        debug_assert!(written.is_ok(), "memory takes everything");
    }

    fn session(&self, index: u64) -> Uuid {
        Uuid::new_v5(&self.run, &(index % SESSIONS).to_be_bytes())
    }

    /// Returns the sessions of the first `count` messages, each with how many it has.
    pub(super) fn sessions(&self, count: u64) -> impl Iterator<Item = (Uuid, u64)> {
        (0..SESSIONS.min(count)).map(move |index| {
            let earlier_rounds = count / SESSIONS;
            (self.session(index), earlier_rounds + u64::from(index < count % SESSIONS))
        })
    }

    /// Returns whether an answer is the one that was asked for.
    pub(super) fn wanted(&self, status: u16, body: &[u8]) -> bool {
        const FINAL: &[u8] = b"\"assistant.final\"";
        if self.waits {
            status == 200 && body.windows(FINAL.len()).any(|part| part == FINAL)
        } else {
            status == 202
        }
    }
}
