//! A small TCP balancer: each connection goes to the next backend that says it is ready.
//!
//! A backend that answers `/ready` with anything but 200 drains: it gets no new connections and
//! keeps its old ones. One that does not answer at all loses those too, so that no client waits
//! for a process that stands still.

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use reqwest::StatusCode;
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinSet,
    time::{sleep, timeout},
};

/// How often each backend is asked.
const PERIOD: Duration = Duration::from_millis(100);
/// How long a backend may take to say whether it is ready, until it counts as silent.
const PATIENCE: Duration = Duration::from_secs(2);

/// Where a backend is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Backend {
    /// The API's address.
    pub(crate) api: SocketAddr,
    /// The base URL of the listener for health.
    pub(crate) admin: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Health {
    Ready,
    Drains,
    Silent,
}

/// One place behind the balancer: who is there, and how it is.
#[derive(Debug)]
struct Place {
    backend: watch::Sender<Option<Backend>>,
    health: watch::Sender<Health>,
}

/// The balancer; it ends when it is dropped.
#[derive(Debug)]
pub(crate) struct Balancer {
    address: SocketAddr,
    places: Arc<[Place]>,
    _tasks: JoinSet<()>,
}

impl Balancer {
    /// Listens, with this many empty places behind it.
    pub(crate) async fn start(places: usize) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let places: Arc<[Place]> = (0..places)
            .map(|_| Place {
                backend: watch::Sender::new(None),
                health: watch::Sender::new(Health::Silent),
            })
            .collect();
        let mut tasks = JoinSet::new();
        for place in 0..places.len() {
            tasks.spawn(check(Arc::clone(&places), place));
        }
        tasks.spawn(accept(listener, Arc::clone(&places)));
        Self { address, places, _tasks: tasks }
    }

    /// Returns the base URL that clients use.
    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Puts a backend in a place; the balancer finds out by itself how it is.
    pub(crate) fn put(&self, place: usize, backend: Backend) {
        self.places[place].backend.send_replace(Some(backend));
    }

    /// Waits until the backend of this place gets connections.
    pub(crate) async fn uses(&self, place: usize) {
        let mut health = self.places[place].health.subscribe();
        health.wait_for(|health| *health == Health::Ready).await.unwrap();
    }

    /// Waits until the backend of this place gets no connections.
    pub(crate) async fn avoids(&self, place: usize) {
        let mut health = self.places[place].health.subscribe();
        health.wait_for(|health| *health != Health::Ready).await.unwrap();
    }
}

async fn check(places: Arc<[Place]>, place: usize) {
    somaagent::adapters::tls::install();
    let http = reqwest::Client::builder().timeout(PATIENCE).build().unwrap();
    let place = &places[place];
    loop {
        let backend = place.backend.borrow().clone();
        let health = match &backend {
            None => Health::Silent,
            Some(backend) => ask(&http, &backend.admin).await,
        };
        // What was asked may have been replaced meanwhile.
        if *place.backend.borrow() == backend {
            place.health.send_if_modified(|known| std::mem::replace(known, health) != health);
        }
        sleep(PERIOD).await;
    }
}

async fn ask(http: &reqwest::Client, admin: &str) -> Health {
    match http.get(format!("{admin}/ready")).send().await {
        Ok(answer) if answer.status() == StatusCode::OK => Health::Ready,
        Ok(_) => Health::Drains,
        Err(_) => Health::Silent,
    }
}

async fn accept(listener: TcpListener, places: Arc<[Place]>) {
    let next = AtomicUsize::new(0);
    let mut connections = JoinSet::new();
    while let Ok((client, _)) = listener.accept().await {
        let first = next.fetch_add(1, Ordering::Relaxed);
        connections.spawn(carry(client, Arc::clone(&places), first));
        while connections.try_join_next().is_some() {}
    }
}

/// Carries one connection. If no backend takes it, the client sees it closed.
async fn carry(mut client: TcpStream, places: Arc<[Place]>, first: usize) {
    let order = (0..places.len()).map(|offset| &places[(first + offset) % places.len()]);
    for place in order {
        if *place.health.borrow() != Health::Ready {
            continue;
        }
        let Ok(mut server) = connect(place).await else {
            place.health.send_replace(Health::Silent);
            continue;
        };
        let mut health = place.health.subscribe();
        tokio::select! {
            copied = copy_bidirectional(&mut client, &mut server) => drop(copied),
            _ = health.wait_for(|health| *health == Health::Silent) => {}
        }
        return;
    }
}

async fn connect(place: &Place) -> io::Result<TcpStream> {
    let api = place.backend.borrow().as_ref().map(|backend| backend.api);
    let api = api.ok_or(io::ErrorKind::NotConnected)?;
    timeout(PATIENCE, TcpStream::connect(api)).await?
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::support::{
        Api,
        endpoint::{Endpoint, Reply},
    };

    /// A backend that names itself and is ready while it is told so.
    async fn backend(name: &'static str) -> (Endpoint, Backend, watch::Sender<u16>) {
        let (ready, status) = watch::channel(200);
        let endpoint = Endpoint::start(move |request| match request.path.as_str() {
            "/ready" => Reply::Json(*status.borrow(), json!({})),
            _ => Reply::Json(200, json!(name)),
        })
        .await;
        let api = endpoint.url().trim_start_matches("http://").parse().unwrap();
        let backend = Backend { api, admin: endpoint.url().to_owned() };
        (endpoint, backend, ready)
    }

    #[tokio::test]
    async fn connections_are_spread_over_those_that_are_ready() {
        let balancer = Balancer::start(2).await;
        let (_one, first, _) = backend("one").await;
        let (two, second, ready) = backend("two").await;
        balancer.put(0, first);
        balancer.put(1, second);
        balancer.uses(0).await;
        balancer.uses(1).await;
        let api = Api::behind_balancer(&balancer.url());
        let mut heard = vec![api.get("/").await, api.get("/").await];
        heard.sort_by_key(ToString::to_string);
        assert_eq!(heard, ["one", "two"]);
        ready.send_replace(503);
        balancer.avoids(1).await;
        for _ in 0..4 {
            assert_eq!(api.get("/").await, "one");
        }
        ready.send_replace(200);
        balancer.uses(1).await;
        drop(two);
        for _ in 0..4 {
            assert_eq!(api.get("/").await, "one");
        }
    }
}
