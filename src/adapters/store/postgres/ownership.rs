//! Who may use a database: either any number of replicas, or one process alone.
//!
//! Beside a local bus one process owns the store, as it owns a data directory: it holds an exclusive
//! session advisory lock. Replicas hold the same lock shared, so that the two never mix. The lock
//! is only ever tried, never waited for. It goes with its connection: when that breaks, a lone owner
//! writes nothing until it has the lock again, and its epochs fence what it had begun before.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use sqlx::{ConnectOptions, Connection, PgConnection, postgres::PgConnectOptions, query_scalar};
use tokio::{runtime::Handle, task::AbortHandle};

/// The lock's key: `soma` as bytes, and what it is for.
const KEY: i64 = 0x736f_6d61_0000_0001;
/// How often the lock's connection is asked whether it lives.
const WATCH: Duration = Duration::from_secs(1);
/// How long it may take to answer; and how long a process that has just died may hold the lock, until
/// the server has seen that it is gone.
const PATIENCE: Duration = Duration::from_secs(5);
/// How often the lock is tried meanwhile.
const POLL: Duration = Duration::from_millis(50);

/// Holds the lock until it is dropped or released.
#[derive(Debug)]
pub(super) struct Ownership {
    alone: bool,
    held: Arc<AtomicBool>,
    watch: AbortHandle,
}

impl Ownership {
    /// Takes the lock, alone or together with other replicas; `None` if it is another's.
    pub(super) async fn take(
        options: PgConnectOptions,
        alone: bool,
        io: &Handle,
    ) -> Result<Option<Self>, sqlx::Error> {
        let mut connection = options.connect().await?;
        let asked = tokio::time::Instant::now();
        while !try_lock(&mut connection, alone).await? {
            if asked.elapsed() > PATIENCE {
                connection.close().await.ok();
                return Ok(None);
            }
            tokio::time::sleep(POLL).await;
        }
        let held = Arc::new(AtomicBool::new(true));
        let watch = io.spawn(watch(options, alone, connection, Arc::clone(&held))).abort_handle();
        Ok(Some(Self { alone, held, watch }))
    }

    /// Returns whether this process may write. Replicas always may: leases and epochs part them.
    pub(super) fn holds(&self) -> bool {
        !self.alone || self.held.load(Ordering::Acquire)
    }

    /// Gives the lock up with its connection.
    pub(super) fn release(&self) {
        self.watch.abort();
    }
}

impl Drop for Ownership {
    fn drop(&mut self) {
        self.release();
    }
}

/// Tries to take the lock on this connection.
pub(super) async fn try_lock(
    connection: &mut PgConnection,
    alone: bool,
) -> Result<bool, sqlx::Error> {
    let sql = if alone {
        "SELECT pg_try_advisory_lock($1)"
    } else {
        "SELECT pg_try_advisory_lock_shared($1)"
    };
    query_scalar(sql).bind(KEY).fetch_one(connection).await
}

async fn watch(
    options: PgConnectOptions,
    alone: bool,
    connection: PgConnection,
    held: Arc<AtomicBool>,
) {
    let mut connection = Some(connection);
    loop {
        tokio::time::sleep(WATCH).await;
        if let Some(lock) = &mut connection {
            if matches!(tokio::time::timeout(PATIENCE, lock.ping()).await, Ok(Ok(()))) {
                continue;
            }
            held.store(false, Ordering::Release);
            connection = None;
            tracing::warn!(alone, "the lock on the store is lost with its connection");
        }
        let Ok(mut fresh) = options.connect().await else { continue };
        if matches!(try_lock(&mut fresh, alone).await, Ok(true)) {
            connection = Some(fresh);
            held.store(true, Ordering::Release);
            tracing::info!(alone, "the lock on the store is held again");
        } else {
            fresh.close().await.ok();
        }
    }
}
