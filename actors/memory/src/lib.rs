//! Unified memory: outbox relay, memory sync and replicator.
//!
//! Three workers under one supervisor (`unified-memory`); [`children`] declares them.
//!
//! - **Takes**: rows of `message_outbox` (`outbox-sync`), rows of `memory_write_outbox`
//!   (`memory-sync`), records of `memory.wal` (`memory-replicator`). No messages.
//! - **Emits**: records on every topic of the bus; memories to the memory service; replica rows.
//! - **Needs**: Store, Bus, `MemoryService`. Each may be unreachable for any time.
//! - **Keeps**: nothing that the store does not know; in memory only the shards held, how often a
//!   delivery panicked, and records that were received and not yet acknowledged.
//! - **On restart**: reads the store again. What was published or delivered and not yet settled is
//!   published or delivered again.
//! - **On failure**: an unreachable dependency is a back-off and a degraded report; a refusal for
//!   good is a dead letter, and what comes after it goes on; a panic is a restart, and the panics of
//!   one memory write end as its dead letter, not as the death of the service.
//!
//! Invariants:
//!
//! 1. Rows of one session and topic are handed to the bus in their order, and a row leaves the
//!    outbox only when no row of its session and topic before it is still there.
//! 2. A transient error never uses up attempts: no row leaves the outbox but by delivery or refusal.
//! 3. A memory's write is delivered only when its earlier one is settled, under a key that follows
//!    from tenant, memory and version alone.
//! 4. A record is acknowledged only when it is applied, known to be ours, or buried.
//! 5. Rows that a bus keeps in place are not read again and again.

mod config;
mod metrics;
mod ports;
mod relay;
mod replicator;
mod shards;
mod sync;
mod wal;

use soma_runtime::{Nudge, Pace, Registry, Spec};

use self::{relay::OutboxSync, replicator::MemoryReplicator, sync::MemorySync};

pub use self::{config::MemoryConfig, metrics::MemoryMetrics, ports::MemoryPorts};

/// The supervisor's name.
pub const UNIFIED_MEMORY: &str = "unified-memory";
/// The relay's name.
pub const OUTBOX_SYNC: &str = "outbox-sync";
/// The name of what delivers memory writes.
pub const MEMORY_SYNC: &str = "memory-sync";
/// The name of what applies foreign memory writes.
pub const MEMORY_REPLICATOR: &str = "memory-replicator";

/// Wakes the workers before they would look again by themselves.
#[derive(Debug, Clone, Default)]
pub struct MemoryNudges {
    /// There are new outbox rows.
    pub outbox: Nudge,
    /// There are new memory writes.
    pub writes: Nudge,
}

/// Declares the three workers, for `Spec::supervisor(UNIFIED_MEMORY, …)`.
pub fn children(
    ports: &MemoryPorts,
    config: MemoryConfig,
    metrics: &MemoryMetrics,
    nudges: &MemoryNudges,
) -> Registry {
    let (relay_ports, relay_metrics) = (ports.clone(), metrics.clone());
    let relay = Spec::worker(
        OUTBOX_SYNC,
        move || OutboxSync::new(relay_ports.clone(), config, relay_metrics.clone()),
        Pace::between(config.min_period, config.outbox_period),
        nudges.outbox.clone(),
    );
    let (sync_ports, sync_metrics) = (ports.clone(), metrics.clone());
    let sync = Spec::worker(
        MEMORY_SYNC,
        move || MemorySync::new(sync_ports.clone(), config, sync_metrics.clone()),
        Pace::between(config.min_period, config.memory_period),
        nudges.writes.clone(),
    );
    let (replicator_ports, replicator_metrics) = (ports.clone(), metrics.clone());
    let replicator = Spec::worker(
        MEMORY_REPLICATOR,
        move || MemoryReplicator::new(&replicator_ports, config, replicator_metrics.clone()),
        Pace::between(config.min_period, config.memory_period),
        Nudge::new(),
    );
    Registry::new([relay.into(), sync.into(), replicator.into()])
}

#[cfg(test)]
mod testing;
#[cfg(test)]
mod tree;
