//! A schema that does not fit is one clear line; several who migrate do it once.

use std::sync::Arc;

use soma_contract::ids::SystemClock;
use sqlx::Executor;
use tokio::runtime::Handle;

use super::{
    super::{OpenError, Options, PostgresStore, SchemaError, newest_schema},
    database::Database,
};

async fn fault(database: &Database) -> String {
    let options = database.options(false);
    let opened = PostgresStore::connect(options, &Handle::current(), Arc::new(SystemClock)).await;
    match opened {
        Err(OpenError::Schema(error)) => {
            let told = error.to_string();
            assert!(!told.contains('\n'));
            told
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn an_empty_database_is_told_to_migrate_and_several_do_it_once() {
    let database = Database::empty().await;
    let told = fault(&database).await;
    assert!(told.contains("needs") && told.contains("somaagent migrate"), "{told}");
    let dsn = database.dsn();
    let migrating = (0..3).map(|_| PostgresStore::migrate(&dsn));
    for done in futures::future::join_all(migrating).await {
        assert_eq!(done.unwrap().1, newest_schema());
    }
    let options = Options { migrate: true, ..database.options(false) };
    PostgresStore::connect(options, &Handle::current(), Arc::new(SystemClock)).await.unwrap();
}

#[tokio::test]
async fn a_database_that_does_not_hold_every_text_is_refused() {
    let database = Database::of_ascii().await;
    let told = fault(&database).await;
    assert!(told.contains("SQL_ASCII") && told.contains("UTF8"), "{told}");
}

#[tokio::test]
async fn a_newer_or_half_done_schema_is_left_alone() {
    let database = Database::migrated().await;
    let mut connection = database.connect().await;
    let newer = "INSERT INTO _sqlx_migrations (version, description, success, checksum, \
                 execution_time) VALUES (9999, 'from the future', true, '', 0)";
    connection.execute(newer).await.unwrap();
    assert_eq!(
        fault(&database).await,
        SchemaError::TooNew { found: 9999, known: newest_schema() }.to_string()
    );
    connection.execute("DELETE FROM _sqlx_migrations WHERE version = 9999").await.unwrap();
    connection.execute("UPDATE _sqlx_migrations SET success = false").await.unwrap();
    assert!(fault(&database).await.contains("half-done"));
}
