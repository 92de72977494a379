//! Policies in Rego, evaluated in this process; an OPA server takes the same files.

mod cache;
mod source;

use std::{
    fmt,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use regorus::{CompiledPolicy, Engine, Value};
use serde_json::json;
use soma_contract::port::policy::{Action, Decision, Policy, PolicyError, PolicyInput};
use tokio::time::Instant;

use self::cache::Cache;
use self::source::PACKAGE;
pub use self::source::{RegoError, Source};

/// The rules that may be asked for: the decision document, or a plain boolean where there is none.
const RULES: [&str; 2] = ["decision", "allow"];
/// An evaluation that took longer sends the next ones off the asynchronous threads.
const SLOW: Duration = Duration::from_millis(1);

/// Decides by the compiled policy.
pub struct Rego {
    compiled: Arc<CompiledPolicy>,
    cache: Cache,
    slow: AtomicBool,
}

impl fmt::Debug for Rego {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Rego").field("slow", &self.slow).finish_non_exhaustive()
    }
}

impl Rego {
    /// Compiles the policy that ships with the platform.
    ///
    /// # Errors
    ///
    /// It does not compile, which is a bug.
    pub fn shipped() -> Result<Self, RegoError> {
        Self::new(&Source::shipped())
    }

    /// Compiles every `.rego` file of a folder (tests, `_test.rego`, left out) with its `data.json`.
    ///
    /// # Errors
    ///
    /// A file cannot be read or does not compile (the error names file and line), or no rule is in
    /// the package that is asked.
    pub fn from_folder(folder: &Path) -> Result<Self, RegoError> {
        Self::new(&Source::read(folder)?)
    }

    /// Compiles a policy.
    ///
    /// # Errors
    ///
    /// As [`Rego::from_folder`].
    pub fn new(source: &Source) -> Result<Self, RegoError> {
        let (mut engine, asked) = source.engine()?;
        let compiled = Arc::new(compile(&mut engine, &asked)?);
        Ok(Self { compiled, cache: Cache::default(), slow: AtomicBool::new(false) })
    }

    async fn evaluated(&self, input: &PolicyInput) -> Result<Decision, PolicyError> {
        let compiled = Arc::clone(&self.compiled);
        let input = Value::from(json!(input));
        let start = Instant::now();
        let decision = if self.slow.load(Ordering::Relaxed) {
            tokio::task::spawn_blocking(move || evaluate(&compiled, input))
                .await
                .map_err(|error| PolicyError(error.to_string()))?
        } else {
            evaluate(&compiled, input)
        };
        self.slow.store(start.elapsed() > SLOW, Ordering::Relaxed);
        Ok(decision)
    }
}

#[async_trait]
impl Policy for Rego {
    async fn decide(&self, input: &PolicyInput) -> Result<Decision, PolicyError> {
        // A tool's arguments hardly ever come twice, and may be large.
        if input.action == Action::ToolExecute {
            return self.evaluated(input).await;
        }
        let key = json!(input).to_string();
        if let Some(decision) = self.cache.get(&key, Instant::now()) {
            return Ok(decision);
        }
        let decision = self.evaluated(input).await?;
        self.cache.put(key, decision.clone(), Instant::now());
        Ok(decision)
    }

    async fn ping(&self) -> Result<(), PolicyError> {
        Ok(())
    }
}

/// Compiles the rule that is asked for, so that each evaluation only evaluates.
fn compile(engine: &mut Engine, files: &[&str]) -> Result<CompiledPolicy, RegoError> {
    let declared = |rule: &&&str| {
        files.iter().any(|file| engine.has_declared_rule_rooted_at(file, rule).unwrap_or(false))
    };
    let rule = RULES.iter().find(declared).ok_or(RegoError::NoRule)?;
    let entry = format!("{PACKAGE}.{rule}");
    engine
        .compile_with_entrypoint(&entry.as_str().into())
        .map_err(|error| RegoError::Invalid { file: entry.clone(), reason: format!("{error:#}") })
}

/// Evaluates. What cannot be evaluated is denied: asking again would fail again.
fn evaluate(compiled: &CompiledPolicy, input: Value) -> Decision {
    match compiled.eval_with_input(input) {
        Ok(answer) => understood(&answer),
        Err(error) => {
            tracing::error!(%error, "the policy cannot be evaluated; this is denied");
            Decision::Deny("the policy cannot be evaluated".to_owned())
        }
    }
}

/// Reads `{allow, reason}` or a plain boolean; anything else is a denial, never a truthy object.
fn understood(answer: &Value) -> Decision {
    if *answer == Value::Undefined {
        return Decision::Deny("the policy says nothing of this".to_owned());
    }
    let allow = answer.as_bool().or_else(|_| answer[&Value::from("allow")].as_bool());
    let reason = &answer[&Value::from("reason")];
    match allow {
        Ok(true) => Decision::Allow,
        Ok(false) => Decision::Deny(match reason.as_string() {
            Ok(reason) if !reason.is_empty() => reason.to_string(),
            _ => "denied by the policy".to_owned(),
        }),
        Err(_) => {
            tracing::error!(answer = %answer, "the policy's answer has no boolean `allow`");
            Decision::Deny("the policy's answer is malformed".to_owned())
        }
    }
}

#[cfg(test)]
mod tests;
