//! The settings of the conversation worker.

use std::{sync::Arc, time::Duration};

use soma_contract::persona::Persona;

use crate::{caps::Caps, verdict::Patience};

/// How turns are claimed, run and bounded.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// How often a turn may be tried without progress, and wait.
    pub patience: Patience,
    /// What one turn may use.
    pub caps: Caps,
    /// The most turns that run at once in this process.
    pub concurrency: usize,
    /// How often the owner of a turn renews its lease and reads the cancel flag.
    pub heartbeat: Duration,
    /// How long a session's child stays without work.
    pub session_idle: Duration,
    /// How often the store is asked for turns that nobody has claimed, and for how long they must
    /// have waited.
    pub poll: Duration,
    /// How often the steps of a waiting turn are read when no nudge comes.
    pub steps_poll: Duration,
    /// How long a drain lets turns run to their next step boundary before it interrupts them.
    pub drain_grace: Duration,
    /// The longest one call of the store may take.
    pub store_deadline: Duration,
    /// The most tokens of a prompt.
    pub context_tokens: usize,
    /// The most memories that a prompt recalls; 0: none are asked for.
    pub recall_limit: usize,
    /// The longest a recall may take before the turn goes on without.
    pub recall_deadline: Duration,
    /// Personas that every tenant has, unless it has its own of the same id.
    pub personas: Arc<[Persona]>,
    /// Whether a turn's message and answer become memories.
    pub remember: bool,
    /// Text is published to readers at most this often.
    pub delta_interval: Duration,
    /// The consumer of `conversation.inbound`.
    pub intake: Intake,
}

/// How records are received.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Intake {
    /// Records received at once.
    pub batch: usize,
    /// How long one receive waits.
    pub wait: Duration,
    /// The pause between two receives. On a local bus a claim acknowledges its records, and the
    /// consumer only sweeps up what nobody claimed: there a second saves a write per message.
    pub pause: Duration,
    /// The most bytes of a foreign record.
    pub max_bytes: usize,
    /// The most unfinished turns in all; beyond it no foreign record is taken.
    pub backlog_total: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            patience: Patience::default(),
            caps: Caps::default(),
            concurrency: 256,
            heartbeat: Duration::from_secs(10),
            session_idle: Duration::from_mins(5),
            poll: Duration::from_secs(1),
            steps_poll: Duration::from_millis(250),
            drain_grace: Duration::from_secs(15),
            store_deadline: Duration::from_secs(10),
            context_tokens: 4_096,
            recall_limit: 8,
            recall_deadline: Duration::from_secs(2),
            personas: Arc::from([]),
            remember: true,
            delta_interval: Duration::from_millis(15),
            intake: Intake::default(),
        }
    }
}

impl Config {
    /// Returns how many events of a session are read for a prompt: about as many as fit into one.
    pub(crate) fn history_events(&self) -> u32 {
        u32::try_from(self.context_tokens / 64).unwrap_or(u32::MAX).clamp(32, 1_000)
    }
}

impl Default for Intake {
    fn default() -> Self {
        Self {
            batch: 256,
            wait: Duration::from_secs(1),
            pause: Duration::from_secs(1),
            max_bytes: 1024 * 1024,
            backlog_total: 100_000,
        }
    }
}
