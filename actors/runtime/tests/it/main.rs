//! The runtime through its own API: one binary, one module per promise.
#![expect(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "a test may")]

mod actix_facts;
mod basics;
mod bounds;
mod budgets;
mod hangs;
mod health;
mod io;
mod order;
mod panics;
mod places;
mod scale;
mod support;
mod told;
