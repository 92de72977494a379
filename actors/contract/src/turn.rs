//! Turns and their journal, as the store keeps them.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    event::TraceContext,
    ids::{EffectId, EventId, SessionId, TenantId, TurnId},
    tool::Effect,
};

/// What a turn does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TurnKind {
    /// Answers a message with the model.
    Message,
    /// Runs the one tool call that the user's event names (`metadata.tool_name`, `metadata.args`).
    Tool,
}

/// Where a turn stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TurnStatus {
    /// Nobody runs it.
    Queued,
    /// The session's lease holder runs it.
    Running,
    /// Not claimable before `not_before`; `reason` says for what it waits.
    Waiting,
    /// Ended with an answer.
    Done,
    /// Ended by failure; may be replayed.
    Failed,
    /// Ended by its user.
    Cancelled,
}

impl TurnStatus {
    /// Returns whether the turn has ended.
    pub const fn is_over(self) -> bool {
        matches!(self, Self::Done | Self::Failed | Self::Cancelled)
    }

    /// Returns the name that the store keeps.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Running => "running",
            Self::Waiting => "waiting",
            Self::Done => "done",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }
}

/// Counts of what went wrong since the turn's last newly journaled step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Tries {
    /// Claims, counted before execution; given back on drain and for unreachable dependencies.
    pub attempts: u32,
    /// Panics of the turn itself.
    pub panics: u32,
    /// Deaths of the process while the turn ran with no other suspect beside it.
    pub deaths: u32,
}

/// A row of `turn`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Turn {
    /// UUIDv5 of session and `n`.
    pub turn_id: TurnId,
    /// The session.
    pub session_id: SessionId,
    /// The session's tenant.
    pub tenant: TenantId,
    /// The number of the message it answers, from 1, gap-free.
    pub n: u64,
    /// What it does.
    pub kind: TurnKind,
    /// Where it stands.
    pub status: TurnStatus,
    /// What went wrong so far.
    pub tries: Tries,
    /// How often it was replayed; its terminal event is unique per (turn, replay).
    pub replay: u32,
    /// The event that it answers.
    pub event_id: EventId,
    /// Why it waits or ended.
    pub reason: Option<String>,
    /// Since when it waits without interruption, if it does.
    pub waiting_since: Option<DateTime<Utc>>,
    /// Whether somebody asked to cancel it while it ran.
    pub cancel_requested: bool,
    /// Milliseconds of work already spent in earlier claims.
    pub worked_ms: u64,
    /// When its message was accepted.
    pub created_at: DateTime<Utc>,
    /// Where its trace goes on.
    pub trace: TraceContext,
}

/// What a journaled step is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StepKind {
    /// A call of the language model; `result` is a [`crate::model::ModelAnswer`].
    Model,
    /// A call of a tool; `result` is a [`crate::tool::ToolOutcome`].
    Tool,
}

/// Where a step stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StepStatus {
    /// Journaled, not begun.
    Requested,
    /// The executor is about to call, calls or has called the tool.
    Started,
    /// `result` is final.
    Done,
    /// A `once` tool whose executor was lost in the middle: never run again.
    Unknown,
    /// Taken back before it began.
    Withdrawn,
}

impl StepStatus {
    /// Returns whether nothing will change any more.
    pub const fn is_settled(self) -> bool {
        matches!(self, Self::Done | Self::Unknown | Self::Withdrawn)
    }

    /// Returns the name that the store keeps.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Requested => "requested",
            Self::Started => "started",
            Self::Done => "done",
            Self::Unknown => "unknown",
            Self::Withdrawn => "withdrawn",
        }
    }
}

/// A row of `turn_step`: the journal of a turn.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Step {
    /// UUIDv5 of turn, step and index; the tool's idempotency key.
    pub effect_id: EffectId,
    /// The turn.
    pub turn_id: TurnId,
    /// The session.
    pub session_id: SessionId,
    /// The session's tenant.
    pub tenant: TenantId,
    /// The place in the turn, from 0; the tool calls of one answer share one.
    pub step: u32,
    /// The place among the calls of one step.
    pub index: u32,
    /// What it is.
    pub kind: StepKind,
    /// Where it stands.
    pub status: StepStatus,
    /// What a repetition of it would do.
    pub effect: Effect,
    /// The tool's name, or the model's.
    pub name: String,
    /// The id by which the model names the call; empty for model steps.
    pub call_id: String,
    /// SHA-256 of what went in, as hexadecimal digits.
    pub input_hash: String,
    /// The validated arguments; null for model steps.
    pub arguments: Value,
    /// The answer or outcome; null until settled.
    pub result: Value,
    /// Fences the executor of a tool step; 0 until first claimed.
    pub epoch: u64,
    /// Where its trace goes on.
    pub trace: TraceContext,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exactly_the_three_ends_are_over() {
        let over: Vec<_> = [
            TurnStatus::Queued,
            TurnStatus::Running,
            TurnStatus::Waiting,
            TurnStatus::Done,
            TurnStatus::Failed,
            TurnStatus::Cancelled,
        ]
        .into_iter()
        .filter(|status| status.is_over())
        .map(TurnStatus::as_str)
        .collect();
        assert_eq!(over, ["done", "failed", "cancelled"]);
    }
}
