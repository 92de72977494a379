//! The live port, by vendor.

pub mod local;
pub mod redis;
