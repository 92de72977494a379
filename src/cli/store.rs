//! `migrate`, `backup` and `restore`: what works on the store itself, not through a server.
#![expect(clippy::print_stderr, reason = "faults go to standard error")]

use std::{path::Path, process::ExitCode, sync::Arc};

use anyhow::Context;
use soma_config::{CentralizedConfig, ServerUrl};
use soma_contract::ids::SystemClock;

use super::{exit, out};
use crate::adapters::store::{
    postgres::PostgresStore,
    sqlite::{self, Inspection, Options, SqliteStore},
};

/// Brings the schema to this version, if it is older.
pub(super) fn migrate(config: &CentralizedConfig) -> ExitCode {
    match &config.storage.dsn {
        None => migrate_sqlite(config),
        Some(dsn) => migrate_postgres(dsn.clone()),
    }
}

/// Any number of processes may do this at once: one of them migrates, the others wait for it.
fn migrate_postgres(dsn: ServerUrl) -> ExitCode {
    finish(async move {
        let (before, now) = PostgresStore::migrate(dsn.expose())
            .await
            .with_context(|| format!("migrate `{dsn:?}`"))?;
        if before == now {
            Ok(format!("schema {now}: current"))
        } else {
            Ok(format!("schema {now}: brought up to date from {before}"))
        }
    })
}

fn migrate_sqlite(config: &CentralizedConfig) -> ExitCode {
    let data_dir = config.storage.data_dir.clone();
    finish(async move {
        let current = sqlite::newest_schema();
        if let Inspection::Found { version, pending } = SqliteStore::inspect(&data_dir).await?
            && pending.is_empty()
        {
            return Ok(format!("schema {version}: current"));
        }
        let handle = tokio::runtime::Handle::current();
        let clock = Arc::new(SystemClock);
        let store = SqliteStore::open(&data_dir, Options::default(), &handle, clock).await?;
        store.close().await;
        Ok(format!("schema {current}: brought up to date"))
    })
}

/// Copies the store to a new file, whether or not a server runs on it.
pub(super) fn backup(config: &CentralizedConfig, file: &Path) -> ExitCode {
    let source = config.storage.data_dir.join(sqlite::FILE);
    let is_embedded = config.storage.dsn.is_none();
    finish(async move {
        anyhow::ensure!(is_embedded, "back up a PostgreSQL database: use `pg_dump`");
        anyhow::ensure!(source.exists(), "there is no store at `{}`", source.display());
        sqlite::backup(&source, file)
            .await
            .with_context(|| format!("back up to `{}`", file.display()))?;
        Ok(format!("`{}` holds the store as of now", file.display()))
    })
}

/// Fills an empty data directory from a backup.
pub(super) fn restore(config: &CentralizedConfig, file: &Path) -> ExitCode {
    let data_dir = config.storage.data_dir.clone();
    let is_embedded = config.storage.dsn.is_none();
    finish(async move {
        anyhow::ensure!(is_embedded, "restore a PostgreSQL database: use `pg_restore`");
        sqlite::restore(file, &data_dir).await?;
        Ok(format!("`{}` is restored; start the server on it", data_dir.display()))
    })
}

/// Does the work of a command; returns the process's exit code.
pub(super) fn finish(work: impl Future<Output = anyhow::Result<String>>) -> ExitCode {
    let done = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .map_err(anyhow::Error::from)
        .and_then(|runtime| runtime.block_on(work));
    match done {
        Ok(text) => {
            out::line(&text);
            ExitCode::from(exit::OK)
        }
        Err(error) => {
            eprintln!("failed to {error:#}");
            ExitCode::from(exit::FAILED)
        }
    }
}
