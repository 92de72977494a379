//! Connects the adapters: which vendor serves which port.

use std::{sync::Arc, time::Duration};

use anyhow::Context;
use soma_config::CentralizedConfig;
use soma_contract::{
    Clock, Ids,
    ids::{RandomIds, SystemClock},
    model::TokenCounter,
    persona::Persona,
    port::{
        bus::Bus, live::Live, memory::MemoryService, model::Model, policy::Policy, store::Store,
    },
};
use soma_runtime::{Health, Io, UnifiedHealthMonitor};

use super::personas;
use crate::adapters::{
    bus::local::LocalBus,
    live::local::LocalLive,
    memory::builtin::BuiltinMemory,
    model::{
        offline::OfflineModel,
        openai::{self, OpenAiModel},
        tokens::Tokens,
    },
    policy::{Rego, RegoError},
    store::sqlite::{self, SqliteStore},
};

/// How long taking over what a dead process left may take.
pub(super) const INHERIT_LIMIT: Duration = Duration::from_mins(10);
/// How long a health probe of a port may take.
const PROBE_LIMIT: Duration = Duration::from_secs(5);

/// The configuration asks for engines that this executable does not have.
#[derive(Debug, thiserror::Error)]
#[error(
    "`{key}` names a server of a kind that this build cannot use yet; unset it to use the embedded {embedded}"
)]
pub(super) struct Unsupported {
    key: &'static str,
    embedded: &'static str,
}

/// The world as the services see it.
#[derive(Debug, Clone)]
pub(super) struct Ports {
    /// For closing it at the end.
    pub(super) sqlite: Arc<SqliteStore>,
    pub(super) store: Arc<dyn Store>,
    pub(super) bus: Arc<dyn Bus>,
    pub(super) live: Arc<dyn Live>,
    pub(super) policy: Arc<dyn Policy>,
    pub(super) model: Arc<dyn Model>,
    pub(super) memory: Arc<dyn MemoryService>,
    pub(super) counter: Arc<dyn TokenCounter>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) ids: Arc<dyn Ids>,
    pub(super) personas: Arc<[Persona]>,
    pub(super) io: Io,
}

/// Says whether this executable has every engine that the configuration asks for.
///
/// # Errors
///
/// The first key that asks for more.
pub(super) fn supported(config: &CentralizedConfig) -> Result<(), Unsupported> {
    let asked = [
        ("SA01_DB_DSN", config.storage.dsn.is_some(), "SQLite"),
        ("SA01_KAFKA_BOOTSTRAP_SERVERS", config.bus.bootstrap_servers.is_some(), "bus"),
        ("SA01_REDIS_URL", config.live.redis_url.is_some(), "live port"),
        ("SA01_POLICY_URL", config.policy.url.is_some(), "policy engine"),
        ("SA01_SOMA_BASE_URL", config.memory.base_url.is_some(), "memory service"),
    ];
    match asked.into_iter().find(|(_, is_set, _)| *is_set) {
        Some((key, _, embedded)) => Err(Unsupported { key, embedded }),
        None => Ok(()),
    }
}

/// Opens everything, on the I/O runtime.
pub(super) async fn connect(config: &CentralizedConfig, io: &Io) -> anyhow::Result<Ports> {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let sqlite = open_store(config, io, Arc::clone(&clock)).await?;
    let store: Arc<dyn Store> = Arc::clone(&sqlite) as Arc<dyn Store>;
    let counter: Arc<dyn TokenCounter> = match &config.model.name {
        Some(name) => Arc::new(Tokens::of_model(name)),
        None => Arc::new(Tokens::estimated()),
    };
    let policy = policy(config).context("load the policy")?;
    Ok(Ports {
        bus: Arc::new(LocalBus::new(Arc::clone(&store))),
        live: Arc::new(LocalLive::new()),
        policy: Arc::new(policy),
        model: model(config, &counter)?,
        memory: Arc::new(BuiltinMemory::new(Arc::clone(&store))),
        personas: personas::load(config.turns.personas.as_deref())?,
        sqlite,
        store,
        counter,
        clock,
        ids: Arc::new(RandomIds),
        io: io.clone(),
    })
}

/// Compiles the policy that decides in this process.
///
/// # Errors
///
/// A rule that does not compile, with its file and line.
pub(super) fn policy(config: &CentralizedConfig) -> Result<Rego, RegoError> {
    Rego::load(config.policy.directory.as_deref(), config.policy.cache_ttl)
}

async fn open_store(
    config: &CentralizedConfig,
    io: &Io,
    clock: Arc<dyn Clock>,
) -> anyhow::Result<Arc<SqliteStore>> {
    let (data_dir, handle) = (config.storage.data_dir.clone(), io.handle().clone());
    // The future of a migration is not `Send`, so it stays on one thread.
    let opening = move || {
        let options = sqlite::Options::default();
        handle.block_on(SqliteStore::open(&data_dir, options, &handle, clock))
    };
    let store = io.handle().spawn_blocking(opening).await?;
    let place = config.storage.data_dir.display().to_string();
    Ok(Arc::new(store.with_context(|| format!("open the store in `{place}`"))?))
}

fn model(
    config: &CentralizedConfig,
    counter: &Arc<dyn TokenCounter>,
) -> anyhow::Result<Arc<dyn Model>> {
    let settings = &config.model;
    let Some(base_url) = &settings.base_url else {
        return Ok(Arc::new(OfflineModel::new(settings.offline_word_delay, Arc::clone(counter))));
    };
    let name = settings.name.clone().context("`SA01_MODEL_BASE_URL` needs `SA01_MODEL_NAME`")?;
    let settings = openai::Settings {
        base_url: base_url.expose().to_owned(),
        api_key: settings.api_key.clone(),
        model: name,
        fallback: settings.fallback_name.clone(),
        connect_timeout: settings.connect_timeout,
        read_timeout: settings.read_timeout,
        total_timeout: settings.total_timeout,
        max_retries: settings.max_retries,
    };
    Ok(Arc::new(OpenAiModel::new(settings, Arc::clone(counter))?))
}

impl Ports {
    /// Shows the ports in the health report.
    pub(super) fn watch(&self, monitor: &UnifiedHealthMonitor) {
        macro_rules! probe {
            ($name:literal, $port:ident) => {
                let port = Arc::clone(&self.$port);
                monitor.register($name, move || {
                    let port = Arc::clone(&port);
                    async move { report(tokio::time::timeout(PROBE_LIMIT, port.ping()).await) }
                });
            };
        }
        probe!("store", store);
        probe!("bus", bus);
        probe!("live", live);
        probe!("policy", policy);
        probe!("model", model);
        probe!("memory-service", memory);
    }
}

fn report<E: std::fmt::Display>(
    answer: Result<Result<(), E>, tokio::time::error::Elapsed>,
) -> Health {
    match answer {
        Ok(Ok(())) => Health::ok(),
        Ok(Err(error)) => Health::down(error.to_string()),
        Err(_) => Health::down(format!("no answer within {} s", PROBE_LIMIT.as_secs())),
    }
}
