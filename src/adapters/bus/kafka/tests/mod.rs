//! Against real brokers: those that `make up` starts, or some of a test's own.

mod foreign;
mod group;
mod outage;
mod writing;

use std::{
    collections::BTreeMap,
    env,
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use chrono::DateTime;
use rdkafka::admin::{AdminClient, AdminOptions};
use soma_config::{SaslMechanism, SecurityProtocol};
use soma_contract::{
    EventId, Ids, SessionId, bus_suite,
    ids::RandomIds,
    port::bus::{Bus, Consumer, Delivery, OutboxRow, Record},
    testing::{
        FakeClock, FakeStore,
        suite::bus::{BusFactory, BusWorld},
    },
    topic::{Group, Topic},
};

use super::{KafkaBus, Options, client::Chatter};

/// Longer than anything takes: who waits that long waits for ever.
const LONG: Duration = Duration::from_mins(2);

/// Where the brokers are.
fn brokers() -> String {
    env::var_os("SOMA_TEST_KAFKA")
        .map_or_else(|| "127.0.0.1:59092".to_owned(), |brokers| brokers.into_string().unwrap())
}

/// Names of one test on shared brokers; the topics go with it.
#[derive(Debug)]
struct Corner {
    options: Options,
}

impl Corner {
    fn new() -> Self {
        Self::at(brokers(), format!("test-{}.", RandomIds.draw()))
    }

    fn at(brokers: String, prefix: String) -> Self {
        let options = Options {
            brokers,
            protocol: SecurityProtocol::Plaintext,
            mechanism: SaslMechanism::Plain,
            username: None,
            password: None,
            authorities: None,
            identity: None,
            prefix,
            partitions: 3,
            retention: Duration::from_hours(1),
            session_timeout: Duration::from_secs(8),
        };
        Self { options }
    }

    async fn bus(&self) -> KafkaBus {
        let bus = KafkaBus::connect(self.options.clone()).await.unwrap();
        if let Err(error) = bus.ensure_topics().await {
            panic!("no Kafka at {}: {error}; run `make up`", self.options.brokers);
        }
        bus
    }

    fn admin(&self) -> AdminClient<Chatter> {
        self.options.client().create_with_context(Chatter).unwrap()
    }
}

impl Drop for Corner {
    fn drop(&mut self) {
        let names = Topic::ALL.map(|topic| self.options.topic(topic));
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let options = AdminOptions::new().request_timeout(Some(Duration::from_secs(5)));
        futures::executor::block_on(self.admin().delete_topics(&names, &options)).ok();
    }
}

#[derive(Debug, Default)]
struct Kafkas {
    used: Mutex<Vec<Corner>>,
}

#[async_trait]
impl BusFactory for Kafkas {
    async fn fresh(&self) -> BusWorld {
        let corner = Corner::new();
        let bus = Arc::new(corner.bus().await);
        self.used.lock().unwrap().push(corner);
        BusWorld { bus, store: Arc::new(FakeStore::new(Arc::new(FakeClock::default()))) }
    }
}

bus_suite!(Kafkas::default());

fn session(number: u128) -> SessionId {
    SessionId(uuid::Uuid::from_u128(number))
}

/// Makes a row whose event id is its own id.
fn row(id: i64, session_id: SessionId, payload: impl Into<Bytes>) -> OutboxRow {
    let headers = BTreeMap::from([
        ("event_id".to_owned(), event_id(id).to_string()),
        ("n".to_owned(), id.to_string()),
        ("tenant_id".to_owned(), "acme".to_owned()),
    ]);
    OutboxRow {
        id,
        topic: Topic::ConversationInbound,
        session_id,
        headers,
        payload: payload.into(),
        created_at: DateTime::default(),
    }
}

fn rows(ids: std::ops::Range<i64>, sessions: i64) -> Vec<OutboxRow> {
    ids.map(|id| row(id, session(u128::try_from(id % sessions).unwrap()), "{}")).collect()
}

fn event_id(id: i64) -> EventId {
    EventId(uuid::Uuid::from_u128(u128::try_from(id).unwrap()))
}

/// The id of the row that a record was made of.
fn row_id(record: &Record) -> i64 {
    i64::try_from(record.event_id().unwrap().as_u128()).unwrap()
}

async fn write(bus: &KafkaBus, rows: &[OutboxRow]) {
    let deliveries = bus.publish(rows).await;
    assert_eq!(deliveries, vec![Delivery::Delivered; rows.len()]);
}

/// Receives this many records, in as many calls as it takes.
async fn receive(consumer: &mut dyn Consumer, count: usize) -> Vec<Record> {
    let mut records = Vec::new();
    while records.len() < count {
        let more = consumer.receive(count - records.len(), LONG).await.unwrap();
        assert!(!more.is_empty(), "only {} of {count} records arrive", records.len());
        records.extend(more);
    }
    records
}

fn worker(bus: &KafkaBus) -> Box<dyn Consumer> {
    bus.subscribe(Group::ConversationWorker)
}
