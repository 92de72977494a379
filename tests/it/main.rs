//! Black-box tests: the real executable, real files, real sockets, real crashes.

#![cfg(test)]

mod cli;
mod crash;
mod documents;
mod failpoints;
#[cfg(feature = "cluster-tests")]
mod ship;
mod shutdown;
mod supervision;
mod support;
mod tidy;
