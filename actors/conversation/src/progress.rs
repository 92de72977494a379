//! How far a turn has come, read from its journal: what is journaled is never computed again.

use serde_json::Value;
use soma_contract::{
    compose,
    model::{ChatMessage, ModelAnswer, Usage},
    tool::{ToolOutcome, ToolStatus},
    turn::{Step, StepKind, StepStatus},
};

use crate::{
    calls::presentable,
    failure::{Code, Failure},
};

/// What a journal says.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Progress {
    /// What the model gets beyond the prompt: its own answers and the results of their calls.
    pub messages: Vec<ChatMessage>,
    /// Tokens of the journaled answers.
    pub usage: Usage,
    /// Journaled calls of the model.
    pub model_steps: u32,
    /// Journaled calls of tools.
    pub tool_calls: u32,
    /// The number of the next step.
    pub next_step: u32,
    /// Calls of tools that have not settled; while there are any, `messages` is incomplete.
    pub open: usize,
    /// Tools of which nobody knows whether they took effect.
    pub unknown: Vec<String>,
    /// The outcome of the last call of a tool.
    pub outcome: Option<ToolOutcome>,
    /// The last answer, if it calls no tools: nothing is left to be computed.
    pub finished: Option<ModelAnswer>,
}

impl Progress {
    /// Reads a journal, in (step, index) order.
    ///
    /// # Errors
    ///
    /// A result cannot be read: a newer version wrote it.
    pub fn read(journal: &[Step]) -> Result<Self, Failure> {
        let mut progress = Self::default();
        for step in journal {
            progress.next_step = progress.next_step.max(step.step + 1);
            match step.kind {
                StepKind::Model => progress.add_answer(parse(step)?),
                StepKind::Tool => progress.add_call(step)?,
            }
        }
        Ok(progress)
    }

    /// Counts an answer, journaled or not.
    pub fn count(&mut self, answer: &ModelAnswer) {
        self.model_steps += 1;
        self.usage += answer.usage;
    }

    fn add_answer(&mut self, answer: ModelAnswer) {
        self.count(&answer);
        if answer.tool_calls.is_empty() {
            self.finished = Some(answer);
            return;
        }
        self.messages.push(ChatMessage::Assistant {
            content: answer.text,
            tool_calls: presentable(&answer.tool_calls),
        });
    }

    fn add_call(&mut self, step: &Step) -> Result<(), Failure> {
        self.tool_calls += 1;
        if !step.status.is_settled() {
            self.open += 1;
            return Ok(());
        }
        let outcome = outcome_of(step)?;
        if outcome.status == ToolStatus::Unknown {
            self.unknown.push(step.name.clone());
        }
        self.messages.push(ChatMessage::Tool {
            tool_call_id: step.call_id.clone(),
            name: step.name.clone(),
            content: told(&outcome),
        });
        self.outcome = Some(outcome);
        Ok(())
    }
}

/// Returns how a settled call ended.
fn outcome_of(step: &Step) -> Result<ToolOutcome, Failure> {
    match step.status {
        StepStatus::Unknown if step.result.is_null() => Ok(compose::lost()),
        StepStatus::Withdrawn if step.result.is_null() => Ok(compose::withdrawn()),
        _ => parse(step),
    }
}

fn parse<T: serde::de::DeserializeOwned>(step: &Step) -> Result<T, Failure> {
    T::deserialize(&step.result).map_err(|error| {
        let reason = format!("step {} of the journal cannot be read: {error}", step.step);
        Failure::new(Code::Internal, reason)
    })
}

/// Returns an outcome as the model reads it: a result as it is, anything else with its status.
fn told(outcome: &ToolOutcome) -> String {
    let text = text_of(&outcome.output);
    match outcome.status {
        ToolStatus::Success => text,
        status => format!("[{}] {text}", status.as_str()),
    }
}

/// Returns an output as text: a string as it is, anything else as JSON.
pub fn text_of(output: &Value) -> String {
    match output {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use soma_contract::{EffectId, persona::Persona, tool::ToolCall};

    use super::*;
    use crate::{
        calls,
        testing::{EchoOnly, answer, answer_step, turn},
    };

    fn asking(ids: &[&str]) -> ModelAnswer {
        let mut answer = answer("let me see");
        answer.tool_calls = ids
            .iter()
            .map(|id| ToolCall {
                id: (*id).to_owned(),
                name: "echo".to_owned(),
                arguments: r#"{"text":"hi"}"#.to_owned(),
            })
            .collect();
        answer
    }

    fn journal(ids: &[&str]) -> Vec<Step> {
        let asking = asking(ids);
        let calls = calls::steps(&turn(), 1, &asking.tool_calls, &Persona::built_in(), &EchoOnly);
        std::iter::once(answer_step(&turn(), 0, &asking)).chain(calls).collect()
    }

    fn settle(step: &mut Step, status: ToolStatus, output: Value) {
        step.status = compose::settled_as(status);
        step.result = json!(ToolOutcome { status, output, execution_ms: 3 });
    }

    #[test]
    fn an_empty_journal_is_the_beginning() {
        assert_eq!(Progress::read(&[]).unwrap(), Progress::default());
    }

    #[test]
    fn open_calls_are_waited_for() {
        let mut journal = journal(&["a", "b"]);
        settle(&mut journal[1], ToolStatus::Success, json!("hi"));
        let progress = Progress::read(&journal).unwrap();
        assert_eq!((progress.open, progress.tool_calls, progress.next_step), (1, 2, 2));
        assert_eq!(progress.finished, None);
    }

    #[test]
    fn results_follow_their_answer_in_order_with_what_went_wrong() {
        let mut journal = journal(&["a", "b", "c"]);
        settle(&mut journal[1], ToolStatus::Success, json!({"sum": 4}));
        settle(&mut journal[2], ToolStatus::Timeout, json!("60 s are over"));
        journal[3].status = StepStatus::Unknown;
        let progress = Progress::read(&journal).unwrap();
        let texts: Vec<_> = progress.messages.iter().map(ChatMessage::content).collect();
        assert_eq!(texts[..3], ["let me see", r#"{"sum":4}"#, "[timeout] 60 s are over"]);
        assert!(texts[3].starts_with("[unknown] "), "{}", texts[3]);
        assert_eq!(progress.unknown, ["echo"]);
        assert_eq!(progress.open, 0);
        assert_eq!(progress.usage, asking(&[]).usage);
    }

    #[test]
    fn a_journaled_answer_without_calls_is_the_end() {
        let journal = [answer_step(&turn(), 0, &answer("42"))];
        let progress = Progress::read(&journal).unwrap();
        assert_eq!(progress.finished, Some(answer("42")));
    }

    #[test]
    fn a_result_that_cannot_be_read_is_a_failure_and_not_a_panic() {
        let mut step = answer_step(&turn(), 0, &answer("42"));
        step.result = json!({"of": "the future"});
        step.effect_id = EffectId::of(turn().turn_id, 0, 0);
        assert_eq!(Progress::read(&[step]).unwrap_err().code, Code::Internal);
    }
}
