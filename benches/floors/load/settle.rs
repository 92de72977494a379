//! Whether every accepted message came to its end.

use std::{net::SocketAddr, time::Duration};

use anyhow::Context as _;
use serde::Deserialize;
use tokio::time::{Instant, sleep};
use uuid::Uuid;

use super::{Client, Messages};

/// How long the server may go on working after the last message.
const LIMIT: Duration = Duration::from_mins(2);
const PERIOD: Duration = Duration::from_millis(50);

#[derive(Deserialize)]
struct Page {
    events: Vec<Event>,
}

#[derive(Deserialize)]
struct Event {
    seq: u64,
    #[serde(rename = "type")]
    event_type: String,
}

/// Waits until each of the first `count` messages, all accepted, has a terminal event; returns how
/// long that took.
///
/// # Errors
///
/// More terminal events than messages, or fewer after two minutes.
pub(crate) async fn settle(
    server: SocketAddr,
    messages: &Messages,
    count: u64,
) -> anyhow::Result<Duration> {
    let began = Instant::now();
    let mut client = Client::connect(server).await?;
    for (session, expected) in messages.sessions(count) {
        loop {
            let ended = ended(&mut client, session).await?;
            anyhow::ensure!(ended <= expected, "{ended} ends of {expected} messages in {session}");
            if ended == expected {
                break;
            }
            let late = began.elapsed() >= LIMIT;
            anyhow::ensure!(!late, "{ended} of {expected} messages of {session} have ended");
            sleep(PERIOD).await;
        }
    }
    Ok(began.elapsed())
}

/// Returns how many terminal events a session has.
async fn ended(client: &mut Client, session: Uuid) -> anyhow::Result<u64> {
    let (mut after, mut ended) = (0, 0);
    loop {
        let path = format!("/v1/sessions/{session}/events?limit=500&after={after}");
        let answer = client.get(&path).await?;
        anyhow::ensure!(answer.status == 200, "`{path}` answers {}", answer.status);
        let page: Page = serde_json::from_slice(answer.body).context("read a page of events")?;
        let Some(last) = page.events.last() else { return Ok(ended) };
        after = last.seq;
        let ends = |event: &&Event| {
            matches!(
                event.event_type.as_str(),
                "assistant.final" | "assistant.error" | "assistant.cancelled"
            )
        };
        ended += page.events.iter().filter(ends).count() as u64;
    }
}
