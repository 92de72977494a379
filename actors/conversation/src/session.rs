//! The child of a live session: claims its turns, one after another, and waits for the next.

use std::{rc::Rc, time::Duration};

use soma_contract::{
    SessionId,
    port::store::{ClaimedTurn, LayDown, StoreResult},
    turn::Turn,
};
use soma_runtime::{ChildFault, Scope};
use tokio::time::sleep;
use tracing::{Instrument as _, Span};

use crate::{
    actor::ConversationWorker,
    desk::{Alive, Busy, Desk, Seat},
    finish::{self, Next},
    run::{Run, Signals, persist},
};

type Worker = Scope<ConversationWorker>;

/// The pause after a claim that the store did not answer.
const CLAIM_RETRY: Duration = Duration::from_secs(1);

/// Wakes the child of a session, or starts one.
pub(crate) fn look_at(desk: &Rc<Desk>, scope: &Worker, session_id: SessionId) {
    if desk.shared.drain.is_draining() {
        return;
    }
    if let Some(signals) = desk.seat(session_id) {
        signals.wake.notify_one();
        return;
    }
    let (seat, signals) = Seat::take(desk, session_id);
    let child = Child { desk: Rc::clone(desk), scope: scope.clone(), session_id, signals };
    let sitting = async move {
        let _seat = seat;
        child.sit().await;
    };
    scope.child("session", sitting).detach();
}

struct Child {
    desk: Rc<Desk>,
    scope: Worker,
    session_id: SessionId,
    signals: Rc<Signals>,
}

impl Child {
    async fn sit(&self) {
        let drain = &self.desk.shared.drain;
        loop {
            let (pause, leaves) = match self.claim_and_run().await {
                Next::Claim => continue,
                Next::Pause(pause) => (pause, false),
                Next::Idle => (self.desk.shared.config.session_idle, true),
                Next::Leave => return,
            };
            // A hint is heard before the end of the pause: a child that leaves misses none.
            tokio::select! {
                biased;
                () = drain.wait() => return,
                () = self.signals.wake.notified() => {}
                () = sleep(pause) => if leaves { return },
            }
        }
    }

    async fn claim_and_run(&self) -> Next {
        let drain = &self.desk.shared.drain;
        let permit = tokio::select! {
            biased;
            () = drain.wait() => return Next::Leave,
            permit = self.desk.permits.acquire() => permit,
        };
        let _busy = Busy::new(&self.desk);
        self.signals.hear_all();
        let next = match self.claim().await {
            Ok(Some((claimed, alive))) => self.run(claimed, alive).await,
            Ok(None) => Next::Idle,
            Err(error) => {
                self.desk.note(Some(error.to_string()));
                Next::Pause(CLAIM_RETRY)
            }
        };
        drop(permit);
        next
    }

    /// Claims the session's next turn, which is no orphan from then on.
    async fn claim(&self) -> StoreResult<Option<(ClaimedTurn, Alive)>> {
        let _claiming = self.desk.claiming.read().await;
        let shared = &self.desk.shared;
        let (owner, session_id) = (shared.ports.owner.clone(), self.session_id);
        let claimed = shared
            .ports
            .store(shared.config.store_deadline, |store| async move {
                store.claim(&owner, session_id).await
            })
            .await?;
        Ok(claimed.map(|claimed| {
            let alive = Alive::new(&self.desk, claimed.turn.turn_id);
            (claimed, alive)
        }))
    }

    /// Runs a turn in a child of its own, whose panic is the turn's.
    async fn run(&self, claimed: ClaimedTurn, _alive: Alive) -> Next {
        let (turn_id, epoch) = (claimed.turn.turn_id, claimed.epoch);
        let span = span_of(&claimed.turn);
        self.observe(&claimed.turn);
        self.signals.begin(&claimed.turn);
        let run = Run::new(Rc::clone(&self.desk.shared), Rc::clone(&self.signals), claimed);
        let turn = self.scope.child("turn", finish::drive(run).instrument(span));
        let outcome = turn.await;
        self.signals.rest();
        match outcome {
            Ok(next) => next,
            Err(fault @ ChildFault::Panicked { .. }) => {
                let reason = describe(&fault);
                tracing::error!(%turn_id, reason, "a turn panicked");
                let why = LayDown::Panicked { reason };
                let laid = persist(&self.desk.shared, "lay a turn down", |store| {
                    let why = why.clone();
                    async move { store.lay_down(turn_id, epoch, why).await }
                });
                if laid.await.is_ok() { Next::Claim } else { Next::Idle }
            }
            Err(ChildFault::Aborted) => Next::Leave,
        }
    }

    fn observe(&self, turn: &Turn) {
        let shared = &self.desk.shared;
        if turn.tries.attempts == 1 && turn.replay == 0 && turn.waiting_since.is_none() {
            let lay = shared.ports.clock.now().signed_duration_since(turn.created_at);
            let lay = lay.to_std().unwrap_or_default();
            shared.metrics.queued_seconds.observe(lay.as_secs_f64());
        }
    }
}

fn describe(fault: &ChildFault) -> String {
    match fault {
        ChildFault::Panicked { message, location: Some(location) } => {
            format!("panicked at {location}: {message}")
        }
        other => other.to_string(),
    }
}

/// The span goes on where the request's ended, also after a restart.
fn span_of(turn: &Turn) -> Span {
    let trace = |name: &str| turn.trace.0.get(name).map(String::as_str);
    tracing::info_span!(
        "turn",
        tenant = turn.tenant.0,
        session_id = %turn.session_id,
        turn_id = %turn.turn_id,
        n = turn.n,
        attempt = turn.tries.attempts,
        request_id = trace("request_id"),
        traceparent = trace("traceparent"),
    )
}
