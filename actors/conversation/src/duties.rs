//! The worker's loops: polling the store, answering the doorbell, hearing hints, receiving records.

use std::{rc::Rc, sync::Arc, time::Duration};

use soma_contract::{
    SessionId,
    port::{live::Nudge, store::StoreResult},
};
use soma_runtime::{IoError, Scope};
use tokio::{sync::mpsc, time::sleep};

use crate::{actor::ConversationWorker, desk::Desk, intake, session::look_at};

type Worker = Scope<ConversationWorker>;

/// The longest a call may take that is not meant to end.
const ENDLESS: Duration = Duration::MAX;
/// The pause before a loop on the I/O runtime is begun again.
const AGAIN: Duration = Duration::from_secs(1);
/// Hints and sessions on their way from the I/O runtime; then it waits.
const ON_THE_WAY: usize = 1_024;

/// What a worker does all the time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Duty {
    /// Releases orphans and looks for turns that nobody has claimed.
    Poll,
    /// Answers the doorbell.
    Answer,
    /// Hears hints.
    Hear,
    /// Receives records.
    Receive,
}

impl Duty {
    pub(crate) const ALL: [Self; 4] = [Self::Poll, Self::Answer, Self::Hear, Self::Receive];
}

/// Does a duty until the worker drains.
pub(crate) async fn perform(duty: Duty, desk: Rc<Desk>, scope: Worker) {
    match duty {
        Duty::Poll => poll(&desk, &scope).await,
        Duty::Answer => answer(&desk, &scope).await,
        Duty::Hear => hear(&desk).await,
        Duty::Receive => receive(&desk, &scope).await,
    }
}

/// Pass after pass. The first one looks at everything at once: what an earlier incarnation or
/// process left has waited long enough.
async fn poll(desk: &Rc<Desk>, scope: &Worker) {
    let shared = &desk.shared;
    let mut idle_for = Duration::ZERO;
    while !shared.drain.is_draining() {
        match pass(desk, scope, idle_for).await {
            Ok(()) => {
                desk.note(None);
                idle_for = shared.config.poll;
            }
            Err(error) => desk.note(Some(error.to_string())),
        }
        tokio::select! {
            biased;
            () = shared.drain.wait() => {}
            () = sleep(shared.config.poll) => {}
        }
    }
}

async fn pass(desk: &Rc<Desk>, scope: &Worker, idle_for: Duration) -> StoreResult<()> {
    for session_id in release_orphans(desk).await? {
        tracing::warn!(%session_id, "a turn that nobody ran is released");
        look_at(desk, scope, session_id);
    }
    let shared = &desk.shared;
    let limit = u32::try_from(shared.config.concurrency * 2).unwrap_or(u32::MAX);
    let claimable = shared
        .ports
        .store(shared.config.store_deadline, |store| async move {
            store.claimable(idle_for, limit).await
        })
        .await?;
    for session_id in claimable {
        look_at(desk, scope, session_id);
    }
    Ok(())
}

async fn release_orphans(desk: &Desk) -> StoreResult<Vec<SessionId>> {
    let shared = &desk.shared;
    let _nobody_claims = desk.claiming.write().await;
    let (owner, alive) = (shared.ports.owner.clone(), desk.alive());
    let live = Arc::clone(&shared.ports.live);
    shared
        .ports
        .store(shared.config.store_deadline, |store| async move {
            let released = store.lay_down_orphans(&owner, &alive).await?;
            for session_id in &released {
                // Readers who join late are not shown half a step that is computed anew.
                live.clear(*session_id).await;
            }
            Ok(released)
        })
        .await
}

/// Looks where the doorbell says, until the worker drains.
async fn answer(desk: &Rc<Desk>, scope: &Worker) {
    let shared = &desk.shared;
    loop {
        tokio::select! {
            biased;
            () = shared.drain.wait() => return,
            sessions = shared.ports.doorbell.rung() => {
                for session_id in sessions {
                    look_at(desk, scope, session_id);
                }
            }
        }
    }
}

/// Hears hints until the last turn has ended: running ones are cancelled by them.
async fn hear(desk: &Desk) {
    let shared = &desk.shared;
    loop {
        let (sender, mut hints) = mpsc::channel(ON_THE_WAY);
        let live = Arc::clone(&shared.ports.live);
        let listening = shared.ports.io.call(ENDLESS, async move {
            let mut ear = live.nudges().await;
            while sender.send(ear.next().await).await.is_ok() {}
        });
        let heeding = async {
            while let Some(hint) = hints.recv().await {
                heed(desk, hint.as_ref());
            }
        };
        let ended = async { tokio::join!(listening, heeding).0 };
        if over(ended, desk.is_closed()).await {
            return;
        }
    }
}

/// Does what a hint says; without one some were missed.
///
/// Only for sessions that have a child here: elsewhere every replica would claim at once, and a
/// turn that nobody takes the poll finds.
fn heed(desk: &Desk, hint: Option<&Nudge>) {
    match hint {
        Some(Nudge::Session { session_id }) => {
            if let Some(signals) = desk.seat(*session_id) {
                signals.wake.notify_one();
            }
        }
        Some(Nudge::Cancel { session_id, turn_id }) => {
            if let Some(signals) = desk.seat(*session_id) {
                signals.cancel(*turn_id);
            }
        }
        Some(Nudge::Steps { .. }) => {}
        None => desk.wake_all(),
    }
}

/// Receives records until the worker drains.
async fn receive(desk: &Rc<Desk>, scope: &Worker) {
    let shared = &desk.shared;
    while !shared.drain.is_draining() {
        let (sender, mut sessions) = mpsc::channel(ON_THE_WAY);
        let intake = intake::Intake::of(shared, sender);
        let receiving = shared.ports.io.call(ENDLESS, intake.run());
        let looking = async {
            while let Some(session_id) = sessions.recv().await {
                look_at(desk, scope, session_id);
            }
        };
        let ended = async { tokio::join!(receiving, looking).0 };
        if over(ended, shared.drain.wait()).await {
            return;
        }
    }
}

/// Waits for `end`, dropping `work`; or, when the work ends by itself, a moment before it is begun
/// again. Returns whether it is over.
async fn over(
    work: impl Future<Output = Result<(), IoError>>,
    end: impl Future<Output = ()>,
) -> bool {
    let again = async {
        let ended = work.await;
        tracing::warn!(?ended, "a loop on the i/o runtime has ended; it is begun again");
        sleep(AGAIN).await;
    };
    tokio::select! {
        biased;
        () = end => true,
        () = again => false,
    }
}
