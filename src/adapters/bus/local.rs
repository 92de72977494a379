//! The bus of one process: the outbox row *is* the record.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use async_trait::async_trait;
use soma_contract::{
    port::{
        bus::{Bus, BusError, Consumer, Delivery, OutboxRow, Position, Record},
        store::{Store, StoreError},
    },
    topic::Group,
};
use tokio::{
    sync::Notify,
    time::{Instant, timeout_at},
};

/// How long a waiting consumer goes without looking: other parts write records unheard.
const POLL: Duration = Duration::from_millis(250);
/// Records handed out and not acknowledged; beyond it they are forgotten and handed out again.
const MAX_IN_FLIGHT: usize = 4_096;

/// Hands out the records that the store keeps in its outbox.
#[derive(Debug)]
pub struct LocalBus {
    store: Arc<dyn Store>,
    wake: Arc<Wake>,
}

/// Wakes the waiting consumer of each group.
#[derive(Debug, Default)]
struct Wake {
    conversation_worker: Notify,
    tool_executor: Notify,
    memory_replicator: Notify,
}

impl Wake {
    const fn of(&self, group: Group) -> &Notify {
        match group {
            Group::ConversationWorker => &self.conversation_worker,
            Group::ToolExecutor => &self.tool_executor,
            Group::MemoryReplicator => &self.memory_replicator,
        }
    }
}

impl LocalBus {
    /// Builds a bus over the store that keeps its records.
    pub fn new(store: Arc<dyn Store>) -> Self {
        Self { store, wake: Arc::new(Wake::default()) }
    }
}

#[async_trait]
impl Bus for LocalBus {
    async fn publish(&self, rows: &[OutboxRow]) -> Vec<Delivery> {
        let groups: BTreeSet<Group> =
            rows.iter().flat_map(|row| row.topic.groups()).copied().collect();
        for group in groups {
            self.wake.of(group).notify_one();
        }
        vec![Delivery::InPlace; rows.len()]
    }

    fn subscribe(&self, group: Group) -> Box<dyn Consumer> {
        Box::new(LocalConsumer {
            group,
            store: Arc::clone(&self.store),
            wake: Arc::clone(&self.wake),
            in_flight: BTreeSet::new(),
        })
    }

    async fn ping(&self) -> Result<(), BusError> {
        self.store.ping().await.map_err(unavailable)
    }
}

/// Reads one group's records. What it handed out it does not hand out again, unless it is built
/// anew: that is how a record returns after a restart.
#[derive(Debug)]
struct LocalConsumer {
    group: Group,
    store: Arc<dyn Store>,
    wake: Arc<Wake>,
    in_flight: BTreeSet<i64>,
}

#[async_trait]
impl Consumer for LocalConsumer {
    async fn receive(&mut self, max: usize, wait: Duration) -> Result<Vec<Record>, BusError> {
        let deadline = Instant::now() + wait;
        loop {
            let records = self.read(max).await?;
            let now = Instant::now();
            if !records.is_empty() || now >= deadline {
                return Ok(records);
            }
            let look_again = deadline.min(now + POLL);
            timeout_at(look_again, self.wake.of(self.group).notified()).await.ok();
        }
    }

    async fn acknowledge(&mut self, records: &[Record]) -> Result<(), BusError> {
        let rows: Vec<i64> = records.iter().filter_map(row_of).collect();
        let outcome = self.store.acknowledge(self.group, &rows).await;
        // On failure too: the records are then read again.
        for row in &rows {
            self.in_flight.remove(row);
        }
        outcome.map_err(unavailable)
    }
}

impl LocalConsumer {
    async fn read(&mut self, max: usize) -> Result<Vec<Record>, BusError> {
        if self.in_flight.len() >= MAX_IN_FLIGHT {
            self.in_flight.clear();
        }
        let skip: Vec<i64> = self.in_flight.iter().copied().collect();
        let limit = u32::try_from(max).unwrap_or(u32::MAX);
        let records = self.store.records(self.group, &skip, limit).await.map_err(unavailable)?;
        // Nothing waits between here and the return: a record is noted only if it is handed out.
        self.in_flight.extend(records.iter().filter_map(row_of));
        Ok(records)
    }
}

const fn row_of(record: &Record) -> Option<i64> {
    match record.position {
        Position::Row(row) => Some(row),
        Position::Offset { .. } => None,
    }
}

#[expect(clippy::needless_pass_by_value, reason = "used as `map_err(unavailable)`")]
fn unavailable(error: StoreError) -> BusError {
    BusError(error.to_string())
}

#[cfg(test)]
mod tests {
    use soma_contract::{
        EventId, SessionId, bus_suite,
        testing::{
            FakeClock, FakeStore, sample,
            store::Fault,
            suite::bus::{BusFactory, BusWorld},
        },
    };
    use uuid::Uuid;

    use super::*;

    #[derive(Debug)]
    struct Locals;

    fn world() -> (Arc<FakeStore>, LocalBus) {
        let store = Arc::new(FakeStore::new(Arc::new(FakeClock::default())));
        let bus = LocalBus::new(Arc::clone(&store) as _);
        (store, bus)
    }

    #[async_trait]
    impl BusFactory for Locals {
        async fn fresh(&self) -> BusWorld {
            let (store, bus) = world();
            BusWorld { bus: Arc::new(bus), store }
        }
    }

    bus_suite!(Locals);

    async fn accept(store: &FakeStore, number: u128) {
        use soma_contract::port::store::Transcript;
        let session = SessionId(Uuid::from_u128(number));
        let message = sample::message(session, EventId(Uuid::from_u128(number)), "hi");
        store.accept(vec![message]).await.remove(0).unwrap();
    }

    #[tokio::test]
    async fn records_whose_acknowledgement_failed_are_handed_out_again() {
        let (store, bus) = world();
        accept(&store, 1).await;
        let mut consumer = bus.subscribe(Group::ConversationWorker);
        let records = consumer.receive(10, Duration::ZERO).await.unwrap();
        store.fail_next("acknowledge", Fault::Unavailable);
        assert!(consumer.acknowledge(&records).await.is_err());
        assert_eq!(consumer.receive(10, Duration::ZERO).await.unwrap(), records);
        consumer.acknowledge(&records).await.unwrap();
        assert!(consumer.receive(10, Duration::ZERO).await.unwrap().is_empty());
    }

    #[tokio::test]
    async fn a_consumer_hears_of_a_record_that_nobody_published() {
        let (store, bus) = world();
        let mut consumer = bus.subscribe(Group::ConversationWorker);
        let (received, ()) =
            futures::join!(consumer.receive(10, Duration::from_mins(5)), accept(&store, 1));
        assert_eq!(received.unwrap().len(), 1);
    }
}
