//! A database for each test, copied from one that is migrated once.

use std::{env, sync::OnceLock};

use sha2::{Digest, Sha256};
use sqlx::{
    AssertSqlSafe, ConnectOptions, Connection, Executor, PgConnection, postgres::PgConnectOptions,
    query_scalar,
};
use tokio::sync::OnceCell;

use super::super::{Options, PostgresStore, schema::MIGRATIONS};

/// Where the tests' server is, unless `SOMA_TEST_DB_DSN` says otherwise.
const DSN: &str = "postgres://postgres@127.0.0.1:55432/postgres";

/// Returns the address of the server's own database.
#[expect(
    clippy::disallowed_methods,
    reason = "tests are told by the environment where servers are"
)]
fn server() -> &'static str {
    static SERVER: OnceLock<String> = OnceLock::new();
    SERVER.get_or_init(|| env::var("SOMA_TEST_DB_DSN").unwrap_or_else(|_| DSN.to_owned()))
}

/// Returns where the server is: `host:port`.
pub(in crate::adapters::store) fn host_and_port() -> String {
    let options: PgConnectOptions = server().parse().unwrap();
    format!("{}:{}", options.get_host(), options.get_port())
}

/// Connects to the server as its administrator.
pub(in crate::adapters::store) async fn admin() -> PgConnection {
    let options: PgConnectOptions = server().parse().unwrap();
    options
        .connect()
        .await
        .unwrap_or_else(|error| panic!("no PostgreSQL at `{}`: run `make up` ({error})", server()))
}

/// Returns the address of another database of the server.
fn address(database: &str) -> String {
    let (server, _) = server().rsplit_once('/').unwrap();
    format!("{server}/{database}")
}

async fn run(admin: &mut PgConnection, sql: String) {
    admin.execute(AssertSqlSafe(sql)).await.unwrap();
}

/// A migrated database that others are copied from, made by the first test that ever needs this schema.
async fn template() -> &'static str {
    static TEMPLATE: OnceCell<String> = OnceCell::const_new();
    TEMPLATE
        .get_or_init(|| async {
            let digest = MIGRATIONS.iter().fold(Sha256::new(), |digest, migration| {
                digest.chain_update(migration.checksum.as_ref())
            });
            let digest = hex::encode(digest.finalize()).chars().take(16).collect::<String>();
            let name = format!("soma_template_{digest}");
            let mut admin = admin().await;
            // Several processes test at once; the lock goes with the connection.
            admin.execute("SELECT pg_advisory_lock(8318821000000004)").await.unwrap();
            let there = "SELECT EXISTS (SELECT 1 FROM pg_database WHERE datname = $1)";
            if !query_scalar::<_, bool>(there).bind(&name).fetch_one(&mut admin).await.unwrap() {
                let raw = format!("{name}_raw");
                run(&mut admin, format!("DROP DATABASE IF EXISTS {raw} WITH (FORCE)")).await;
                run(&mut admin, format!("CREATE DATABASE {raw} TEMPLATE template0")).await;
                PostgresStore::migrate(&address(&raw)).await.unwrap();
                run(&mut admin, format!("ALTER DATABASE {raw} RENAME TO {name}")).await;
            }
            admin.close().await.unwrap();
            name
        })
        .await
}

/// A database of its own; it goes with this.
#[derive(Debug)]
pub(in crate::adapters::store) struct Database {
    name: String,
}

impl Database {
    /// Makes a migrated one.
    pub(in crate::adapters::store) async fn migrated() -> Self {
        let template = template().await;
        Self::from(template).await
    }

    /// Makes an empty one.
    pub(in crate::adapters::store) async fn empty() -> Self {
        Self::from("template0").await
    }

    /// Makes an empty one in which only ASCII means something.
    pub(in crate::adapters::store) async fn of_ascii() -> Self {
        Self::from("template0 ENCODING 'SQL_ASCII' LC_COLLATE 'C' LC_CTYPE 'C'").await
    }

    async fn from(template: &str) -> Self {
        let name = format!("soma_test_{}", uuid::Uuid::now_v7().simple());
        let mut admin = admin().await;
        run(&mut admin, format!("CREATE DATABASE {name} TEMPLATE {template}")).await;
        admin.close().await.unwrap();
        Self { name }
    }

    /// Returns its address.
    pub(in crate::adapters::store) fn dsn(&self) -> String {
        address(&self.name)
    }

    /// Returns options for it: beside a local bus, or for replicas.
    pub(in crate::adapters::store) fn options(&self, bus_is_local: bool) -> Options {
        Options { bus_is_local, connections: 8, ..Options::shared(self.dsn()) }
    }

    /// Connects to it beside the store.
    pub(in crate::adapters::store) async fn connect(&self) -> PgConnection {
        self.dsn().parse::<PgConnectOptions>().unwrap().connect().await.unwrap()
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        let sql = format!("DROP DATABASE IF EXISTS {} WITH (FORCE)", self.name);
        // A runtime of its own: the test's is about to end.
        let dropping = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.unwrap().block_on(async {
                let mut admin = admin().await;
                run(&mut admin, sql).await;
            });
        });
        dropping.join().ok();
    }
}
