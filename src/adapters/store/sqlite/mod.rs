//! SQLite: the whole store in one file of the data directory, owned by one process.
//!
//! One writer commits for many callers at once (group commit); readers have their own connections
//! and see what was committed last. WAL with `synchronous=FULL`: what was answered survives a
//! power cut.
//!
//! Decided here, where the port leaves it open:
//! - a turn is a suspect from the process's death on, whatever progress it makes and however often
//!   it is replayed;
//! - a turn's epoch passes with every claim, lay-down, inheritance and deletion, hence a run is
//!   fenced by its turn's row alone;
//! - no turn waits for a person yet, so the backlog is every unfinished turn;
//! - on the local bus a claim acknowledges all `conversation.inbound` records of its session: who
//!   ends a turn looks for the next by itself.

mod accept;
mod backup;
mod batch;
mod cancel;
mod checkpoint;
mod claim;
mod dead_letter;
mod end;
mod fault;
mod inherit;
mod journal;
mod lock;
mod log;
mod memories;
mod memory_write;
mod outbox;
mod queue;
mod registry;
mod replica;
mod retention;
mod row;
mod schema;
mod search;
mod source;
mod steps;
#[cfg(test)]
mod suite;
#[cfg(test)]
mod tests;
mod transcript;
mod turns;
mod work;
mod writer;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use soma_contract::{
    Clock,
    port::store::{StoreError, StoreResult},
};
use sqlx::{
    ConnectOptions, Sqlite, SqlitePool,
    migrate::MigrateError,
    pool::PoolConnection,
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous},
};
use tokio::{
    runtime::Handle,
    sync::{Semaphore, SemaphorePermit},
};

pub(super) use self::source::Source;
pub use self::{
    backup::{RestoreError, backup, restore},
    lock::LockError,
    schema::{Inspection, SchemaError, newest as newest_schema},
};
use self::{fault::Fault, lock::DirLock, writer::Writer};

/// The database's file, in the data directory.
pub const FILE: &str = "somaagent.db";

/// How long a read waits for a connection; who asks has a deadline of its own, which is shorter.
const READ_PATIENCE: Duration = Duration::from_mins(1);

/// How a store is opened.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Whether outbox rows are the records themselves, so that topics nobody reads keep none.
    pub bus_is_local: bool,
    /// Whether pending migrations may run.
    pub migrate: bool,
    /// Connections for reading; searches leave one of them to everybody else.
    pub readers: u32,
}

impl Default for Options {
    fn default() -> Self {
        Self { bus_is_local: true, migrate: true, readers: 3 }
    }
}

/// Why a store cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The data directory is another process's, or cannot be used.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// The file's schema is not one that this program can use.
    #[error(transparent)]
    Schema(#[from] SchemaError),
    /// A migration failed; the file is as before it.
    #[error("a migration failed")]
    Migration(#[from] MigrateError),
    /// SQLite cannot open the file.
    #[error("cannot open the database")]
    Database(#[from] sqlx::Error),
}

/// Says whether this process could own the data directory, and changes nothing.
///
/// # Errors
///
/// Another process owns it, or the file system would refuse.
pub fn could_own(data_dir: &Path) -> Result<(), LockError> {
    DirLock::look(data_dir)
}

/// The store in one SQLite file.
#[derive(Debug)]
pub struct SqliteStore {
    writer: Writer,
    readers: SqlitePool,
    /// Searches take long: others do not wait for them.
    searches: Semaphore,
    clock: Arc<dyn Clock>,
    path: PathBuf,
    lock: DirLock,
}

impl SqliteStore {
    /// Locks the data directory, opens or makes the database in it and brings its schema up to
    /// date. Call it and every method of the store on `io`, the I/O runtime.
    ///
    /// # Errors
    ///
    /// The directory is in use, the schema is too new (or too old without permission to migrate),
    /// or SQLite cannot open the file.
    pub async fn open(
        data_dir: &Path,
        options: Options,
        io: &Handle,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, OpenError> {
        let lock = DirLock::acquire(data_dir)?;
        let path = data_dir.join(FILE);
        let connect = write_options(&path);
        let mut connection = connect.connect().await?;
        schema::bring_up(&mut connection, &path, options.migrate).await?;
        let readers = SqlitePoolOptions::new()
            .max_connections(options.readers)
            .min_connections(1)
            .acquire_timeout(READ_PATIENCE)
            .test_before_acquire(false)
            .connect_with(read_options(&path))
            .await?;
        let bus_is_local = options.bus_is_local;
        let writer = Writer::start(io, connection, connect, Arc::clone(&clock), bus_is_local)
            .map_err(sqlx::Error::from)?;
        let searches = usize::try_from(options.readers.saturating_sub(1)).unwrap_or(usize::MAX);
        let searches = Semaphore::new(searches.clamp(1, Semaphore::MAX_PERMITS));
        Ok(Self { writer, readers, searches, clock, path, lock })
    }

    /// Looks at a data directory without changing anything: what opening it would do.
    ///
    /// # Errors
    ///
    /// The file cannot be read, or its schema is not one that this program can use.
    pub async fn inspect(data_dir: &Path) -> Result<Inspection, OpenError> {
        schema::inspect(&data_dir.join(FILE)).await
    }

    /// Ends the writer after everything that was asked for, closes the file and gives the directory
    /// up. Whatever is asked for later is `Unavailable`.
    pub async fn close(&self) {
        self.readers.close().await;
        self.writer.close().await;
        self.lock.release();
    }

    /// Returns where the database is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    async fn reader(&self) -> StoreResult<PoolConnection<Sqlite>> {
        Ok(self.readers.acquire().await.map_err(Fault::from)?)
    }

    /// Waits for one of the connections that searches may have.
    async fn searcher(&self) -> StoreResult<(SemaphorePermit<'_>, PoolConnection<Sqlite>)> {
        let permit = self.searches.acquire().await;
        let permit = permit.map_err(|closed| StoreError::Unavailable(closed.to_string()))?;
        Ok((permit, self.reader().await?))
    }
}

fn options(path: &Path) -> SqliteConnectOptions {
    SqliteConnectOptions::new()
        .filename(path)
        .busy_timeout(Duration::from_secs(5))
        .statement_cache_capacity(256)
        .disable_statement_logging()
        .pragma("temp_store", "memory")
        .pragma("mmap_size", "268435456")
}

fn write_options(path: &Path) -> SqliteConnectOptions {
    options(path)
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full)
        .foreign_keys(true)
        .thread_name(|_| "store-writer".to_owned())
        .pragma("cache_size", "-16384")
        .pragma("wal_autocheckpoint", "0")
        .pragma("journal_size_limit", "67108864")
}

fn read_options(path: &Path) -> SqliteConnectOptions {
    options(path).read_only(true).thread_name(|id| format!("store-reader-{id}"))
}
