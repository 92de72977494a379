//! The store on a real PostgreSQL: the port's own suite, and what only this adapter promises.

mod away;
mod database;
mod hot;
mod ownership;
mod proxy;
mod replicas;
mod sample;
mod schema;
mod shards;
mod suite;
mod texts;
