//! Moves the write-ahead log into the database beside the commits, not in them.
//!
//! SQLite's own checkpoint runs inside whichever commit passes its threshold. Here another
//! connection copies the log while commits go on; what they added meanwhile is little, and the
//! writer copies that by itself, so that the log begins anew instead of growing for ever.

use sqlx::{
    ConnectOptions, Connection, Row, SqliteConnection, query, sqlite::SqliteConnectOptions,
};
use tokio::{runtime::Handle, task::JoinHandle};

use super::batch::control;

/// Commits between two looks at the log's length.
const LOOK_EVERY: u32 = 32;
/// Pages in the log from which on it is copied.
const PAGES: i64 = 2_000;
/// Copies what is in the log now, waiting for nobody.
const COPY: &str = "PRAGMA wal_checkpoint(PASSIVE)";
/// Tells how much is in the log.
const LOOK: &str = "PRAGMA wal_checkpoint(NOOP)";

/// Keeps the log short.
pub(super) struct Checkpoints {
    io: Handle,
    options: SqliteConnectOptions,
    commits: u32,
    connection: Option<SqliteConnection>,
    copying: Option<JoinHandle<Result<SqliteConnection, sqlx::Error>>>,
}

impl Checkpoints {
    /// Copies on the I/O runtime, over a connection of its own.
    pub(super) fn new(io: Handle, options: SqliteConnectOptions) -> Self {
        Self { io, options, commits: 0, connection: None, copying: None }
    }

    /// Begins to copy a log that has grown, or finishes a copy. Called between two commits; a
    /// failure is told and made good by a later call.
    pub(super) async fn tend(&mut self, writer: &mut SqliteConnection) {
        if let Err(error) = self.step(writer).await {
            tracing::warn!(%error, "the write-ahead log is not copied");
        }
    }

    async fn step(&mut self, writer: &mut SqliteConnection) -> Result<(), sqlx::Error> {
        if let Some(copying) = self.copying.take_if(|copying| copying.is_finished()) {
            self.connection = Some(copying.await.map_err(|_panicked| sqlx::Error::WorkerCrashed)??);
            return control(writer, COPY).await;
        }
        self.commits += 1;
        if self.copying.is_none() && self.commits >= LOOK_EVERY {
            self.commits = 0;
            let pages: i64 = query(LOOK).fetch_one(writer).await?.try_get(1)?;
            if pages >= PAGES {
                let copying = copy(self.connection.take(), self.options.clone());
                self.copying = Some(self.io.spawn(copying));
            }
        }
        Ok(())
    }

    /// Waits for a copy that is under way.
    pub(super) async fn close(&mut self) {
        if let Some(copying) = self.copying.take() {
            copying.await.ok();
        }
        if let Some(connection) = self.connection.take() {
            connection.close().await.ok();
        }
    }
}

/// Copies the log twice: the first copy takes long, so that much is added meanwhile.
async fn copy(
    connection: Option<SqliteConnection>,
    options: SqliteConnectOptions,
) -> Result<SqliteConnection, sqlx::Error> {
    let mut connection = match connection {
        Some(connection) => connection,
        None => options.connect().await?,
    };
    for _ in 0..2 {
        control(&mut connection, COPY).await?;
    }
    Ok(connection)
}
