//! The policy port, by vendor.

mod answer;
mod cache;
mod opa;
mod rego;

pub use opa::{OpaPolicy, OpaSettings, OpaSetupError};
pub use rego::{Rego, RegoError};
