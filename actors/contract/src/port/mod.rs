//! The ports: what the services need of the world, one trait per capability.

pub mod bus;
pub mod live;
pub mod memory;
pub mod model;
pub mod policy;
pub mod store;
