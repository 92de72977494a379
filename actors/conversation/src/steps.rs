//! The journal of a running turn: written before tools run, read until they have settled.

use std::sync::Arc;

use soma_contract::{
    model::Usage,
    port::{
        live::Nudge,
        store::{JournalEntry, LayDown},
    },
    turn::{Step, StepStatus},
};
use tokio::time::sleep;

use crate::{
    progress::Progress,
    run::{Run, Stop},
    stream::{Interrupt, stopped},
};

/// Journals an answer with its calls and wakes those who run tools.
pub(crate) async fn journal(
    run: &mut Run,
    answer: Option<Step>,
    calls: Vec<Step>,
) -> Result<(), Stop> {
    let requested = calls.iter().any(|call| call.status == StepStatus::Requested);
    let entry = JournalEntry { answer, calls, worked_ms: run.elapsed_ms() };
    let (turn_id, session_id, epoch) = (run.turn.turn_id, run.turn.session_id, run.epoch);
    let live = Arc::clone(&run.shared.ports.live);
    run.persist("journal a step", |store| {
        let (entry, live) = (entry.clone(), Arc::clone(&live));
        async move {
            store.journal(turn_id, epoch, entry).await?;
            // The step's text is durable; its readers go on with what comes next.
            live.clear(session_id).await;
            if requested {
                live.nudge(Nudge::Steps { session_id }).await;
            }
            Ok(())
        }
    })
    .await?;
    if requested {
        run.shared.ports.wake_tools.wake();
    }
    run.journal.extend(entry.answer.into_iter().chain(entry.calls));
    Ok(())
}

/// Reads how far the turn has come, once every call of a tool has settled. Live steps that an
/// earlier owner requested are waited for like one's own.
///
/// The wait is a step boundary: a drain does not wait for tools, the next owner does.
pub(crate) async fn settled(run: &mut Run) -> Result<Progress, Stop> {
    loop {
        let progress = Progress::read(&run.journal)?;
        if progress.open == 0 {
            return Ok(progress);
        }
        run.boundary()?;
        run.shared.config.caps.before_wait(run.worked())?;
        wait(run).await?;
        let turn_id = run.turn.turn_id;
        run.journal = run
            .persist("read the steps of a turn", |store| async move { store.steps(turn_id).await })
            .await?;
    }
}

/// Waits for news of the steps.
async fn wait(run: &Run) -> Result<(), Stop> {
    let mut interrupt = run.signals.interrupt.subscribe();
    tokio::select! {
        biased;
        why = stopped(&mut interrupt) => match why {
            Interrupt::Cancel => Err(Stop::Cancelled(Usage::default())),
            Interrupt::Drain | Interrupt::None => Err(Stop::LaidDown(LayDown::Drained)),
        },
        () = run.shared.drain.wait() => Err(Stop::LaidDown(LayDown::Drained)),
        () = run.signals.wake.notified() => Ok(()),
        () = sleep(run.shared.config.steps_poll) => Ok(()),
    }
}
