//! The bus port, by vendor.

pub mod local;
