//! The tools that exist, and the check of a call before it is journaled and before it is run.

use std::{collections::BTreeMap, fmt, sync::Arc, time::Duration};

use jsonschema::{ValidationError, Validator};
use serde_json::{Map, Value};
use soma_contract::tool::{CallFault, ToolCall, ToolCatalog, ToolSpec};

use crate::tool::Tool;

/// The longest text of arguments that is looked at.
const MAX_ARGUMENT_BYTES: usize = 1024 * 1024;
/// The most faults that are told at once.
const MAX_FAULTS: usize = 5;
/// The longest fault that is told, in characters: faults quote what the model wrote.
const MAX_FAULT_CHARS: usize = 200;

/// Why a set of tools cannot be used; a bug of whoever wrote the tool.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ToolboxError {
    /// Two tools have one name.
    #[error("two tools are called `{0}`")]
    Duplicate(String),
    /// A name that is not `[a-z_]+`.
    #[error("`{0}` is no name for a tool: only `a` to `z` and `_`")]
    BadName(String),
    /// The schema of the arguments is not a valid JSON Schema.
    #[error("the schema of `{name}` is invalid: {reason}")]
    BadSchema {
        /// The tool.
        name: String,
        /// What is wrong.
        reason: String,
    },
}

/// What no tool may exceed, whatever it says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ToolLimits {
    /// The longest that a call may take.
    pub timeout: Duration,
    /// The most bytes of output that go back to the model.
    pub max_output_bytes: usize,
}

/// A tool with its compiled schema.
struct Entry {
    spec: ToolSpec,
    validator: Validator,
    tool: Arc<dyn Tool>,
}

impl fmt::Debug for Entry {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.spec.fmt(formatter)
    }
}

/// Every tool of the process by name; clones share the entries.
#[derive(Debug, Clone)]
pub struct Toolbox {
    entries: Arc<BTreeMap<String, Entry>>,
}

impl Toolbox {
    /// Compiles the schemas, checks the names and bounds what tools may take.
    ///
    /// # Errors
    ///
    /// See [`ToolboxError`].
    pub fn new(
        tools: impl IntoIterator<Item = Arc<dyn Tool>>,
        limits: ToolLimits,
    ) -> Result<Self, ToolboxError> {
        let mut entries = BTreeMap::new();
        for tool in tools {
            let entry = compile(tool, limits)?;
            let name = entry.spec.name.clone();
            if entries.insert(name.clone(), entry).is_some() {
                return Err(ToolboxError::Duplicate(name));
            }
        }
        Ok(Self { entries: Arc::new(entries) })
    }

    /// Returns a tool with its description, if arguments that are parsed already fit it.
    ///
    /// # Errors
    ///
    /// An unknown tool or bad arguments.
    pub fn find(
        &self,
        name: &str,
        arguments: &Value,
    ) -> Result<(Arc<dyn Tool>, ToolSpec), CallFault> {
        let entry = self.entry(name)?;
        validate(entry, arguments)?;
        Ok((Arc::clone(&entry.tool), entry.spec.clone()))
    }

    /// Returns whether there is a tool of that name.
    pub fn knows(&self, name: &str) -> bool {
        self.entries.contains_key(name)
    }

    fn entry(&self, name: &str) -> Result<&Entry, CallFault> {
        self.entries.get(name).ok_or_else(|| CallFault::UnknownTool {
            name: abridged(name),
            known: self.entries.keys().map(String::as_str).collect::<Vec<_>>().join(", "),
        })
    }
}

impl Default for ToolLimits {
    fn default() -> Self {
        Self { timeout: Duration::from_mins(1), max_output_bytes: 64 * 1024 }
    }
}

impl ToolCatalog for Toolbox {
    fn specs(&self) -> Vec<ToolSpec> {
        self.entries.values().map(|entry| entry.spec.clone()).collect()
    }

    fn check(&self, call: &ToolCall) -> Result<(ToolSpec, Value), CallFault> {
        let entry = self.entry(&call.name)?;
        let arguments = parse(&call.arguments)
            .map_err(|reason| CallFault::BadArguments { name: call.name.clone(), reason })?;
        validate(entry, &arguments)?;
        Ok((entry.spec.clone(), arguments))
    }
}

fn compile(tool: Arc<dyn Tool>, limits: ToolLimits) -> Result<Entry, ToolboxError> {
    let mut spec = tool.spec();
    spec.timeout = spec.timeout.min(limits.timeout);
    spec.max_output_bytes = spec.max_output_bytes.min(limits.max_output_bytes);
    let well_named =
        !spec.name.is_empty() && spec.name.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'_'));
    if !well_named {
        return Err(ToolboxError::BadName(spec.name));
    }
    let validator = jsonschema::draft202012::new(&spec.parameters).map_err(|error| {
        ToolboxError::BadSchema { name: spec.name.clone(), reason: error.to_string() }
    })?;
    Ok(Entry { spec, validator, tool })
}

/// Parses what a model wrote; models write nothing at all where a tool takes no arguments.
fn parse(text: &str) -> Result<Value, String> {
    if text.len() > MAX_ARGUMENT_BYTES {
        return Err(format!("{} bytes are too many (at most {MAX_ARGUMENT_BYTES})", text.len()));
    }
    if text.trim().is_empty() {
        return Ok(Value::Object(Map::new()));
    }
    serde_json::from_str(text).map_err(|error| format!("not valid JSON: {error}"))
}

fn validate(entry: &Entry, arguments: &Value) -> Result<(), CallFault> {
    let mut faults: Vec<String> =
        entry.validator.iter_errors(arguments).take(MAX_FAULTS + 1).map(|e| worded(&e)).collect();
    if faults.is_empty() {
        return Ok(());
    }
    if faults.len() > MAX_FAULTS {
        faults.truncate(MAX_FAULTS);
        faults.push("and more".to_owned());
    }
    Err(CallFault::BadArguments { name: entry.spec.name.clone(), reason: faults.join("; ") })
}

/// Says where the fault is and what was expected there.
fn worded(error: &ValidationError<'_>) -> String {
    let path = error.instance_path().to_string();
    let place = if path.is_empty() { "the arguments".to_owned() } else { format!("`{path}`") };
    abridged(&format!("at {place}: {error}"))
}

fn abridged(text: &str) -> String {
    match text.char_indices().nth(MAX_FAULT_CHARS) {
        Some((end, _)) => format!("{}…", text.get(..end).unwrap_or_default()),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::{builtin::Echo, testing::Scripted};

    fn call(name: &str, arguments: &str) -> ToolCall {
        ToolCall { id: "1".into(), name: name.into(), arguments: arguments.into() }
    }

    fn boxed<const N: usize>(tools: [Arc<dyn Tool>; N]) -> Result<Toolbox, ToolboxError> {
        Toolbox::new(tools, ToolLimits::default())
    }

    fn toolbox() -> Toolbox {
        boxed([Arc::new(Scripted::named("zeta")), Arc::new(Echo)]).unwrap()
    }

    #[test]
    fn tools_are_listed_in_a_stable_order() {
        let names: Vec<_> = toolbox().specs().into_iter().map(|spec| spec.name).collect();
        assert_eq!(names, ["echo", "zeta"]);
    }

    #[test]
    fn no_tool_exceeds_the_limits() {
        let mut modest = Scripted::named("modest");
        modest.spec.timeout = Duration::from_secs(1);
        let greedy = Scripted::named("greedy");
        let limits = ToolLimits { timeout: Duration::from_secs(5), max_output_bytes: 100 };
        let tools = [Arc::new(modest) as Arc<dyn Tool>, Arc::new(greedy)];
        let specs = Toolbox::new(tools, limits).unwrap().specs();
        let bounds: Vec<_> =
            specs.iter().map(|spec| (spec.timeout.as_secs(), spec.max_output_bytes)).collect();
        assert_eq!(bounds, [(5, 100), (1, 100)]);
    }

    #[test]
    fn a_good_call_brings_spec_and_arguments() {
        let (spec, arguments) = toolbox().check(&call("echo", r#"{"text":"hi"}"#)).unwrap();
        assert_eq!(spec.name, "echo");
        assert_eq!(arguments, json!({"text": "hi"}));
    }

    #[test]
    fn nothing_at_all_means_no_arguments() {
        let (_, arguments) = toolbox().check(&call("zeta", " ")).unwrap();
        assert_eq!(arguments, json!({}));
    }

    #[test]
    fn an_unknown_tool_is_answered_with_those_that_exist() {
        let fault = toolbox().check(&call("ecko", "{}")).unwrap_err();
        assert_eq!(fault.to_string(), "no tool is called `ecko`; there are: echo, zeta");
    }

    #[test]
    fn faults_name_the_place_and_the_expectation() {
        let missing = toolbox().check(&call("echo", "{}")).unwrap_err().to_string();
        assert_eq!(
            missing,
            r#"bad arguments for `echo`: at the arguments: "text" is a required property"#
        );
        let wrong = toolbox().check(&call("echo", r#"{"text":7}"#)).unwrap_err().to_string();
        assert_eq!(wrong, r#"bad arguments for `echo`: at `/text`: 7 is not of type "string""#);
        let broken = toolbox().check(&call("echo", r#"{"text":"#)).unwrap_err().to_string();
        assert!(broken.starts_with("bad arguments for `echo`: not valid JSON: EOF"), "{broken}");
    }

    #[test]
    fn a_fault_quotes_only_the_beginning_of_what_was_written() {
        let long = format!(r#"{{"text":["{}"]}}"#, "é".repeat(5_000));
        let fault = toolbox().check(&call("echo", &long)).unwrap_err().to_string();
        assert!(fault.chars().count() < 300, "{fault}");
        let name = "x".repeat(5_000);
        assert!(toolbox().check(&call(&name, "")).unwrap_err().to_string().len() < 300);
    }

    #[test]
    fn arguments_that_are_no_object_are_refused() {
        assert!(toolbox().check(&call("zeta", "[]")).is_err());
    }

    #[test]
    fn endless_arguments_are_not_parsed() {
        let text = format!(r#"{{"text":"{}"}}"#, "x".repeat(MAX_ARGUMENT_BYTES));
        let fault = toolbox().check(&call("echo", &text)).unwrap_err().to_string();
        assert!(fault.contains("too many"), "{fault}");
    }

    #[test]
    fn duplicates_bad_names_and_bad_schemas_are_refused() {
        let twice = boxed([Arc::new(Echo), Arc::new(Echo)]);
        assert_eq!(twice.unwrap_err(), ToolboxError::Duplicate("echo".into()));
        let name = boxed([Arc::new(Scripted::named("rm -rf"))]);
        assert_eq!(name.unwrap_err(), ToolboxError::BadName("rm -rf".into()));
        let mut tool = Scripted::named("odd");
        tool.spec.parameters = json!({"type": 7});
        let schema = boxed([Arc::new(tool)]);
        assert!(matches!(schema.unwrap_err(), ToolboxError::BadSchema { .. }));
    }
}
