//! What every bus does.

use std::{fmt, sync::Arc, time::Duration};

use async_trait::async_trait;
use futures::future::join;

use crate::{
    event::Event,
    ids::{EventId, Ids, Owner, SessionId, TenantId},
    port::{
        bus::{Bus, Consumer, Delivery, Record},
        store::{Shards, Store},
    },
    testing::{SeqIds, sample},
    topic::{Group, Topic},
};

/// Longer than any bus takes to hand a record over: who waits that long waits for ever.
const LONG: Duration = Duration::from_mins(1);
/// Long enough to find that nothing is there.
const SHORT: Duration = Duration::from_millis(20);

/// A bus, and the store whose outbox rows go to it; the local bus reads the rows themselves.
#[derive(Debug, Clone)]
pub struct BusWorld {
    /// The bus.
    pub bus: Arc<dyn Bus>,
    /// The store.
    pub store: Arc<dyn Store>,
}

/// Makes buses of one kind; one factory serves one test.
#[async_trait]
pub trait BusFactory: fmt::Debug + Send + Sync {
    /// Makes a bus without records.
    async fn fresh(&self) -> BusWorld;
}

/// Expands into the tests of a bus; the expression makes a [`BusFactory`].
#[macro_export]
macro_rules! bus_suite {
    ($factory:expr) => {
        $crate::suite_cases! { $factory; bus {
            a_record_arrives_with_its_key_headers_and_payload
            every_row_is_answered_in_its_order
            records_of_a_session_arrive_in_their_order
            a_new_group_starts_at_the_earliest_record
            a_record_is_handed_out_once
            no_more_is_received_than_asked_for
            a_consumer_without_records_waits_only_so_long
            a_waiting_consumer_is_woken
            what_was_not_acknowledged_returns_after_a_restart
            what_was_acknowledged_does_not_return
            groups_read_their_own_topics
            a_receive_that_is_given_up_loses_nothing
            a_bus_that_answers_pings
        }}
    };
}

#[derive(Debug)]
struct Bench {
    world: BusWorld,
    shards: Shards,
    ids: SeqIds,
}

impl Bench {
    async fn new(factory: &dyn BusFactory) -> Self {
        let world = factory.fresh().await;
        let owner = Owner("me".to_owned());
        world.store.inherit(&owner).await.unwrap();
        let shards = world.store.hold_shards("outbox-sync", &owner).await.unwrap();
        Self { world, shards, ids: SeqIds::new() }
    }

    fn session_id(&self) -> SessionId {
        SessionId(self.ids.draw())
    }

    /// Accepts a message; its record is on the bus when this returns.
    async fn say(&self, session_id: SessionId, text: &str) -> EventId {
        let event_id = EventId(self.ids.draw());
        let message = sample::message(session_id, event_id, text);
        self.world.store.accept(vec![message]).await.remove(0).unwrap();
        self.relay().await;
        event_id
    }

    /// Hands every outbox row to the bus, as the relay does.
    async fn relay(&self) -> Vec<Delivery> {
        let BusWorld { bus, store } = &self.world;
        let rows = store.outbox(&self.shards, 1_000).await.unwrap();
        let deliveries = bus.publish(&rows).await;
        let taken: Vec<i64> = rows
            .iter()
            .zip(&deliveries)
            .filter(|(_, delivery)| **delivery == Delivery::Delivered)
            .map(|(row, _)| row.id)
            .collect();
        store.delivered(&self.shards, &taken).await.unwrap();
        deliveries
    }

    fn worker(&self) -> Box<dyn Consumer> {
        self.world.bus.subscribe(Group::ConversationWorker)
    }
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

fn event_ids(records: &[Record]) -> Vec<EventId> {
    records.iter().filter_map(Record::event_id).map(EventId).collect()
}

pub async fn a_record_arrives_with_its_key_headers_and_payload(factory: &dyn BusFactory) {
    let bench = Bench::new(factory).await;
    let session_id = bench.session_id();
    let event_id = bench.say(session_id, "Gr\u{fc}\u{df} Gott").await;
    let record = receive(&mut *bench.worker(), 1).await.remove(0);
    assert_eq!(record.topic, Topic::ConversationInbound);
    assert_eq!(record.session_id, Some(session_id));
    assert_eq!(record.event_id(), Some(event_id.0));
    assert_eq!(record.headers["tenant_id"], TenantId::public().0);
    assert_eq!(record.headers["n"], "1");
    let event: Event = serde_json::from_slice(&record.payload).unwrap();
    assert_eq!(event.message, "Gr\u{fc}\u{df} Gott");
}

pub async fn every_row_is_answered_in_its_order(factory: &dyn BusFactory) {
    let bench = Bench::new(factory).await;
    let batch =
        (0..5).map(|_| sample::message(bench.session_id(), EventId(bench.ids.draw()), "hello"));
    bench.world.store.accept(batch.collect()).await;
    let rows = bench.world.store.outbox(&bench.shards, 1_000).await.unwrap();
    let deliveries = bench.relay().await;
    assert_eq!(deliveries.len(), rows.len());
    let taken = |delivery: &Delivery| matches!(delivery, Delivery::Delivered | Delivery::InPlace);
    assert!(deliveries.iter().all(taken), "{deliveries:?}");
    assert_eq!(bench.world.bus.publish(&[]).await, []);
}

pub async fn records_of_a_session_arrive_in_their_order(factory: &dyn BusFactory) {
    let bench = Bench::new(factory).await;
    let sessions = [bench.session_id(), bench.session_id()];
    let mut sent = [Vec::new(), Vec::new()];
    for at in 0..20 {
        sent[at % 2].push(bench.say(sessions[at % 2], "hello").await);
    }
    let records = receive(&mut *bench.worker(), 20).await;
    for (session_id, sent) in sessions.iter().zip(sent) {
        let of_session: Vec<Record> = records
            .iter()
            .filter(|record| record.session_id == Some(*session_id))
            .cloned()
            .collect();
        assert_eq!(event_ids(&of_session), sent);
    }
}

pub async fn a_new_group_starts_at_the_earliest_record(factory: &dyn BusFactory) {
    let bench = Bench::new(factory).await;
    let session_id = bench.session_id();
    let before = bench.say(session_id, "before").await;
    let mut worker = bench.worker();
    let after = bench.say(session_id, "after").await;
    assert_eq!(event_ids(&receive(&mut *worker, 2).await), [before, after]);
}

pub async fn a_record_is_handed_out_once(factory: &dyn BusFactory) {
    let bench = Bench::new(factory).await;
    let mut worker = bench.worker();
    let session_id = bench.session_id();
    let first = bench.say(session_id, "one").await;
    assert_eq!(event_ids(&receive(&mut *worker, 1).await), [first]);
    // Although it was not acknowledged yet.
    assert_eq!(worker.receive(10, SHORT).await.unwrap(), []);
    let second = bench.say(session_id, "two").await;
    assert_eq!(event_ids(&receive(&mut *worker, 1).await), [second]);
}

pub async fn no_more_is_received_than_asked_for(factory: &dyn BusFactory) {
    let bench = Bench::new(factory).await;
    let session_id = bench.session_id();
    for _ in 0..5 {
        bench.say(session_id, "hello").await;
    }
    let mut worker = bench.worker();
    let mut received = 0;
    while received < 5 {
        let records = worker.receive(2, LONG).await.unwrap();
        assert!((1..=2).contains(&records.len()));
        received += records.len();
    }
}

pub async fn a_consumer_without_records_waits_only_so_long(factory: &dyn BusFactory) {
    let bench = Bench::new(factory).await;
    let mut worker = bench.worker();
    assert_eq!(worker.receive(10, Duration::ZERO).await.unwrap(), []);
    assert_eq!(worker.receive(10, SHORT).await.unwrap(), []);
}

pub async fn a_waiting_consumer_is_woken(factory: &dyn BusFactory) {
    let bench = Bench::new(factory).await;
    let mut worker = bench.worker();
    let session_id = bench.session_id();
    let (records, sent) = join(receive(&mut *worker, 1), bench.say(session_id, "hello")).await;
    assert_eq!(event_ids(&records), [sent]);
}

pub async fn what_was_not_acknowledged_returns_after_a_restart(factory: &dyn BusFactory) {
    let bench = Bench::new(factory).await;
    let session_id = bench.session_id();
    let mut sent = Vec::new();
    for _ in 0..3 {
        sent.push(bench.say(session_id, "hello").await);
    }
    for _ in 0..2 {
        let mut worker = bench.worker();
        assert_eq!(event_ids(&receive(&mut *worker, 3).await), sent);
    }
}

pub async fn what_was_acknowledged_does_not_return(factory: &dyn BusFactory) {
    let bench = Bench::new(factory).await;
    let session_id = bench.session_id();
    for _ in 0..2 {
        bench.say(session_id, "hello").await;
    }
    let last = bench.say(session_id, "hello").await;
    let mut worker = bench.worker();
    let records = receive(&mut *worker, 3).await;
    worker.acknowledge(&records[..1]).await.unwrap();
    worker.acknowledge(&records[..2]).await.unwrap();
    worker.acknowledge(&[]).await.unwrap();
    drop(worker);
    assert_eq!(event_ids(&receive(&mut *bench.worker(), 1).await), [last]);
    let mut worker = bench.worker();
    let records = receive(&mut *worker, 1).await;
    worker.acknowledge(&records).await.unwrap();
    drop(worker);
    assert_eq!(bench.worker().receive(10, SHORT).await.unwrap(), []);
}

pub async fn groups_read_their_own_topics(factory: &dyn BusFactory) {
    let bench = Bench::new(factory).await;
    let sent = bench.say(bench.session_id(), "hello").await;
    let mut executor = bench.world.bus.subscribe(Group::ToolExecutor);
    assert_eq!(executor.receive(10, SHORT).await.unwrap(), []);
    assert_eq!(event_ids(&receive(&mut *bench.worker(), 1).await), [sent]);
}

pub async fn a_receive_that_is_given_up_loses_nothing(factory: &dyn BusFactory) {
    let bench = Bench::new(factory).await;
    let mut worker = bench.worker();
    // Polled once, so that it has begun to wait, and dropped.
    let begun = futures::FutureExt::now_or_never(worker.receive(10, LONG));
    assert!(begun.is_none_or(|records| records.unwrap().is_empty()));
    let sent = bench.say(bench.session_id(), "hello").await;
    assert_eq!(event_ids(&receive(&mut *worker, 1).await), [sent]);
}

pub async fn a_bus_that_answers_pings(factory: &dyn BusFactory) {
    factory.fresh().await.bus.ping().await.unwrap();
}
