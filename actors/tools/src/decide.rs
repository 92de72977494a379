//! What becomes of a call, as plain functions: no clock, no port, no actor.

use std::time::Duration;

use serde_json::Value;
use soma_contract::{
    memory::MemoryWrite,
    tool::{Effect, ToolOutcome, ToolSpec, ToolStatus},
};

use crate::{
    bound::bounded,
    tool::{ToolError, ToolOutput},
};

/// The first pause after something of ours did not answer.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// The longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// The most bytes of a reason that go back to the model.
const MAX_REASON_BYTES: usize = 4096;

/// How a run came to its end.
#[derive(Debug, Clone, PartialEq)]
pub enum RunEnd {
    /// The tool returned.
    Returned(Result<ToolOutput, ToolError>),
    /// It panicked, and with which message.
    Panicked(String),
    /// It ran out of time and was stopped.
    TimedOut,
    /// Its turn was cancelled or ended, and it was stopped.
    Cancelled,
    /// The executor drains, and it was stopped.
    Drained,
}

/// What is to be done with the step.
#[derive(Debug, Clone, PartialEq)]
pub enum Verdict {
    /// Settle it.
    Settle {
        /// How it ended.
        outcome: ToolOutcome,
        /// What it wants remembered.
        memory: Vec<MemoryWrite>,
    },
    /// Put it back as `requested`: it may be begun again.
    PutBack {
        /// Why.
        why: PutBack,
    },
}

/// Why a step is put back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PutBack {
    /// The executor drains.
    Drained,
    /// Something of ours does not answer; in its words.
    Unavailable(String),
}

impl PutBack {
    /// Returns the metrics' label.
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Drained => "drained",
            Self::Unavailable(_) => "unavailable",
        }
    }
}

/// Decides what becomes of a step whose run has ended.
///
/// Only what may be begun again is put back: an interrupted `once` call ends as `unknown`.
pub fn verdict(end: RunEnd, spec: &ToolSpec, ran: Duration) -> Verdict {
    let once = spec.effect == Effect::Once;
    let (status, output, memory) = match end {
        RunEnd::Returned(Ok(output)) => {
            (ToolStatus::Success, bounded(output.value, spec.max_output_bytes), output.memory)
        }
        RunEnd::Returned(Err(ToolError::Blocked(reason))) => {
            (ToolStatus::Blocked, told(reason), Vec::new())
        }
        RunEnd::Returned(Err(ToolError::Unavailable(reason))) if !once => {
            return Verdict::PutBack { why: PutBack::Unavailable(reason) };
        }
        RunEnd::Returned(Err(error)) => (ToolStatus::Error, told(error.to_string()), Vec::new()),
        RunEnd::Panicked(message) => {
            (ToolStatus::Error, told(format!("the tool broke down: {message}")), Vec::new())
        }
        RunEnd::TimedOut => {
            let seconds = spec.timeout.as_secs_f64();
            let mut reason = format!("stopped after {seconds} s, the longest it may run");
            if once {
                reason.push_str("; it may have had its effect");
            }
            (ToolStatus::Timeout, told(reason), Vec::new())
        }
        RunEnd::Cancelled | RunEnd::Drained if once => (
            ToolStatus::Unknown,
            told("stopped in the middle; it may have had its effect".to_owned()),
            Vec::new(),
        ),
        RunEnd::Cancelled => {
            (ToolStatus::Error, told("stopped: the turn was cancelled".to_owned()), Vec::new())
        }
        RunEnd::Drained => return Verdict::PutBack { why: PutBack::Drained },
    };
    let execution_ms = u64::try_from(ran.as_millis()).unwrap_or(u64::MAX);
    Verdict::Settle { outcome: ToolOutcome { status, output, execution_ms }, memory }
}

/// Returns the outcome of a call that was never begun.
pub fn unbegun(status: ToolStatus, reason: String) -> Verdict {
    let outcome = ToolOutcome { status, output: told(reason), execution_ms: 0 };
    Verdict::Settle { outcome, memory: Vec::new() }
}

/// Returns what is settled where the store refuses a result.
pub fn refused(reason: &str, execution_ms: u64) -> ToolOutcome {
    let output = told(format!("the tool's result could not be stored: {reason}"));
    ToolOutcome { status: ToolStatus::Error, output, execution_ms }
}

/// Returns how long to pause after `failures` failures in a row: 0.1 s, doubled up to 10 s.
pub fn pause(failures: u32) -> Duration {
    FIRST_PAUSE.saturating_mul(2_u32.saturating_pow(failures.saturating_sub(1))).min(LONGEST_PAUSE)
}

fn told(reason: String) -> Value {
    bounded(Value::String(reason), MAX_REASON_BYTES)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn spec(effect: Effect) -> ToolSpec {
        ToolSpec {
            name: "x".into(),
            description: String::new(),
            parameters: json!({}),
            effect,
            timeout: Duration::from_secs(3),
            max_output_bytes: 64,
        }
    }

    fn settled(end: RunEnd, effect: Effect) -> (ToolStatus, String) {
        match verdict(end, &spec(effect), Duration::from_millis(7)) {
            Verdict::Settle { outcome, .. } => {
                assert_eq!(outcome.execution_ms, 7);
                (outcome.status, outcome.output.as_str().unwrap_or_default().to_owned())
            }
            Verdict::PutBack { why } => panic!("put back: {why:?}"),
        }
    }

    fn put_back(end: RunEnd, effect: Effect) -> PutBack {
        match verdict(end, &spec(effect), Duration::ZERO) {
            Verdict::PutBack { why } => why,
            Verdict::Settle { outcome, .. } => panic!("settled: {outcome:?}"),
        }
    }

    #[test]
    fn a_result_is_settled_within_its_bound() {
        let output = ToolOutput::from(json!("x".repeat(1_000)));
        let (status, text) = settled(RunEnd::Returned(Ok(output)), Effect::Pure);
        assert_eq!(status, ToolStatus::Success);
        assert!(text.len() <= 64 && text.contains("cut"), "{text}");
    }

    #[test]
    fn each_failure_has_its_status_and_says_why() {
        let failed = RunEnd::Returned(Err(ToolError::Failed("no such file".into())));
        assert_eq!(settled(failed, Effect::Once), (ToolStatus::Error, "no such file".into()));
        let blocked = RunEnd::Returned(Err(ToolError::Blocked("not you".into())));
        assert_eq!(settled(blocked, Effect::Pure), (ToolStatus::Blocked, "not you".into()));
        let (status, text) = settled(RunEnd::Panicked("index 3".into()), Effect::Pure);
        assert_eq!((status, text.as_str()), (ToolStatus::Error, "the tool broke down: index 3"));
        let (status, text) = settled(RunEnd::TimedOut, Effect::Pure);
        assert_eq!(status, ToolStatus::Timeout);
        assert_eq!(text, "stopped after 3 s, the longest it may run");
    }

    #[test]
    fn only_what_may_be_begun_again_is_put_back() {
        let unavailable = || RunEnd::Returned(Err(ToolError::Unavailable("store".into())));
        for effect in [Effect::Pure, Effect::Idempotent] {
            assert_eq!(put_back(RunEnd::Drained, effect), PutBack::Drained);
            assert_eq!(put_back(unavailable(), effect), PutBack::Unavailable("store".into()));
        }
        assert_eq!(settled(unavailable(), Effect::Once).0, ToolStatus::Error);
        assert_eq!(settled(RunEnd::Drained, Effect::Once).0, ToolStatus::Unknown);
    }

    #[test]
    fn a_once_call_that_was_stopped_says_that_it_may_have_had_its_effect() {
        let (status, text) = settled(RunEnd::Cancelled, Effect::Once);
        assert_eq!(status, ToolStatus::Unknown);
        assert!(text.contains("may have had its effect"));
        assert!(settled(RunEnd::TimedOut, Effect::Once).1.contains("may have had its effect"));
        assert_eq!(settled(RunEnd::Cancelled, Effect::Pure).0, ToolStatus::Error);
    }

    #[test]
    fn pauses_double_up_to_ten_seconds() {
        let pauses: Vec<_> = [1, 2, 3, 8, 9, 40, u32::MAX].into_iter().map(pause).collect();
        let expected = [100, 200, 400, 10_000, 10_000, 10_000, 10_000].map(Duration::from_millis);
        assert_eq!(pauses, expected);
    }
}
