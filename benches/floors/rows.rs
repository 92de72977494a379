//! The rows of the table: what is run, and how its figures are made.

use std::{
    cell::Cell,
    fmt,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Context as _;
use clap::ValueEnum;
use tokio::time::sleep;

use crate::{
    figure::{Better, Figure},
    limits::{Kind, Limit},
    load::{self, Load, Messages, Report},
    product::{Product, Program},
};

/// Clients of the rows that look for throughput.
const CLIENTS: usize = 64;
/// Messages a second of the row that keeps a constant rate.
const RATE: u32 = 500;
/// After which the process counts as idle.
const IDLE: Duration = Duration::from_secs(2);

/// A row of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Row {
    /// Messages accepted durably, 64 clients.
    Accept,
    /// 500 messages a second, the whole path running.
    Rate,
    /// Messages answered, 64 clients.
    Turns,
    /// What one client waits for an answer.
    Latency,
    /// Start to ready, and what an idle process needs.
    Start,
}

impl Row {
    /// Returns the rows named, or all.
    pub(crate) fn all(named: &[Self]) -> Vec<Self> {
        if named.is_empty() { Self::value_variants().to_vec() } else { named.to_vec() }
    }
}

impl fmt::Display for Row {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let value = self.to_possible_value().ok_or(fmt::Error)?;
        formatter.write_str(value.get_name())
    }
}

/// Where and how long to measure.
#[derive(Debug)]
pub(crate) struct Bench {
    program: PathBuf,
    scratch: PathBuf,
    directories: Cell<u32>,
    rounds: usize,
    round: Duration,
    warm_up: Duration,
    at_rate: Duration,
}

/// A run of the limit and the product's run beside it.
struct Pair {
    limit: Report,
    product: Report,
}

impl Bench {
    /// Will measure `program`, and keep its files in `scratch`.
    pub(crate) fn new(program: PathBuf, scratch: &Path, quick: bool) -> Self {
        let seconds = Duration::from_secs;
        let (rounds, round, at_rate) =
            if quick { (1, seconds(2), seconds(5)) } else { (5, seconds(5), seconds(30)) };
        let (scratch, directories) = (scratch.to_path_buf(), Cell::new(0));
        Self { program, scratch, directories, rounds, round, warm_up: seconds(1), at_rate }
    }

    /// Measures one row; it may have several figures.
    pub(crate) async fn measure(&self, row: Row) -> anyhow::Result<Vec<Figure>> {
        match row {
            Row::Accept => Ok(vec![self.accept().await?]),
            Row::Rate => Ok(vec![self.rate().await?]),
            Row::Turns => Ok(vec![self.turns().await?]),
            Row::Latency => Ok(vec![self.latency().await?]),
            Row::Start => self.start().await,
        }
    }

    async fn accept(&self) -> anyhow::Result<Figure> {
        let pairs = self.pairs(Kind::Log, &Messages::accepted, CLIENTS).await?;
        let what = "durable accept, 64 clients, turns running ÷ a bare group-commit log";
        throughput("accept", what, pairs, (0.15, 0.4))
    }

    async fn turns(&self) -> anyhow::Result<Figure> {
        let pairs = self.pairs(Kind::Instant, &Messages::answered, CLIENTS).await?;
        let what = "whole turn, instant model, 64 clients ÷ the same with no durability";
        throughput("turns", what, pairs, (0.06, 0.25))
    }

    async fn latency(&self) -> anyhow::Result<Figure> {
        let pairs = self.pairs(Kind::Instant, &Messages::answered, 1).await?;
        let faults = faults(&pairs);
        let added =
            |pair: &Pair| millis(pair.product.latency(0.5)) - millis(pair.limit.latency(0.5));
        let pair = median(pairs, added).context("measure at all")?;
        Ok(Figure {
            row: "latency",
            what: "added to one turn, one client, p50",
            measured: format!("{:.3} ms", millis(pair.product.latency(0.5))),
            limit: format!("{:.3} ms", millis(pair.limit.latency(0.5))),
            score: added(&pair),
            unit: " ms",
            floor: 3.0,
            aim: 1.0,
            better: Better::Lower,
            faults,
        })
    }

    async fn rate(&self) -> anyhow::Result<Figure> {
        let rate = Load::Rate { per_second: RATE, duration: self.at_rate, clients: CLIENTS };
        let directory = self.directory()?;
        let limit = Limit::start(Kind::Log, &directory)?;
        self.warm_up(limit.address, &Messages::accepted(), CLIENTS).await?;
        let bare = load::run(limit.address, &Messages::accepted(), rate).await?;
        told("limit", &bare);
        drop(limit);
        let product = self.product(&[]).await?;
        let early = self.warm_up(product.address, &Messages::answered(), CLIENTS).await?;
        let messages = Messages::accepted();
        let real = load::run(product.address, &messages, rate).await?;
        told("product", &real);
        let settled = load::settle(product.address, &messages, real.answered()).await?;
        tell(&format!("every message had ended {} ms after the last one", settled.as_millis()));
        Ok(Figure {
            row: "rate",
            what: "500/s open loop, whole path running, p99 ÷ the bare log's",
            measured: format!("p99 {:.2} ms", millis(real.latency(0.99))),
            limit: format!("p99 {:.2} ms", millis(bare.latency(0.99))),
            score: millis(real.latency(0.99)) / millis(bare.latency(0.99)),
            unit: "",
            floor: 10.0,
            aim: 4.0,
            better: Better::Lower,
            faults: bare.failed() + early.failed() + real.failed(),
        })
    }

    async fn start(&self) -> anyhow::Result<Vec<Figure>> {
        let (mut fresh, mut existing, mut resident) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..self.rounds {
            let program = Program { path: self.program.clone(), directory: self.directory()? };
            let product = program.start(&[]).await?;
            fresh.push(product.started_in);
            sleep(IDLE).await;
            resident.push(product.resident()?);
            let messages = Messages::answered();
            load::run(product.address, &messages, self.clients(CLIENTS, self.warm_up)).await?;
            drop(product);
            existing.push(program.start(&[]).await?.started_in);
        }
        let resident = median(resident, |kib| f64::from(u32::try_from(*kib).unwrap_or(u32::MAX)));
        let resident = resident.context("measure at all")?;
        Ok(vec![
            started("start to ready, new store", fresh)?,
            started("start to ready, store left by a kill", existing)?,
            Figure {
                row: "start",
                what: "resident memory 2 s after ready",
                measured: format!("{resident} KiB"),
                limit: "–".to_owned(),
                score: f64::from(u32::try_from(resident).unwrap_or(u32::MAX)) / 1024.0,
                unit: " MiB",
                floor: 60.0,
                aim: 30.0,
                better: Better::Lower,
                faults: 0,
            },
        ])
    }

    /// Runs limit and product in turn, each new, so that both see the same hours of the machine.
    async fn pairs(
        &self,
        kind: Kind,
        messages: &dyn Fn() -> Messages,
        clients: usize,
    ) -> anyhow::Result<Vec<Pair>> {
        let mut pairs = Vec::new();
        for _ in 0..self.rounds {
            let limit = Limit::start(kind, &self.directory()?)?;
            let bare = self.closed(limit.address, messages, clients).await?;
            told("limit", &bare);
            drop(limit);
            let product = self.product(&[]).await?;
            let real = self.closed(product.address, messages, clients).await?;
            told("product", &real);
            pairs.push(Pair { limit: bare, product: real });
        }
        Ok(pairs)
    }

    async fn closed(
        &self,
        server: std::net::SocketAddr,
        messages: &dyn Fn() -> Messages,
        clients: usize,
    ) -> anyhow::Result<Report> {
        self.warm_up(server, &messages(), clients).await?;
        load::run(server, &messages(), self.clients(clients, self.round)).await
    }

    async fn warm_up(
        &self,
        server: std::net::SocketAddr,
        messages: &Messages,
        clients: usize,
    ) -> anyhow::Result<Report> {
        load::run(server, messages, self.clients(clients, self.warm_up)).await
    }

    #[expect(clippy::unused_self, reason = "reads like its neighbours")]
    fn clients(&self, clients: usize, duration: Duration) -> Load {
        Load::Clients { clients, duration, most: u64::MAX }
    }

    async fn product(&self, settings: &[(&str, &str)]) -> anyhow::Result<Product> {
        let program = Program { path: self.program.clone(), directory: self.directory()? };
        program.start(settings).await
    }

    /// Makes a directory that nobody has used.
    fn directory(&self) -> anyhow::Result<PathBuf> {
        self.directories.set(self.directories.get() + 1);
        let directory = self.scratch.join(self.directories.get().to_string());
        std::fs::create_dir_all(&directory)?;
        Ok(directory)
    }
}

fn throughput(
    row: &'static str,
    what: &'static str,
    pairs: Vec<Pair>,
    (floor, aim): (f64, f64),
) -> anyhow::Result<Figure> {
    let faults = faults(&pairs);
    let ratio = |pair: &Pair| pair.product.per_second() / pair.limit.per_second();
    let pair = median(pairs, ratio).context("measure at all")?;
    Ok(Figure {
        row,
        what,
        measured: format!("{:.0}/s", pair.product.per_second()),
        limit: format!("{:.0}/s", pair.limit.per_second()),
        score: ratio(&pair),
        unit: "",
        floor,
        aim,
        better: Better::Higher,
        faults,
    })
}

fn started(what: &'static str, times: Vec<Duration>) -> anyhow::Result<Figure> {
    let time = median(times, |time| millis(*time)).context("measure at all")?;
    Ok(Figure {
        row: "start",
        what,
        measured: format!("{:.0} ms", millis(time)),
        limit: "–".to_owned(),
        score: millis(time),
        unit: " ms",
        floor: 300.0,
        aim: 100.0,
        better: Better::Lower,
        faults: 0,
    })
}

fn faults(pairs: &[Pair]) -> u64 {
    pairs.iter().map(|pair| pair.limit.failed() + pair.product.failed()).sum()
}

/// Returns the middle one by `key`.
fn median<T>(mut items: Vec<T>, key: impl Fn(&T) -> f64) -> Option<T> {
    items.sort_by(|one, other| key(one).total_cmp(&key(other)));
    let middle = items.len() / 2;
    items.into_iter().nth(middle)
}

fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

fn told(whose: &str, report: &Report) {
    tell(&format!("{whose}: {report}"));
}

#[expect(clippy::print_stdout, reason = "who waits for minutes wants to see something")]
fn tell(what: &str) {
    println!("  {what}");
}
