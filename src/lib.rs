//! The SomaAgent01 platform: every service a supervised actor in one executable.

pub mod adapters;
pub mod app;
pub mod cli;
pub mod http;
pub mod telemetry;
