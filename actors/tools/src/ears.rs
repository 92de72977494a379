//! What wakes the executor besides its own poll: hints of the live port and `tool.requests`.

use std::{future::Future, rc::Rc, sync::Arc, time::Duration};

use soma_contract::{
    TurnId,
    port::{
        bus::{BusError, Consumer, Record},
        live::{Nudge, NudgeListener},
    },
    topic::Group,
};
use soma_runtime::{Drain, IoError};
use tokio::time::{sleep, timeout};

use crate::{claims::Desk, decide::pause, foreign, parts::Parts};

/// How long one wait for a hint or record lasts; then the ear is taken up again.
const WAIT: Duration = Duration::from_secs(20);
/// The most records taken at once.
const RECORDS: usize = 100;

/// What a hint means here.
enum Heard {
    Steps,
    Cancel(TurnId),
    /// Some hints were missed.
    Anything,
    /// Nothing for a while.
    Silence,
}

/// Hears hints until the drain.
pub(crate) async fn hear_hints(parts: Arc<Parts>, desk: Rc<Desk>, drain: Drain) {
    let mut ear: Option<Box<dyn NudgeListener>> = None;
    loop {
        let (live, kept) = (Arc::clone(&parts.live), ear.take());
        let listening = async move {
            let mut ear = match kept {
                Some(ear) => ear,
                None => live.nudges().await,
            };
            let heard = timeout(WAIT, next_of_tools(&mut *ear)).await.unwrap_or(Heard::Silence);
            (ear, heard)
        };
        let Some(heard) = unless(&drain, parts.io.call(WAIT * 2, listening)).await else { return };
        match heard {
            Ok((kept, heard)) => {
                ear = Some(kept);
                react(&parts, &desk, heard).await;
            }
            Err(error) => {
                tracing::debug!(%error, "hints are not heard");
                sleep(pause(1)).await;
            }
        }
    }
}

/// Waits for the next hint that is about tools.
async fn next_of_tools(ear: &mut dyn NudgeListener) -> Heard {
    loop {
        match ear.next().await {
            Some(Nudge::Steps { .. }) => return Heard::Steps,
            Some(Nudge::Cancel { turn_id, .. }) => return Heard::Cancel(turn_id),
            Some(Nudge::Session { .. }) => {}
            None => return Heard::Anything,
        }
    }
}

async fn react(parts: &Parts, desk: &Desk, heard: Heard) {
    match heard {
        Heard::Steps => desk.wake.notify_one(),
        Heard::Cancel(turn_id) => desk.look(Some(turn_id)),
        Heard::Anything => {
            desk.wake.notify_one();
            desk.look(None);
            // A port that is down may say so again and again.
            sleep(parts.config.poll).await;
        }
        Heard::Silence => {}
    }
}

/// Reads `tool.requests` until the drain. A record of ours means only "look"; a foreign one is
/// first accepted as a turn.
pub(crate) async fn read_requests(parts: Arc<Parts>, desk: Rc<Desk>, drain: Drain) {
    let mut consumer: Option<Box<dyn Consumer>> = None;
    let mut failures = 0_u32;
    loop {
        let (taking, kept) = (Arc::clone(&parts), consumer.take());
        let reading = async move { read(&taking, kept).await };
        let Some(read) = unless(&drain, parts.io.call(WAIT * 3, reading)).await else { return };
        match flattened(read) {
            Ok((kept, woken)) => {
                consumer = Some(kept);
                failures = 0;
                if woken {
                    desk.wake.notify_one();
                }
            }
            Err(error) => {
                failures = failures.saturating_add(1);
                tracing::warn!(%error, failures, "`tool.requests` is not read; steps are polled");
                if unless(&drain, sleep(pause(failures))).await.is_none() {
                    return;
                }
            }
        }
    }
}

/// Takes records, makes turns of foreign ones, and acknowledges all; returns whether there were
/// any.
async fn read(
    parts: &Parts,
    kept: Option<Box<dyn Consumer>>,
) -> Result<(Box<dyn Consumer>, bool), BusError> {
    let mut consumer = kept.unwrap_or_else(|| parts.bus.subscribe(Group::ToolExecutor));
    let records = consumer.receive(RECORDS, WAIT).await?;
    for record in records.iter().filter(|record| is_foreign(record)) {
        foreign::take_in(parts, record).await.map_err(|error| BusError(error.to_string()))?;
    }
    if !records.is_empty() {
        consumer.acknowledge(&records).await?;
    }
    Ok((consumer, !records.is_empty()))
}

/// Records of ours carry the number of the message that they belong to.
fn is_foreign(record: &Record) -> bool {
    !record.headers.contains_key("n")
}

fn flattened<T>(read: Result<Result<T, BusError>, IoError>) -> Result<T, BusError> {
    read.unwrap_or_else(|error| Err(BusError(error.to_string())))
}

/// Waits for the future, or for the drain.
async fn unless<T>(drain: &Drain, future: impl Future<Output = T>) -> Option<T> {
    tokio::select! {
        biased;
        () = drain.wait() => None,
        output = future => Some(output),
    }
}
