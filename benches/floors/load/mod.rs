//! A load generator that does not wait for the server before it means to send again.
//!
//! At a constant rate each request has a time at which it *should* leave, fixed before the first
//! one; its latency counts from then. A server that stalls for a second is thus charged for every
//! request of that second, not for one. With a number of clients instead, each sends as soon as it
//! has its answer: right for throughput, and for the latency that one client sees.
//!
//! It only talks to loopback addresses, is bounded in count and time, and stops by itself. All
//! clients share one thread, as generator and server share the machine.

mod client;
mod messages;
mod pacer;
mod report;
mod settle;

use std::{
    cell::{Cell, RefCell},
    net::SocketAddr,
    time::Duration,
};

use futures::future::join_all;
use tokio::time::{Instant, timeout};

pub(crate) use self::{client::Client, messages::Messages, report::Report, settle::settle};
use self::{pacer::Pacer, report::Tally};

/// How long one request may take before it counts as failed.
const REQUEST_LIMIT: Duration = Duration::from_mins(1);

/// How requests are spread in time.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Load {
    /// So many a second, whatever the server does.
    Rate {
        /// Requests a second.
        per_second: u32,
        /// For how long requests are due.
        duration: Duration,
        /// The most that are under way at once; what is due beyond that waits, and its latency
        /// counts.
        clients: usize,
    },
    /// So many clients, each with one request under way.
    Clients {
        /// How many.
        clients: usize,
        /// For how long new requests are sent.
        duration: Duration,
        /// The most requests in all.
        most: u64,
    },
}

/// Sends messages and reports what came back. Returns once every request has been answered or
/// given up.
pub(crate) async fn run(
    server: SocketAddr,
    messages: &Messages,
    load: Load,
) -> anyhow::Result<Report> {
    anyhow::ensure!(server.ip().is_loopback(), "`{server}` is not a loopback address");
    let run = Run { server, messages, next: Cell::new(0), tally: RefCell::new(Tally::new()?) };
    let began = Instant::now();
    match load {
        Load::Rate { per_second, duration, clients } => {
            anyhow::ensure!(per_second > 0, "a rate is 1 a second or more");
            let pacer = Pacer::start(per_second, duration);
            join_all((0..clients).map(|_| run.at_rate(&pacer))).await;
        }
        Load::Clients { clients, duration, most } => {
            let end = began + duration;
            join_all((0..clients).map(|_| run.at_will(end, most))).await;
        }
    }
    Ok(run.tally.into_inner().report(began.elapsed()))
}

struct Run<'load> {
    server: SocketAddr,
    messages: &'load Messages,
    next: Cell<u64>,
    tally: RefCell<Tally>,
}

impl Run<'_> {
    /// One of the connections that take what is due, in order.
    async fn at_rate(&self, pacer: &Pacer) {
        let mut line = Line::new(self);
        while let Some((index, due)) = pacer.next().await {
            line.send(index, due).await;
        }
    }

    /// A client that sends as soon as it has its answer.
    async fn at_will(&self, end: Instant, most: u64) {
        let mut line = Line::new(self);
        loop {
            let now = Instant::now();
            let index = self.next.get();
            if now >= end || index >= most {
                return;
            }
            self.next.set(index + 1);
            line.send(index, now).await;
        }
    }
}

/// One connection, made anew after a failure.
struct Line<'load> {
    run: &'load Run<'load>,
    client: Option<Client>,
    request: Vec<u8>,
}

impl<'load> Line<'load> {
    fn new(run: &'load Run<'load>) -> Self {
        Self { run, client: None, request: Vec::new() }
    }

    /// Sends request `index`, which was due at `due`, and counts its outcome.
    async fn send(&mut self, index: u64, due: Instant) {
        self.run.messages.write(self.run.server, index, &mut self.request);
        let outcome = match timeout(REQUEST_LIMIT, self.exchange()).await {
            Ok(Ok(outcome)) => Ok(outcome),
            Ok(Err(error)) => Err(error.kind().to_string()),
            Err(_elapsed) => Err("no answer in time".to_owned()),
        };
        if outcome.is_err() {
            self.client = None;
        }
        self.run.tally.borrow_mut().count(outcome, due.elapsed());
    }

    async fn exchange(&mut self) -> std::io::Result<Outcome> {
        let client = match &mut self.client {
            Some(client) => client,
            none => none.insert(Client::connect(self.run.server).await?),
        };
        let answer = client.exchange(&self.request).await?;
        let wanted = self.run.messages.wanted(answer.status, answer.body);
        let outcome = Outcome { status: answer.status, wanted };
        if answer.closes {
            self.client = None;
        }
        Ok(outcome)
    }
}

/// What an answer was.
#[derive(Debug, Clone, Copy)]
struct Outcome {
    status: u16,
    /// Whether it is the answer that the request asked for.
    wanted: bool,
}
