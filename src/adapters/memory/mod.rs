//! The memory service port, by vendor.

pub mod builtin;
pub mod somabrain;
