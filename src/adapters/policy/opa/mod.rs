//! Policies that an OPA server evaluates: the same `.rego` files as in process, over HTTP.
//!
//! Fails closed. A server that is away, slow, or answers with anything but a decision document is
//! an error, which callers are told as one of the policy engine; a rule that is undefined for the
//! input, or cannot be evaluated on it, is a denial, as in process.

mod address;
mod body;
#[cfg(test)]
mod tests;

use std::{fmt, time::Duration};

use async_trait::async_trait;
use reqwest::{Client, StatusCode, Url};
use serde_json::json;
use soma_config::ServerUrl;
use soma_contract::port::policy::{Decision, Policy, PolicyError, PolicyInput};
use tokio::time::{Instant, timeout};

use self::body::Said;
use super::{
    answer::{not_evaluated, understood},
    cache::{self, Cache},
};
use crate::adapters::tls;

/// The rule that is asked for. A server is not asked for a plain `allow`: whether `decision` is
/// missing or says nothing of this input looks the same from outside.
const RULE: &str = "v1/data/soma/policy/decision";
/// What says whether the server is well and has all its bundles.
const HEALTH: &str = "health";

/// Where the server is and how it is used.
#[derive(Debug, Clone)]
pub struct OpaSettings {
    /// The base URL, with or without a path.
    pub url: ServerUrl,
    /// How long a decision may take, connecting included.
    pub timeout: Duration,
    /// How long decisions that are not on a tool may be given again.
    pub cache_ttl: Duration,
}

/// Why the adapter could not be built.
#[derive(Debug, thiserror::Error)]
pub enum OpaSetupError {
    /// The base URL is none.
    #[error("`{url}` is no base URL of an OPA server")]
    Url {
        /// What was given, without its password.
        url: String,
    },
    /// TLS could not be set up, for instance without any root certificates.
    #[error("no HTTP client for the OPA server")]
    Client(#[source] reqwest::Error),
}

/// Asks an OPA server. To be used on the I/O runtime, where its sockets live.
pub struct OpaPolicy {
    client: Client,
    rule: Url,
    health: Url,
    timeout: Duration,
    cache: Cache,
}

impl fmt::Debug for OpaPolicy {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("OpaPolicy").field("timeout", &self.timeout).finish_non_exhaustive()
    }
}

impl OpaPolicy {
    /// Builds the adapter; nothing is sent before the first question.
    ///
    /// # Errors
    ///
    /// See [`OpaSetupError`].
    pub fn new(settings: &OpaSettings) -> Result<Self, OpaSetupError> {
        Self::of_rule(settings, RULE)
    }

    fn of_rule(settings: &OpaSettings, rule: &str) -> Result<Self, OpaSetupError> {
        tls::install();
        let at = |path| {
            let url = || format!("{:?}", settings.url);
            address::join(settings.url.expose(), path)
                .ok_or_else(|| OpaSetupError::Url { url: url() })
        };
        let (rule, health) = (at(rule)?, at(HEALTH)?);
        let mut builder = Client::builder()
            .user_agent(concat!("somaagent/", env!("CARGO_PKG_VERSION")))
            // A redirect of a POST loses its body; the operator has to name the right address.
            .redirect(reqwest::redirect::Policy::none());
        if address::is_loopback(&rule) {
            builder = builder.no_proxy(); // No proxy can reach a server on this very machine.
        }
        let client = builder.build().map_err(OpaSetupError::Client)?;
        let OpaSettings { timeout, cache_ttl, .. } = *settings;
        Ok(Self { client, rule, health, timeout, cache: Cache::new(cache_ttl) })
    }

    async fn asked(&self, input: &PolicyInput) -> Result<Decision, PolicyError> {
        let question = json!({ "input": input });
        let asking = body::read(self.client.post(self.rule.clone()).json(&question));
        let (status, text) = self.in_time(asking).await?;
        match body::said(status, &text) {
            Said::Answer(answer) => Ok(understood(answer.as_ref())),
            Said::NotEvaluated(error) => Ok(not_evaluated(&error)),
            Said::Nothing(reason) => Err(PolicyError(reason)),
        }
    }

    async fn in_time<T>(
        &self,
        asking: impl Future<Output = Result<T, PolicyError>>,
    ) -> Result<T, PolicyError> {
        let silent = |_elapsed| PolicyError(format!("no answer within {:?}", self.timeout));
        timeout(self.timeout, asking).await.map_err(silent)?
    }
}

#[async_trait]
impl Policy for OpaPolicy {
    async fn decide(&self, input: &PolicyInput) -> Result<Decision, PolicyError> {
        let Some(key) = cache::key(input) else {
            return self.asked(input).await;
        };
        if let Some(decision) = self.cache.get(&key, Instant::now()) {
            return Ok(decision);
        }
        let decision = self.asked(input).await?;
        self.cache.put(key, decision.clone(), Instant::now());
        Ok(decision)
    }

    async fn ping(&self) -> Result<(), PolicyError> {
        let mut health = self.health.clone();
        health.set_query(Some("bundles"));
        let (status, text) = self.in_time(body::read(self.client.get(health))).await?;
        match status {
            StatusCode::OK => Ok(()),
            _ => Err(PolicyError(body::unexpected(status, &text))),
        }
    }
}
