//! One process alone, or any number of replicas.

use std::sync::Arc;

use soma_contract::{
    ids::SystemClock,
    message::AcceptError,
    port::store::{Registry, StoreError, Transcript},
};
use sqlx::{Connection, Executor};
use tokio::runtime::Handle;

use super::{
    super::{OpenError, PostgresStore, ownership},
    database::Database,
    sample::{message, open, session},
};

async fn refused(database: &Database, bus_is_local: bool) -> String {
    let options = database.options(bus_is_local);
    let opened = PostgresStore::connect(options, &Handle::current(), Arc::new(SystemClock)).await;
    match opened {
        Err(error @ OpenError::InUse { .. }) => error.to_string(),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn beside_a_local_bus_one_process_has_the_database_alone() {
    let database = Database::migrated().await;
    let alone = open(database.options(true)).await;
    for bus_is_local in [true, false] {
        let told = refused(&database, bus_is_local).await;
        assert!(told.starts_with("the database is in use"), "{told}");
    }
    alone.close().await;
    let replicas = [open(database.options(false)).await, open(database.options(false)).await];
    refused(&database, true).await;
    for replica in replicas {
        replica.close().await;
    }
    open(database.options(true)).await.ping().await.unwrap();
}

#[tokio::test]
async fn a_lock_that_is_lost_is_taken_again_and_nothing_is_written_without_it() {
    let database = Database::migrated().await;
    let store = open(database.options(true)).await;
    store.accept(vec![message(session(), "hello")]).await.remove(0).unwrap();
    let mut other = database.connect().await;
    // Its connection breaks, and another process is there before it.
    let kill = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity \
                WHERE datname = current_database() AND pid <> pg_backend_pid()";
    loop {
        other.execute(kill).await.unwrap();
        if ownership::try_lock(&mut other, true).await.unwrap() {
            break;
        }
    }
    while !matches!(store.ping().await, Err(StoreError::Unavailable(why)) if why.contains("lock")) {
        tokio::task::yield_now().await;
    }
    let refused = store.accept(vec![message(session(), "hello")]).await.remove(0);
    assert!(matches!(refused, Err(AcceptError::Unavailable(_))), "{refused:?}");
    other.close().await.unwrap();
    while store.ping().await.is_err() {
        tokio::task::yield_now().await;
    }
    store.accept(vec![message(session(), "hello")]).await.remove(0).unwrap();
}
