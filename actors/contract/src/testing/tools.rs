//! A catalogue of tools that nobody runs, and the simplest token counter.

use std::time::Duration;

use serde_json::{Value, json};

use crate::{
    model::TokenCounter,
    tool::{CallFault, Effect, ToolCall, ToolCatalog, ToolSpec},
};

/// Knows the tools that it was given.
#[derive(Debug, Clone, Default)]
pub struct FakeCatalog {
    specs: Vec<ToolSpec>,
}

impl FakeCatalog {
    /// Builds a catalogue of these tools.
    pub const fn new(specs: Vec<ToolSpec>) -> Self {
        Self { specs }
    }

    /// Describes a tool that takes any object, may run 5 s and say 4 KiB.
    pub fn tool(name: &str, effect: Effect) -> ToolSpec {
        ToolSpec {
            name: name.to_owned(),
            description: format!("The fake tool `{name}`."),
            parameters: json!({"type": "object"}),
            effect,
            timeout: Duration::from_secs(5),
            max_output_bytes: 4_096,
        }
    }
}

impl ToolCatalog for FakeCatalog {
    fn specs(&self) -> Vec<ToolSpec> {
        self.specs.clone()
    }

    /// Checks that the arguments are an object with all `required` members.
    fn check(&self, call: &ToolCall) -> Result<(ToolSpec, Value), CallFault> {
        let Some(spec) = self.specs.iter().find(|spec| spec.name == call.name) else {
            let known: Vec<&str> = self.specs.iter().map(|spec| spec.name.as_str()).collect();
            return Err(CallFault::UnknownTool {
                name: call.name.clone(),
                known: known.join(", "),
            });
        };
        let bad = |reason: String| CallFault::BadArguments { name: call.name.clone(), reason };
        let arguments: Value =
            serde_json::from_str(&call.arguments).map_err(|error| bad(error.to_string()))?;
        if !arguments.is_object() {
            return Err(bad("not an object".to_owned()));
        }
        let required = spec.parameters.get("required").and_then(Value::as_array);
        let missing = required
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .find(|name| arguments.get(name).is_none());
        match missing {
            Some(name) => Err(bad(format!("`{name}` is missing"))),
            None => Ok((spec.clone(), arguments)),
        }
    }
}

/// Counts words: one token each.
#[derive(Debug, Clone, Copy, Default)]
pub struct WordCounter;

impl TokenCounter for WordCounter {
    fn count(&self, text: &str) -> usize {
        text.split_whitespace().count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(name: &str, arguments: &str) -> ToolCall {
        ToolCall { id: "1".to_owned(), name: name.to_owned(), arguments: arguments.to_owned() }
    }

    #[test]
    fn faults_of_calls_are_told_in_words_for_a_model() {
        let mut spec = FakeCatalog::tool("echo", Effect::Pure);
        spec.parameters = json!({"type": "object", "required": ["text"]});
        let catalog = FakeCatalog::new(vec![spec]);
        assert!(catalog.check(&call("echo", r#"{"text": "a"}"#)).is_ok());
        let fault =
            |name, arguments| catalog.check(&call(name, arguments)).unwrap_err().to_string();
        assert_eq!(fault("ecco", "{}"), "no tool is called `ecco`; there are: echo");
        assert_eq!(fault("echo", "{}"), "bad arguments for `echo`: `text` is missing");
        assert_eq!(fault("echo", "[]"), "bad arguments for `echo`: not an object");
    }
}
