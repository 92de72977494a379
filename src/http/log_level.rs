//! Sets what is logged while the process runs.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{
    call::{Call, ok},
    codes,
    problem::{Answer, Problem},
};

/// What `PUT /v1/admin/log-level` takes and answers.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct LogLevel {
    /// A level, and after commas other levels for single parts: `info,soma_gateway=debug`.
    level: String,
}

/// `PUT /v1/admin/log-level`.
pub(super) async fn set(call: Call) -> Answer {
    let asked: LogLevel = call.json()?;
    (call.edge.parts().set_log_level)(&asked.level)
        .map_err(|why| Problem::new(codes::INVALID_BODY, format!("`level`: {why}")))?;
    tracing::info!(level = asked.level, subject = call.caller.subject, "the log level was set");
    ok(&asked)
}
