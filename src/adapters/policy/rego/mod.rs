//! Policies in Rego, evaluated in this process; an OPA server takes the same files.

mod source;

use std::{
    fmt,
    num::NonZeroU32,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use regorus::{Engine, Value, utils::limits::ExecutionTimerConfig};
use serde_json::json;
use soma_contract::port::policy::{Decision, Policy, PolicyError, PolicyInput};
use tokio::time::Instant;

use self::source::PACKAGE;
pub use self::source::RegoError;
use self::source::Source;
use super::{
    answer::{not_evaluated, understood},
    cache::{self, Cache},
};

/// The rules that may be asked for: the decision document, or a plain boolean where there is none.
const RULES: [&str; 2] = ["decision", "allow"];
/// An evaluation that took longer sends the next ones off the asynchronous threads.
const SLOW: Duration = Duration::from_millis(1);

/// The longest that one evaluation may take.
const LIMIT: Duration = Duration::from_secs(1);
/// How often it is looked whether the time is up, in steps of an evaluation.
const CHECKED_EVERY: NonZeroU32 = NonZeroU32::new(1_000).unwrap();

/// Decides by a policy that is parsed and prepared.
pub struct Rego {
    prepared: Arc<Prepared>,
    cache: Cache,
    slow: AtomicBool,
}

/// An engine to copy for each evaluation (the copies share the policy), and what to ask it.
struct Prepared {
    engine: Engine,
    rule: String,
}

impl fmt::Debug for Rego {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Rego").field("slow", &self.slow).finish_non_exhaustive()
    }
}

impl Rego {
    /// Compiles every `.rego` file of a folder (tests, `_test.rego`, left out) with its
    /// `data.json`, or the policy that ships with the platform. Decisions that are not on a tool
    /// are kept for `cache_ttl`. Blocks.
    ///
    /// # Errors
    ///
    /// A file cannot be read or does not compile (the error names file and line), or no rule is in
    /// the package that is asked.
    pub fn load(folder: Option<&Path>, cache_ttl: Duration) -> Result<Self, RegoError> {
        let source = folder.map_or_else(|| Ok(Source::shipped()), Source::read)?;
        let prepared = Arc::new(prepare(&source)?);
        Ok(Self { prepared, cache: Cache::new(cache_ttl), slow: AtomicBool::new(false) })
    }

    async fn evaluated(&self, input: &PolicyInput) -> Result<Decision, PolicyError> {
        let prepared = Arc::clone(&self.prepared);
        let input = Value::from(json!(input));
        let start = Instant::now();
        let decision = if self.slow.load(Ordering::Relaxed) {
            tokio::task::spawn_blocking(move || prepared.evaluate(input))
                .await
                .map_err(|error| PolicyError(error.to_string()))?
        } else {
            prepared.evaluate(input)
        };
        self.slow.store(start.elapsed() > SLOW, Ordering::Relaxed);
        Ok(decision)
    }
}

#[async_trait]
impl Policy for Rego {
    async fn decide(&self, input: &PolicyInput) -> Result<Decision, PolicyError> {
        let Some(key) = cache::key(input) else {
            return self.evaluated(input).await;
        };
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

/// Parses a policy, finds the rule to ask for, and schedules its parts.
fn prepare(source: &Source) -> Result<Prepared, RegoError> {
    let (mut engine, files) = source.engine()?;
    let declared = |rule: &&&str| {
        files.iter().any(|file| engine.has_declared_rule_rooted_at(file, rule).unwrap_or(false))
    };
    let rule = RULES.iter().find(declared).ok_or(RegoError::NoRule)?;
    let rule = format!("{PACKAGE}.{rule}");
    engine
        .compile_with_entrypoint(&rule.as_str().into())
        .map_err(|error| RegoError::Invalid { file: rule.clone(), reason: format!("{error:#}") })?;
    engine.set_execution_timer_config(ExecutionTimerConfig {
        limit: LIMIT,
        check_interval: CHECKED_EVERY,
    });
    Ok(Prepared { engine, rule })
}

impl Prepared {
    /// Evaluates. What cannot be evaluated is denied: asking again would fail again.
    fn evaluate(&self, input: Value) -> Decision {
        let mut engine = self.engine.clone();
        engine.set_input(input);
        match engine.eval_rule(self.rule.clone()) {
            Ok(Value::Undefined) => understood(None),
            Ok(answer) => understood(Some(&json!(answer))),
            Err(error) => not_evaluated(&error.to_string()),
        }
    }
}

#[cfg(test)]
mod tests;
