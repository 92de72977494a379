//! Backup of a running store, and restore into a fresh data directory.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

use soma_contract::port::store::{StoreError, StoreResult};
use sqlx::{ConnectOptions, Connection, query, query_scalar, sqlite::SqliteConnectOptions};

use super::{FILE, OpenError, SqliteStore, fault::Fault, lock::DirLock, schema};

impl SqliteStore {
    /// Writes a consistent copy of the store into a new file while everything goes on.
    ///
    /// # Errors
    ///
    /// The file exists, or cannot be written.
    pub async fn backup(&self, target: &Path) -> StoreResult<()> {
        backup(self.path(), target).await
    }
}

/// Writes a consistent copy of a database file into a new file; others may use it meanwhile.
///
/// # Errors
///
/// The target exists, or cannot be written.
pub async fn backup(source: &Path, target: &Path) -> StoreResult<()> {
    let io = |error: io::Error| StoreError::Unavailable(error.to_string());
    if target.exists() {
        return Err(StoreError::Refused(format!("`{}` exists already", target.display())));
    }
    let text = target
        .to_str()
        .ok_or_else(|| StoreError::Refused(format!("`{}` is not UTF-8", target.display())))?;
    let options = SqliteConnectOptions::new().filename(source).read_only(true);
    let mut connection = options.connect().await.map_err(Fault::from)?;
    let copied = query("VACUUM INTO $1").bind(text.to_owned()).execute(&mut connection).await;
    connection.close().await.map_err(Fault::from)?;
    copied.map_err(Fault::from)?;
    File::open(target).and_then(|file| file.sync_all()).map_err(io)?;
    sync_parent(target).map_err(io)
}

/// Why a backup was not restored.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// The data directory holds a store already.
    #[error("`{}` exists already: restore into an empty data directory", .0.display())]
    Used(PathBuf),
    /// The backup is damaged, or no store at all.
    #[error("`{}` is no sound backup: {reason}", path.display())]
    Unsound {
        /// The backup.
        path: PathBuf,
        /// What the check found.
        reason: String,
    },
    /// Its schema or the directory is not one that this program can use.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The copy failed.
    #[error("cannot copy the backup")]
    Io(#[from] io::Error),
}

/// Checks a backup and copies it into a data directory that has no store yet.
///
/// # Errors
///
/// The directory is in use or holds a store; the backup is damaged or too new; the copy fails.
pub async fn restore(backup: &Path, data_dir: &Path) -> Result<(), RestoreError> {
    let lock = DirLock::acquire(data_dir).map_err(OpenError::from)?;
    let target = data_dir.join(FILE);
    if target.exists() {
        return Err(RestoreError::Used(target));
    }
    check(backup).await?;
    // A copy that breaks off must not look like a store.
    let partial = target.with_extension("db.partial");
    fs::copy(backup, &partial)?;
    File::open(&partial)?.sync_all()?;
    fs::rename(&partial, &target)?;
    sync_parent(&target)?;
    drop(lock);
    Ok(())
}

async fn check(backup: &Path) -> Result<(), RestoreError> {
    let unsound = |reason: String| RestoreError::Unsound { path: backup.to_owned(), reason };
    let options = SqliteConnectOptions::new().filename(backup).immutable(true).read_only(true);
    let mut connection = options.connect().await.map_err(|error| unsound(error.to_string()))?;
    let found: String = query_scalar("PRAGMA integrity_check(1)")
        .fetch_one(&mut connection)
        .await
        .map_err(|error| unsound(error.to_string()))?;
    if found != "ok" {
        return Err(unsound(found));
    }
    let version = schema::check(&mut connection, backup).await?;
    connection.close().await.map_err(OpenError::from)?;
    if version == 0 { Err(unsound("it holds no store".to_owned())) } else { Ok(()) }
}

/// Makes a new name in a directory durable.
fn sync_parent(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(parent) if parent.as_os_str().is_empty() => File::open(".")?.sync_all(),
        Some(parent) => File::open(parent)?.sync_all(),
        None => Ok(()),
    }
}
