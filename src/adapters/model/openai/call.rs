//! One answer: as many calls as it takes and is allowed.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicBool, Ordering},
};

use soma_contract::{
    model::{ChatRequest, ModelAnswer, TokenCounter},
    port::model::ModelError,
};
use tokio::time::{sleep, timeout};
use tracing::warn;

use super::{
    Settings,
    address::Address,
    decode::Bounds,
    emit::Emit,
    fault::{Fault, Lack},
    ping::Known,
    request::Lacks,
};

/// The endpoint and what was learnt of it.
pub(super) struct Endpoint {
    pub(super) settings: Settings,
    pub(super) address: Address,
    pub(super) client: reqwest::Client,
    pub(super) tokens: Arc<dyn TokenCounter>,
    pub(super) bounds: Bounds,
    /// It refuses `stream_options`.
    plain: AtomicBool,
    /// What it said when it was last asked for news.
    pub(super) known: Mutex<Known>,
}

impl Endpoint {
    pub(super) fn new(
        settings: Settings,
        address: Address,
        client: reqwest::Client,
        tokens: Arc<dyn TokenCounter>,
        bounds: Bounds,
    ) -> Self {
        let (plain, known) = (AtomicBool::new(false), Mutex::default());
        Self { settings, address, client, tokens, bounds, plain, known }
    }

    /// Answers, by the fallback model if the wanted one cannot, within the time for it.
    pub(super) async fn answer(
        &self,
        request: ChatRequest,
        mut emit: Emit,
    ) -> Result<ModelAnswer, ModelError> {
        let total = self.settings.total_timeout;
        timeout(total, self.answer_by_any(&request, &mut emit)).await.unwrap_or_else(|_elapsed| {
            let reason = format!("no whole answer within {total:?}");
            Err(ModelError::Unavailable { reason, retry_after: None })
        })
    }

    async fn answer_by_any(
        &self,
        request: &ChatRequest,
        emit: &mut Emit,
    ) -> Result<ModelAnswer, ModelError> {
        let wanted = request.model.as_deref().unwrap_or(&self.settings.model);
        let fault = match self.answer_by(wanted, request, emit).await {
            Ok(answer) => return Ok(answer),
            Err(fault) => fault,
        };
        match self.settings.fallback.as_deref() {
            Some(fallback) if fallback != wanted && fault.is_of_the_model() => {
                warn!(model = wanted, fallback, error = %fault.error, "asking the fallback model");
                emit.reset().await;
                self.answer_by(fallback, request, emit).await.map_err(|second| second.error)
            }
            _ => Err(fault.error),
        }
    }

    async fn answer_by(
        &self,
        model: &str,
        request: &ChatRequest,
        emit: &mut Emit,
    ) -> Result<ModelAnswer, Fault> {
        let mut lacks = Lacks { stream_options: self.plain.load(Ordering::Relaxed), tools: false };
        let mut repetitions = 0;
        loop {
            let fault = match self.attempt(model, request, lacks, emit).await {
                Ok(answer) => {
                    self.note_answer(model);
                    return Ok(answer);
                }
                Err(fault) => fault,
            };
            if self.learn(&fault, &mut lacks) {
                continue;
            }
            let Some(pause) = fault.pause(repetitions, self.settings.max_retries) else {
                return Err(fault);
            };
            warn!(model, error = %fault.error, ?pause, "calling the model again");
            repetitions += 1;
            emit.reset().await;
            sleep(pause).await;
        }
    }

    /// Leaves out what the endpoint does not understand; returns whether that is news.
    fn learn(&self, fault: &Fault, lacks: &mut Lacks) -> bool {
        let before = *lacks;
        match fault.lacks {
            Some(Lack::StreamOptions) => {
                lacks.stream_options = true;
                self.plain.store(true, Ordering::Relaxed);
            }
            Some(Lack::Tools) => lacks.tools = true,
            None => {}
        }
        *lacks != before
    }
}
