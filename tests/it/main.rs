//! Black-box tests: the real executable, real files, real sockets, real crashes.

#![cfg(test)]

#[cfg(feature = "cluster-platform")]
mod chaos;
mod cli;
mod crash;
mod documents;
mod failpoints;
mod faults;
mod once;
#[cfg(feature = "cluster-tests")]
mod ship;
mod shutdown;
mod supervision;
mod support;
mod tidy;
