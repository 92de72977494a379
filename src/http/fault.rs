//! Makes a service misbehave, to see what supervision makes of it. Only test builds have this.

use std::time::Duration;

use actix_web::HttpResponse;
use serde::Deserialize;
use soma_runtime::Fault;
use utoipa::ToSchema;

use super::{
    call::Call,
    codes,
    problem::{Answer, Problem},
};

/// What `POST /v1/services/{name}/fault` takes.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct InjectedFault {
    /// What the service does at its next turn.
    kind: FaultKind,
    /// How long its thread is blocked.
    #[serde(default)]
    for_ms: u64,
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
enum FaultKind {
    /// Panics.
    Panic,
    /// Blocks its thread.
    Block,
}

/// `POST /v1/services/{name}/fault`.
pub(super) async fn inject(call: Call) -> Answer {
    let asked: InjectedFault = call.json()?;
    let name = call.part("name");
    let fault = match asked.kind {
        FaultKind::Panic => Fault::Panic,
        FaultKind::Block => Fault::Block(Duration::from_millis(asked.for_ms)),
    };
    tracing::warn!(service = name, ?fault, "a fault was ordered");
    if call.edge.parts().supervision.inject(name, fault) {
        Ok(HttpResponse::NoContent().finish())
    } else {
        Err(Problem::new(codes::NOT_FOUND, format!("no service is called `{name}`")))
    }
}
