//! Logs and what else tells an operator what the process does.

pub mod logs;
