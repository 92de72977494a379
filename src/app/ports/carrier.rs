//! Which bus carries the records, and how it is built.

use std::sync::Arc;

use soma_config::CentralizedConfig;
use soma_contract::port::{bus::Bus, store::Store};
use soma_runtime::Io;

#[cfg(feature = "kafka")]
use crate::adapters::bus::kafka::{KafkaBus, Options};
use crate::adapters::bus::local::LocalBus;

/// Why the bus cannot be built: a configuration that it cannot use.
#[cfg(feature = "kafka")]
pub(in crate::app) use crate::adapters::bus::kafka::SetupError;

/// Why the bus cannot be built: a configuration that it cannot use.
#[cfg(not(feature = "kafka"))]
#[derive(Debug, thiserror::Error)]
#[error(
    "`SA01_KAFKA_BOOTSTRAP_SERVERS` is set, but this executable was built without Kafka; build it with the feature `kafka`"
)]
pub(in crate::app) struct SetupError;

/// The bus by its vendor: only who builds and closes it asks.
#[derive(Debug, Clone)]
pub(in crate::app) enum Carrier {
    /// The rows of the store are the records.
    Local(Arc<LocalBus>),
    /// Brokers keep them.
    #[cfg(feature = "kafka")]
    Kafka(Arc<KafkaBus>),
}

impl Carrier {
    /// Builds the bus that the configuration names; brokers that are away are no error.
    pub(super) async fn build(
        config: &CentralizedConfig,
        io: &Io,
        store: &Arc<dyn Store>,
    ) -> anyhow::Result<Self> {
        if config.bus.bootstrap_servers.is_some() {
            return kafka(config, io).await;
        }
        Ok(Self::Local(Arc::new(LocalBus::new(Arc::clone(store)))))
    }

    /// Returns the bus as the services see it.
    pub(super) fn port(&self) -> Arc<dyn Bus> {
        match self {
            Self::Local(bus) => Arc::clone(bus) as Arc<dyn Bus>,
            #[cfg(feature = "kafka")]
            Self::Kafka(bus) => Arc::clone(bus) as Arc<dyn Bus>,
        }
    }

    /// Lets consumers commit what was acknowledged and leave their groups.
    pub(in crate::app) async fn close(self) {
        match self {
            Self::Local(_) => {}
            #[cfg(feature = "kafka")]
            Self::Kafka(bus) => bus.close(LEAVE_LIMIT).await,
        }
    }
}

/// How long consumers may take to leave their groups.
#[cfg(feature = "kafka")]
const LEAVE_LIMIT: std::time::Duration = std::time::Duration::from_secs(3);
/// How long the first look at the brokers may take.
#[cfg(feature = "kafka")]
const FIRST_LOOK: std::time::Duration = std::time::Duration::from_secs(30);

#[cfg(feature = "kafka")]
async fn kafka(config: &CentralizedConfig, io: &Io) -> anyhow::Result<Carrier> {
    use anyhow::Context;
    let options = Options::of(&config.bus, config.retention.topics);
    let options = options.context("find `SA01_KAFKA_BOOTSTRAP_SERVERS`")?;
    let bus = io.call(FIRST_LOOK, KafkaBus::connect(options)).await??;
    Ok(Carrier::Kafka(Arc::new(bus)))
}

#[cfg(not(feature = "kafka"))]
#[expect(clippy::unused_async, reason = "with Kafka it waits")]
async fn kafka(_config: &CentralizedConfig, _io: &Io) -> anyhow::Result<Carrier> {
    Err(SetupError.into())
}
