//! A database that nobody else uses: the target of a promotion.

use sqlx::{ConnectOptions, Executor, PgConnection};
use tokio::runtime::Handle;

use super::{OpenError, connect_options, ownership::Ownership, schema};

/// A migrated database that no server runs on.
#[derive(Debug)]
pub(in crate::adapters::store) struct Target {
    /// A connection whose statements may take their time.
    pub(in crate::adapters::store) connection: PgConnection,
    _ownership: Ownership,
}

impl Target {
    /// Brings the schema up to date and takes the database for this process alone.
    pub(in crate::adapters::store) async fn open(
        dsn: &str,
        io: &Handle,
    ) -> Result<Self, OpenError> {
        let options = connect_options(dsn)?;
        schema::bring_up(&options, true).await?;
        let ownership = Ownership::take(options.clone(), true, io).await?;
        let ownership = ownership.ok_or(OpenError::InUse { alone: true })?;
        let mut connection = options.connect().await?;
        connection.execute("SET statement_timeout = 0").await?;
        Ok(Self { connection, _ownership: ownership })
    }
}
