//! The store on a real PostgreSQL: the port's own suite, and what only this adapter promises.

mod away;
pub(in crate::adapters::store) mod database;
mod hot;
mod ownership;
mod proxy;
mod replicas;
pub(in crate::adapters::store) mod sample;
mod schema;
mod shards;
mod suite;
mod texts;
