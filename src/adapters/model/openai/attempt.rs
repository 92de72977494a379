//! One call: sends the prompt, tells the text as it comes, returns the whole answer.

use std::time::Duration;

use futures::StreamExt;
use reqwest::{Response, StatusCode, header::CONTENT_TYPE};
use soma_contract::model::{ChatRequest, ModelAnswer, Usage};
use tokio::time::timeout;

use super::{
    call::Endpoint,
    collect::Collected,
    decode::{Decoder, Progress},
    emit::Emit,
    fault::Fault,
    request::{self, Lacks},
};

/// How long the count of tokens may come after the last word.
const GRACE: Duration = Duration::from_secs(1);
/// Bytes of an error's body that are read.
const ERROR_BYTES: usize = 16 * 1024;

impl Endpoint {
    /// Makes one call.
    pub(super) async fn attempt(
        &self,
        model: &str,
        request: &ChatRequest,
        lacks: Lacks,
        emit: &mut Emit,
    ) -> Result<ModelAnswer, Fault> {
        let body = request::body(request, model, lacks);
        let sending = self.client.post(self.address.chat.clone()).json(&body).send();
        let response = self.in_time(sending).await?.map_err(|error| broken(&error))?;
        if response.status() != StatusCode::OK {
            return Err(self.refused(response, model).await);
        }
        let collected = if is_json(&response) {
            self.read_whole(response, emit).await?
        } else {
            self.read_stream(response, emit).await?
        };
        Ok(self.answer_of(collected, request, model))
    }

    async fn read_stream(&self, response: Response, emit: &mut Emit) -> Result<Collected, Fault> {
        let mut bytes = response.bytes_stream();
        let mut decoder = Decoder::new(self.bounds);
        while decoder.progress() != Progress::Ended {
            let finished = decoder.progress() == Progress::Finished;
            let wait = if finished { GRACE } else { self.settings.read_timeout };
            match timeout(wait, bytes.next()).await {
                Ok(Some(Ok(piece))) => {
                    decoder.push(&piece);
                    while let Some(text) = decoder.next()? {
                        emit.delta(text).await;
                    }
                }
                Ok(None) => {
                    if let Some(text) = decoder.close()? {
                        emit.delta(text).await;
                    }
                    break;
                }
                // The answer is whole; whatever happens to the rest of the stream.
                Ok(Some(Err(_))) | Err(_) if finished => break,
                Ok(Some(Err(error))) => return Err(broken(&error)),
                Err(_elapsed) => return Err(self.silent()),
            }
        }
        match decoder.progress() {
            Progress::Open => Err(Fault::broken("the stream broke off before the answer's end")),
            Progress::Finished | Progress::Ended => Ok(decoder.into_collected()),
        }
    }

    async fn read_whole(&self, response: Response, emit: &mut Emit) -> Result<Collected, Fault> {
        let body = self.read_body(response, self.bounds.event_bytes).await?;
        let mut decoder = Decoder::new(self.bounds);
        if let Some(text) = decoder.whole(&body)? {
            emit.delta(text).await;
        }
        match decoder.progress() {
            Progress::Open => Err(Fault::malformed("an answer that says nothing".to_owned())),
            Progress::Finished | Progress::Ended => Ok(decoder.into_collected()),
        }
    }

    async fn refused(&self, response: Response, model: &str) -> Fault {
        let (status, headers) = (response.status(), response.headers().clone());
        let body = self.read_body(response, ERROR_BYTES).await.unwrap_or_default();
        Fault::status(status, &headers, &body, model)
    }

    /// Reads a body; one that is longer than `max_bytes` is malformed.
    pub(super) async fn read_body(
        &self,
        response: Response,
        max_bytes: usize,
    ) -> Result<String, Fault> {
        let mut bytes = response.bytes_stream();
        let mut body = Vec::new();
        while let Some(piece) = self.in_time(bytes.next()).await? {
            body.extend_from_slice(&piece.map_err(|error| broken(&error))?);
            if body.len() > max_bytes {
                return Err(Fault::malformed(format!("a body of more than {max_bytes} bytes")));
            }
        }
        Ok(String::from_utf8_lossy(&body).into_owned())
    }

    fn answer_of(&self, mut answer: Collected, request: &ChatRequest, model: &str) -> ModelAnswer {
        let tool_calls = answer.tool_calls();
        let told = answer.usage.and_then(|usage| {
            Some(Usage {
                input_tokens: usage.prompt_tokens?,
                output_tokens: usage.completion_tokens.unwrap_or(0),
            })
        });
        let usage = told.unwrap_or_else(|| {
            let count = |text: &str| self.tokens.count(text) as u64;
            Usage {
                input_tokens: request.messages.iter().map(|message| count(message.content())).sum(),
                output_tokens: count(&answer.text)
                    + tool_calls.iter().map(|call| count(&call.arguments)).sum::<u64>(),
            }
        });
        let stopped = if tool_calls.is_empty() { "stop" } else { "tool_calls" };
        ModelAnswer {
            text: answer.text,
            tool_calls,
            usage,
            model: answer.model.unwrap_or_else(|| model.to_owned()),
            finish_reason: answer.finish_reason.unwrap_or_else(|| stopped.to_owned()),
        }
    }

    /// Waits for the endpoint, but not for ever.
    pub(super) async fn in_time<F: Future>(&self, future: F) -> Result<F::Output, Fault> {
        timeout(self.settings.read_timeout, future).await.map_err(|_elapsed| self.silent())
    }

    fn silent(&self) -> Fault {
        Fault::broken(format!("silent for {:?}", self.settings.read_timeout))
    }
}

fn is_json(response: &Response) -> bool {
    let kind = response.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
    kind.is_some_and(|kind| kind.starts_with("application/json"))
}

/// Tells the whole chain of causes: the outermost one only says that a request failed.
pub(super) fn broken(error: &reqwest::Error) -> Fault {
    let mut reason = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        reason = format!("{reason}: {cause}");
        source = cause.source();
    }
    Fault::broken(reason)
}
