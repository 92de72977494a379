//! The two listeners: the API, and health and metrics on a thread and runtime of their own, so that
//! they answer when the API is saturated.

use std::{
    io,
    net::{SocketAddr, TcpListener},
    sync::mpsc,
    thread,
    time::Duration,
};

use actix_web::{App, HttpServer, dev::ServerHandle};

use super::{Edge, route::Served, routes};

/// How long a request's head may take to arrive.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
const KEEP_ALIVE: Duration = Duration::from_secs(75);
/// How long connections have to end once the server stops.
const SHUTDOWN_SECONDS: u64 = 15;

/// A listener that is served.
#[derive(Debug)]
pub struct Server {
    handle: ServerHandle,
    address: SocketAddr,
}

impl Server {
    /// Returns where it listens.
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Closes the listener, lets requests in flight end, and returns when they have, or when their
    /// time is over. Repeatable.
    pub async fn stop(&self) {
        self.handle.stop(true).await;
    }
}

/// Serves the API. The listener belongs to it for the life of the process; restarts of services do
/// not touch it.
///
/// # Errors
///
/// The listener cannot be used, or its thread cannot be had.
pub fn serve_api(edge: &Edge, listener: TcpListener) -> io::Result<Server> {
    let workers = thread::available_parallelism().map_or(2, usize::from);
    serve(edge, listener, Served::Api, workers)
}

/// Serves health and metrics.
///
/// # Errors
///
/// The listener cannot be used, or its thread cannot be had.
pub fn serve_admin(edge: &Edge, listener: TcpListener) -> io::Result<Server> {
    serve(edge, listener, Served::Admin, 1)
}

/// Runs a server on a thread and runtime of its own. Signals are not its business: whoever runs
/// the process drains it.
fn serve(edge: &Edge, listener: TcpListener, served: Served, workers: usize) -> io::Result<Server> {
    let address = listener.local_addr()?;
    let edge = edge.clone();
    let (started, outcome) = mpsc::channel();
    let name = if served == Served::Admin { "http-admin" } else { "http-api" };
    thread::Builder::new().name(name.to_owned()).spawn(move || {
        actix_rt::System::new().block_on(async move {
            let app =
                move || App::new().configure(|config| routes::configure(config, &edge, served));
            let server = HttpServer::new(app)
                .workers(workers)
                .keep_alive(KEEP_ALIVE)
                .client_request_timeout(HEAD_TIMEOUT)
                .shutdown_timeout(SHUTDOWN_SECONDS)
                .disable_signals()
                .listen(listener)
                .map(HttpServer::run);
            match server {
                Ok(server) => {
                    // Whoever does not wait for the handle has gone, and wants no server.
                    if started.send(Ok(server.handle())).is_ok()
                        && let Err(error) = server.await
                    {
                        tracing::error!(%error, listener = name, "a listener failed");
                    }
                }
                Err(error) => drop(started.send(Err(error))),
            }
        });
    })?;
    let handle = outcome.recv().map_err(io::Error::other)??;
    Ok(Server { handle, address })
}
