//! One transaction in which works run one after another, each so that its failure leaves nothing
//! behind.

use std::panic::AssertUnwindSafe;

use futures::FutureExt;
use soma_contract::port::store::StoreError;
use sqlx::{SqliteConnection, raw_sql};

use super::work::{Terms, Work};

/// The transaction is gone: SQLite rolled it back as a whole, or the connection broke.
#[derive(Debug)]
pub(super) struct Gone(pub(super) String);

/// An open transaction with a savepoint; the savepoint is renewed in the same call that closes the
/// one before, since each call of the driver costs more than SQLite's work in it.
pub(super) struct Batch<'c> {
    connection: &'c mut SqliteConnection,
    terms: Terms,
    /// Whether nothing was done since the savepoint.
    clean: bool,
}

/// How much of a work is attempted.
#[derive(Clone, Copy)]
enum Extent {
    All,
    Next,
}

impl<'c> Batch<'c> {
    /// Begins the transaction.
    pub(super) async fn begin(
        connection: &'c mut SqliteConnection,
        terms: Terms,
    ) -> Result<Self, sqlx::Error> {
        control(connection, "BEGIN IMMEDIATE; SAVEPOINT work").await?;
        Ok(Self { connection, terms, clean: true })
    }

    /// Runs a work as one set; if that fails, its requests one by one.
    pub(super) async fn run(&mut self, work: &mut dyn Work) -> Result<(), Gone> {
        let Err(error) = self.attempt(work, Extent::All).await? else { return Ok(()) };
        if work.count() == 1 {
            work.refuse_next(error);
            return Ok(());
        }
        tracing::debug!(operation = work.name(), %error, "repeating a set one by one");
        for _ in 0..work.count() {
            if let Err(error) = self.attempt(work, Extent::Next).await? {
                work.refuse_next(error);
            }
        }
        Ok(())
    }

    async fn attempt(
        &mut self,
        work: &mut dyn Work,
        extent: Extent,
    ) -> Result<Result<(), StoreError>, Gone> {
        if !self.clean {
            let renewed = control(self.connection, "RELEASE work; SAVEPOINT work").await;
            renewed.map_err(|error| Gone(error.to_string()))?;
        }
        let running = match extent {
            Extent::All => work.run_all(self.connection, self.terms),
            Extent::Next => work.run_next(self.connection, self.terms),
        };
        let outcome = match AssertUnwindSafe(running).catch_unwind().await {
            Ok(outcome) => outcome.map_err(StoreError::from),
            Err(_) => Err(StoreError::Refused("the operation panicked".to_owned())),
        };
        self.clean = outcome.is_err();
        if let Err(error) = &outcome {
            // A transaction that SQLite itself rolled back (disk full, I/O) has no savepoint.
            let undone = control(self.connection, "ROLLBACK TO work").await;
            undone.map_err(|_worse| Gone(error.to_string()))?;
        }
        Ok(outcome)
    }

    /// Commits, with the savepoint still open.
    pub(super) async fn commit(self) -> Result<(), sqlx::Error> {
        control(self.connection, "COMMIT").await
    }
}

/// Runs statements that take and give nothing.
pub(super) async fn control(
    connection: &mut SqliteConnection,
    sql: &'static str,
) -> Result<(), sqlx::Error> {
    raw_sql(sql).execute(connection).await.map(drop)
}
