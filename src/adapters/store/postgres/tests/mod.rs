//! The store on a real PostgreSQL: the port's own suite, and what only this adapter promises.

mod database;
mod suite;
