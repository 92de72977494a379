//! The store port, by vendor.

pub mod sqlite;
