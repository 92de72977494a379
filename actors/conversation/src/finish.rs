//! From a claimed turn to what is written last: its end, or that it lies.

use std::{rc::Rc, sync::Arc, time::Duration};

use soma_contract::{
    EventId, EventType, TurnId,
    model::Usage,
    port::{
        live::LiveEvent,
        store::{Appended, Ending, LayDown, StoreError},
    },
};
use tokio::time::sleep;

use crate::{
    ending::millis,
    progress::Progress,
    run::{Run, Shared, Signals, Stop},
    stream::Interrupt,
    turn,
};

/// What the session does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Next {
    /// Claims again at once.
    Claim,
    /// Claims again after this time, or when it is woken.
    Pause(Duration),
    /// Waits to be woken.
    Idle,
    /// Ends.
    Leave,
}

impl Next {
    const fn after(appended: Appended) -> Self {
        if appended.more { Self::Claim } else { Self::Idle }
    }
}

/// Runs a claimed turn.
pub(crate) async fn drive(mut run: Run) -> Next {
    let shared = Rc::clone(&run.shared);
    let beat = heartbeat(&shared, Rc::clone(&run.signals), run.turn.turn_id, run.epoch);
    let worked = tokio::select! {
        biased;
        worked = turn::work(&mut run) => worked,
        () = beat => Err(Stop::Lost),
    };
    let usage = || Progress::read(&run.journal).map(|progress| progress.usage).unwrap_or_default();
    let with = |mut usage: Usage, more: Usage| {
        usage += more;
        usage
    };
    let ending = match worked {
        Ok(ending) => ending,
        Err(Stop::Failed(failure, more)) => {
            tracing::warn!(code = failure.code.as_str(), reason = failure.reason, "a turn failed");
            run.subject().failed(with(usage(), more), &failure)
        }
        Err(Stop::Cancelled(more)) => {
            run.subject().cancelled(with(usage(), more), run.signals.closed_in())
        }
        Err(Stop::LaidDown(why)) => return lay_down(&run, why).await,
        Err(Stop::Lost) => return lost(&run),
    };
    end(&run, ending).await
}

/// Renews the lease and reads the cancel flag; returns when somebody else has taken over.
async fn heartbeat(shared: &Shared, signals: Rc<Signals>, turn_id: TurnId, epoch: u64) {
    loop {
        sleep(shared.config.heartbeat).await;
        let deadline = shared.config.store_deadline;
        let beat = shared
            .ports
            .store(deadline, |store| async move { store.beat(turn_id, epoch).await })
            .await;
        match beat {
            Ok(beat) if beat.cancel_requested => signals.interrupt(Interrupt::Cancel),
            Ok(_) => {}
            Err(StoreError::Fenced | StoreError::NotFound) => return,
            Err(error) => tracing::warn!(%error, "a turn's lease could not be renewed"),
        }
    }
}

/// Writes the end. Data that the store refuses is our bug: then the turn ends by failure.
async fn end(run: &Run, ending: Ending) -> Next {
    let usage = ending.usage;
    let refused = match write(run, ending).await {
        Ok(appended) => return Next::after(appended),
        Err(Stop::Failed(failure, _)) => failure,
        Err(_) => return lost(run),
    };
    tracing::error!(reason = refused.reason, "the store refuses the end of a turn");
    match write(run, run.subject().failed(usage, &refused)).await {
        Ok(appended) => Next::after(appended),
        // It counts like a panic, so that it is not tried for ever.
        Err(Stop::Failed(failure, _)) => {
            lay_down(run, LayDown::Panicked { reason: failure.reason }).await
        }
        Err(_) => lost(run),
    }
}

/// Writes an ending and tells the readers, in one call.
async fn write(run: &Run, ending: Ending) -> Result<Appended, Stop> {
    let (turn_id, session_id, epoch) = (run.turn.turn_id, run.turn.session_id, run.epoch);
    let live = Arc::clone(&run.shared.ports.live);
    // The end tells whether the session has more; messages of which hints told before are in it.
    run.signals.hear_all();
    let appended = run
        .persist("end a turn", |store| {
            let (ending, live) = (ending.clone(), Arc::clone(&live));
            async move {
                let appended = store.end(turn_id, epoch, ending).await?;
                live.publish(session_id, LiveEvent::Appended { seq: appended.seq }).await;
                live.clear(session_id).await;
                Ok(appended)
            }
        })
        .await?;
    let outcome = outcome_of(ending.event.event_type);
    run.shared.metrics.ended(run.turn.kind, outcome, run.elapsed(), ending.usage);
    tracing::debug!(outcome, seq = appended.seq, "a turn has ended");
    Ok(appended)
}

const fn outcome_of(event_type: EventType) -> &'static str {
    match event_type {
        EventType::Error => "error",
        EventType::Cancelled => "cancelled",
        _ => "final",
    }
}

/// Lays a turn down; one that waits says so to its readers.
async fn lay_down(run: &Run, why: LayDown) -> Next {
    let (turn_id, session_id, epoch) = (run.turn.turn_id, run.turn.session_id, run.epoch);
    let (next, label) = match &why {
        LayDown::Waiting { reason, delay } => {
            tracing::warn!(reason, ?delay, "a turn waits");
            (Next::Pause(*delay), "waiting")
        }
        LayDown::Drained => (Next::Claim, "drained"),
        LayDown::Panicked { .. } => (Next::Claim, "panicked"),
    };
    let notice = waiting_notice(run, &why);
    let live = Arc::clone(&run.shared.ports.live);
    let laid = run
        .persist("lay a turn down", |store| {
            let (why, live, notice) = (why.clone(), Arc::clone(&live), notice.clone());
            async move {
                store.lay_down(turn_id, epoch, why).await?;
                if let Some(event) = notice {
                    live.publish(session_id, LiveEvent::Notice { event }).await;
                }
                Ok(())
            }
        })
        .await;
    if laid.is_err() {
        return lost(run);
    }
    run.shared.metrics.laid_down(run.turn.kind, label);
    next
}

fn waiting_notice(run: &Run, why: &LayDown) -> Option<Box<soma_contract::Event>> {
    let LayDown::Waiting { reason, delay } = why else { return None };
    let event_id = EventId(run.shared.ports.ids.draw());
    let event = run
        .subject()
        .notice(event_id, "waiting")
        .with("reason", reason.as_str())
        .with("retry_in_ms", millis(*delay));
    Some(Box::new(event))
}

/// Whoever has the turn now, or the next poll, goes on.
fn lost(run: &Run) -> Next {
    tracing::info!("a turn is in other hands");
    run.shared.metrics.laid_down(run.turn.kind, "lost");
    Next::Idle
}
