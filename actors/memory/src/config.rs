//! What can be set.

use std::time::Duration;

/// How much the workers do at once, and how long they wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryConfig {
    /// Outbox rows of one pass.
    pub outbox_batch: u32,
    /// Memory writes of one pass.
    pub write_batch: u32,
    /// Memory writes that are delivered at once.
    pub deliveries_at_once: usize,
    /// Records of one pass.
    pub record_batch: usize,
    /// How soon a worker looks again after it found nothing.
    pub min_period: Duration,
    /// How long the relay may go without looking.
    pub outbox_period: Duration,
    /// How long the two others may go without looking.
    pub memory_period: Duration,
    /// How often the lease on the shards is renewed; a third of its length or less.
    pub renew_every: Duration,
    /// How long the relay goes without looking at rows that the bus keeps in place.
    pub rest_in_place: Duration,
    /// How long a call of the store may take.
    pub store_deadline: Duration,
    /// How long the bus may take for a batch, and the memory service for one call.
    pub delivery_deadline: Duration,
}

impl Default for MemoryConfig {
    fn default() -> Self {
        Self {
            outbox_batch: 500,
            write_batch: 100,
            deliveries_at_once: 8,
            record_batch: 100,
            min_period: Duration::from_millis(50),
            outbox_period: Duration::from_millis(250),
            memory_period: Duration::from_secs(1),
            renew_every: Duration::from_secs(3),
            rest_in_place: Duration::from_secs(5),
            store_deadline: Duration::from_secs(10),
            delivery_deadline: Duration::from_secs(30),
        }
    }
}
