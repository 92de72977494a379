//! Two buses: one over the rows of a store, one with a log and offsets, as a vendor's.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use tokio::{
    sync::Notify,
    time::{Instant, timeout_at},
};

use super::locked;
use crate::{
    ids::SessionId,
    port::{
        bus::{Bus, BusError, Consumer, Delivery, OutboxRow, Position, Record},
        store::Outbox,
    },
    topic::{Group, Topic},
};

/// Hands out the records of a store that is told to keep them: the bus in place.
#[derive(Debug)]
pub struct FakeBus<S> {
    store: Arc<S>,
    shared: Arc<Shared>,
}

/// Keeps records in a log of one partition per topic and offsets per group.
#[derive(Debug, Default)]
pub struct LogBus {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    inner: Mutex<Inner>,
    written: Notify,
}

#[derive(Debug, Default)]
struct Inner {
    down: bool,
    refused: HashMap<SessionId, String>,
    failures: VecDeque<String>,
    log: BTreeMap<Topic, Vec<Record>>,
    committed: HashMap<Group, usize>,
}

impl Inner {
    fn answer(&self) -> Result<(), BusError> {
        if self.down {
            return Err(BusError("the fake is down".to_owned()));
        }
        Ok(())
    }

    /// Decides on one row; `Delivered` stands for whatever the bus calls success.
    fn judge(&mut self, row: &OutboxRow) -> Delivery {
        if let Err(error) = self.answer() {
            return Delivery::Failed(error.to_string());
        }
        if let Some(reason) = self.refused.get(&row.session_id) {
            return Delivery::Refused(reason.clone());
        }
        self.failures.pop_front().map_or(Delivery::Delivered, Delivery::Failed)
    }

    fn write(&mut self, topic: Topic, mut record: Record) {
        let log = self.log.entry(topic).or_default();
        let offset = i64::try_from(log.len()).unwrap_or(i64::MAX);
        record.position = Position::Offset { partition: 0, offset };
        log.push(record);
    }
}

impl Shared {
    /// Hands rows on as a producer does: once a session's row has failed, its later ones fail too.
    fn publish(
        &self,
        rows: &[OutboxRow],
        mut deliver: impl FnMut(&mut Inner, &OutboxRow) -> Delivery,
    ) -> Vec<Delivery> {
        let mut inner = locked(&self.inner);
        let mut stopped: HashMap<SessionId, String> = HashMap::new();
        let deliveries = rows
            .iter()
            .map(|row| {
                if let Some(reason) = stopped.get(&row.session_id) {
                    return Delivery::Failed(reason.clone());
                }
                let delivery = match inner.judge(row) {
                    Delivery::Delivered => deliver(&mut inner, row),
                    other => other,
                };
                if let Delivery::Failed(reason) = &delivery {
                    stopped.insert(row.session_id, reason.clone());
                }
                delivery
            })
            .collect();
        drop(inner);
        self.written.notify_waiters();
        deliveries
    }
}

macro_rules! faults {
    ($bus:ident $(<$param:ident>)?) => {
        impl$(<$param>)? $bus$(<$param>)? {
            /// Refuses every row of this session for good.
            pub fn refuse(&self, session_id: SessionId, reason: &str) {
                locked(&self.shared.inner).refused.insert(session_id, reason.to_owned());
            }

            /// Fails the next row that no earlier call of this method fails, and with it the later
            /// rows of its session in the same call.
            pub fn fail_next(&self, reason: &str) {
                locked(&self.shared.inner).failures.push_back(reason.to_owned());
            }

            /// Makes every call fail until it is up again.
            pub fn set_down(&self, down: bool) {
                locked(&self.shared.inner).down = down;
                self.shared.written.notify_waiters();
            }
        }
    };
}

faults!(FakeBus<S>);
faults!(LogBus);

impl<S> FakeBus<S> {
    /// Builds a bus over the store that keeps its records.
    pub fn new(store: Arc<S>) -> Self {
        Self { store, shared: Arc::default() }
    }
}

#[async_trait]
impl<S: Outbox + std::fmt::Debug + 'static> Bus for FakeBus<S> {
    async fn publish(&self, rows: &[OutboxRow]) -> Vec<Delivery> {
        self.shared.publish(rows, |_, _| Delivery::InPlace)
    }

    fn subscribe(&self, group: Group) -> Box<dyn Consumer> {
        Box::new(RowConsumer {
            group,
            store: Arc::clone(&self.store),
            shared: Arc::clone(&self.shared),
            handed_out: Vec::new(),
        })
    }

    async fn ping(&self) -> Result<(), BusError> {
        locked(&self.shared.inner).answer()
    }
}

#[derive(Debug)]
struct RowConsumer<S> {
    group: Group,
    store: Arc<S>,
    shared: Arc<Shared>,
    handed_out: Vec<i64>,
}

impl<S: Outbox> RowConsumer<S> {
    async fn read(&mut self, max: usize) -> Result<Vec<Record>, BusError> {
        locked(&self.shared.inner).answer()?;
        let limit = u32::try_from(max).unwrap_or(u32::MAX);
        let records = self.store.records(self.group, &self.handed_out, limit).await;
        let records = records.map_err(|error| BusError(error.to_string()))?;
        self.handed_out.extend(records.iter().filter_map(row_of));
        Ok(records)
    }
}

#[async_trait]
impl<S: Outbox + std::fmt::Debug + 'static> Consumer for RowConsumer<S> {
    async fn receive(&mut self, max: usize, wait: Duration) -> Result<Vec<Record>, BusError> {
        // The store may grow unheard.
        let poll = Duration::from_millis(10);
        let shared = Arc::clone(&self.shared);
        let deadline = Instant::now() + wait;
        loop {
            let records = self.read(max).await?;
            let now = Instant::now();
            if !records.is_empty() || now >= deadline {
                return Ok(records);
            }
            timeout_at(deadline.min(now + poll), shared.written.notified()).await.ok();
        }
    }

    async fn acknowledge(&mut self, records: &[Record]) -> Result<(), BusError> {
        locked(&self.shared.inner).answer()?;
        let rows: Vec<i64> = records.iter().filter_map(row_of).collect();
        let outcome = self.store.acknowledge(self.group, &rows).await;
        self.handed_out.retain(|row| !rows.contains(row));
        outcome.map_err(|error| BusError(error.to_string()))
    }
}

const fn row_of(record: &Record) -> Option<i64> {
    match record.position {
        Position::Row(row) => Some(row),
        Position::Offset { .. } => None,
    }
}

impl LogBus {
    /// Builds an empty log.
    pub fn new() -> Self {
        Self::default()
    }

    /// Writes what a foreign system writes: anything.
    pub fn write_foreign(
        &self,
        topic: Topic,
        headers: BTreeMap<String, String>,
        payload: impl Into<Bytes>,
    ) {
        let session_id = headers.get("session_id").and_then(|text| text.parse().ok());
        let position = Position::Offset { partition: 0, offset: 0 };
        let record = Record { topic, position, session_id, headers, payload: payload.into() };
        locked(&self.shared.inner).write(topic, record);
        self.shared.written.notify_waiters();
    }

    /// Returns everything that was written to the topic.
    pub fn log(&self, topic: Topic) -> Vec<Record> {
        locked(&self.shared.inner).log.get(&topic).cloned().unwrap_or_default()
    }
}

#[async_trait]
impl Bus for LogBus {
    async fn publish(&self, rows: &[OutboxRow]) -> Vec<Delivery> {
        self.shared.publish(rows, |inner, row| {
            let record = Record {
                topic: row.topic,
                position: Position::Row(row.id),
                session_id: Some(row.session_id),
                headers: row.headers.clone(),
                payload: row.payload.clone(),
            };
            inner.write(row.topic, record);
            Delivery::Delivered
        })
    }

    fn subscribe(&self, group: Group) -> Box<dyn Consumer> {
        let shared = Arc::clone(&self.shared);
        let next = locked(&shared.inner).committed.get(&group).copied().unwrap_or(0);
        Box::new(LogConsumer { group, shared, next })
    }

    async fn ping(&self) -> Result<(), BusError> {
        locked(&self.shared.inner).answer()
    }
}

#[derive(Debug)]
struct LogConsumer {
    group: Group,
    shared: Arc<Shared>,
    next: usize,
}

impl LogConsumer {
    fn read(&mut self, max: usize) -> Result<Vec<Record>, BusError> {
        let inner = locked(&self.shared.inner);
        inner.answer()?;
        let log = inner.log.get(&self.group.topic()).map_or(&[][..], Vec::as_slice);
        let records: Vec<Record> = log.iter().skip(self.next).take(max).cloned().collect();
        self.next += records.len();
        Ok(records)
    }
}

#[async_trait]
impl Consumer for LogConsumer {
    async fn receive(&mut self, max: usize, wait: Duration) -> Result<Vec<Record>, BusError> {
        let shared = Arc::clone(&self.shared);
        let deadline = Instant::now() + wait;
        loop {
            // Enrolled before the look, so that nothing is written unheard between the two.
            let mut written = std::pin::pin!(shared.written.notified());
            written.as_mut().enable();
            let records = self.read(max)?;
            if !records.is_empty() || timeout_at(deadline, written).await.is_err() {
                return Ok(records);
            }
        }
    }

    /// Commits like a broker: one offset per group, so that the newest record speaks for all
    /// before it.
    async fn acknowledge(&mut self, records: &[Record]) -> Result<(), BusError> {
        let mut inner = locked(&self.shared.inner);
        inner.answer()?;
        let newest = records.iter().filter_map(|record| match record.position {
            Position::Offset { offset, .. } => usize::try_from(offset).ok(),
            Position::Row(_) => None,
        });
        if let Some(newest) = newest.max() {
            let committed = inner.committed.entry(self.group).or_default();
            *committed = (*committed).max(newest + 1);
        }
        Ok(())
    }
}
