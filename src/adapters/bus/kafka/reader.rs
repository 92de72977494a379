//! The thread that polls for one consumer, and alone commits for it.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use rdkafka::{
    consumer::{BaseConsumer, CommitMode, Consumer},
    error::KafkaError,
    topic_partition_list::{Offset, TopicPartitionList},
    types::RDKafkaErrorCode,
};
use soma_contract::{
    port::bus::{BusError, Record},
    topic::Group,
};
use tokio::{
    sync::{Notify, futures::Notified},
    time::Instant,
};

use super::{backlog::Backlog, member::Member, record::record, settings::Options, topics::Topics};

/// How long one poll waits.
const TICK: Duration = Duration::from_millis(100);
/// How often what was acknowledged is committed.
const COMMIT_EVERY: Duration = Duration::from_secs(1);
/// The pause before another try to join.
const RETRY: Duration = Duration::from_secs(1);
/// How long leaving a group may take; the library may hang in it.
const LEAVE: Duration = Duration::from_secs(10);

/// What a consumer and its reader share.
#[derive(Debug, Default)]
pub(super) struct Desk {
    backlog: Mutex<Backlog>,
    fault: Mutex<Option<String>>,
    news: Notify,
    left: AtomicBool,
}

impl Desk {
    /// Completes with the next record or fault.
    pub(super) fn news(&self) -> Notified<'_> {
        self.news.notified()
    }

    /// Hands out records, or else tells a fault, once.
    pub(super) fn take(&self, most: usize) -> Result<Vec<Record>, BusError> {
        let records = self.backlog().take(most);
        if records.is_empty()
            && let Some(fault) = locked(&self.fault).take()
        {
            return Err(BusError(fault));
        }
        Ok(records)
    }

    pub(super) fn finish(&self, records: &[Record]) {
        self.backlog().finish(records);
    }

    /// The consumer is gone.
    pub(super) fn leave(&self) {
        self.left.store(true, Ordering::Release);
    }

    pub(super) fn backlog(&self) -> MutexGuard<'_, Backlog> {
        locked(&self.backlog)
    }

    fn has_left(&self) -> bool {
        self.left.load(Ordering::Acquire)
    }

    fn push(&self, record: Record) {
        self.backlog().push(record);
        self.news.notify_waiters();
    }

    fn complain(&self, fault: String) {
        *locked(&self.fault) = Some(fault);
        self.news.notify_waiters();
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Counts the readers that still run.
#[derive(Debug, Default)]
pub(super) struct Readers {
    running: AtomicUsize,
    ended: Notify,
}

impl Readers {
    /// Waits until none runs.
    pub(super) async fn all_ended(&self) {
        loop {
            let mut ended = std::pin::pin!(self.ended.notified());
            ended.as_mut().enable();
            if self.running.load(Ordering::Acquire) == 0 {
                return;
            }
            ended.await;
        }
    }
}

/// Reads one topic for one group.
pub(super) struct Reader {
    group: Group,
    options: Options,
    topics: Arc<Topics>,
    desk: Arc<Desk>,
}

/// Why a membership ended before its time.
enum Broken {
    /// The topic is not there: all have to be looked at.
    NoTopic(String),
    /// Anything else.
    Fault(String),
}

impl From<KafkaError> for Broken {
    fn from(error: KafkaError) -> Self {
        Self::Fault(error.to_string())
    }
}

impl Reader {
    /// Starts a reader; it ends after its consumer.
    pub(super) fn start(
        group: Group,
        options: &Options,
        topics: Arc<Topics>,
        desk: &Arc<Desk>,
        readers: &Arc<Readers>,
    ) {
        let reader = Self { group, options: options.clone(), topics, desk: Arc::clone(desk) };
        let counting = Arc::clone(readers);
        readers.running.fetch_add(1, Ordering::AcqRel);
        let spawned =
            thread::Builder::new().name(format!("read-{}", group.as_str())).spawn(move || {
                reader.run();
                counting.running.fetch_sub(1, Ordering::AcqRel);
                counting.ended.notify_waiters();
            });
        if let Err(error) = spawned {
            readers.running.fetch_sub(1, Ordering::AcqRel);
            desk.complain(format!("no thread for a consumer: {error}"));
        }
    }

    /// Joins the group, again and again until the consumer is gone.
    fn run(&self) {
        while !self.desk.has_left() {
            let Err(broken) = self.join() else { return };
            let fault = match broken {
                Broken::NoTopic(fault) => {
                    self.topics.doubt();
                    fault
                }
                Broken::Fault(fault) => fault,
            };
            self.desk.complain(fault);
            thread::park_timeout(RETRY);
        }
    }

    /// Is a member of the group until the consumer is gone or the membership breaks.
    fn join(&self) -> Result<(), Broken> {
        if !self.topics.are_known() {
            self.topics.ensure().map_err(|error| Broken::Fault(error.0))?;
        }
        let age = self.topics.age();
        let member = Member::of(Arc::clone(&self.desk));
        let consumer: BaseConsumer<Member> =
            self.options.consumer(self.group).create_with_context(member)?;
        let outcome = self.read(&consumer, age);
        leave(consumer);
        self.desk.backlog().clear();
        outcome
    }

    fn read(&self, consumer: &BaseConsumer<Member>, age: usize) -> Result<(), Broken> {
        let topic = self.options.topic(self.group.topic());
        consumer.subscribe(&[topic.as_str()])?;
        let mut committed = Instant::now();
        let mut paused = false;
        while !self.desk.has_left() {
            match consumer.poll(TICK) {
                None => {}
                Some(Ok(message)) => self.desk.push(record(self.group.topic(), &message)),
                Some(Err(error)) => self.consider(error)?,
            }
            if self.topics.age() != age {
                return Err(Broken::Fault("the brokers have lost their topics".to_owned()));
            }
            paused = self.pause_or_resume(consumer, paused)?;
            if committed.elapsed() >= COMMIT_EVERY {
                self.commit(consumer, &topic);
                committed = Instant::now();
            }
        }
        Ok(())
    }

    /// Decides whether the membership can go on after an error.
    fn consider(&self, error: KafkaError) -> Result<(), Broken> {
        match error {
            KafkaError::MessageConsumptionFatal(_) => Err(error.into()),
            KafkaError::MessageConsumption(
                RDKafkaErrorCode::UnknownTopicOrPartition
                | RDKafkaErrorCode::UnknownTopic
                | RDKafkaErrorCode::UnknownPartition,
            ) => Err(Broken::NoTopic(error.to_string())),
            // One connection of several, which the library opens again.
            KafkaError::MessageConsumption(
                RDKafkaErrorCode::BrokerTransportFailure | RDKafkaErrorCode::OperationTimedOut,
            ) => Ok(()),
            error => {
                self.desk.complain(error.to_string());
                Ok(())
            }
        }
    }

    /// Pauses what is assigned when too much waits; polling goes on. An assignment is never paused
    /// when it is new, so that each look sets it as it has to be.
    fn pause_or_resume(
        &self,
        consumer: &BaseConsumer<Member>,
        paused: bool,
    ) -> Result<bool, Broken> {
        let is_new = consumer.context().is_newly_assigned();
        let backlog = self.desk.backlog();
        let (full, room, lost) = (backlog.is_full(), backlog.has_room(), backlog.has_lost_some());
        drop(backlog);
        if lost {
            return Err(Broken::Fault("records were received and never acknowledged".to_owned()));
        }
        let pause = if paused { !room } else { full };
        if pause && (is_new || !paused) {
            consumer.pause(&consumer.assignment()?)?;
        } else if paused && !pause {
            consumer.resume(&consumer.assignment()?)?;
        }
        Ok(pause)
    }

    fn commit(&self, consumer: &BaseConsumer<Member>, topic: &str) {
        let offsets = self.desk.backlog().committable();
        if offsets.is_empty() {
            return;
        }
        match consumer.commit(&list(topic, &offsets), CommitMode::Async) {
            Ok(()) => {
                let mut backlog = self.desk.backlog();
                for (partition, offset) in offsets {
                    backlog.committed(partition, offset);
                }
            }
            Err(error) => tracing::warn!(%error, topic, "offsets are not committed"),
        }
    }
}

/// Lists offsets as the library wants them.
pub(super) fn list(topic: &str, offsets: &[(i32, i64)]) -> TopicPartitionList {
    let mut list = TopicPartitionList::with_capacity(offsets.len());
    for &(partition, offset) in offsets {
        // It fails for offsets that are none.
        list.add_partition_offset(topic, partition, Offset::Offset(offset)).ok();
    }
    list
}

/// Commits, leaves the group and closes, on a thread that can be left behind.
fn leave(consumer: BaseConsumer<Member>) {
    let member = Arc::clone(consumer.context());
    let (tell, told) = std::sync::mpsc::channel();
    let spawned = thread::Builder::new().name("kafka-leave".to_owned()).spawn(move || {
        drop(consumer);
        tell.send(()).ok();
    });
    if spawned.is_err() || told.recv_timeout(LEAVE).is_err() {
        tracing::warn!("a Kafka consumer does not close; it is left behind");
    }
    member.retire();
}
