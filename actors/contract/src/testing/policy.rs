//! A policy that is a closure.

use std::{fmt, sync::Mutex};

use async_trait::async_trait;

use super::locked;
use crate::port::policy::{Decision, Policy, PolicyError, PolicyInput};

type Rule = dyn Fn(&PolicyInput) -> Result<Decision, PolicyError> + Send + Sync;

/// Decides by a closure and remembers what it was asked.
pub struct FakePolicy {
    rule: Box<Rule>,
    asked: Mutex<Vec<PolicyInput>>,
}

impl FakePolicy {
    /// Decides by `rule`.
    pub fn new(
        rule: impl Fn(&PolicyInput) -> Result<Decision, PolicyError> + Send + Sync + 'static,
    ) -> Self {
        Self { rule: Box::new(rule), asked: Mutex::default() }
    }

    /// Allows everything.
    pub fn allowing() -> Self {
        Self::new(|_| Ok(Decision::Allow))
    }

    /// Denies everything.
    pub fn denying(reason: &str) -> Self {
        let reason = reason.to_owned();
        Self::new(move |_| Ok(Decision::Deny(reason.clone())))
    }

    /// Never answers.
    pub fn unreachable() -> Self {
        Self::new(|_| Err(PolicyError("nobody listens".to_owned())))
    }

    /// Returns what it was asked so far.
    pub fn asked(&self) -> Vec<PolicyInput> {
        locked(&self.asked).clone()
    }
}

impl fmt::Debug for FakePolicy {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("FakePolicy").field("asked", &self.asked).finish_non_exhaustive()
    }
}

#[async_trait]
impl Policy for FakePolicy {
    async fn decide(&self, input: &PolicyInput) -> Result<Decision, PolicyError> {
        locked(&self.asked).push(input.clone());
        (self.rule)(input)
    }

    async fn ping(&self) -> Result<(), PolicyError> {
        Ok(())
    }
}
