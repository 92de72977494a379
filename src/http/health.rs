//! Health and metrics. Nothing here waits for anything: the probes run in the background.

use std::{collections::BTreeMap, fmt};

use actix_web::{HttpResponse, http::StatusCode};
use chrono::{DateTime, Utc};
use prometheus::{Encoder, TextEncoder};
use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa::ToSchema;

use super::{
    call::{Call, is_set, json},
    problem::{Answer, Problem},
};

/// What the probes have found.
pub trait HealthSource: Send + Sync + fmt::Debug {
    /// Says why the threads of this process do not move, if they do not. Never looks at
    /// dependencies; a process that drains or halts is live.
    ///
    /// # Errors
    ///
    /// What does not move, and since when.
    fn live(&self) -> Result<(), String>;

    /// Says what has not come up yet.
    ///
    /// # Errors
    ///
    /// What is missing.
    fn started(&self) -> Result<(), String>;

    /// Says why this process wants no requests now.
    ///
    /// # Errors
    ///
    /// Why: starting, draining, overloaded.
    fn ready(&self) -> Result<(), String>;

    /// Returns the newest state of every component.
    fn report(&self) -> HealthReport;
}

/// The state of the whole.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(as = Health)]
pub struct HealthReport {
    /// The worst that matters.
    pub status: HealthStatus,
    /// Every component by name.
    pub components: BTreeMap<String, ComponentHealth>,
}

/// How somebody or something fares.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum HealthStatus {
    /// Well.
    Ok,
    /// It works, with something missing.
    Degraded,
    /// It does not work.
    Down,
}

/// The state of a component.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ComponentHealth {
    /// How it fares.
    pub status: HealthStatus,
    /// How long the last probe took, in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub latency_ms: Option<f64>,
    /// Since when it fares so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since: Option<DateTime<Utc>>,
    /// What went wrong last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_error: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Query {
    strict: Option<String>,
}

/// `GET /v1/health` and its old paths.
pub(super) async fn report(call: Call) -> Answer {
    let query: Query = call.query()?;
    let report = call.edge.parts().health.report();
    let is_bad = report.status == HealthStatus::Down && is_set(query.strict.as_deref());
    json(if is_bad { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::OK }, &report)
}

/// `GET /live`.
pub(super) async fn live(call: Call) -> Answer {
    probe(call.edge.parts().health.live())
}

/// `GET /startup`.
pub(super) async fn startup(call: Call) -> Answer {
    probe(call.edge.parts().health.started())
}

/// `GET /ready`.
pub(super) async fn ready(call: Call) -> Answer {
    probe(call.edge.parts().health.ready())
}

/// `GET /metrics`.
pub(super) async fn metrics(call: Call) -> Answer {
    let mut text = Vec::new();
    TextEncoder::new()
        .encode(&call.edge.parts().registry.gather(), &mut text)
        .map_err(Problem::internal)?;
    Ok(HttpResponse::Ok().content_type(prometheus::TEXT_FORMAT).body(text))
}

/// What a probe answers.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Probe {
    /// Yes or no.
    status: &'static str,
    /// Why not.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

fn probe(outcome: Result<(), String>) -> Answer {
    match outcome {
        Ok(()) => json(StatusCode::OK, &json!({"status": "ok"})),
        Err(reason) => {
            let probe = Probe { status: "no", reason: Some(reason) };
            json(StatusCode::SERVICE_UNAVAILABLE, &probe)
        }
    }
}
