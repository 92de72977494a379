//! `promote`: copies the embedded store into an empty PostgreSQL.

use std::process::ExitCode;

use anyhow::Context;
use soma_config::{CentralizedConfig, ServerUrl};
use tokio::runtime::Handle;

use super::{out, store::finish};
use crate::adapters::store::promote::{Progress, PromoteError, Promotion};

/// Copies the store of the data directory, on which no server may run, and compares the two.
pub(super) fn promote(config: &CentralizedConfig, to: &ServerUrl) -> ExitCode {
    let data_dir = config.storage.data_dir.clone();
    let to = to.clone();
    finish(async move {
        let promote = async {
            let mut promotion =
                Promotion::begin(&data_dir, to.expose(), &Handle::current()).await?;
            while let Some(progress) = promotion.step().await? {
                if progress.done {
                    let Progress { table, rows, .. } = progress;
                    out::line(&format!("copied {table}: {rows} rows"));
                }
            }
            let tables = promotion.compare().await?;
            Ok::<u64, PromoteError>(tables.iter().map(|table| table.rows).sum())
        };
        let rows = promote
            .await
            .with_context(|| format!("promote `{}` to `{to:?}`", data_dir.display()))?;
        Ok(format!(
            "{rows} rows copied and compared: set `SA01_DB_DSN` to the database and start the server"
        ))
    })
}
