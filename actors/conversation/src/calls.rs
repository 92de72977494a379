//! The calls that a model wants made: ids put right, arguments checked, steps for the journal.

use std::collections::HashSet;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use soma_contract::{
    EffectId,
    model::ModelAnswer,
    persona::Persona,
    tool::{CallFault, Effect, ToolCall, ToolCatalog, ToolOutcome, ToolSpec, ToolStatus},
    turn::{Step, StepKind, StepStatus, Turn},
};

/// Gives every call an id that is unique in the answer, and empty arguments their object.
///
/// Models repeat ids, leave them out, and write nothing where a tool takes no arguments.
pub fn put_right(answer: &mut ModelAnswer, step: u32) {
    let mut seen = HashSet::new();
    for (index, call) in answer.tool_calls.iter_mut().enumerate() {
        let mut suffix = 0_u32;
        while call.id.is_empty() || seen.contains(&call.id) {
            call.id = if suffix == 0 {
                format!("call_{step}_{index}")
            } else {
                format!("call_{step}_{index}_{suffix}")
            };
            suffix += 1;
        }
        seen.insert(call.id.clone());
        if call.arguments.trim().is_empty() {
            "{}".clone_into(&mut call.arguments);
        }
    }
}

/// Returns the tools that the persona may use.
pub fn usable(catalog: &dyn ToolCatalog, persona: &Persona) -> Vec<ToolSpec> {
    let mut specs = catalog.specs();
    specs.retain(|spec| persona.may_use(&spec.name));
    specs
}

/// Builds the journaled steps of calls: `requested`, or settled with the error that the model
/// reads where a call cannot be run as it stands.
pub fn steps(
    turn: &Turn,
    step: u32,
    calls: &[ToolCall],
    persona: &Persona,
    catalog: &dyn ToolCatalog,
) -> Vec<Step> {
    (0..)
        .zip(calls)
        .map(|(index, call)| step_of(turn, (step, index), call, check(call, persona, catalog)))
        .collect()
}

fn check(
    call: &ToolCall,
    persona: &Persona,
    catalog: &dyn ToolCatalog,
) -> Result<(ToolSpec, Value), CallFault> {
    if persona.may_use(&call.name) {
        return catalog.check(call);
    }
    let known = usable(catalog, persona).into_iter().map(|spec| spec.name).collect::<Vec<_>>();
    Err(CallFault::UnknownTool { name: call.name.clone(), known: known.join(", ") })
}

fn step_of(
    turn: &Turn,
    (step, index): (u32, u32),
    call: &ToolCall,
    checked: Result<(ToolSpec, Value), CallFault>,
) -> Step {
    let (status, effect, arguments, result) = match checked {
        Ok((spec, arguments)) => (StepStatus::Requested, spec.effect, arguments, Value::Null),
        Err(fault) => {
            let raw = Value::from(call.arguments.as_str());
            (StepStatus::Done, Effect::Pure, raw, json!(refused(&fault)))
        }
    };
    Step {
        effect_id: EffectId::of(turn.turn_id, step, index),
        turn_id: turn.turn_id,
        session_id: turn.session_id,
        tenant: turn.tenant.clone(),
        step,
        index,
        kind: StepKind::Tool,
        status,
        effect,
        name: call.name.clone(),
        call_id: call.id.clone(),
        input_hash: hash(&arguments),
        arguments,
        result,
        epoch: 0,
        trace: turn.trace.clone(),
    }
}

/// The outcome of a call that cannot be run as it stands.
fn refused(fault: &CallFault) -> ToolOutcome {
    ToolOutcome {
        status: ToolStatus::Error,
        output: Value::from(fault.to_string()),
        execution_ms: 0,
    }
}

/// Returns the SHA-256 of a value's JSON as hexadecimal digits.
pub fn hash(value: &Value) -> String {
    hex::encode(Sha256::digest(value.to_string()))
}

/// Returns the calls as they may go back to an endpoint: several parse the arguments of earlier
/// calls themselves and refuse the whole prompt over malformed ones.
pub fn presentable(calls: &[ToolCall]) -> Vec<ToolCall> {
    calls
        .iter()
        .cloned()
        .map(|mut call| {
            if serde_json::from_str::<serde_json::Map<String, Value>>(&call.arguments).is_err() {
                call.arguments = json!({ "malformed": call.arguments }).to_string();
            }
            call
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use soma_contract::model::Usage;

    use super::*;
    use crate::testing::{EchoOnly, turn};

    fn call(id: &str, name: &str, arguments: &str) -> ToolCall {
        ToolCall { id: id.to_owned(), name: name.to_owned(), arguments: arguments.to_owned() }
    }

    fn answer(tool_calls: Vec<ToolCall>) -> ModelAnswer {
        ModelAnswer {
            text: String::new(),
            tool_calls,
            usage: Usage::default(),
            model: "test".to_owned(),
            finish_reason: "tool_calls".to_owned(),
        }
    }

    #[test]
    fn malformed_and_unknown_calls_come_settled_with_words_for_the_model() {
        let calls = [
            call("a", "echo", r#"{"text":"hi"}"#),
            call("b", "echo", r#"{"text":"#),
            call("c", "rm", "{}"),
        ];
        let steps = steps(&turn(), 1, &calls, &Persona::built_in(), &EchoOnly);
        let statuses: Vec<_> = steps.iter().map(|step| step.status).collect();
        assert_eq!(statuses, [StepStatus::Requested, StepStatus::Done, StepStatus::Done]);
        assert_eq!(steps[0].arguments, json!({"text": "hi"}));
        assert_eq!(steps[1].result["status"], "error");
        assert!(steps[1].result["output"].as_str().unwrap().contains("bad arguments for `echo`"));
        assert!(steps[2].result["output"].as_str().unwrap().contains("there are: echo"));
        assert_eq!(steps[2].effect_id, EffectId::of(turn().turn_id, 1, 2));
    }

    #[test]
    fn a_tool_that_the_persona_may_not_use_does_not_exist_for_it() {
        let persona = Persona { tools: Some(vec![]), ..Persona::built_in() };
        assert!(usable(&EchoOnly, &persona).is_empty());
        let steps = steps(&turn(), 1, &[call("a", "echo", "{}")], &persona, &EchoOnly);
        assert!(steps[0].result["output"].as_str().unwrap().starts_with("no tool is called"));
    }

    #[test]
    fn malformed_arguments_go_back_as_an_object() {
        let shown = presentable(&[call("a", "echo", "{\"text\":"), call("b", "echo", "{}")]);
        assert_eq!(shown[0].arguments, r#"{"malformed":"{\"text\":"}"#);
        assert_eq!(shown[1].arguments, "{}");
    }

    proptest! {
        #[test]
        fn ids_are_unique_afterwards_and_good_ones_are_kept(
            ids in prop::collection::vec("(|a|b|call_1_0|call_1_1|call_1_2_1)", 0..8),
        ) {
            let calls = ids.iter().map(|id| call(id, "echo", " ")).collect();
            let mut answer = answer(calls);
            put_right(&mut answer, 1);
            let mut seen = HashSet::new();
            for (index, call) in answer.tool_calls.iter().enumerate() {
                prop_assert!(!call.id.is_empty());
                prop_assert_eq!(&call.arguments, "{}");
                prop_assert!(seen.insert(&call.id));
                let first = ids.iter().position(|id| id == &ids[index]) == Some(index);
                let made_up = answer.tool_calls[..index].iter().any(|other| other.id == ids[index]);
                if first && !ids[index].is_empty() && !made_up {
                    prop_assert_eq!(&call.id, &ids[index]);
                }
            }
        }
    }
}
