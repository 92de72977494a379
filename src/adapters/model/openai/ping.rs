//! Asks the endpoint for news: `GET /v1/models`, which costs nothing.
//!
//! A probe that asks for a completion would cost money every few seconds. So a server without that
//! list, or one that does not list an alias it knows, is believed to be well until a call fails.

use std::{sync::PoisonError, time::Duration};

use reqwest::StatusCode;
use serde_json::Value;
use soma_contract::port::model::ModelError;
use tokio::time::{Instant, timeout};

use super::{attempt::broken, call::Endpoint, fault::Fault};

/// How long good news is good.
const GOOD_FOR: Duration = Duration::from_secs(30);
/// How long bad news is believed.
const BAD_FOR: Duration = Duration::from_secs(5);
/// How long the list may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// The longest list.
const LIST_BYTES: usize = 4 << 20;

/// What was learnt last.
#[derive(Debug, Default)]
pub(super) struct Known {
    news: Option<(Instant, Result<(), ModelError>)>,
    /// The configured model has answered: it exists, listed or not.
    has_answered: bool,
}

impl Known {
    fn fresh(&self, now: Instant) -> Option<Result<(), ModelError>> {
        let (at, news) = self.news.as_ref()?;
        let good_for = if news.is_ok() { GOOD_FOR } else { BAD_FOR };
        (now.saturating_duration_since(*at) < good_for).then(|| news.clone())
    }
}

impl Endpoint {
    /// Answers from what is known for a little while, so that frequent probes cost little.
    pub(super) async fn ping(&self) -> Result<(), ModelError> {
        let fresh = self.with_known(|known| known.fresh(Instant::now()));
        if let Some(news) = fresh {
            return news;
        }
        let patience = PATIENCE.min(self.settings.read_timeout);
        let news = timeout(patience, self.ask_for_models())
            .await
            .unwrap_or_else(|_elapsed| Err(Fault::broken(format!("silent for {patience:?}"))))
            .map_err(|fault| fault.error);
        self.with_known(|known| known.news = Some((Instant::now(), news.clone())));
        news
    }

    /// Notes that a model has answered.
    pub(super) fn note_answer(&self, model: &str) {
        if model == self.settings.model {
            self.with_known(|known| {
                known.has_answered = true;
                known.news = Some((Instant::now(), Ok(())));
            });
        }
    }

    async fn ask_for_models(&self) -> Result<(), Fault> {
        let asking = self.client.get(self.address.models.clone()).send();
        let response = asking.await.map_err(|error| broken(&error))?;
        let (status, headers) = (response.status(), response.headers().clone());
        let body = self.read_body(response, LIST_BYTES).await?;
        match status {
            StatusCode::OK => self.find_model(&body),
            StatusCode::NOT_FOUND
            | StatusCode::METHOD_NOT_ALLOWED
            | StatusCode::NOT_IMPLEMENTED => Ok(()),
            _ => Err(Fault::status(status, &headers, &body, &self.settings.model)),
        }
    }

    fn find_model(&self, body: &str) -> Result<(), Fault> {
        let model = &self.settings.model;
        let answered = self.with_known(|known| known.has_answered);
        if answered || lists(body, model) {
            return Ok(());
        }
        Err(Fault { error: ModelError::NoSuchModel(model.clone()), again: false, lacks: None })
    }

    fn with_known<T>(&self, look: impl FnOnce(&mut Known) -> T) -> T {
        look(&mut self.known.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Returns whether a list has the model, under its own name or with a tag or folder; whatever is no
/// list of names has every model.
fn lists(body: &str, model: &str) -> bool {
    let Ok(list) = serde_json::from_str::<Value>(body) else { return true };
    let rows = list.get("data").or_else(|| list.get("models")).unwrap_or(&list);
    let Some(rows) = rows.as_array() else { return true };
    let names: Vec<&str> = rows
        .iter()
        .filter_map(|row| row.get("id").or_else(|| row.get("name")).and_then(Value::as_str))
        .collect();
    names.is_empty() || names.iter().any(|name| is_called(name, model))
}

fn is_called(name: &str, model: &str) -> bool {
    name == model
        || name.strip_prefix(model).is_some_and(|rest| rest.starts_with(':'))
        || name.strip_suffix(model).is_some_and(|rest| rest.ends_with('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_is_found_under_its_name_with_tag_or_folder() {
        let body = r#"{"data":[{"id":"llama3.2:latest"},{"id":"models/gemini-x"},{"id":"gpt-y"}]}"#;
        for (model, found) in
            [("llama3.2", true), ("gemini-x", true), ("gpt-y", true), ("gpt", false), ("x", false)]
        {
            assert_eq!(lists(body, model), found, "{model}");
        }
        for odd in ["", "<html>", "{}", "{\"data\":[]}", "[1]"] {
            assert!(lists(odd, "gpt"), "{odd}");
        }
    }
}
