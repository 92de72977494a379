//! The HTTP edge: one file per resource, one table of routes, one kind of error.
//!
//! Every request takes the same way (`dispatch`): its ids, its limits, its caller, the caller's
//! rate, its body, its handler. Handlers reach the outside through ports only, each call on the I/O
//! runtime; a message is accepted by the gateway service and by nobody else, and the edge rides
//! through that service's restarts.

mod accept;
mod access;
mod body;
mod call;
mod codes;
mod dead_letters;
mod dispatch;
mod docs;
mod edge;
mod events;
#[cfg(feature = "failpoints")]
mod fault;
mod follow;
mod health;
mod idempotency;
mod keys;
mod log_level;
mod memory;
mod messages;
mod metrics;
mod openai;
mod openapi;
mod passport;
mod personas;
mod problem;
mod rate;
mod route;
mod routes;
mod schemas;
mod server;
mod services;
mod sessions;
mod settings;
mod sse;
#[cfg(test)]
mod tests;
mod text;
mod tools;
mod uploads;

pub use self::{
    access::{AccessError, check_auth},
    edge::{Edge, EdgeError, Parts, RestartError, SetLogLevel, Supervision},
    health::{ComponentHealth, HealthReport, HealthSource, HealthStatus},
    personas::is_persona_id,
    server::{Server, serve_admin, serve_api},
    settings::{Limits, Settings, Streams},
};
