//! The runtime through its own API: one binary, one module per promise.

mod basics;
mod support;
