//! Loads a server on this machine with messages and prints what came back.
//!
//! `cargo run --release --example load -- --url http://127.0.0.1:8010 --rate 500 --for 30s`

#[path = "../../benches/floors/load/mod.rs"]
mod load;
#[cfg(test)]
mod tests;

use std::{net::SocketAddr, time::Duration};

use anyhow::Context as _;
use clap::Parser;

use self::load::{Client, Load, Messages};

/// Sends messages at a constant rate, or from a number of clients.
#[derive(Debug, Parser)]
struct Options {
    /// Where the server listens; only loopback addresses.
    #[arg(long, default_value = "http://127.0.0.1:8010")]
    url: String,
    /// How many messages are due each second; without, each client sends when it can.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    rate: Option<u32>,
    /// For how long messages are sent, such as `30s` or `5m`; an hour at most.
    #[arg(long = "for", default_value = "10s", value_parser = duration)]
    duration: Duration,
    /// How many connections there are.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u16).range(1..))]
    clients: u16,
    /// Waits for the answer to each message, not just for its receipt.
    #[arg(long)]
    wait: bool,
    /// Checks afterwards that every message came to exactly one end.
    #[arg(long)]
    settle: bool,
}

#[tokio::main(flavor = "current_thread")]
#[expect(clippy::print_stdout, reason = "what a load generator is for")]
async fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    let server = address(&options.url)?;
    let (clients, duration) = (usize::from(options.clients), options.duration);
    let load = match options.rate {
        Some(per_second) => Load::Rate { per_second, duration, clients },
        None => Load::Clients { clients, duration, most: u64::MAX },
    };
    let messages = if options.wait { Messages::answered() } else { Messages::accepted() };
    let ready = Client::connect(server).await.context("connect")?.get("/ready").await?.status;
    anyhow::ensure!(ready == 200, "`/ready` answers {ready}");
    let report = load::run(server, &messages, load).await?;
    println!("{report}");
    if options.settle {
        anyhow::ensure!(report.failed() == 0, "not every message was accepted");
        let took = load::settle(server, &messages, report.answered()).await?;
        println!("every message has ended, {took:.1?} after the last was sent");
    }
    Ok(())
}

fn address(url: &str) -> anyhow::Result<SocketAddr> {
    let rest = url.strip_prefix("http://").context("take a URL other than http://...")?;
    let rest = rest.trim_end_matches('/').replace("localhost", "127.0.0.1");
    rest.parse().with_context(|| format!("take `{rest}` as address and port"))
}

fn duration(text: &str) -> Result<Duration, String> {
    let (number, unit) = match (text.strip_suffix('s'), text.strip_suffix('m')) {
        (Some(number), _) => (number, 1),
        (_, Some(number)) => (number, 60),
        _ => return Err("a time is a number with `s` or `m`".to_owned()),
    };
    let seconds = number.parse::<u64>().map_err(|error| error.to_string())?.saturating_mul(unit);
    if seconds > 3600 {
        Err("an hour at most".to_owned())
    } else {
        Ok(Duration::from_secs(seconds))
    }
}
