//! Promotion: copies an embedded store into an empty PostgreSQL.
//!
//! Table by table, in the order of the rows' keys, some rows in each transaction together with how far
//! the copy has come, so that it goes on where it broke off. Both stores are this process's alone
//! meanwhile. In the end every row of both is read again and compared, by count and by checksum.

mod tables;
#[cfg(test)]
#[cfg(feature = "cluster-tests")]
mod tests;

use std::path::Path;

use futures::TryStreamExt;
use serde_json::Value;
use sha2::{Digest, Sha256};
use sqlx::{AssertSqlSafe, Connection, Executor, Row, query, query_scalar};
use tokio::runtime::Handle;

use self::tables::{Table, tables};
use super::{
    postgres::{self, Target},
    sqlite::{self, Source},
};

/// Why a store was not promoted.
#[derive(Debug, thiserror::Error)]
pub enum PromoteError {
    /// The embedded store cannot be read: it is in use, or its schema is another version's.
    #[error("cannot read the embedded store")]
    Source(#[from] sqlite::OpenError),
    /// The database cannot be used.
    #[error("cannot use the database")]
    Target(#[from] postgres::OpenError),
    /// Something is in the database that this promotion has not put there.
    #[error("the database is not empty: table `{0}` has rows; promote into an empty one")]
    NotEmpty(&'static str),
    /// The store was promoted into this database before.
    #[error("the store was promoted into this database before: start the server on it")]
    Done,
    /// What is in the two is not the same.
    #[error(
        "table `{table}` differs after the copy ({source_rows} rows here, {target_rows} there): \
         the embedded store has changed since the copy began; begin again with an empty database"
    )]
    Differs {
        /// The table.
        table: &'static str,
        /// Its rows in the embedded store.
        source_rows: u64,
        /// Its rows in the database.
        target_rows: u64,
    },
    /// A statement failed; what was committed before is kept.
    #[error("the copy broke off; promote again to go on")]
    Database(#[from] sqlx::Error),
    /// A row is not what this version writes.
    #[error("a row is not what this version writes")]
    Row(#[from] serde_json::Error),
}

/// How far a promotion has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// The table that rows were copied of.
    pub table: &'static str,
    /// Rows of it that are copied.
    pub rows: u64,
    /// Whether these are all.
    pub done: bool,
}

/// A promotion under way.
#[derive(Debug)]
pub struct Promotion {
    source: Source,
    target: Target,
    /// Names the embedded store in the database.
    name: String,
}

impl Promotion {
    /// Takes both stores for this process alone, and makes sure that the database is empty, or holds
    /// only what an earlier try has copied of the same store.
    ///
    /// # Errors
    ///
    /// Either is in use or of another version; the database holds something else.
    pub async fn begin(data_dir: &Path, dsn: &str, io: &Handle) -> Result<Self, PromoteError> {
        let source = Source::open(data_dir).await?;
        let target = Target::open(dsn, io).await?;
        let place = data_dir.canonicalize().unwrap_or_else(|_| data_dir.to_owned());
        let mut promotion = Self { source, target, name: place.display().to_string() };
        promotion.check_target().await?;
        Ok(promotion)
    }

    async fn check_target(&mut self) -> Result<(), PromoteError> {
        let begun = "SELECT count(*) FILTER (WHERE source = $1), \
                     count(*) FILTER (WHERE source = $1 AND done) FROM promotion";
        let row = query(begun).bind(&self.name).fetch_one(&mut self.target.connection).await?;
        let (begun, done): (i64, i64) = (row.try_get(0)?, row.try_get(1)?);
        if usize::try_from(done).unwrap_or(0) == tables().count() {
            return Err(PromoteError::Done);
        }
        if begun > 0 {
            return Ok(());
        }
        for table in tables() {
            let sql = format!("SELECT EXISTS (SELECT 1 FROM {})", table.name);
            let used = query_scalar::<_, bool>(AssertSqlSafe(sql));
            if used.fetch_one(&mut self.target.connection).await? {
                return Err(PromoteError::NotEmpty(table.name));
            }
        }
        let mut begin = self.target.connection.begin().await?;
        let sql = "INSERT INTO promotion (source, name) VALUES ($1, $2)";
        for table in tables() {
            query(sql).bind(&self.name).bind(table.name).execute(&mut *begin).await?;
        }
        Ok(begin.commit().await?)
    }

    /// Copies some more rows; `None` when everything is copied.
    ///
    /// # Errors
    ///
    /// A statement failed; a later promotion goes on after what was copied.
    pub async fn step(&mut self) -> Result<Option<Progress>, PromoteError> {
        let sql = "SELECT after, rows, done FROM promotion WHERE source = $1 AND name = $2";
        for table in tables() {
            let row = query(sql).bind(&self.name).bind(table.name);
            let row = row.fetch_one(&mut self.target.connection).await?;
            let (after, rows, done): (Option<String>, i64, bool) =
                (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
            if !done {
                let copied = self.copy(table, after, rows).await?;
                let done = copied == rows;
                let rows = u64::try_from(copied).unwrap_or(0);
                return Ok(Some(Progress { table: table.name, rows, done }));
            }
        }
        Ok(None)
    }

    /// Copies the rows of a table after this key, together with how far it has come.
    async fn copy(
        &mut self,
        table: &Table,
        after: Option<String>,
        before: i64,
    ) -> Result<i64, PromoteError> {
        let page = query(AssertSqlSafe(table.page_of_sqlite())).bind(after).bind(table.chunk);
        let page = page.fetch_all(&mut self.source.connection).await?;
        let rows: Vec<String> = page.iter().map(|row| row.try_get(0)).collect::<Result<_, _>>()?;
        let last: Option<String> = page.last().map(|row| row.try_get(1)).transpose()?;
        let mut chunk = self.target.connection.begin().await?;
        let Some(last) = last else {
            if let Some(go_on) = table.go_on() {
                chunk.execute(AssertSqlSafe(go_on)).await?;
            }
            let sql = "UPDATE promotion SET done = true WHERE source = $1 AND name = $2";
            query(sql).bind(&self.name).bind(table.name).execute(&mut *chunk).await?;
            chunk.commit().await?;
            return Ok(before);
        };
        let copied = before.saturating_add(i64::try_from(rows.len()).unwrap_or(i64::MAX));
        let rows = postgres::kept_json(format!("[{}]", rows.join(",")));
        query(AssertSqlSafe(table.insert())).bind(rows).execute(&mut *chunk).await?;
        let sql = "UPDATE promotion SET after = $3, rows = $4 WHERE source = $1 AND name = $2";
        query(sql)
            .bind(&self.name)
            .bind(table.name)
            .bind(postgres::kept(&last))
            .bind(copied)
            .execute(&mut *chunk)
            .await?;
        chunk.commit().await?;
        Ok(copied)
    }

    /// Compares every row of both stores, when everything is copied; returns the tables with their
    /// rows.
    ///
    /// # Errors
    ///
    /// A table differs.
    pub async fn compare(&mut self) -> Result<Vec<Progress>, PromoteError> {
        let mut same = Vec::new();
        for table in tables() {
            let here = self.sum_of_source(table).await?;
            let there = self.sum_of_target(table).await?;
            if here != there {
                return Err(PromoteError::Differs {
                    table: table.name,
                    source_rows: here.rows,
                    target_rows: there.rows,
                });
            }
            same.push(Progress { table: table.name, rows: here.rows, done: true });
        }
        Ok(same)
    }

    async fn sum_of_source(&mut self, table: &Table) -> Result<Sum, PromoteError> {
        let mut sum = Sum::default();
        let mut rows = query_scalar::<_, String>(AssertSqlSafe(table.all_of_sqlite()))
            .fetch(&mut self.source.connection);
        while let Some(row) = rows.try_next().await? {
            sum.add(&row)?;
        }
        Ok(sum)
    }

    async fn sum_of_target(&mut self, table: &Table) -> Result<Sum, PromoteError> {
        let mut sum = Sum::default();
        let mut rows = query_scalar::<_, String>(AssertSqlSafe(table.all_of_postgres()))
            .fetch(&mut self.target.connection);
        while let Some(row) = rows.try_next().await? {
            sum.add(&postgres::restored(row))?;
        }
        Ok(sum)
    }
}

/// Count and checksum of a table's rows, in whatever order they come.
#[derive(Debug, Default, PartialEq, Eq)]
struct Sum {
    rows: u64,
    digests: u128,
}

impl Sum {
    /// Adds a row, a JSON object whose members are in the order of the table's columns.
    fn add(&mut self, row: &str) -> Result<(), serde_json::Error> {
        let row: Value = serde_json::from_str(row)?;
        let digest = Sha256::digest(row.to_string());
        let head = digest.iter().take(16).fold(0_u128, |head, byte| head << 8 | u128::from(*byte));
        self.rows += 1;
        self.digests = self.digests.wrapping_add(head);
        Ok(())
    }
}
