//! Adapters: one folder per port, one file or folder per vendor.

pub mod bus;
pub mod live;
pub mod memory;
pub mod model;
pub mod policy;
#[cfg(test)]
mod scripted;
#[cfg(test)]
#[cfg(feature = "cluster-tests")]
mod servers;
pub mod store;
pub mod tls;
pub mod tools;
