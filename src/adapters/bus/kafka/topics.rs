//! The topics on the brokers: those that are missing are created, the others kept as they are.

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use futures::executor::block_on;
use rdkafka::{
    admin::{AdminClient, AdminOptions, NewTopic, ResourceSpecifier, TopicReplication},
    error::KafkaError,
    types::RDKafkaErrorCode,
};
use soma_contract::{port::bus::BusError, topic::Topic};
use tokio::time::Instant;

use super::{client::Chatter, settings::Options};

/// How long the brokers may take to say what there is.
const LOOK: Duration = Duration::from_secs(3);
/// How long they may take to create a topic.
const CREATE: Duration = Duration::from_secs(10);
/// The pause between two looks for a topic that was created.
const PROPAGATION: Duration = Duration::from_millis(20);
/// The largest record of a topic that we create. What the edge takes is smaller, whatever is added.
const LARGEST: &str = "8388608";
/// The largest record that brokers take which do not say.
const USUAL_LIMIT: usize = 1_000_000;
/// Room within a topic's limit for what a batch adds to a record.
const FRAME: usize = 1_024;

/// Creates topics and looks at them. Its calls block.
pub(super) struct Topics {
    admin: AdminClient<Chatter>,
    names: Vec<String>,
    partitions: i32,
    retention_ms: String,
    known: AtomicBool,
    /// Counts how often the brokers turned out to have lost their topics.
    age: AtomicUsize,
    cluster: Mutex<Option<String>>,
    limit: AtomicUsize,
    /// One look at a time: all who wait for it have the same question.
    looking: Mutex<()>,
}

impl std::fmt::Debug for Topics {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Topics").field("names", &self.names).finish_non_exhaustive()
    }
}

impl Topics {
    pub(super) fn new(options: &Options) -> Result<Self, KafkaError> {
        Ok(Self {
            admin: options.client().create_with_context(Chatter)?,
            names: Topic::ALL.into_iter().map(|topic| options.topic(topic)).collect(),
            partitions: options.partitions,
            retention_ms: options.retention.as_millis().to_string(),
            known: AtomicBool::new(false),
            age: AtomicUsize::new(0),
            cluster: Mutex::default(),
            limit: AtomicUsize::new(USUAL_LIMIT),
            looking: Mutex::default(),
        })
    }

    /// Whether all were there when last looked.
    pub(super) fn are_known(&self) -> bool {
        self.known.load(Ordering::Acquire)
    }

    /// Somebody has reason to doubt that they are still there.
    pub(super) fn doubt(&self) {
        self.known.store(false, Ordering::Release);
    }

    /// Changes when topics were created anew: a client that knows the old ones waits for ever for
    /// the brokers to reach its older state.
    pub(super) fn age(&self) -> usize {
        self.age.load(Ordering::Acquire)
    }

    /// The most bytes of a record that every topic takes.
    pub(super) fn limit(&self) -> usize {
        self.limit.load(Ordering::Acquire)
    }

    /// Creates what is missing, unless all were there when last looked.
    pub(super) fn ensure(&self) -> Result<(), BusError> {
        let _one = self.looking.lock().unwrap_or_else(PoisonError::into_inner);
        if self.are_known() {
            return Ok(());
        }
        let missing = self.missing()?;
        if !missing.is_empty() {
            self.create(&missing)?;
            self.await_all()?;
        }
        if self.is_another_cluster() || !missing.is_empty() {
            self.age.fetch_add(1, Ordering::AcqRel);
        }
        self.limit.store(self.smallest_limit(), Ordering::Release);
        self.known.store(true, Ordering::Release);
        Ok(())
    }

    /// Asks the brokers for one topic; after any doubt, for all of them.
    pub(super) fn ping(&self) -> Result<(), BusError> {
        if !self.are_known() {
            return self.ensure();
        }
        let outcome = self.ask_for_one();
        if outcome.is_err() {
            self.doubt();
        }
        outcome
    }

    fn ask_for_one(&self) -> Result<(), BusError> {
        let name = self.names.first().map(String::as_str);
        let metadata = self.admin.inner().fetch_metadata(name, LOOK).map_err(unavailable)?;
        let fault = metadata.topics().iter().find_map(rdkafka::metadata::MetadataTopic::error);
        fault.map_or(Ok(()), |error| Err(BusError(RDKafkaErrorCode::from(error).to_string())))
    }

    /// Asks the brokers what there is.
    pub(super) fn look(&self) -> Result<(), BusError> {
        self.missing().map(drop)
    }

    /// Asks for all names: to ask for one that is missing could create it, with other settings.
    fn missing(&self) -> Result<Vec<&str>, BusError> {
        let metadata = self.admin.inner().fetch_metadata(None, LOOK).map_err(unavailable)?;
        let is_there = |name: &str| metadata.topics().iter().any(|topic| topic.name() == name);
        Ok(self.names.iter().map(String::as_str).filter(|name| !is_there(name)).collect())
    }

    /// Whether the brokers are not those of the last look, although they are where those were.
    fn is_another_cluster(&self) -> bool {
        let Some(id) = self.admin.inner().fetch_cluster_id(LOOK) else { return false };
        let mut known = self.cluster.lock().unwrap_or_else(PoisonError::into_inner);
        let is_another = known.as_ref().is_some_and(|known| *known != id);
        *known = Some(id);
        is_another
    }

    /// What the controller has created the brokers hear of a moment later.
    fn await_all(&self) -> Result<(), BusError> {
        let deadline = Instant::now() + CREATE;
        while let Some(missing) = self.missing()?.first() {
            if Instant::now() >= deadline {
                return Err(BusError(format!("topic `{missing}` is created, but not there")));
            }
            thread::park_timeout(PROPAGATION);
        }
        Ok(())
    }

    fn create(&self, names: &[&str]) -> Result<(), BusError> {
        let topics: Vec<NewTopic<'_>> = names
            .iter()
            .map(|name| {
                // The brokers' own number of replicas.
                NewTopic::new(name, self.partitions, TopicReplication::Fixed(-1))
                    .set("retention.ms", &self.retention_ms)
                    .set("max.message.bytes", LARGEST)
            })
            .collect();
        let options =
            AdminOptions::new().request_timeout(Some(CREATE)).operation_timeout(Some(CREATE));
        let outcomes =
            block_on(self.admin.create_topics(&topics, &options)).map_err(unavailable)?;
        for outcome in outcomes {
            match outcome {
                Ok(topic) => tracing::info!(topic, partitions = self.partitions, "topic created"),
                Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => {}
                Err((topic, error)) => {
                    return Err(BusError(format!("topic `{topic}` cannot be created: {error}")));
                }
            }
        }
        Ok(())
    }

    fn smallest_limit(&self) -> usize {
        let topics: Vec<ResourceSpecifier<'_>> =
            self.names.iter().map(|name| ResourceSpecifier::Topic(name)).collect();
        let options = AdminOptions::new().request_timeout(Some(LOOK));
        let described = block_on(self.admin.describe_configs(&topics, &options));
        let limits = described.into_iter().flatten().flatten().filter_map(|topic| {
            topic.get("max.message.bytes")?.value.as_ref()?.parse::<usize>().ok()
        });
        limits.min().map_or(USUAL_LIMIT, |limit| limit.saturating_sub(FRAME).max(FRAME))
    }
}

#[expect(clippy::needless_pass_by_value, reason = "used as `map_err(unavailable)`")]
fn unavailable(error: KafkaError) -> BusError {
    BusError(error.to_string())
}
