//! The live port, by vendor.

pub mod local;
