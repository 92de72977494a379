//! One commit: admit, store, tell, answer.

use std::sync::Arc;

use soma_contract::{
    Classified, Kind, TenantId,
    message::{AcceptError, Accepted, NewMessage},
};
use soma_runtime::IoError;
use tokio::{sync::oneshot, time::Instant};

use crate::actor::{Desk, Waiting};

type Answer = Result<Accepted, AcceptError>;

/// Commits a batch and answers its callers; returns what was newly accepted.
pub(crate) async fn commit(desk: &Desk, batch: Vec<Waiting>) -> Vec<Accepted> {
    let admitted = admit(desk, batch).await;
    if admitted.is_empty() {
        return Vec::new();
    }
    let (messages, callers): (Vec<NewMessage>, Vec<_>) =
        admitted.into_iter().map(|waiting| (waiting.message, waiting.answer)).unzip();
    let tenants: Vec<TenantId> = messages.iter().map(|message| message.tenant.clone()).collect();
    let begun = Instant::now();
    desk.metrics.batch_size.observe(f64::from(u32::try_from(messages.len()).unwrap_or(u32::MAX)));
    let answers = store(desk, messages).await;
    desk.metrics.commit_seconds.observe(begun.elapsed().as_secs_f64());
    note_trouble(desk, &answers);
    let fresh = |answer: &Answer| answer.as_ref().is_ok_and(|accepted| !accepted.replayed);
    let new = tenants.iter().zip(&answers).filter(|(_, answer)| fresh(answer));
    desk.counter.settle(new.map(|(tenant, _)| tenant));
    let accepted: Vec<Accepted> =
        answers.iter().filter(|answer| fresh(answer)).flatten().cloned().collect();
    if !accepted.is_empty() {
        (desk.ports.after_commit)(&accepted);
    }
    for (caller, answer) in callers.into_iter().zip(answers) {
        give(desk, caller, answer);
    }
    accepted
}

/// Refuses what the backlog has no room for, counting anew where the estimate may be too high.
async fn admit(desk: &Desk, batch: Vec<Waiting>) -> Vec<Waiting> {
    let mut admitted = Vec::with_capacity(batch.len());
    for waiting in batch {
        match desk.counter.admit(desk, &waiting.message.tenant).await {
            Ok(()) => admitted.push(waiting),
            Err(error) => give(desk, waiting.answer, Err(error)),
        }
    }
    admitted
}

async fn store(desk: &Desk, messages: Vec<NewMessage>) -> Vec<Answer> {
    let count = messages.len();
    let store = Arc::clone(&desk.ports.store);
    let committed = desk
        .ports
        .io
        .call(desk.config.commit_deadline, async move { store.accept(messages).await })
        .await;
    let error = match committed {
        Ok(answers) => return answers,
        Err(IoError::TimedOut) => {
            AcceptError::OutcomeUnknown("the commit was not answered in time".to_owned())
        }
        Err(error @ (IoError::Fenced | IoError::Closed)) => {
            AcceptError::Unavailable(error.to_string())
        }
    };
    vec![Err(error); count]
}

fn note_trouble(desk: &Desk, answers: &[Answer]) {
    let trouble = answers.iter().find_map(|answer| match answer {
        Err(error) if error.kind() == Kind::Retry => Some(error.to_string()),
        _ => None,
    });
    let before = desk.trouble.replace(trouble.clone());
    match (before, trouble) {
        (None, Some(error)) => tracing::warn!(error, "messages cannot be stored"),
        (Some(_), None) => tracing::info!("messages are stored again"),
        _ => {}
    }
}

fn give(desk: &Desk, caller: oneshot::Sender<Answer>, answer: Answer) {
    desk.metrics.count(&answer);
    // A caller that has gone does not need its answer.
    drop(caller.send(answer));
}
