//! The settings of the gateway.

use std::time::Duration;

/// How much the gateway takes at once and in all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// The most messages of one commit.
    pub max_batch: usize,
    /// The most unfinished turns of one tenant.
    pub backlog_per_tenant: u64,
    /// The most unfinished turns in all.
    pub backlog_total: u64,
    /// How often the backlog is counted in the store.
    pub backlog_period: Duration,
    /// The longest a commit may take before its outcome counts as unknown.
    pub commit_deadline: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            max_batch: 512,
            backlog_per_tenant: 10_000,
            backlog_total: 100_000,
            backlog_period: Duration::from_secs(1),
            commit_deadline: Duration::from_secs(10),
        }
    }
}
