//! Starts the executable and talks to it.

pub(crate) mod endpoint;
pub(crate) mod foreign;
pub(crate) mod log;

mod api;
mod balancer;
#[cfg(feature = "cluster-platform")]
pub(crate) mod cluster;
mod engines;
mod platform;
mod server;
mod setup;
mod storm;

use std::time::Duration;

pub(crate) use self::{
    api::{Api, Sent},
    balancer::{Backend, Balancer},
    engines::{Engines, on_all_engines},
    platform::Platform,
    server::Server,
    setup::Setup,
    storm::Storm,
};

/// Longer than anything takes on a busy machine; a test that waits this long has found a hang.
const HANG: Duration = Duration::from_mins(5);

/// Waits for something that nobody tells.
pub(crate) async fn until(what: &str, holds: impl AsyncFn() -> bool) {
    let waiting = async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    in_time(what, waiting).await;
}

/// Waits for something that happens, unless there is a hang.
pub(crate) async fn in_time<T>(what: &str, happens: impl Future<Output = T>) -> T {
    tokio::time::timeout(HANG, happens).await.unwrap_or_else(|_| panic!("never: {what}"))
}
