//! Runs tools under policy, each started at most as often as its effect class allows.
//!
//! A [`Toolbox`] holds every [`Tool`] of the process and is the catalogue that turns are checked
//! against. The service is [`ToolExecutor`], `tool-executor` in the registry.
//!
//! **Takes**: steps that turns have journaled as `requested`, by polling; woken by
//! [`Parts::wake`], by hints of the live port and by `tool.requests`. Foreign records of that topic
//! become turns of one call.
//!
//! **Emits**: `tool.start` and `tool.result` events with the steps' rows; hints to readers and to
//! the turn's owner; dead letters for records that cannot become a turn.
//!
//! **Needs**: store, policy; live and bus only to be quicker.
//!
//! **Keeps**: nothing that the store does not know.
//!
//! **On restart**: what the incarnation before ran has ended with it; its steps are lost, each by
//! its effect class.
//!
//! **On failure**: of a tool: that call ends with an error. Of the policy engine: nothing is run,
//! the claimed steps are put back, and claiming goes on once it answers. Of the store: claiming
//! pauses; what has run is settled when it is back.
//!
//! Invariants:
//!
//! 1. A step is claimed, `started` in the store, before its tool is called, and only with a permit.
//! 2. No tool is called unless the policy has allowed this very call.
//! 3. A `once` tool is called at most once per effect id, whatever is lost.
//! 4. A run that is stopped (time-out, cancel, drain) is dropped before its step is settled or put
//!    back.
//! 5. A panic in a tool ends its call as an error and nothing else.
//! 6. Memory writes of a call are stored in the transaction that settles it, or not at all.

mod actor;
pub mod bound;
pub mod builtin;
mod claims;
mod config;
pub mod decide;
mod ears;
mod foreign;
mod metrics;
mod parts;
mod run;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
mod tool;
mod toolbox;

pub use actor::ToolExecutor;
pub use config::ToolsConfig;
pub use metrics::ToolMetrics;
pub use parts::Parts;
pub use tool::{CallContext, Cancel, CancelOnDrop, Tool, ToolError, ToolOutput, arguments_as};
pub use toolbox::{ToolLimits, Toolbox, ToolboxError};
