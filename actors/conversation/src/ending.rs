//! The one terminal event of a turn, and everything that is stored with it.

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde_json::{Value, json};
use soma_contract::{
    Event, EventId, EventType, Role,
    model::{ModelAnswer, Usage},
    port::store::{Ending, NewDeadLetter},
    tool::ToolOutcome,
    topic::Topic,
    turn::{Turn, TurnStatus},
};

use crate::{
    failure::Failure,
    progress::{Progress, text_of},
    remember,
};

/// A turn that ends, and the event that it answers.
#[derive(Debug, Clone, Copy)]
pub struct Subject<'a> {
    /// The turn.
    pub turn: &'a Turn,
    /// The user's event.
    pub said: &'a Event,
}

impl Subject<'_> {
    /// Ends with the last answer, which `progress` has counted; `remember_at`: both sides become
    /// memories, written at that time.
    pub fn answered(
        self,
        answer: ModelAnswer,
        progress: Progress,
        remember_at: Option<DateTime<Utc>>,
    ) -> Ending {
        let mut event = self
            .terminal(EventType::Final, progress.usage)
            .with("status", "completed")
            .with("model", answer.model)
            .with("steps", progress.model_steps)
            .with("tool_calls", progress.tool_calls)
            .with("finish_reason", answer.finish_reason);
        if !progress.unknown.is_empty() {
            event = event.with("unknown_effects", progress.unknown);
        }
        event.message = answer.text;
        let memory = remember_at
            .map(|now| remember::writes(self.turn, self.said, &event, now))
            .unwrap_or_default();
        let ending = Self::ending(TurnStatus::Done, event, progress.usage);
        Ending { memory, ..ending }
    }

    /// Ends a turn of kind `tool`: an `assistant.final` whatever the tool's outcome, as the turn did
    /// what it was asked for; `metadata.status` says how the tool ended.
    pub fn tool_ran(self, tool: &str, outcome: &ToolOutcome) -> Ending {
        let mut event = self
            .terminal(EventType::Final, Usage::default())
            .with("status", outcome.status.as_str())
            .with("steps", 0)
            .with("tool_calls", 1)
            .with("tool_name", tool)
            .with("tool", json!(outcome));
        event.message = text_of(&outcome.output);
        Self::ending(TurnStatus::Done, event, Usage::default())
    }

    /// Ends by failure: the terminal event says why, and a dead letter makes a replay possible.
    pub fn failed(self, usage: Usage, failure: &Failure) -> Ending {
        let mut event = self
            .terminal(EventType::Error, usage)
            .with("status", "failed")
            .with("code", failure.code.as_str())
            .with("reason", failure.reason.as_str());
        event.message.clone_from(&failure.reason);
        let letter = NewDeadLetter {
            tenant: Some(self.turn.tenant.clone()),
            topic: Topic::ConversationInbound.as_str().to_owned(),
            turn_id: Some(self.turn.turn_id),
            event_id: Some(self.said.event_id),
            event: json!(self.said),
            error: failure.reason.clone(),
            attempts: self.turn.tries.attempts,
            trace: self.turn.trace.clone(),
        };
        let ending = Self::ending(TurnStatus::Failed, event, usage);
        Ending { reason: Some(failure.reason.clone()), dead_letter: Some(letter), ..ending }
    }

    /// Ends by its user's wish; the event is the receipt.
    pub fn cancelled(self, usage: Usage, closed_in: Duration) -> Ending {
        let event = self
            .terminal(EventType::Cancelled, usage)
            .with("status", "cancelled")
            .with("closed_in_ms", millis(closed_in));
        let ending = Self::ending(TurnStatus::Cancelled, event, usage);
        Ending { reason: Some("cancelled on request".to_owned()), ..ending }
    }

    /// Builds a live event of the turn that is not kept.
    pub fn notice(self, event_id: EventId, status: &str) -> Event {
        self.event(event_id, EventType::Thinking).with("status", status)
    }

    fn terminal(self, event_type: EventType, usage: Usage) -> Event {
        let event_id = EventId::terminal(self.turn.turn_id, self.turn.replay);
        self.event(event_id, event_type).with("usage", json!(usage))
    }

    fn event(self, event_id: EventId, event_type: EventType) -> Event {
        let mut event = Event::new(event_id, self.turn.session_id, Role::Assistant, event_type);
        event.persona_id.clone_from(&self.said.persona_id);
        event.trace_context.clone_from(&self.turn.trace);
        event.turn_id = Some(self.turn.turn_id);
        event.n = Some(self.turn.n);
        event
    }

    fn ending(status: TurnStatus, event: Event, usage: Usage) -> Ending {
        Ending { status, event, reason: None, memory: Vec::new(), usage, dead_letter: None }
    }
}

/// Returns whole milliseconds, as events tell durations.
pub fn millis(duration: Duration) -> Value {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX).into()
}

#[cfg(test)]
mod tests {
    use soma_contract::tool::ToolStatus;

    use super::*;
    use crate::{
        failure::Code,
        testing::{answer, event, turn},
    };

    fn progress() -> Progress {
        let mut progress = Progress::default();
        progress.count(&answer("42"));
        progress
    }

    #[test]
    fn an_answer_carries_its_receipt_and_its_memories() {
        let (turn, said) = (turn(), event(3, Role::User, "6 × 7?"));
        let subject = Subject { turn: &turn, said: &said };
        let ending = subject.answered(answer("42"), progress(), Some(DateTime::UNIX_EPOCH));
        assert_eq!(ending.status, TurnStatus::Done);
        assert_eq!(ending.event.event_id, EventId::terminal(turn.turn_id, 0));
        assert_eq!(ending.event.message, "42");
        assert_eq!(
            Value::from(ending.event.metadata),
            json!({
                "usage": {"input_tokens": 10, "output_tokens": 2}, "status": "completed",
                "model": "test", "steps": 1, "tool_calls": 0, "finish_reason": "stop",
            })
        );
        assert_eq!(ending.memory.len(), 2);
        assert!(ending.dead_letter.is_none());
    }

    #[test]
    fn an_effect_that_nobody_knows_of_is_told_to_the_user() {
        let (turn, said) = (turn(), event(3, Role::User, "pay"));
        let progress = Progress { unknown: vec!["pay".to_owned()], ..progress() };
        let subject = Subject { turn: &turn, said: &said };
        let ending = subject.answered(answer("paid?"), progress, None);
        assert_eq!(ending.event.metadata["unknown_effects"], json!(["pay"]));
        assert!(ending.memory.is_empty());
    }

    #[test]
    fn a_failure_says_why_and_leaves_a_dead_letter_with_the_message() {
        let (turn, said) = (turn(), event(3, Role::User, "hi"));
        let failure = Failure::new(Code::ModelKeyRefused, "key refused: 401");
        let ending = Subject { turn: &turn, said: &said }.failed(Usage::default(), &failure);
        assert_eq!(ending.event.event_type, EventType::Error);
        assert_eq!(ending.event.metadata["code"], "model_key_refused");
        assert_eq!(ending.event.message, "key refused: 401");
        let letter = ending.dead_letter.unwrap();
        assert_eq!(letter.event["message"], "hi");
        assert_eq!(letter.turn_id, Some(turn.turn_id));
    }

    #[test]
    fn a_tool_turn_ends_final_with_the_outcome_of_the_tool() {
        let (turn, said) = (turn(), event(3, Role::User, ""));
        let output = Value::from("no such file");
        let outcome = ToolOutcome { status: ToolStatus::Error, output, execution_ms: 1 };
        let ending = Subject { turn: &turn, said: &said }.tool_ran("file_read", &outcome);
        assert_eq!(ending.event.event_type, EventType::Final);
        assert_eq!(ending.event.metadata["status"], "error");
        assert_eq!(ending.event.metadata["tool"]["output"], "no such file");
        assert_eq!(ending.event.message, "no such file");
    }

    #[test]
    fn a_cancellation_is_a_receipt_and_replays_have_events_of_their_own() {
        let mut turn = turn();
        turn.replay = 2;
        let said = event(3, Role::User, "hi");
        let usage = Usage { input_tokens: 4, output_tokens: 1 };
        let ending =
            Subject { turn: &turn, said: &said }.cancelled(usage, Duration::from_millis(7));
        assert_eq!(ending.event.metadata["closed_in_ms"], 7);
        assert_eq!(ending.event.metadata["usage"]["input_tokens"], 4);
        assert_eq!(ending.event.event_id, EventId::terminal(turn.turn_id, 2));
        assert_eq!(ending.usage, usage);
    }
}
