//! One claimed step: policy, run, settle.

use std::{any::Any, cell::Cell, panic::AssertUnwindSafe, rc::Rc, sync::Arc};

use futures::FutureExt;
use serde_json::json;
use soma_contract::{
    port::{
        policy::{Action, Decision, PolicyInput},
        store::{ClaimedStep, StoreError},
    },
    tool::{Effect, ToolOutcome, ToolSpec, ToolStatus},
    turn::Step,
};
use soma_runtime::{Drain, IoError};
use tokio::{
    sync::Notify,
    time::{Instant, sleep},
};

use crate::{
    decide::{self, PutBack, RunEnd, Verdict},
    parts::Parts,
    tool::{CallContext, Cancel, Tool},
};

/// How the work on a claimed step ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum StepEnd {
    /// It is settled.
    Settled(ToolStatus),
    /// It is `requested` again.
    PutBack(PutBack),
    /// It is no longer ours, or its turn has ended.
    Lost,
}

/// Carries a claimed step out, to its settling or putting back. `look` makes it look at once
/// whether its turn was cancelled.
pub(crate) async fn carry_out(
    parts: Arc<Parts>,
    claimed: ClaimedStep,
    look: Rc<Notify>,
    drain: Drain,
) -> StepEnd {
    parts.tell_readers(claimed.step.session_id, claimed.seq).await;
    let begun = Cell::new(None);
    let verdict = tokio::select! {
        biased;
        verdict = judge(&parts, &claimed, &begun, &drain) => verdict,
        stop = watch(&parts, &claimed.step, &look) => match stop {
            Stop::Fenced => return StepEnd::Lost,
            Stop::Cancelled => cancelled(&parts, &claimed.step, begun.get()),
        },
    };
    conclude(&parts, &claimed.step, verdict).await
}

/// Settles a step whose carrying out panicked outside of the tool.
pub(crate) async fn give_up(parts: Arc<Parts>, step: Step, panic: String) -> StepEnd {
    let verdict = decide::unbegun(ToolStatus::Error, format!("the executor broke down: {panic}"));
    conclude(&parts, &step, verdict).await
}

/// Decides on the step, running its tool on the way.
async fn judge(
    parts: &Parts,
    claimed: &ClaimedStep,
    begun: &Cell<Option<Instant>>,
    drain: &Drain,
) -> Verdict {
    let step = &claimed.step;
    let (tool, spec) = match parts.toolbox.find(&step.name, &step.arguments) {
        Ok(found) => found,
        Err(fault) => return decide::unbegun(ToolStatus::Error, fault.to_string()),
    };
    match permission(parts, claimed).await {
        Permission::Granted => {}
        Permission::Denied(reason) => return decide::unbegun(ToolStatus::Blocked, reason),
        Permission::NoAnswer(reason) => {
            return Verdict::PutBack { why: PutBack::Unavailable(reason) };
        }
    }
    if drain.is_draining() {
        return Verdict::PutBack { why: PutBack::Drained };
    }
    let start = Instant::now();
    begun.set(Some(start));
    let end = run(parts, tool, &spec, claimed, drain).await;
    fail::fail_point!("tools::after_run");
    decide::verdict(end, &spec, start.elapsed())
}

/// What the policy says of a step.
enum Permission {
    Granted,
    Denied(String),
    NoAnswer(String),
}

async fn permission(parts: &Parts, claimed: &ClaimedStep) -> Permission {
    let input = question(claimed);
    let policy = Arc::clone(&parts.policy);
    let deciding = async move { policy.decide(&input).await };
    match parts.io.call(parts.config.port_deadline, deciding).await {
        Ok(Ok(Decision::Allow)) => Permission::Granted,
        Ok(Ok(Decision::Deny(reason))) => Permission::Denied(reason),
        Ok(Err(error)) => Permission::NoAnswer(error.to_string()),
        Err(error) => Permission::NoAnswer(format!("the policy engine is unavailable: {error}")),
    }
}

/// Composes what the policy is asked: only what the platform itself knows, and the arguments.
fn question(claimed: &ClaimedStep) -> PolicyInput {
    let step = &claimed.step;
    PolicyInput {
        tenant: step.tenant.clone(),
        subject: claimed.subject.clone(),
        persona_id: claimed.persona_id.clone(),
        action: Action::ToolExecute,
        resource: step.name.clone(),
        context: json!({
            "session_id": step.session_id,
            "effect": step.effect,
            "args": step.arguments,
        }),
    }
}

/// Runs the tool until it returns, is out of time, or has to stop for the drain.
async fn run(
    parts: &Parts,
    tool: Arc<dyn Tool>,
    spec: &ToolSpec,
    claimed: &ClaimedStep,
    drain: &Drain,
) -> RunEnd {
    let context = context_of(claimed);
    let arguments = claimed.step.arguments.clone();
    let running = async move {
        let _given_up = context.cancel.on_drop();
        tool.run(arguments, context).await
    };
    // The panic of a tool is resumed here; it fails this call alone.
    let call = AssertUnwindSafe(parts.io.call(spec.timeout, running)).catch_unwind();
    let returned = tokio::select! {
        biased;
        returned = call => returned,
        () = drain.wait(), if spec.effect != Effect::Once => return RunEnd::Drained,
    };
    match returned {
        Ok(Ok(result)) => RunEnd::Returned(result),
        Ok(Err(IoError::TimedOut)) => RunEnd::TimedOut,
        Ok(Err(IoError::Closed | IoError::Fenced)) => RunEnd::Drained,
        Err(panic) => RunEnd::Panicked(message_of(&*panic)),
    }
}

fn context_of(claimed: &ClaimedStep) -> CallContext {
    let step = &claimed.step;
    CallContext {
        effect_id: step.effect_id,
        tenant: step.tenant.clone(),
        session_id: step.session_id,
        turn_id: step.turn_id,
        subject: claimed.subject.clone(),
        persona_id: claimed.persona_id.clone(),
        cancel: Cancel::default(),
    }
}

fn message_of(panic: &(dyn Any + Send)) -> String {
    panic
        .downcast_ref::<String>()
        .cloned()
        .or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()))
        .unwrap_or_else(|| "it panicked".to_owned())
}

/// Why a run has to stop.
enum Stop {
    Cancelled,
    Fenced,
}

/// Renews the step's lease until its turn is cancelled or somebody else owns the step.
async fn watch(parts: &Parts, step: &Step, look: &Notify) -> Stop {
    let (effect_id, epoch) = (step.effect_id, step.epoch);
    loop {
        tokio::select! {
            () = sleep(parts.config.heartbeat) => {}
            () = look.notified() => {}
        }
        match parts.ask(|store| async move { store.beat_step(effect_id, epoch).await }).await {
            Ok(beat) if beat.cancel_requested => return Stop::Cancelled,
            Err(StoreError::Fenced | StoreError::NotFound) => return Stop::Fenced,
            // While the store is away nobody else can claim the step either.
            Ok(_) | Err(_) => {}
        }
    }
}

fn cancelled(parts: &Parts, step: &Step, begun: Option<Instant>) -> Verdict {
    match (begun, parts.toolbox.find(&step.name, &step.arguments)) {
        (Some(start), Ok((_, spec))) => decide::verdict(RunEnd::Cancelled, &spec, start.elapsed()),
        _ => {
            decide::unbegun(ToolStatus::Withdrawn, "the turn was cancelled before it began".into())
        }
    }
}

/// Writes the verdict down. It is tried until the store answers: the run has been paid for.
async fn conclude(parts: &Parts, step: &Step, verdict: Verdict) -> StepEnd {
    match verdict {
        Verdict::Settle { outcome, memory } => settle(parts, step, outcome, memory).await,
        Verdict::PutBack { why } => put_back(parts, step, why).await,
    }
}

async fn settle(
    parts: &Parts,
    step: &Step,
    mut outcome: ToolOutcome,
    mut memory: Vec<soma_contract::memory::MemoryWrite>,
) -> StepEnd {
    let (effect_id, epoch) = (step.effect_id, step.epoch);
    let mut failures = 0;
    let mut replaced = false;
    loop {
        let (told, wanted) = (outcome.clone(), memory.clone());
        let settling = |store: Arc<dyn soma_contract::port::store::Store>| async move {
            store.settle(effect_id, epoch, told, wanted).await
        };
        match parts.ask(settling).await {
            Ok(appended) => {
                parts.metrics.settled(label(parts, step), outcome.status, outcome.execution_ms);
                parts.tell_settled(step.session_id, appended.seq).await;
                return StepEnd::Settled(outcome.status);
            }
            Err(StoreError::Fenced | StoreError::NotFound) => return StepEnd::Lost,
            Err(StoreError::Refused(reason)) if replaced => {
                tracing::error!(tool = step.name, %reason, "the store refuses even an error");
                return StepEnd::Lost;
            }
            Err(StoreError::Refused(reason)) => {
                tracing::warn!(tool = step.name, %reason, "the store refuses a tool's result");
                outcome = decide::refused(&reason, outcome.execution_ms);
                memory.clear();
                replaced = true;
            }
            Err(error @ (StoreError::Unavailable(_) | StoreError::OutcomeUnknown(_))) => {
                failures += 1;
                tracing::warn!(tool = step.name, %error, failures, "settling is tried again");
                sleep(decide::pause(failures)).await;
            }
        }
    }
}

async fn put_back(parts: &Parts, step: &Step, why: PutBack) -> StepEnd {
    let (effect_id, epoch) = (step.effect_id, step.epoch);
    let mut failures = 0;
    loop {
        match parts.ask(|store| async move { store.unclaim(effect_id, epoch).await }).await {
            Ok(()) => {
                parts.metrics.put_back(why.as_str());
                return StepEnd::PutBack(why);
            }
            Err(StoreError::Unavailable(_) | StoreError::OutcomeUnknown(_)) => {
                failures += 1;
                sleep(decide::pause(failures)).await;
            }
            Err(error) => {
                tracing::debug!(tool = step.name, %error, "a step to put back is ours no more");
                return StepEnd::Lost;
            }
        }
    }
}

/// Returns the metrics' label: models make names up, labels must not.
fn label<'a>(parts: &Parts, step: &'a Step) -> &'a str {
    if parts.toolbox.knows(&step.name) { &step.name } else { "unknown" }
}
