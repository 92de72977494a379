//! The schema's version: which one a file has, which ones this program can use.

use std::path::{Path, PathBuf};

use sqlx::{
    ConnectOptions, Connection, Row, SqliteConnection, migrate::Migrator,
    sqlite::SqliteConnectOptions,
};

/// The migrations, in the binary.
pub(super) static MIGRATIONS: Migrator = sqlx::migrate!("src/adapters/store/sqlite/migrations");

/// What is wrong with a file's schema.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SchemaError {
    /// A newer program wrote the file.
    #[error(
        "`{}` has schema version {found}, this program knows {known} at most: start the newer \
         version again",
        path.display()
    )]
    TooNew {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: i64,
        /// The newest that this program knows.
        known: i64,
    },
    /// The file waits for migrations, and was opened without the permission to run them.
    #[error(
        "`{}` has schema version {found}, this program needs {needed}: run the migrations",
        path.display()
    )]
    TooOld {
        /// The file.
        path: PathBuf,
        /// Its version; 0 if it has none.
        found: i64,
        /// The one that this program uses.
        needed: i64,
    },
    /// A migration broke off in the middle.
    #[error("`{}` has a half-done migration {version}: restore a backup", path.display())]
    Dirty {
        /// The file.
        path: PathBuf,
        /// The migration.
        version: i64,
    },
}

/// What a data directory holds, found without changing anything.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Inspection {
    /// There is no database: it would be created.
    Missing,
    /// There is one.
    Found {
        /// Its version; 0 if it has no schema yet.
        version: i64,
        /// The migrations that would run, in order.
        pending: Vec<i64>,
    },
}

/// Returns the newest version that this program knows.
pub fn newest() -> i64 {
    MIGRATIONS.iter().map(|migration| migration.version).max().unwrap_or(0)
}

/// Looks at a database file without changing it.
///
/// # Errors
///
/// It cannot be read, or its schema is not one that this program can use.
pub(super) async fn inspect(path: &Path) -> Result<Inspection, super::OpenError> {
    if !path.exists() {
        return Ok(Inspection::Missing);
    }
    let options = SqliteConnectOptions::new().filename(path).read_only(true);
    let mut connection = options.connect().await?;
    let version = check(&mut connection, path).await?;
    connection.close().await?;
    let pending = up_migrations().filter(|&pending| pending > version).collect();
    Ok(Inspection::Found { version, pending })
}

fn up_migrations() -> impl Iterator<Item = i64> {
    MIGRATIONS
        .iter()
        .filter(|migration| migration.migration_type.is_up_migration())
        .map(|migration| migration.version)
}

/// Reads the version and makes sure that this program can go on from it.
pub(super) async fn check(
    connection: &mut SqliteConnection,
    path: &Path,
) -> Result<i64, super::OpenError> {
    let table = "SELECT count(*) FROM sqlite_schema WHERE name = '_sqlx_migrations'";
    let tables: i64 = sqlx::query_scalar(table).fetch_one(&mut *connection).await?;
    if tables == 0 {
        return Ok(0);
    }
    let newest_row = "SELECT coalesce(max(version), 0), coalesce(min(version) FILTER \
                      (WHERE NOT success), 0) FROM _sqlx_migrations";
    let row = sqlx::query(newest_row).fetch_one(&mut *connection).await?;
    let (found, dirty): (i64, i64) = (row.try_get(0)?, row.try_get(1)?);
    let (path, known) = (path.to_owned(), newest());
    if found > known {
        return Err(SchemaError::TooNew { path, found, known }.into());
    }
    if dirty > 0 {
        return Err(SchemaError::Dirty { path, version: dirty }.into());
    }
    Ok(found)
}

/// Brings the schema up to date, or tells that it is not.
pub(super) async fn bring_up(
    connection: &mut SqliteConnection,
    path: &Path,
    migrate: bool,
) -> Result<(), super::OpenError> {
    let found = check(connection, path).await?;
    if found == newest() {
        return Ok(());
    }
    if !migrate {
        let needed = newest();
        return Err(SchemaError::TooOld { path: path.to_owned(), found, needed }.into());
    }
    MIGRATIONS.run_direct(None, connection, false).await?;
    Ok(())
}
