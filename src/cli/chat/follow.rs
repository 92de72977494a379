//! Follows a session's event stream over broken connections.

use std::{pin::Pin, time::Duration};

use eventsource_stream::Event as Frame;
use futures::{Stream, StreamExt};
use serde_json::Value;
use uuid::Uuid;

use super::Client;

type Frames = Pin<Box<dyn Stream<Item = Result<Frame, String>>>>;

const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// What happened in the session.
#[derive(Debug)]
pub(super) enum News {
    /// More text of the answer.
    Text(String),
    /// The text so far is void; the answer is written anew, beginning with this.
    Anew(String),
    /// A tool call began (its durable event).
    ToolStart(Value),
    /// A tool call ended (its durable event).
    ToolResult(Value),
    /// Something to know, such as why the answer waits.
    Notice(String),
    /// The awaited message is answered, by this terminal event.
    Over(Box<Ending>),
    /// The stream cannot be had any more, such as that of a session that somebody deleted.
    Lost(String),
}

/// The end of an answer.
#[derive(Debug)]
pub(super) struct Ending {
    /// The terminal event.
    pub(super) event: Value,
    /// What of its text has not been shown yet; `None` where the shown text does not fit.
    pub(super) rest: Option<String>,
}

/// Reads one session's stream and awaits the answer to one message at a time.
pub(super) struct Follower {
    client: Client,
    session: Uuid,
    frames: Option<Frames>,
    seen: u64,
    pause: Duration,
    awaited: Option<(Uuid, Option<String>)>,
    shown: Shown,
}

/// The text on the screen, and of which run of which step it is.
#[derive(Debug, Default, PartialEq)]
struct Shown {
    place: Option<(String, u64, u64)>,
    text: String,
}

impl Follower {
    pub(super) fn new(client: Client, session: Uuid) -> Self {
        Self {
            client,
            session,
            frames: None,
            seen: 0,
            pause: FIRST_PAUSE,
            awaited: None,
            shown: Shown::default(),
        }
    }

    /// Awaits the answer to this message from now on.
    pub(super) fn expect(&mut self, event_id: Uuid) {
        self.awaited = Some((event_id, None));
        self.shown = Shown::default();
    }

    /// Waits for the next news, connecting again as often as needed. Cancel-safe.
    pub(super) async fn next(&mut self) -> News {
        loop {
            let Some(frames) = &mut self.frames else {
                if let Some(notice) = self.connect().await {
                    return notice;
                }
                continue;
            };
            match frames.next().await {
                Some(Ok(frame)) => {
                    self.pause = FIRST_PAUSE;
                    if let Some(news) = self.digest(&frame) {
                        return news;
                    }
                }
                Some(Err(_)) | None => self.frames = None,
            }
        }
    }

    async fn connect(&mut self) -> Option<News> {
        let path = format!("/v1/sessions/{}/events", self.session);
        match self.client.follow(&path, self.seen).await {
            Ok(frames) => {
                self.frames = Some(Box::pin(frames));
                None
            }
            Err(error) if !error.is_passing() => {
                self.awaited = None;
                Some(News::Lost(error.to_string()))
            }
            Err(error) => {
                tokio::time::sleep(self.pause).await;
                let first = self.pause == FIRST_PAUSE;
                self.pause = (self.pause * 2).min(LONGEST_PAUSE);
                first.then(|| News::Notice(format!("connecting again: {error}")))
            }
        }
    }

    fn digest(&mut self, frame: &Frame) -> Option<News> {
        let event: Value = serde_json::from_str(&frame.data).ok()?;
        if let Ok(seq) = frame.id.parse::<u64>() {
            self.seen = self.seen.max(seq);
        }
        let turn = event.get("turn_id").and_then(Value::as_str).map(str::to_owned);
        let kind = event.get("type").and_then(Value::as_str).unwrap_or_default();
        if kind == "user" {
            self.note_turn(&event, turn);
            return None;
        }
        let ours = self.awaited.as_ref()?.1.clone()?;
        if turn.as_ref() != Some(&ours) {
            return None;
        }
        match kind {
            "assistant.delta" | "assistant.snapshot" => self.shown.add(&ours, &event),
            "assistant.reset" => {
                self.shown = Shown::default();
                Some(News::Anew(String::new()))
            }
            "assistant.thinking" => waiting(&event),
            "tool.start" => {
                self.shown = Shown::default();
                Some(News::ToolStart(event))
            }
            "tool.result" => Some(News::ToolResult(event)),
            "assistant.final" | "assistant.error" | "assistant.cancelled" => {
                self.awaited = None;
                let text = event.get("message").and_then(Value::as_str).unwrap_or_default();
                let rest = text.strip_prefix(self.shown.text.as_str()).map(str::to_owned);
                self.shown = Shown::default();
                Some(News::Over(Box::new(Ending { event, rest })))
            }
            _ => None,
        }
    }

    /// The user's own event tells which turn answers it.
    fn note_turn(&mut self, event: &Value, turn: Option<String>) {
        let id = event
            .get("event_id")
            .and_then(Value::as_str)
            .and_then(|text| text.parse::<Uuid>().ok());
        if let Some((awaited, known)) = &mut self.awaited
            && id == Some(*awaited)
        {
            *known = turn;
        }
    }
}

impl Shown {
    /// Adds a piece at its offset; a piece of another run or step begins anew.
    fn add(&mut self, turn: &str, event: &Value) -> Option<News> {
        let text = event.get("message").and_then(Value::as_str)?;
        let number = |name: &str| event.get("metadata")?.get(name)?.as_u64();
        let place = (turn.to_owned(), number("epoch").unwrap_or(0), number("step").unwrap_or(0));
        let offset = usize::try_from(number("offset").unwrap_or(0)).unwrap_or(usize::MAX);
        if self.place.as_ref() != Some(&place) {
            let void = self.place.is_some() && !self.text.is_empty();
            *self = Self { place: Some(place), text: String::new() };
            if void {
                self.text.push_str(text);
                return Some(News::Anew(text.to_owned()));
            }
        }
        let known = self.text.len().checked_sub(offset)?;
        let fresh = text.get(known..).unwrap_or_default();
        self.text.push_str(fresh);
        (!fresh.is_empty()).then(|| News::Text(fresh.to_owned()))
    }
}

fn waiting(event: &Value) -> Option<News> {
    let metadata = event.get("metadata")?;
    let status = metadata.get("status")?.as_str()?;
    let reason = metadata.get("reason").and_then(Value::as_str).unwrap_or_default();
    (status == "waiting").then(|| News::Notice(format!("waiting: {reason}")))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::cli::testing::answering;

    #[tokio::test]
    async fn a_session_that_is_gone_is_not_waited_for() {
        let gone = "HTTP/1.1 404 Not Found\r\ncontent-length: 20\r\n\r\n{\"code\":\"not_found\"}";
        let client = Client::new(&answering(gone).await, None).unwrap();
        let mut follower = Follower::new(client, Uuid::nil());
        follower.expect(Uuid::nil());
        let news = follower.next().await;
        assert!(matches!(&news, News::Lost(why) if why.contains("not_found")), "{news:?}");
    }

    fn piece(epoch: u64, offset: u64, text: &str) -> Value {
        json!({ "message": text, "metadata": { "epoch": epoch, "step": 0, "offset": offset } })
    }

    #[test]
    fn overlapping_pieces_are_shown_once() {
        let mut shown = Shown::default();
        assert!(
            matches!(shown.add("t", &piece(1, 0, "Hello ")), Some(News::Text(text)) if text == "Hello ")
        );
        assert!(
            matches!(shown.add("t", &piece(1, 0, "Hello wor")), Some(News::Text(text)) if text == "wor")
        );
        assert!(shown.add("t", &piece(1, 6, "wor")).is_none());
        assert_eq!(shown.text, "Hello wor");
    }

    #[test]
    fn a_new_run_begins_again() {
        let mut shown = Shown::default();
        shown.add("t", &piece(1, 0, "Hel"));
        assert!(matches!(shown.add("t", &piece(2, 0, "Good")), Some(News::Anew(_))));
        assert_eq!(shown.text, "Good");
    }
}
