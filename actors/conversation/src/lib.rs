//! Turns: claims them, runs them step by step, ends each in one terminal event. The service
//! `conversation-worker`.
//!
//! | card | |
//! | --- | --- |
//! | **Takes** | rings of the [`Doorbell`]: a session may have a claimable turn; hints of the live port; records of `conversation.inbound`; what the store says is claimable |
//! | **Emits** | one terminal event per turn and replay, with its memory writes; journaled steps, with their tool requests; text, notices and resets on the live port |
//! | **Needs** | the store. Live port, bus, model, memory and policy may be out of reach: turns then wait, or go on without |
//! | **Keeps** | nothing but who sits where: which session has a child, which turns run |
//! | **On restart** | releases the turns of the incarnation before it, then polls |
//! | **On failure** | store unreachable: what a running turn has to write is tried until it is written; new turns wait; `degraded` |
//!
//! Invariants:
//! 1. A claimed turn ends in exactly one terminal event, or is laid down and claimed again.
//! 2. A journaled answer or result is never computed again.
//! 3. A session runs one turn at a time; its child claims one after another.
//! 4. A panic fails the turn that panicked, and counts; the worker goes on.
//! 5. Tries are judged before anything runs; caps before each step. Both end in a terminal event
//!    that says which.
//! 6. Once fenced, nothing more is written.
//! 7. A drain claims nothing, and lays running turns down at their next step boundary, or at the
//!    end of its grace. The spec's stop deadline is to be longer than [`Config::drain_grace`].
//!
//! A turn of kind `tool` ends in `assistant.final` whatever its tool did: it did what it was asked
//! for. `metadata.status` and `metadata.tool` say how the tool ended.

mod actor;
pub mod calls;
pub mod caps;
mod config;
pub mod context;
mod desk;
mod doorbell;
mod duties;
pub mod ending;
pub mod failure;
mod finish;
mod intake;
mod metrics;
mod ports;
mod prepare;
pub mod progress;
pub mod record;
pub mod remember;
mod run;
mod session;
mod steps;
pub mod stream;
#[cfg(test)]
mod testing;
mod turn;
pub mod verdict;

pub use actor::ConversationWorker;
pub use config::{Config, Intake};
pub use doorbell::Doorbell;
pub use metrics::Metrics;
pub use ports::Ports;
