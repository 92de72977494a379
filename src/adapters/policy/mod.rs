//! The policy port, by vendor.

mod rego;

pub use rego::{Rego, RegoError};
