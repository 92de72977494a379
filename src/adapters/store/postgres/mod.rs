//! PostgreSQL: one database for any number of replicas.
//!
//! What a replica is asked for meanwhile is committed together (group commit), one lane per kind of
//! write; readers take a connection of the same pool and see what was committed last.
//!
//! Rules that keep replicas apart and transactions from deadlocks:
//! - whoever changes a session, its turns, steps, log or outbox rows holds the session's row; a
//!   transaction takes all its sessions in one statement, in the order of their ids, before anything
//!   else, then the counters of memories in the order of theirs;
//! - what a transaction decides on is read in a statement of its own after the locks are held;
//! - a lease is measured by the server's clock; whoever finds one that has run out passes the epoch,
//!   and everything that the former holder still writes is fenced by it;
//! - beside a local bus one process has the store alone, its leases have no end, and it takes over
//!   everything at once: what the embedded store does.
//!
//! Delays and ages (`not_before`, `created_at`) are those of the replicas' clocks.

mod accept;
mod cancel;
mod claim;
mod dead_letter;
mod end;
mod engine;
mod fault;
mod inherit;
mod journal;
mod lane;
mod log;
mod memories;
mod memory_write;
mod outbox;
mod ownership;
mod registry;
mod replica;
mod retention;
mod row;
mod schema;
mod sessions;
mod shards;
mod steps;
mod target;
#[cfg(test)]
#[cfg(feature = "cluster-tests")]
pub(super) mod tests;
mod text;
mod transcript;
mod turns;

use std::{
    str::FromStr,
    sync::{Arc, Mutex},
    time::Duration,
};

use soma_contract::Clock;
use sqlx::{
    ConnectOptions, Connection, PgPool,
    migrate::MigrateError,
    postgres::{PgConnectOptions, PgPoolOptions},
};
use tokio::runtime::Handle;

pub use self::schema::{SchemaError, newest as newest_schema};
use self::{
    accept::Accept, claim::Claim, end::End, engine::Engine, journal::Journal, lane::Lane,
    memory_write::Enqueue, ownership::Ownership, steps::Settle,
};
pub(super) use self::{
    target::Target,
    text::{kept, kept_json, restored},
};

/// How a store is opened.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where the database is: `postgres://user:password@host:port/database`.
    pub dsn: String,
    /// Whether the bus is local: outbox rows are the records themselves, and this process must be
    /// the only one.
    pub bus_is_local: bool,
    /// Whether pending migrations may run.
    pub migrate: bool,
    /// Connections at most; one more holds the lock.
    pub connections: u32,
    /// How long a turn or a step is held without a sign of progress (`SA01_TURNS_LEASE`).
    pub lease: Duration,
}

impl Options {
    /// Returns the options for a shared database: replicas, migrated on request only.
    pub fn shared(dsn: impl Into<String>) -> Self {
        Self {
            dsn: dsn.into(),
            bus_is_local: false,
            migrate: false,
            connections: 16,
            lease: Duration::from_secs(30),
        }
    }
}

/// Why a store cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has the database alone, or this one would but others are there.
    #[error(
        "the database is in use: beside a local bus one process has it alone{}",
        if *.alone { ", and another is connected" } else { ", and such a process is connected" }
    )]
    InUse {
        /// Whether this process wanted it alone.
        alone: bool,
    },
    /// The database's schema is not one that this program can use.
    #[error(transparent)]
    Schema(#[from] SchemaError),
    /// A migration failed; the database is as before it.
    #[error("a migration failed")]
    Migration(#[from] MigrateError),
    /// The server cannot be reached, or refuses.
    #[error("cannot open the database")]
    Database(#[from] sqlx::Error),
}

impl OpenError {
    /// Returns whether the server may be reached a moment later: it is away or is just starting.
    pub fn is_passing(&self) -> bool {
        matches!(self, Self::Database(error) if fault::is_away(error))
    }
}

/// The store in one PostgreSQL database.
#[derive(Debug)]
pub struct PostgresStore {
    engine: Arc<Engine>,
    accepts: Lane<Accept>,
    claims: Lane<Claim>,
    entries: Lane<Journal>,
    endings: Lane<End>,
    settlings: Lane<Settle>,
    writes: Lane<Enqueue>,
}

impl PostgresStore {
    /// Connects to the database, checks its schema (and brings it up to date, if it may). The lanes
    /// live on `io`, the I/O runtime; call it and every method of the store there, too.
    ///
    /// # Errors
    ///
    /// The server cannot be reached, the schema is too new (or too old without permission to
    /// migrate), or another process has the database alone.
    pub async fn connect(
        options: Options,
        io: &Handle,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, OpenError> {
        let connect = connect_options(&options.dsn)?;
        schema::bring_up(&connect, options.migrate).await?;
        let alone = options.bus_is_local;
        let ownership = Ownership::take(connect.clone(), alone, io).await?;
        let ownership = ownership.ok_or(OpenError::InUse { alone })?;
        let pool = pool(connect, options.connections).await?;
        let (bus_is_local, lease) = (options.bus_is_local, options.lease);
        let engine = Arc::new(Engine {
            pool,
            clock,
            bus_is_local,
            lease,
            ownership,
            holders: Mutex::default(),
        });
        Ok(Self {
            accepts: Lane::start(io, &engine),
            claims: Lane::start(io, &engine),
            entries: Lane::start(io, &engine),
            endings: Lane::start(io, &engine),
            settlings: Lane::start(io, &engine),
            writes: Lane::start(io, &engine),
            engine,
        })
    }

    /// Brings the schema of a database up to date; returns its version before and now.
    ///
    /// # Errors
    ///
    /// The server cannot be reached, the schema is too new, or a migration fails.
    pub async fn migrate(dsn: &str) -> Result<(i64, i64), OpenError> {
        let found = Self::version(dsn).await?;
        schema::bring_up(&connect_options(dsn)?, true).await?;
        Ok((found, newest_schema()))
    }

    /// Returns the version of a database's schema without changing anything; 0 if it has none.
    ///
    /// # Errors
    ///
    /// The server cannot be reached, or the schema is not one that this program can use.
    pub async fn version(dsn: &str) -> Result<i64, OpenError> {
        let mut connection = connect_options(dsn)?.connect().await?;
        let found = schema::check(&mut connection).await?;
        connection.close().await?;
        Ok(found)
    }

    /// Closes every connection after what is under way, and gives the database up. Whatever is asked
    /// for later is `Unavailable`.
    pub async fn close(&self) {
        if let Err(fault) = self.engine.release_shards().await {
            tracing::warn!(%fault, "others wait until the leases on the shards have run out");
        }
        self.engine.pool.close().await;
        self.engine.ownership.release();
    }
}

/// A transaction that waits or idles for longer than this is broken off: it holds others up.
const SESSION: [(&str, &str); 8] = [
    ("statement_timeout", "5s"),
    ("lock_timeout", "2s"),
    ("idle_in_transaction_session_timeout", "5s"),
    // Where a server or role says otherwise: a commit is durable when it is answered.
    ("synchronous_commit", "on"),
    // Every statement finds its rows by an index. A plan is kept that was made while a table was
    // small: it must not be one that reads all of it, nor one that is compiled first.
    ("enable_seqscan", "off"),
    ("enable_hashjoin", "off"),
    ("enable_mergejoin", "off"),
    ("jit", "off"),
];

fn connect_options(dsn: &str) -> Result<PgConnectOptions, sqlx::Error> {
    Ok(PgConnectOptions::from_str(dsn)?
        .application_name("somaagent")
        .options(SESSION)
        .statement_cache_capacity(256)
        .disable_statement_logging())
}

/// How long a connection may have idled that is used without asking whether it lives.
const FRESH: Duration = Duration::from_secs(1);
/// How long a call waits for a connection: for one that is free, or for a server that is away.
const ACQUIRE: Duration = Duration::from_secs(2);

async fn pool(connect: PgConnectOptions, connections: u32) -> Result<PgPool, sqlx::Error> {
    PgPoolOptions::new()
        .max_connections(connections)
        .min_connections(1)
        .acquire_timeout(ACQUIRE)
        .test_before_acquire(false)
        .before_acquire(|connection, meta| {
            Box::pin(async move {
                if meta.idle_for > FRESH {
                    connection.ping().await?;
                }
                Ok(true)
            })
        })
        .connect_with(connect)
        .await
}
