//! The servers below a platform in `prod`, shared or its own, and one test's world in them.

use std::{
    collections::BTreeMap,
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::Arc,
};

use jsonwebtoken::{EncodingKey, Header, encode};
use rdkafka::{
    ClientConfig,
    admin::{AdminClient, AdminOptions},
    client::DefaultClientContext,
    producer::{BaseProducer, BaseRecord, Producer},
    util::Timeout,
};
use serde_json::json;
use soma_contract::{Clock, ids::SystemClock};
use sqlx::{Connection, PgConnection};
use tempfile::TempDir;
use uuid::Uuid;

use super::{HANG, Setup, foreign::Foreign};

const SECRET: &str = "a secret of the tests, long enough to sign with";
const TOPICS: [&str; 5] = [
    "conversation.inbound",
    "conversation.outbound",
    "tool.requests",
    "tool.results",
    "memory.wal",
];

/// Where the servers are.
#[derive(Debug, Clone)]
pub(crate) struct Servers {
    pub(crate) dsn: String,
    pub(crate) kafka: String,
    pub(crate) redis: String,
    pub(crate) opa: String,
    own: Option<Arc<Own>>,
}

/// Servers that one test may stop.
#[derive(Debug)]
struct Own {
    folder: TempDir,
    ports: BTreeMap<&'static str, u16>,
}

impl Servers {
    /// Returns the servers that all tests share.
    pub(crate) fn shared() -> Self {
        let address = |name: &str, default: &str| {
            let set = std::env::vars().find(|(key, _)| key == name);
            set.map_or_else(|| default.to_owned(), |(_, value)| value)
        };
        Self {
            dsn: address("SOMA_TEST_DB_DSN", "postgres://postgres@127.0.0.1:55432/postgres"),
            kafka: address("SOMA_TEST_KAFKA", "127.0.0.1:59092"),
            redis: address("SOMA_TEST_REDIS_URL", "redis://127.0.0.1:56379"),
            opa: address("SOMA_TEST_OPA_URL", "http://127.0.0.1:58181"),
            own: None,
        }
    }

    /// Starts these servers for one test alone; the others are the shared ones.
    pub(crate) async fn with_own(names: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let starting = move || {
            let own = Own { folder, ports: free_ports() };
            let arguments: Vec<&str> =
                std::iter::once("up").chain(names.iter().map(String::as_str)).collect();
            own.script(&arguments);
            (own, names)
        };
        let (own, names) = tokio::task::spawn_blocking(starting).await.unwrap();
        let mut servers = Self::shared();
        for name in names {
            match name.as_str() {
                "postgres" => {
                    servers.dsn =
                        format!("postgres://postgres@127.0.0.1:{}/postgres", own.ports["DB"]);
                }
                "kafka" => servers.kafka = format!("127.0.0.1:{}", own.ports["KAFKA"]),
                "redis" => servers.redis = format!("redis://127.0.0.1:{}", own.ports["REDIS"]),
                _ => servers.opa = format!("http://127.0.0.1:{}", own.ports["OPA"]),
            }
        }
        servers.own = Some(Arc::new(own));
        servers
    }

    /// Does something to one of the test's own servers, such as `kill postgres`.
    pub(crate) async fn does(&self, verb: &str, server: &str) {
        let own = Arc::clone(self.own.as_ref().expect("own servers"));
        let (verb, server) = (verb.to_owned(), server.to_owned());
        let doing = move || own.script(&[&verb, &server]);
        tokio::task::spawn_blocking(doing).await.unwrap();
    }
}

impl Own {
    fn script(&self, arguments: &[&str]) {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/servers.sh");
        let mut command = Command::new(script);
        command.args(arguments).env("SOMA_SERVERS_DIR", self.state());
        for (name, port) in &self.ports {
            command.env(format!("SOMA_TEST_{name}_PORT"), port.to_string());
        }
        let ran = command.stdin(Stdio::null()).output().unwrap();
        let told = String::from_utf8_lossy(&ran.stderr).into_owned();
        assert!(ran.status.success(), "{arguments:?}: {told}");
    }

    fn state(&self) -> PathBuf {
        self.folder.path().to_owned()
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        if std::thread::panicking() {
            // A second panic would hide the first; the servers end with the machine.
            drop(std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| self.script(&["down"]))));
        } else {
            self.script(&["down"]);
        }
    }
}

/// Ports that nobody has now.
fn free_ports() -> BTreeMap<&'static str, u16> {
    let listeners = ["DB", "KAFKA", "KAFKA_CONTROLLER", "REDIS", "OPA"]
        .map(|name| (name, TcpListener::bind("127.0.0.1:0").unwrap()));
    listeners.iter().map(|(name, held)| (*name, held.local_addr().unwrap().port())).collect()
}

/// A database, topics and keys that belong to one test. Dropping it removes them.
#[derive(Debug)]
pub(crate) struct World {
    name: String,
    pub(crate) servers: Servers,
}

impl World {
    /// Makes an empty world in the shared servers.
    pub(crate) async fn fresh() -> Self {
        Self::within(Servers::shared()).await
    }

    /// Makes an empty world in these servers.
    pub(crate) async fn within(servers: Servers) -> Self {
        let world = Self { name: format!("it_{}", Uuid::now_v7().simple()), servers };
        let mut connection =
            PgConnection::connect(&world.servers.dsn).await.unwrap_or_else(|error| {
                panic!("no PostgreSQL at `{}` ({error}): run `make up`", world.servers.dsn)
            });
        world.sql(&mut connection, "CREATE DATABASE").await;
        world.migrate().await;
        world
    }

    /// Brings the schema up to date, as an init container does.
    async fn migrate(&self) {
        let dsn = self.dsn();
        let migrating = move || {
            Command::new(env!("CARGO_BIN_EXE_somaagent"))
                .arg("migrate")
                .env("SA01_DB_DSN", dsn)
                .stdin(Stdio::null())
                .output()
        };
        let ran = tokio::task::spawn_blocking(migrating).await.unwrap().unwrap();
        assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
    }

    async fn sql(&self, connection: &mut PgConnection, verb: &str) {
        let force = if verb.starts_with("DROP") { " WITH (FORCE)" } else { "" };
        let sql = format!("{verb} \"{}\"{force}", self.name);
        sqlx::raw_sql(sqlx::AssertSqlSafe(sql)).execute(connection).await.unwrap();
    }

    /// Returns a setup of two replicas in this world.
    pub(crate) fn setup(self) -> Setup {
        Setup::of_world(self)
    }

    /// Returns the database's address.
    pub(crate) fn dsn(&self) -> String {
        let (server, _) = self.servers.dsn.rsplit_once('/').unwrap();
        format!("{server}/{}", self.name)
    }

    /// Returns the configuration of a process in this world: as in production, but quick to take
    /// over what a dead process has left.
    pub(super) fn settings(&self) -> Vec<(&'static str, String)> {
        vec![
            ("SA01_DEPLOYMENT_MODE", "prod".to_owned()),
            ("SA01_DB_DSN", self.dsn()),
            ("SA01_DB_POOL_MAX_SIZE", "8".to_owned()),
            ("SA01_KAFKA_BOOTSTRAP_SERVERS", self.servers.kafka.clone()),
            ("SA01_KAFKA_PREFIX", self.prefix()),
            ("SA01_KAFKA_PARTITIONS", "4".to_owned()),
            ("SA01_REDIS_URL", self.servers.redis.clone()),
            ("SA01_REDIS_PREFIX", format!("{}:", self.name)),
            ("SA01_POLICY_URL", self.servers.opa.clone()),
            ("SA01_AUTH_JWT_SECRET", SECRET.to_owned()),
            ("SA01_RATE_LIMIT_PER_SECOND", "0".to_owned()),
            ("SA01_SHUTDOWN_LAME_DUCK", "0s".to_owned()),
            ("SA01_TURNS_LEASE", "3s".to_owned()),
            ("SA01_TURNS_HEARTBEAT", "1s".to_owned()),
        ]
    }

    /// Returns a token of an administrator of the tenant `public`.
    pub(super) fn token() -> String {
        let now = SystemClock.now().timestamp();
        let claims = json!({
            "sub": "tester", "tenant": "public", "scope": "admin", "exp": now + 24 * 3_600,
        });
        let key = EncodingKey::from_secret(SECRET.as_bytes());
        encode(&Header::default(), &claims, &key).unwrap()
    }

    fn prefix(&self) -> String {
        format!("{}.", self.name)
    }

    /// Writes a record as somebody else would: without a key.
    pub(super) async fn publish(&self, record: &Foreign) {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", &self.servers.kafka);
        let producer: BaseProducer = config.create().unwrap();
        let topic = format!("{}{}", self.prefix(), record.topic);
        let payload = record.payload.to_string();
        let sending = move || {
            let record = BaseRecord::<(), str>::to(&topic).payload(&payload);
            producer.send(record).map_err(|(error, _)| error).unwrap();
            producer.flush(Timeout::After(HANG)).unwrap();
        };
        tokio::task::spawn_blocking(sending).await.unwrap();
    }

    async fn remove(&self) {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", &self.servers.kafka);
        let admin: AdminClient<DefaultClientContext> = config.create().unwrap();
        let topics = TOPICS.map(|topic| format!("{}{topic}", self.prefix()));
        let topics: Vec<&str> = topics.iter().map(String::as_str).collect();
        admin.delete_topics(&topics, &AdminOptions::new()).await.ok();
        let mut connection = PgConnection::connect(&self.servers.dsn).await.unwrap();
        self.sql(&mut connection, "DROP DATABASE").await;
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if self.servers.own.is_some() || std::thread::panicking() {
            // It goes with its servers, or is looked at.
            return;
        }
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
                runtime.unwrap().block_on(self.remove());
            });
        });
    }
}
