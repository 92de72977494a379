//! Transactions: how they begin, end and are tried again.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use chrono::{DateTime, Utc};
use soma_contract::{
    Clock, Owner,
    port::store::{StoreError, StoreResult},
};
use sqlx::{PgPool, Postgres, Transaction, pool::PoolConnection};

use super::{fault::Fault, ownership::Ownership, text::kept};

/// How often a transaction is tried that others were in the way of.
const TRIES: u32 = 4;

/// What every operation may need.
#[derive(Debug, Clone, Copy)]
pub(super) struct Terms {
    /// The time of this transaction, by this replica's clock: for delays and ages.
    pub(super) now: DateTime<Utc>,
    /// Whether outbox rows are the records themselves, and this process is alone.
    pub(super) bus_is_local: bool,
    /// How long a turn or step is held without a sign of progress.
    pub(super) lease: Duration,
}

impl Terms {
    /// Returns the lease in microseconds; `None` where it never ends, because nobody else may come.
    pub(super) fn lease_us(self) -> Option<i64> {
        (!self.bus_is_local).then(|| i64::try_from(self.lease.as_micros()).unwrap_or(i64::MAX))
    }
}

/// The pool and what is the same for every transaction.
#[derive(Debug)]
pub(super) struct Engine {
    pub(super) pool: PgPool,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) bus_is_local: bool,
    pub(super) lease: Duration,
    pub(super) ownership: Ownership,
    /// Who has held shards through this store, so that they can be given up in the end.
    pub(super) holders: Mutex<HashSet<Owner>>,
}

impl Engine {
    pub(super) fn terms(&self) -> Terms {
        Terms { now: self.clock.now(), bus_is_local: self.bus_is_local, lease: self.lease }
    }

    /// Notes that this owner holds shards.
    pub(super) fn holds_shards(&self, owner: &Owner) {
        let mut holders = self.holders.lock().unwrap_or_else(PoisonError::into_inner);
        holders.insert(owner.clone());
    }

    /// Gives up every lease on shards, so that others need not wait until they run out.
    pub(super) async fn release_shards(&self) -> Result<(), Fault> {
        let holders =
            std::mem::take(&mut *self.holders.lock().unwrap_or_else(PoisonError::into_inner));
        let owners: Vec<String> = holders.iter().map(|owner| kept(&owner.0)).collect();
        if !owners.is_empty() {
            let sql = "DELETE FROM service_lease WHERE owner = ANY($1)";
            sqlx::query(sql).bind(owners).execute(&self.pool).await?;
        }
        Ok(())
    }

    /// Takes a connection for reading.
    pub(super) async fn reader(&self) -> Result<PoolConnection<Postgres>, Fault> {
        Ok(self.pool.acquire().await?)
    }

    /// Begins a transaction, unless another process owns the store.
    pub(super) async fn begin(&self) -> Result<Transaction<'static, Postgres>, Fault> {
        if !self.ownership.holds() {
            let why = "the store is not this process's: its lock is lost".to_owned();
            return Err(StoreError::Unavailable(why).into());
        }
        Ok(self.pool.begin().await?)
    }
}

/// Commits what was done, or rolls it back.
pub(super) async fn finish<A>(
    transaction: Transaction<'static, Postgres>,
    name: &str,
    done: Result<A, Fault>,
) -> Result<A, Fault> {
    match done {
        Ok(answer) => {
            fail_point(name, "before_commit");
            let committed = transaction.commit().await;
            fail_point(name, "after_commit");
            committed.map_err(Fault::of_commit)?;
            Ok(answer)
        }
        Err(fault) => {
            // A connection that cannot roll back is closed, which does it too.
            transaction.rollback().await.ok();
            Err(fault)
        }
    }
}

/// Stops at a failpoint, where they are compiled in.
fn fail_point(name: &str, moment: &str) {
    if fail::has_failpoints() {
        let name = format!("{name}::{moment}");
        fail::fail_point!(name.as_str());
        drop(name);
    }
}

/// Counts the tries of one call.
#[derive(Debug, Default)]
pub(super) struct Tries(u32);

impl Tries {
    /// Returns the outcome, or `None` if the call is to be tried again.
    pub(super) fn judge<A>(
        &mut self,
        name: &str,
        done: Result<A, Fault>,
    ) -> Option<StoreResult<A>> {
        match done {
            Err(fault) if self.again(name, &fault) => None,
            done => Some(done.map_err(StoreError::from)),
        }
    }

    /// Counts a fault; returns whether the call is to be tried again.
    pub(super) fn again(&mut self, name: &str, fault: &Fault) -> bool {
        self.0 += 1;
        let again = self.0 < TRIES && fault.may_pass();
        if again {
            tracing::debug!(operation = name, %fault, "trying again");
        }
        again
    }
}

/// Does a write in a transaction of its own: `transact!(engine, "name", |connection, terms| future)`,
/// the future a `Result<_, Fault>`. It may be done more than once, but takes effect once.
macro_rules! transact {
    ($engine:expr, $name:literal, |$connection:ident, $terms:ident| $work:expr) => {{
        let engine: &$crate::adapters::store::postgres::engine::Engine = $engine;
        let mut tries = $crate::adapters::store::postgres::engine::Tries::default();
        loop {
            let done = async {
                let mut transaction = engine.begin().await?;
                let $terms = engine.terms();
                let $connection: &mut sqlx::PgConnection = &mut transaction;
                let done = $work.await;
                $crate::adapters::store::postgres::engine::finish(transaction, $name, done).await
            };
            if let Some(outcome) = tries.judge($name, done.await) {
                break outcome;
            }
        }
    }};
}

/// Reads: `read!(engine, |connection| future)`, the future a `Result<_, Fault>`. A connection that had
/// died is replaced.
macro_rules! read {
    ($engine:expr, |$connection:ident| $work:expr) => {{
        let engine: &$crate::adapters::store::postgres::engine::Engine = $engine;
        let mut tries = $crate::adapters::store::postgres::engine::Tries::default();
        loop {
            let done = async {
                let mut reader = engine.reader().await?;
                let $connection: &mut sqlx::PgConnection = &mut reader;
                $work.await
            };
            if let Some(outcome) = tries.judge("read", done.await) {
                break outcome;
            }
        }
    }};
}

pub(super) use {read, transact};
