//! What happens to a consumer when its group changes.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use rdkafka::{
    ClientContext,
    config::RDKafkaLogLevel,
    consumer::{BaseConsumer, CommitMode, Consumer, ConsumerContext, Rebalance},
    error::{KafkaError, KafkaResult},
    topic_partition_list::TopicPartitionList,
};

use super::{
    client::{complain, log},
    reader::{Desk, list},
};

/// One membership in a group.
#[derive(Debug)]
pub(super) struct Member {
    desk: Arc<Desk>,
    newly_assigned: AtomicBool,
    /// Its reader goes on without it; what it still hears is of no meaning.
    retired: AtomicBool,
}

impl Member {
    pub(super) const fn of(desk: Arc<Desk>) -> Self {
        Self { desk, newly_assigned: AtomicBool::new(false), retired: AtomicBool::new(false) }
    }

    /// Whether partitions were assigned since this was last asked.
    pub(super) fn is_newly_assigned(&self) -> bool {
        self.newly_assigned.swap(false, Ordering::AcqRel)
    }

    pub(super) fn retire(&self) {
        self.retired.store(true, Ordering::Release);
    }

    /// Commits what is done and drops the rest: the partitions belong to others from now on. If
    /// they do already, there is nothing to commit.
    fn give_up(&self, consumer: &BaseConsumer<Self>, partitions: &TopicPartitionList) {
        if !consumer.assignment_lost() {
            let done = self.desk.backlog().committable();
            if let Some(topic) = partitions.elements().first().map(|of| of.topic().to_owned())
                && !done.is_empty()
                && let Err(error) = consumer.commit(&list(&topic, &done), CommitMode::Sync)
            {
                tracing::warn!(%error, topic, "offsets are not committed");
            }
        }
        let mut backlog = self.desk.backlog();
        for element in partitions.elements() {
            backlog.forget(element.partition());
        }
    }
}

impl ClientContext for Member {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, line: &str) {
        log(level, facility, line);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        complain(&error, reason);
    }
}

impl ConsumerContext for Member {
    fn pre_rebalance(&self, consumer: &BaseConsumer<Self>, rebalance: &Rebalance<'_>) {
        if self.retired.load(Ordering::Acquire) {
            return;
        }
        match rebalance {
            Rebalance::Assign(partitions) => {
                tracing::debug!(partitions = partitions.count(), "partitions are assigned");
                self.newly_assigned.store(true, Ordering::Release);
            }
            Rebalance::Revoke(partitions) => {
                tracing::debug!(partitions = partitions.count(), "partitions are revoked");
                self.give_up(consumer, partitions);
            }
            Rebalance::Error(_) => self.desk.backlog().clear(),
        }
    }

    /// A commit that failed is made again with the next one.
    fn commit_callback(&self, result: KafkaResult<()>, offsets: &TopicPartitionList) {
        if let Err(error) = result
            && !self.retired.load(Ordering::Acquire)
        {
            tracing::debug!(%error, "offsets are not committed yet");
            let mut backlog = self.desk.backlog();
            for element in offsets.elements() {
                backlog.committed(element.partition(), -1);
            }
        }
    }
}
