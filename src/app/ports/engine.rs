//! Which store keeps the truth, and how it is opened.

use std::{sync::Arc, time::Duration};

use anyhow::Context;
use soma_config::{CentralizedConfig, ServerUrl};
use soma_contract::{Clock, port::store::Store};
use soma_runtime::Io;
use tokio::time::{Instant, sleep};

use crate::adapters::store::{
    postgres::{self, PostgresStore},
    sqlite::{self, SqliteStore},
};

/// For how long a database that cannot be reached is waited for at the start.
const PATIENCE: Duration = Duration::from_mins(1);
/// The pause between two tries.
const AGAIN: Duration = Duration::from_secs(1);

/// The store by its vendor: only who opens and closes it asks.
#[derive(Debug, Clone)]
pub(in crate::app) enum Engine {
    /// A file of this process alone.
    Sqlite(Arc<SqliteStore>),
    /// A database for any number of replicas.
    Postgres(Arc<PostgresStore>),
}

impl Engine {
    /// Opens the store that the configuration names.
    pub(super) async fn open(
        config: &CentralizedConfig,
        io: &Io,
        clock: Arc<dyn Clock>,
    ) -> anyhow::Result<Self> {
        match &config.storage.dsn {
            None => sqlite(config, io, clock).await.map(Self::Sqlite),
            Some(dsn) => postgres(config, dsn, io, clock).await.map(Self::Postgres),
        }
    }

    /// Returns the store as the services see it.
    pub(super) fn port(&self) -> Arc<dyn Store> {
        match self {
            Self::Sqlite(store) => Arc::clone(store) as Arc<dyn Store>,
            Self::Postgres(store) => Arc::clone(store) as Arc<dyn Store>,
        }
    }

    /// Closes the store after what is under way.
    pub(in crate::app) async fn close(self) {
        match self {
            Self::Sqlite(store) => store.close().await,
            Self::Postgres(store) => store.close().await,
        }
    }
}

async fn sqlite(
    config: &CentralizedConfig,
    io: &Io,
    clock: Arc<dyn Clock>,
) -> anyhow::Result<Arc<SqliteStore>> {
    let (data_dir, handle) = (config.storage.data_dir.clone(), io.handle().clone());
    // The future of a migration is not `Send`, so it stays on one thread.
    let opening = move || {
        let options = sqlite::Options::default();
        handle.block_on(SqliteStore::open(&data_dir, options, &handle, clock))
    };
    let store = io.handle().spawn_blocking(opening).await?;
    let place = config.storage.data_dir.display().to_string();
    Ok(Arc::new(store.with_context(|| format!("open the store in `{place}`"))?))
}

/// A server that is away comes back, or is just starting; one that refuses does not change its mind.
async fn postgres(
    config: &CentralizedConfig,
    dsn: &ServerUrl,
    io: &Io,
    clock: Arc<dyn Clock>,
) -> anyhow::Result<Arc<PostgresStore>> {
    let bus_is_local = config.bus.bootstrap_servers.is_none();
    let options = postgres::Options {
        dsn: dsn.expose().to_owned(),
        bus_is_local,
        migrate: bus_is_local,
        connections: config.storage.pool_max_size,
        lease: config.turns.lease,
    };
    let began = Instant::now();
    loop {
        let (options, handle, clock) = (options.clone(), io.handle().clone(), Arc::clone(&clock));
        let opening = move || handle.block_on(PostgresStore::connect(options, &handle, clock));
        match io.handle().spawn_blocking(opening).await? {
            Ok(store) => return Ok(Arc::new(store)),
            Err(error) if error.is_passing() && began.elapsed() < PATIENCE => {
                let error = anyhow::Error::from(error);
                tracing::warn!("the database cannot be reached yet: {error:#}");
                sleep(AGAIN).await;
            }
            Err(error) => {
                return Err(error).with_context(|| format!("open the store in `{dsn:?}`"));
            }
        }
    }
}
