//! Memories in a SomaBrain server, over HTTP.
//!
//! - Every write carries the port's key in the header `Idempotency-Key` and in the record: it has no
//!   time in it, so that a repetition by another process is one and the same.
//! - Only a record that the server will never take (400, 413, 422) is refused. Whatever is wrong
//!   with the server, the key or the address is passing: the write waits.
//! - A call is made once; who calls repeats it. After three failures in a row, or when it asks for
//!   it by `Retry-After`, the server is left alone for a while, for writes and recalls apart.
//! - A server that lacks a route is asked by its older name.

mod breaker;
mod call;
#[cfg(test)]
mod tests;
mod wire;

use std::{fmt, sync::Arc, time::Duration};

use async_trait::async_trait;
use reqwest::{
    Client, Url,
    header::{AUTHORIZATION, HeaderMap, HeaderValue},
};
use serde_json::Value;
use soma_config::{Secret, ServerUrl};
use soma_contract::{
    Ids, TenantId,
    memory::{Memory, MemoryOp, MemoryQuery, MemoryWrite, Recalled},
    port::memory::{MemoryError, MemoryService, Receipt},
};

use self::{
    breaker::Breaker,
    call::{Call, Fault},
    wire::Place,
};
use crate::adapters::tls;

/// How long connecting may take.
const CONNECTING: Duration = Duration::from_secs(5);

/// Where SomaBrain is and how it is used.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The base URL, with or without a path.
    pub base_url: ServerUrl,
    /// The key; none is sent if there is none.
    pub api_key: Option<Secret>,
    /// The universe; the server's own if there is none.
    pub universe: Option<String>,
    /// The namespace of memories.
    pub namespace: String,
    /// How long one call may take, connecting included.
    pub timeout: Duration,
}

/// Why the adapter could not be built.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// The base URL is none.
    #[error("`{url}` is no base URL of a SomaBrain server")]
    Url {
        /// What was given, without its password.
        url: String,
    },
    /// The key has characters that no header may have.
    #[error("the key of SomaBrain has characters that cannot be sent")]
    Key,
    /// TLS could not be set up, for instance without any root certificates.
    #[error("no HTTP client for SomaBrain")]
    Client(#[source] reqwest::Error),
}

/// Keeps memories in SomaBrain. To be used on the I/O runtime, where its sockets live.
pub struct SomaBrain {
    client: Client,
    base: Url,
    place: Place,
    timeout: Duration,
    ids: Arc<dyn Ids>,
    writes: Breaker,
    recalls: Breaker,
}

impl fmt::Debug for SomaBrain {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("SomaBrain").field("place", &self.place).finish_non_exhaustive()
    }
}

impl SomaBrain {
    /// Builds the adapter; nothing is sent before the first call. Each request has an id of `ids`.
    ///
    /// # Errors
    ///
    /// See [`SetupError`].
    pub fn new(settings: Settings, ids: Arc<dyn Ids>) -> Result<Self, SetupError> {
        tls::install();
        let base = call::base(settings.base_url.expose())
            .ok_or_else(|| SetupError::Url { url: format!("{:?}", settings.base_url) })?;
        let mut headers = HeaderMap::new();
        if let Some(key) = &settings.api_key {
            let mut value = HeaderValue::try_from(format!("Bearer {}", key.expose()))
                .map_err(|_invalid| SetupError::Key)?;
            value.set_sensitive(true);
            headers.insert(AUTHORIZATION, value);
        }
        let client = Client::builder()
            .user_agent(concat!("somaagent/", env!("CARGO_PKG_VERSION")))
            .default_headers(headers)
            .connect_timeout(CONNECTING)
            // A redirect of a POST loses its body; the operator has to name the right address.
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .map_err(SetupError::Client)?;
        let place = Place { universe: settings.universe, namespace: settings.namespace };
        let (writes, recalls) = (Breaker::default(), Breaker::default());
        Ok(Self { client, base, place, timeout: settings.timeout, ids, writes, recalls })
    }

    fn call<'a>(&'a self, tenant: &'a TenantId, key: Option<&'a str>) -> Call<'a> {
        Call {
            client: &self.client,
            base: &self.base,
            timeout: self.timeout,
            request_id: self.ids.draw(),
            tenant,
            key,
        }
    }

    async fn keep(&self, memory: &Memory, key: &str) -> Result<Receipt, MemoryError> {
        let call = self.call(&memory.tenant, Some(key));
        let sending = async {
            let body = self.place.remember(memory, key);
            match call.post("memory/remember", &body).await {
                Err(Fault::NoRoute(_)) => {
                    call.post("remember", &self.place.remember_as_before(memory, key)).await
                }
                said => said,
            }
        };
        call::guarded(&self.writes, sending).await.map(|said| wire::receipt(&said))
    }

    /// Forgets a memory; one that the server does not know is forgotten already.
    async fn forget(&self, memory: &Memory, key: &str) -> Result<Receipt, MemoryError> {
        let call = self.call(&memory.tenant, Some(key));
        let sending = async {
            match call.post("recall/delete", &self.place.forget(memory)).await {
                Err(Fault::NotFound) => Ok(Value::Null),
                said => said,
            }
        };
        call::guarded(&self.writes, sending).await.map(|said| wire::receipt(&said))
    }
}

#[async_trait]
impl MemoryService for SomaBrain {
    async fn remember(&self, write: &MemoryWrite, key: &str) -> Result<Receipt, MemoryError> {
        match write.op {
            MemoryOp::Put => self.keep(&write.memory, key).await,
            MemoryOp::Delete => self.forget(&write.memory, key).await,
        }
    }

    async fn recall(
        &self,
        tenant: &TenantId,
        query: &MemoryQuery,
    ) -> Result<Vec<Recalled>, MemoryError> {
        let call = self.call(tenant, None);
        let asking = async {
            match call.post("memory/recall", &self.place.recall(tenant, query)).await {
                Err(Fault::NoRoute(_)) => {
                    call.post("recall", &self.place.recall_as_before(query)).await
                }
                said => said,
            }
        };
        let said = call::guarded(&self.recalls, asking).await?;
        wire::recalled(&said, tenant, query).ok_or_else(|| {
            MemoryError::Unavailable("its answer to a recall has no results".to_owned())
        })
    }

    async fn ping(&self) -> Result<(), MemoryError> {
        let said = self.call(&TenantId::public(), None).get("health").await?;
        if call::is_well(&said) {
            return Ok(());
        }
        Err(MemoryError::Unavailable(format!(
            "it says of itself `{}`",
            call::shown(&said.to_string())
        )))
    }
}
