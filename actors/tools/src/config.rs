//! What can be set about running tools.

use std::time::Duration;

/// The settings of the tool executor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ToolsConfig {
    /// The most calls that run at once in this process.
    pub max_concurrent: usize,
    /// How often the store is asked for steps when nothing wakes the executor.
    pub poll: Duration,
    /// How often a running step renews its lease and looks whether its turn was cancelled.
    pub heartbeat: Duration,
    /// How often steps that are owned here but not run here are looked for.
    pub sweep: Duration,
    /// The longest that a call of the store, the policy engine or the bus may take.
    pub port_deadline: Duration,
}

impl Default for ToolsConfig {
    fn default() -> Self {
        Self {
            max_concurrent: 16,
            poll: Duration::from_millis(250),
            heartbeat: Duration::from_secs(10),
            sweep: Duration::from_secs(30),
            port_deadline: Duration::from_secs(10),
        }
    }
}
