//! The product as it is delivered: its executable, a data directory, its HTTP.

use std::{
    fs::File,
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::Context as _;
use tokio::time::{Instant, sleep};

use crate::load::Client;

/// How long a start may take at all.
const START_LIMIT: Duration = Duration::from_mins(1);
/// How often `/ready` is asked.
const PERIOD: Duration = Duration::from_millis(1);

/// What differs from the defaults: the model answers at once, and the load may be as much as a
/// closed loop makes it.
const SETTINGS: &[(&str, &str)] = &[
    ("SA01_MODEL_OFFLINE_WORD_DELAY", "0s"),
    ("SA01_GATEWAY_BACKLOG_PER_TENANT", "100000000"),
    ("SA01_GATEWAY_BACKLOG_TOTAL", "100000000"),
];

/// A running server; killed with this value, as it may be at any time.
#[derive(Debug)]
pub(crate) struct Product {
    process: Child,
    /// Where the API listens.
    pub(crate) address: SocketAddr,
    /// From the start of the process to the first 200 of `/ready`.
    pub(crate) started_in: Duration,
}

/// How to start one.
#[derive(Debug, Clone)]
pub(crate) struct Program {
    /// The executable.
    pub(crate) path: PathBuf,
    /// Where its store, its log and nothing else are.
    pub(crate) directory: PathBuf,
}

impl Program {
    /// Starts the product and waits until it is ready. `more` settings are added to those of every
    /// run.
    pub(crate) async fn start(&self, more: &[(&str, &str)]) -> anyhow::Result<Product> {
        let (api, admin) = free_addresses()?;
        let mut command = self.command(more)?;
        command.env("SA01_GATEWAY_BIND", api.to_string());
        command.env("SA01_ADMIN_BIND", admin.to_string());
        let began = Instant::now();
        let process = command.spawn().context("start the product")?;
        let mut product = Product { process, address: api, started_in: Duration::ZERO };
        while !is_ready(api).await {
            if let Some(status) = product.process.try_wait()? {
                anyhow::bail!("the product ended with {status}; see {}", self.log().display());
            }
            anyhow::ensure!(began.elapsed() < START_LIMIT, "the product does not get ready");
            sleep(PERIOD).await;
        }
        product.started_in = began.elapsed();
        Ok(product)
    }

    fn command(&self, more: &[(&str, &str)]) -> anyhow::Result<Command> {
        std::fs::create_dir_all(&self.directory)?;
        let log = File::create(self.log())?;
        let mut command = Command::new(&self.path);
        // No `.env`, no settings and no failpoints from outside.
        command.current_dir(&self.directory).env_clear();
        command.env("SA01_DATA_DIR", self.directory.join("data"));
        command.envs(SETTINGS.iter().copied()).envs(more.iter().copied());
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        Ok(command)
    }

    fn log(&self) -> PathBuf {
        self.directory.join("product.log")
    }
}

impl Product {
    /// Returns the resident memory in KiB.
    pub(crate) fn resident(&self) -> anyhow::Result<u64> {
        let path = format!("/proc/{}/status", self.process.id());
        let status = std::fs::read_to_string(Path::new(&path))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let number = line.and_then(|line| line.split_whitespace().next());
        number.and_then(|number| number.parse().ok()).context("read the resident memory")
    }
}

impl Drop for Product {
    fn drop(&mut self) {
        end(&mut self.process);
    }
}

/// Kills a process of ours and waits until it is gone.
pub(crate) fn end(process: &mut Child) {
    // One that has ended already is what is wanted.
    process.kill().ok();
    process.wait().ok();
}

async fn is_ready(address: SocketAddr) -> bool {
    let Ok(mut client) = Client::connect(address).await else { return false };
    client.get("/ready").await.is_ok_and(|answer| answer.status == 200)
}

/// Two ports that nobody listens on; both are held until both are known.
fn free_addresses() -> anyhow::Result<(SocketAddr, SocketAddr)> {
    let (one, other) = (TcpListener::bind("127.0.0.1:0")?, TcpListener::bind("127.0.0.1:0")?);
    Ok((one.local_addr()?, other.local_addr()?))
}
