//! Admission and group commit of accepted messages: the service `gateway`.
//!
//! | card | |
//! | --- | --- |
//! | **Takes** | [`Accept`]: a message that the edge has authorised, bounded and validated |
//! | **Emits** | [`Accepted`](soma_contract::message::Accepted) once the commit is durable; a hint to whoever runs turns; `Appended` on the live port |
//! | **Needs** | the store; the live port best effort. No bus, no cache, no memory call |
//! | **Keeps** | nothing: what waits for a commit is answered with an error when the incarnation ends, and the edge tries again with the same event id |
//! | **On restart** | the queue is empty, the backlog is counted anew |
//! | **On failure** | store unreachable: typed, retriable errors, and the service reports `degraded` |
//!
//! Invariants:
//! 1. A message is answered `Ok` only after the commit that stores it.
//! 2. Messages that arrive during a commit share the next one; no timer delays anybody.
//! 3. A batch holds one message per idempotency key and per event id.
//! 4. A full backlog refuses before the store is asked to write.

mod actor;
pub mod admission;
pub mod batch;
mod commit;
mod config;
mod count;
mod metrics;

pub use actor::{Accept, AfterCommit, Gateway, Ports};
pub use config::Config;
pub use metrics::Metrics;
