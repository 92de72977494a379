//! Runs tools under policy, each started at most as often as its effect class allows.
//!
//! A [`Toolbox`] holds every [`Tool`] of the process and is the catalogue that turns are checked
//! against.

pub mod bound;
pub mod builtin;
mod config;
pub mod decide;
mod metrics;
#[cfg(test)]
mod testing;
mod tool;
mod toolbox;

pub use config::ToolsConfig;
pub use metrics::ToolMetrics;
pub use tool::{CallContext, Cancel, CancelOnDrop, Tool, ToolError, ToolOutput, arguments_as};
pub use toolbox::{Toolbox, ToolboxError};
