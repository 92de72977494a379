//! Drives one claimed turn to its end, or to where it goes no further in this claim.

use std::sync::Arc;

use fail::fail_point;
use serde_json::{Value, json};
use soma_contract::{
    EffectId, EventId,
    model::ModelAnswer,
    port::{
        live::TextPosition,
        model::ModelError,
        store::{Ending, LayDown},
    },
    tool::{Effect, ToolCall},
    turn::{Step, StepKind, StepStatus, Turn, TurnKind},
};
use soma_runtime::IoError;
use tokio::time::Instant;

use crate::{
    calls,
    context::{Context, Fit},
    failure::Failure,
    prepare::{self, Prepared},
    progress::Progress,
    run::{Run, Stop},
    steps,
    stream::{Call, Called, End, Interrupt},
    verdict,
};

/// Works at a turn until it ends or goes no further.
pub(crate) async fn work(run: &mut Run) -> Result<Ending, Stop> {
    run.boundary()?;
    verdict::judge(run.turn.tries, &run.shared.config.patience)?;
    match run.turn.kind {
        TurnKind::Message => message(run).await,
        TurnKind::Tool => tool(run).await,
    }
}

/// Answers a message: model, tools, model, …, until an answer calls no tools.
async fn message(run: &mut Run) -> Result<Ending, Stop> {
    let mut prepared: Option<Prepared> = None;
    loop {
        let mut progress = steps::settled(run).await?;
        if let Some(answer) = progress.finished.take() {
            return Ok(run.subject().answered(answer, progress, None));
        }
        run.boundary()?;
        let ready = match &mut prepared {
            Some(ready) => ready,
            none => none.insert(prepare::prepare(run).await?),
        };
        let caps = &run.shared.config.caps;
        caps.before_model(&run.spent(&progress, ready.tokens_today))?;
        let (answer, input_hash) = model_step(run, &ready.context, &progress).await?;
        if answer.tool_calls.is_empty() {
            // A last answer is not journaled: its end is one transaction.
            progress.count(&answer);
            let remember_at = ready.may_remember.then(|| run.shared.ports.clock.now());
            return Ok(run.subject().answered(answer, progress, remember_at));
        }
        let context = Arc::clone(&ready.context);
        journal_answer(run, answer, input_hash, &progress, &context).await?;
    }
}

/// Runs the one call that the user's event names.
async fn tool(run: &mut Run) -> Result<Ending, Stop> {
    if run.journal.is_empty() {
        let persona = prepare::persona(run).await?;
        let catalog = &run.shared.ports.tools;
        let calls = calls::steps(&run.turn, 0, &[asked_call(run)], &persona, catalog.as_ref());
        steps::journal(run, None, calls).await?;
    }
    let progress = steps::settled(run).await?;
    let name = run.journal.first().map(|step| step.name.clone()).unwrap_or_default();
    let outcome = progress.outcome.unwrap_or_else(soma_contract::compose::withdrawn);
    Ok(run.subject().tool_ran(&name, &outcome))
}

fn asked_call(run: &Run) -> ToolCall {
    let detail = |name: &str| run.said.metadata.get(name);
    ToolCall {
        id: "call_0_0".to_owned(),
        name: detail("tool_name").and_then(Value::as_str).unwrap_or_default().to_owned(),
        arguments: detail("args").map_or_else(|| "{}".to_owned(), Value::to_string),
    }
}

/// Calls the model once, its text going to the readers while it comes.
async fn model_step(
    run: &Run,
    context: &Arc<Context>,
    progress: &Progress,
) -> Result<(ModelAnswer, String), Stop> {
    fail_point!("turn::before_model_call");
    let config = &run.shared.config;
    let call = call(run, context, progress);
    let begun = Instant::now();
    let left = config.caps.work.saturating_sub(run.worked());
    let called = match run.shared.ports.io.call(left, call.make()).await {
        Ok(called) => called,
        Err(IoError::TimedOut) => return Err(config.caps.out_of_time().into()),
        Err(IoError::Fenced | IoError::Closed) => return Err(Stop::Lost),
    };
    run.shared.metrics.model_call(&called.end, begun.elapsed());
    let Called { end, fit, input_hash } = called;
    tell_fit(run, fit);
    match end {
        End::Answered(answer) => {
            fail_point!("turn::after_model_answer");
            Ok((answer, input_hash))
        }
        End::Interrupted(Interrupt::Cancel, usage) => Err(Stop::Cancelled(usage)),
        End::Interrupted(..) => Err(Stop::LaidDown(LayDown::Drained)),
        End::Failed(error) => Err(model_failed(run, &error)),
    }
}

fn call(run: &Run, context: &Arc<Context>, progress: &Progress) -> Call {
    let ports = &run.shared.ports;
    let config = &run.shared.config;
    let is_first_step = progress.next_step == 0;
    let notice = is_first_step
        .then(|| Box::new(run.subject().notice(EventId(ports.ids.draw()), "thinking")));
    Call {
        model: Arc::clone(&ports.model),
        live: Arc::clone(&ports.live),
        counter: Arc::clone(&ports.counter),
        context: Arc::clone(context),
        so_far: progress.messages.clone(),
        budget: config.context_tokens,
        session_id: run.turn.session_id,
        at: TextPosition {
            turn_id: run.turn.turn_id,
            epoch: run.epoch,
            step: progress.next_step,
            offset: 0,
        },
        begun_before: run.may_have_spoken(progress.next_step),
        notice,
        interval: config.delta_interval,
        interrupt: run.signals.interrupt.subscribe(),
    }
}

fn tell_fit(run: &Run, fit: Fit) {
    if fit.dropped_turns == 0 && fit.dropped_memories == 0 {
        return;
    }
    run.shared.metrics.dropped_turns.inc_by(fit.dropped_turns as u64);
    tracing::info!(
        dropped_turns = fit.dropped_turns,
        dropped_memories = fit.dropped_memories,
        tokens = fit.tokens,
        budget = run.shared.config.context_tokens,
        "the prompt was cut to its budget"
    );
}

/// Decides whether a turn without an answer ends or waits.
fn model_failed(run: &Run, error: &ModelError) -> Stop {
    if let Some(failure) = Failure::of_model(error) {
        return failure.into();
    }
    let asked = match error {
        ModelError::Unavailable { retry_after, .. } => *retry_after,
        _ => None,
    };
    let reason = error.to_string();
    let now = run.shared.ports.clock.now();
    let patience = &run.shared.config.patience;
    match verdict::pause(run.turn.waiting_since, now, asked, &reason, patience) {
        Ok(delay) => Stop::LaidDown(LayDown::Waiting { reason, delay }),
        Err(failure) => failure.into(),
    }
}

/// Journals an answer with the calls that follow from it: progress, in one transaction.
async fn journal_answer(
    run: &mut Run,
    mut answer: ModelAnswer,
    input_hash: String,
    progress: &Progress,
    context: &Context,
) -> Result<(), Stop> {
    let step = progress.next_step;
    calls::put_right(&mut answer, step + 1);
    let spent = run.spent(progress, 0);
    let caps = &run.shared.config.caps;
    caps.before_tools(&spent, answer.tool_calls.len())
        .map_err(|failure| Stop::Failed(failure, answer.usage))?;
    let catalog = run.shared.ports.tools.as_ref();
    let calls = calls::steps(&run.turn, step + 1, &answer.tool_calls, context.persona(), catalog);
    let answer = answer_step(&run.turn, step, &answer, input_hash);
    steps::journal(run, Some(answer), calls).await
}

/// Builds the journaled step of an answer.
pub(crate) fn answer_step(
    turn: &Turn,
    step: u32,
    answer: &ModelAnswer,
    input_hash: String,
) -> Step {
    Step {
        effect_id: EffectId::of(turn.turn_id, step, 0),
        turn_id: turn.turn_id,
        session_id: turn.session_id,
        tenant: turn.tenant.clone(),
        step,
        index: 0,
        kind: StepKind::Model,
        status: StepStatus::Done,
        effect: Effect::Pure,
        name: answer.model.clone(),
        call_id: String::new(),
        input_hash,
        arguments: Value::Null,
        result: json!(answer),
        epoch: 0,
        trace: turn.trace.clone(),
    }
}
