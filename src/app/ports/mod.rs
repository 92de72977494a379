//! Connects the adapters: which vendor serves which port.

mod carrier;
mod engine;

use std::{sync::Arc, time::Duration};

use anyhow::Context;
use prometheus::Registry as Metrics;
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

pub(super) use self::{
    carrier::{Carrier, SetupError as BusSetupError},
    engine::Engine,
};
use super::personas::{self, PersonasError};
use crate::adapters::{
    live::{
        local::LocalLive,
        redis::{self, LiveMetrics, RedisLive},
    },
    memory::{
        builtin::BuiltinMemory,
        somabrain::{self, SomaBrain},
    },
    model::{
        offline::OfflineModel,
        openai::{self, OpenAiModel},
        tokens::Tokens,
    },
    policy::{OpaPolicy, OpaSettings, OpaSetupError, Rego, RegoError},
    store::{postgres, sqlite},
};

/// How long taking over what a dead process left may take.
pub(super) const INHERIT_LIMIT: Duration = Duration::from_mins(10);
/// How long a health probe of a port may take.
const PROBE_LIMIT: Duration = Duration::from_secs(5);
/// How long a rate limit may wait for Redis before the edge limits by itself.
const TAKE_LIMIT: Duration = Duration::from_millis(250);

/// The world as the services see it.
#[derive(Debug, Clone)]
pub(super) struct Ports {
    /// The store by its vendor, for closing it at the end.
    pub(super) engine: Engine,
    /// The bus by its vendor, for closing it at the end.
    pub(super) carrier: Carrier,
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

/// Opens everything, on the I/O runtime. Only the store is waited for: what else is away is shown
/// as down until it comes.
pub(super) async fn connect(
    config: &CentralizedConfig,
    io: &Io,
    metrics: &Metrics,
) -> anyhow::Result<Ports> {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let ids: Arc<dyn Ids> = Arc::new(RandomIds);
    let policy = policy(config).context("load the policy")?;
    let engine = Engine::open(config, io, Arc::clone(&clock)).await?;
    let store = engine.port();
    let carrier = Carrier::build(config, io, &store).await?;
    let counter: Arc<dyn TokenCounter> = match &config.model.name {
        Some(name) => Arc::new(Tokens::of_model(name)),
        None => Arc::new(Tokens::estimated()),
    };
    Ok(Ports {
        bus: carrier.port(),
        live: live(config, io, metrics)?,
        policy,
        model: model(config, &counter)?,
        memory: memory(config, &store, &ids)?,
        personas: personas::load(config.turns.personas.as_deref())?,
        engine,
        carrier,
        store,
        counter,
        clock,
        ids,
        io: io.clone(),
    })
}

fn live(config: &CentralizedConfig, io: &Io, metrics: &Metrics) -> anyhow::Result<Arc<dyn Live>> {
    Ok(match redis_options(config) {
        None => Arc::new(LocalLive::new()),
        Some(options) => {
            Arc::new(RedisLive::connect(options, LiveMetrics::new(metrics)?, io.handle())?)
        }
    })
}

/// Returns where Redis is, if one is named.
pub(super) fn redis_options(config: &CentralizedConfig) -> Option<redis::Options> {
    let url = config.live.redis_url.clone()?;
    let prefix = config.live.redis_prefix.clone();
    Some(redis::Options { url, prefix, take_timeout: TAKE_LIMIT })
}

/// Builds what decides: a server if one is named, otherwise rules that are compiled here.
///
/// # Errors
///
/// A rule that does not compile, with its file and line; an address that is none.
pub(super) fn policy(config: &CentralizedConfig) -> anyhow::Result<Arc<dyn Policy>> {
    let settings = &config.policy;
    let Some(url) = &settings.url else {
        return Ok(Arc::new(Rego::load(settings.directory.as_deref(), settings.cache_ttl)?));
    };
    let settings =
        OpaSettings { url: url.clone(), timeout: settings.timeout, cache_ttl: settings.cache_ttl };
    Ok(Arc::new(OpaPolicy::new(&settings)?))
}

fn memory(
    config: &CentralizedConfig,
    store: &Arc<dyn Store>,
    ids: &Arc<dyn Ids>,
) -> anyhow::Result<Arc<dyn MemoryService>> {
    let settings = &config.memory;
    let Some(base_url) = settings.base_url.clone() else {
        return Ok(Arc::new(BuiltinMemory::new(Arc::clone(store))));
    };
    let settings = somabrain::Settings {
        base_url,
        api_key: settings.api_key.clone(),
        universe: settings.universe.clone(),
        namespace: settings.namespace.clone(),
        timeout: settings.timeout,
    };
    Ok(Arc::new(SomaBrain::new(settings, Arc::clone(ids))?))
}

/// Tells a configuration that cannot be used from everything else that keeps a port from opening.
pub(super) fn is_configuration(error: &anyhow::Error) -> bool {
    error.is::<PersonasError>()
        || error.is::<RegoError>()
        || error.is::<OpaSetupError>()
        || error.is::<redis::SetupError>()
        || error.is::<somabrain::SetupError>()
        || error.is::<BusSetupError>()
        || matches!(error.downcast_ref(), Some(sqlite::OpenError::Lock(_)))
        || matches!(error.downcast_ref(), Some(postgres::OpenError::InUse { .. }))
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
