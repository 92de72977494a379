//! Any endpoint that speaks OpenAI's chat completions: `OpenAI` itself, vLLM, Ollama, llama.cpp,
//! LM Studio, `LiteLLM`, `OpenRouter` and the like.
//!
//! A call that fails is made anew, with back-off, as often as configured, and then once more with
//! the fallback model. Text that was already told is taken back by [`ModelEvent::Reset`] first.

mod address;
mod attempt;
mod call;
mod chunk;
mod collect;
mod decode;
mod emit;
mod fault;
mod lines;
mod ping;
mod request;
#[cfg(test)]
mod tests;

use std::{fmt, sync::Arc, time::Duration};

use async_trait::async_trait;
use futures::stream::BoxStream;
use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderValue};
use soma_config::Secret;
use soma_contract::{
    model::{ChatRequest, ModelEvent, TokenCounter},
    port::model::{Model, ModelError},
};

use self::{address::Address, call::Endpoint, decode::Bounds};
use crate::adapters::tls;

/// What is known of the endpoint.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The base URL, with or without `/v1` or `/chat/completions`.
    pub base_url: String,
    /// The key; none is sent if there is none.
    pub api_key: Option<Secret>,
    /// The model that answers where a request names none.
    pub model: String,
    /// The model of the same endpoint that is asked when the first one cannot answer.
    pub fallback: Option<String>,
    /// How long connecting may take.
    pub connect_timeout: Duration,
    /// How long the endpoint may be silent, before the first byte and between two of them.
    pub read_timeout: Duration,
    /// How long one answer may take in all, repeated calls included.
    pub total_timeout: Duration,
    /// How often a failed call is repeated.
    pub max_retries: u32,
}

/// Why the adapter could not be built.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// The base URL is none.
    #[error("`{url}` is no base URL of a model endpoint: {reason}")]
    BaseUrl {
        /// What was given.
        url: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The key has characters that no header may have.
    #[error("the key of the model endpoint has characters that cannot be sent")]
    Key,
    /// TLS could not be set up, for instance without any root certificates.
    #[error("no HTTP client for the model endpoint")]
    Client(#[source] reqwest::Error),
}

/// Asks an OpenAI-compatible endpoint. To be used on the I/O runtime, where its sockets live.
pub struct OpenAiModel {
    endpoint: Arc<Endpoint>,
}

impl OpenAiModel {
    /// Builds the adapter; nothing is sent before the first call. Tokens are counted where the
    /// endpoint does not tell them.
    ///
    /// # Errors
    ///
    /// See [`SetupError`].
    pub fn new(settings: Settings, tokens: Arc<dyn TokenCounter>) -> Result<Self, SetupError> {
        tls::install();
        let address = Address::parse(&settings.base_url)?;
        let client = client(&settings, &address)?;
        let endpoint = Endpoint::new(settings, address, client, tokens, Bounds::default());
        Ok(Self { endpoint: Arc::new(endpoint) })
    }
}

impl fmt::Debug for OpenAiModel {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_tuple("OpenAiModel").field(&self.endpoint.settings).finish()
    }
}

#[async_trait]
impl Model for OpenAiModel {
    async fn chat(
        &self,
        request: ChatRequest,
    ) -> BoxStream<'static, Result<ModelEvent, ModelError>> {
        let endpoint = Arc::clone(&self.endpoint);
        emit::stream(move |emit| async move { endpoint.answer(request, emit).await })
    }

    fn default_model(&self) -> String {
        self.endpoint.settings.model.clone()
    }

    async fn ping(&self) -> Result<(), ModelError> {
        self.endpoint.ping().await
    }
}

fn client(settings: &Settings, address: &Address) -> Result<reqwest::Client, SetupError> {
    let mut headers = HeaderMap::new();
    if let Some(key) = &settings.api_key {
        let mut value = HeaderValue::try_from(format!("Bearer {}", key.expose()))
            .map_err(|_invalid| SetupError::Key)?;
        value.set_sensitive(true);
        headers.insert(AUTHORIZATION, value);
    }
    let mut builder = reqwest::Client::builder()
        .user_agent(concat!("somaagent/", env!("CARGO_PKG_VERSION")))
        .default_headers(headers)
        .connect_timeout(settings.connect_timeout)
        // A redirect of a POST loses its body; the operator has to name the right address.
        .redirect(reqwest::redirect::Policy::none());
    if address.is_loopback() {
        builder = builder.no_proxy(); // No proxy can reach a model on this very machine.
    }
    builder.build().map_err(SetupError::Client)
}
