//! The schema's version: which one a database has, which ones this program can use.

use std::time::Duration;

use sqlx::{
    ConnectOptions, Connection, PgConnection, Row, migrate::Migrator, postgres::PgConnectOptions,
    query_scalar,
};

use super::OpenError;

/// The migrations, in the binary.
pub(super) static MIGRATIONS: Migrator = sqlx::migrate!("src/adapters/store/postgres/migrations");

/// The key of the lock that whoever migrates holds.
const KEY: i64 = 0x736f_6d61_0000_0002;
/// How often the lock is tried. A connection that *waits* for it would deadlock with a migration that
/// builds an index concurrently.
const POLL: Duration = Duration::from_millis(200);

/// What is wrong with a database's schema.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SchemaError {
    /// A newer program wrote the database.
    #[error(
        "the database has schema version {found}, this program knows {known} at most: start the \
         newer version again"
    )]
    TooNew {
        /// Its version.
        found: i64,
        /// The newest that this program knows.
        known: i64,
    },
    /// The database waits for migrations, and was opened without the permission to run them.
    #[error(
        "the database has schema version {found}, this program needs {needed}: run `somaagent \
         migrate`"
    )]
    TooOld {
        /// Its version; 0 if it has none.
        found: i64,
        /// The one that this program uses.
        needed: i64,
    },
    /// The server is older than any that this program is tested on.
    #[error("the server is PostgreSQL {version}, this program needs 15 or newer")]
    OldServer {
        /// Its version.
        version: String,
    },
    /// The database does not hold every text.
    #[error(
        "the database's encoding is {found}, this program needs UTF8: create it with `ENCODING \
         'UTF8' TEMPLATE template0`"
    )]
    Encoding {
        /// Its encoding.
        found: String,
    },
    /// A migration broke off in the middle.
    #[error("the database has a half-done migration {version}: restore a backup")]
    Dirty {
        /// The migration.
        version: i64,
    },
}

/// The oldest PostgreSQL that this program is tested on, as the server numbers it.
const OLDEST: i32 = 150_000;

/// Returns the newest version that this program knows.
pub fn newest() -> i64 {
    MIGRATIONS.iter().map(|migration| migration.version).max().unwrap_or(0)
}

/// Reads the version and makes sure that this program can go on from it.
pub(super) async fn check(connection: &mut PgConnection) -> Result<i64, OpenError> {
    let table = "SELECT to_regclass('_sqlx_migrations') IS NOT NULL";
    if !query_scalar::<_, bool>(table).fetch_one(&mut *connection).await? {
        return Ok(0);
    }
    let newest_row = "SELECT coalesce(max(version), 0), coalesce(min(version) FILTER \
                      (WHERE NOT success), 0) FROM _sqlx_migrations";
    let row = sqlx::query(newest_row).fetch_one(&mut *connection).await?;
    let (found, dirty): (i64, i64) = (row.try_get(0)?, row.try_get(1)?);
    let known = newest();
    if found > known {
        return Err(SchemaError::TooNew { found, known }.into());
    }
    if dirty > 0 {
        return Err(SchemaError::Dirty { version: dirty }.into());
    }
    Ok(found)
}

/// Makes sure that the schema is up to date, or brings it there.
pub(super) async fn bring_up(options: &PgConnectOptions, migrate: bool) -> Result<(), OpenError> {
    let mut connection = options.connect().await?;
    suits(&mut connection).await?;
    let found = check(&mut connection).await?;
    if found < newest() {
        if !migrate {
            return Err(SchemaError::TooOld { found, needed: newest() }.into());
        }
        run(&mut connection).await?;
    }
    connection.close().await?;
    Ok(())
}

/// Makes sure that the server and the database are such that everything can be stored.
async fn suits(connection: &mut PgConnection) -> Result<(), OpenError> {
    let sql = "SELECT current_setting('server_version_num')::int, \
               current_setting('server_version'), current_setting('server_encoding')";
    let row = sqlx::query(sql).fetch_one(connection).await?;
    let (number, version, encoding): (i32, String, String) =
        (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
    if number < OLDEST {
        return Err(SchemaError::OldServer { version }.into());
    }
    if encoding != "UTF8" {
        return Err(SchemaError::Encoding { found: encoding }.into());
    }
    Ok(())
}

/// Runs what is pending; of several who do, each in its turn.
async fn run(connection: &mut PgConnection) -> Result<(), OpenError> {
    // A migration of a large table takes the time that it takes.
    for setting in ["SET statement_timeout = 0", "SET lock_timeout = 0"] {
        sqlx::query(setting).execute(&mut *connection).await?;
    }
    let lock = "SELECT pg_try_advisory_lock($1)";
    while !query_scalar::<_, bool>(lock).bind(KEY).fetch_one(&mut *connection).await? {
        tokio::time::sleep(POLL).await;
    }
    // Somebody else may have done it meanwhile. The lock goes with the connection.
    check(&mut *connection).await?;
    let mut migrations = Migrator::with_migrations(MIGRATIONS.iter().cloned().collect());
    migrations.set_locking(false);
    migrations.run_direct(None, connection, false).await?;
    Ok(())
}
