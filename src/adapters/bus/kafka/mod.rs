//! The bus on Apache Kafka.
//!
//! Writing: one idempotent producer, the session as key, so that a session's records stay in order.
//! After any failed delivery the producer is replaced, since what it still holds may overtake the
//! rows that the relay loads again.
//!
//! Reading: each consumer has a thread of its own that polls, also while nobody receives, and is
//! the only one to commit; a record counts as read when its effect is committed elsewhere. There
//! is no `StreamConsumer` and no split queue: both are known to stall.
//!
//! Without a broker everything can still be built: a process starts, and says so in its health.

mod backlog;
mod client;
mod consumer;
mod line;
mod member;
mod outcome;
mod producer;
mod reader;
mod record;
mod settings;
mod topics;

#[cfg(test)]
#[cfg(feature = "cluster-tests")]
mod tests;

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use soma_contract::{
    port::bus::{Bus, BusError, Consumer, Delivery, OutboxRow},
    topic::Group,
};
use tokio::{runtime::Handle, time::timeout};

pub use self::settings::Options;
use self::{
    consumer::KafkaConsumer, outcome::all_failed, producer::Producer, reader::Readers,
    topics::Topics,
};

/// The settings cannot be used: an unreadable certificate, an unknown mechanism.
#[derive(Debug, thiserror::Error)]
#[error("no Kafka client can be built from the settings: {0}")]
pub struct SetupError(String);

/// Asks the brokers whether they are there, and changes nothing on them.
///
/// # Errors
///
/// The settings cannot be used, or no broker answers.
pub async fn look(options: Options) -> Result<(), LookError> {
    let topics = Topics::new(&options).map_err(|error| SetupError(error.to_string()))?;
    let looked = Handle::current().spawn_blocking(move || topics.look()).await;
    looked.unwrap_or_else(|error| Err(BusError(error.to_string()))).map_err(LookError::from)
}

/// Why a look at the brokers found none.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub enum LookError {
    /// The settings cannot be used.
    Setup(#[from] SetupError),
    /// No broker answers.
    Away(#[from] BusError),
}

/// Carries records over Kafka.
#[derive(Debug)]
pub struct KafkaBus {
    options: Options,
    topics: Arc<Topics>,
    producer: Producer,
    readers: Arc<Readers>,
    runtime: Handle,
}

impl KafkaBus {
    /// Builds the clients and creates the topics that are missing. Brokers that do not answer are
    /// no error: the topics are then created before the first record is written or read.
    ///
    /// To be called on the runtime on which blocking calls may wait.
    ///
    /// # Errors
    ///
    /// The settings cannot be used.
    pub async fn connect(options: Options) -> Result<Self, SetupError> {
        let runtime = Handle::current();
        let topics =
            Arc::new(Topics::new(&options).map_err(|error| SetupError(error.to_string()))?);
        let bus = Self {
            producer: Producer::new(options.clone(), Arc::clone(&topics)),
            readers: Arc::default(),
            options,
            topics,
            runtime,
        };
        if let Err(error) = bus.ensure_topics().await {
            tracing::warn!(%error, "Kafka cannot be used yet");
        }
        Ok(bus)
    }

    /// Waits until every consumer that was dropped has committed what was acknowledged and has left
    /// its group. Without it nothing is lost; the records are read again, and later.
    pub async fn close(&self, limit: Duration) {
        self.producer.retire().await;
        if timeout(limit, self.readers.all_ended()).await.is_err() {
            tracing::warn!("a Kafka consumer did not leave its group in time");
        }
    }

    async fn ensure_topics(&self) -> Result<(), BusError> {
        let topics = Arc::clone(&self.topics);
        self.blocking(move || topics.ensure()).await
    }

    async fn blocking(
        &self,
        call: impl FnOnce() -> Result<(), BusError> + Send + 'static,
    ) -> Result<(), BusError> {
        let outcome = self.runtime.spawn_blocking(call).await;
        outcome.unwrap_or_else(|error| Err(BusError(error.to_string())))
    }
}

#[async_trait]
impl Bus for KafkaBus {
    async fn publish(&self, rows: &[OutboxRow]) -> Vec<Delivery> {
        if rows.is_empty() {
            return Vec::new();
        }
        if !self.topics.are_known()
            && let Err(error) = self.ensure_topics().await
        {
            return all_failed(rows.len(), &error.to_string());
        }
        self.producer.publish(rows).await
    }

    fn subscribe(&self, group: Group) -> Box<dyn Consumer> {
        let topics = Arc::clone(&self.topics);
        Box::new(KafkaConsumer::start(group, &self.options, topics, &self.readers))
    }

    async fn ping(&self) -> Result<(), BusError> {
        let topics = Arc::clone(&self.topics);
        self.blocking(move || topics.ping()).await
    }
}
