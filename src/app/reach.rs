//! Asks the servers that a start would use, without changing anything on them.

use std::time::Duration;

use prometheus::Registry as Metrics;
use soma_config::CentralizedConfig;
use soma_contract::port::live::Live;
use tokio::{runtime::Handle, time::timeout};

use super::ports;
use crate::adapters::live::redis::{LiveMetrics, RedisLive};

/// How long a server may take to answer.
const LIMIT: Duration = Duration::from_secs(5);

/// What a server said.
#[derive(Debug)]
pub(super) struct Reached {
    /// Which port it serves.
    pub(super) what: &'static str,
    /// What is wrong with it.
    pub(super) outcome: anyhow::Result<()>,
}

/// Asks every server that is named, except the store's.
pub(super) async fn servers(config: &CentralizedConfig) -> Vec<Reached> {
    let mut reached = Vec::new();
    if config.bus.bootstrap_servers.is_some() {
        reached.push(Reached { what: "kafka", outcome: within(kafka(config)).await });
    }
    if config.live.redis_url.is_some() {
        reached.push(Reached { what: "redis", outcome: within(redis(config)).await });
    }
    if config.policy.url.is_some() {
        reached.push(Reached { what: "opa", outcome: within(opa(config)).await });
    }
    reached
}

async fn within(asking: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
    match timeout(LIMIT, asking).await {
        Ok(outcome) => outcome,
        Err(_) => anyhow::bail!("no answer within {} s", LIMIT.as_secs()),
    }
}

#[cfg(feature = "kafka")]
async fn kafka(config: &CentralizedConfig) -> anyhow::Result<()> {
    use crate::adapters::bus::kafka::{self, LookError, Options};
    match Options::of(&config.bus, config.retention.topics) {
        Some(options) => match kafka::look(options).await {
            Err(LookError::Setup(error)) => Err(error.into()),
            looked => Ok(looked?),
        },
        None => Ok(()),
    }
}

#[cfg(not(feature = "kafka"))]
async fn kafka(_config: &CentralizedConfig) -> anyhow::Result<()> {
    Err(ports::BusSetupError.into())
}

async fn redis(config: &CentralizedConfig) -> anyhow::Result<()> {
    let Some(options) = ports::redis_options(config) else { return Ok(()) };
    let live = RedisLive::connect(options, LiveMetrics::new(&Metrics::new())?, &Handle::current())?;
    live.connected().await;
    Ok(live.ping().await?)
}

async fn opa(config: &CentralizedConfig) -> anyhow::Result<()> {
    Ok(ports::policy(config)?.ping().await?)
}
