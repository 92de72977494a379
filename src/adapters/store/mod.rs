//! The store port, by vendor.

pub mod postgres;
pub mod promote;
pub mod sqlite;
