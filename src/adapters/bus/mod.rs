//! The bus port, by vendor.

#[cfg(feature = "kafka")]
pub mod kafka;
pub mod local;
