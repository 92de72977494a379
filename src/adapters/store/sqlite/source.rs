//! A store that is only read, by nobody else meanwhile: the source of a promotion.

use std::path::Path;

use sqlx::{ConnectOptions, SqliteConnection};

use super::{FILE, OpenError, SchemaError, lock::DirLock, read_options, schema};

/// An embedded store that no server runs on.
#[derive(Debug)]
pub(in crate::adapters::store) struct Source {
    /// A connection that changes nothing.
    pub(in crate::adapters::store) connection: SqliteConnection,
    _lock: DirLock,
}

impl Source {
    /// Locks a data directory and opens the store in it.
    pub(in crate::adapters::store) async fn open(data_dir: &Path) -> Result<Self, OpenError> {
        let path = data_dir.join(FILE);
        // Locking makes a directory that is not there; nothing is to be promoted then.
        if !path.exists() {
            return Err(OpenError::Database(sqlx::Error::Configuration(
                format!("there is no store at `{}`", path.display()).into(),
            )));
        }
        let lock = DirLock::acquire(data_dir)?;
        let mut connection = read_options(&path).connect().await?;
        let (found, needed) = (schema::check(&mut connection, &path).await?, schema::newest());
        if found < needed {
            return Err(SchemaError::TooOld { path, found, needed }.into());
        }
        Ok(Self { connection, _lock: lock })
    }
}
