//! The language model.

use std::{fmt, time::Duration};

use async_trait::async_trait;
use futures::stream::BoxStream;

use crate::{
    kind::{Classified, Kind},
    model::{ChatRequest, ModelEvent},
};

/// Why the model gave no answer, after the adapter's own retries.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ModelError {
    /// Nobody answers, or only 429 and 5xx: wait and try again.
    #[error("model endpoint unavailable: {reason}")]
    Unavailable {
        /// What was seen last.
        reason: String,
        /// How long the endpoint asked us to wait.
        retry_after: Option<Duration>,
    },
    /// 401 or 403.
    #[error("key refused by the model endpoint: {0}")]
    KeyRefused(String),
    /// The endpoint does not know the model.
    #[error("no such model: `{0}`")]
    NoSuchModel(String),
    /// The endpoint refuses this prompt (400, too long, content filter).
    #[error("model endpoint refused the request: {0}")]
    Refused(String),
    /// The endpoint sent what no version of the protocol has, again and again.
    #[error("model endpoint sent a malformed answer: {0}")]
    Malformed(String),
}

impl Classified for ModelError {
    fn kind(&self) -> Kind {
        match self {
            Self::Unavailable { .. } | Self::Malformed(_) => Kind::Retry,
            Self::KeyRefused(_) | Self::NoSuchModel(_) | Self::Refused(_) => Kind::OutOfHands,
        }
    }
}

/// Answers prompts.
#[async_trait]
pub trait Model: Send + Sync + fmt::Debug {
    /// Begins to answer. The stream ends after [`ModelEvent::Answer`] or an error; dropping it
    /// closes the upstream call at once.
    async fn chat(
        &self,
        request: ChatRequest,
    ) -> BoxStream<'static, Result<ModelEvent, ModelError>>;

    /// Returns the name of the model that answers where a request names none.
    fn default_model(&self) -> String;

    /// Asks the endpoint whether it takes our key and knows the model.
    ///
    /// # Errors
    ///
    /// It does not, in words for an operator.
    async fn ping(&self) -> Result<(), ModelError>;
}
