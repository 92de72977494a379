//! The limits: what the same machine does when it does only the part that cannot be left out.
//!
//! Each is a server in a process of its own, as the product is, made of the same HTTP library. The
//! process is this very program, started with `--serve`.

mod instant;
mod log;

use std::{
    io::{BufRead as _, BufReader, Read as _},
    net::SocketAddr,
    path::Path,
    process::{Child, Command, Stdio},
    thread,
};

use actix_web::{App, HttpServer, rt::System, web};
use anyhow::Context as _;
use clap::ValueEnum;

/// What a limit does with a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Kind {
    /// Appends it to a file, sharing `fdatasync` with those that came meanwhile, and answers 202.
    Log,
    /// Numbers it, answers it in memory and returns the terminal event; nothing is durable.
    Instant,
}

/// A limit that runs; ends with this value.
#[derive(Debug)]
pub(crate) struct Limit {
    process: Child,
    /// Where it listens.
    pub(crate) address: SocketAddr,
}

impl Limit {
    /// Starts one that keeps its file, if any, in `directory`.
    pub(crate) fn start(kind: Kind, directory: &Path) -> anyhow::Result<Self> {
        let name = kind.to_possible_value().context("name the limit")?;
        let mut process = Command::new(std::env::current_exe()?)
            .args(["--serve", name.get_name()])
            .arg("--directory")
            .arg(directory)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("start the limit")?;
        let mut line = String::new();
        let output = process.stdout.take().context("read from the limit")?;
        BufReader::new(output).read_line(&mut line)?;
        let address = line.trim().parse().context("read the limit's address")?;
        Ok(Self { process, address })
    }
}

impl Drop for Limit {
    fn drop(&mut self) {
        super::product::end(&mut self.process);
    }
}

/// Runs a limit until standard input ends, as it does when the parent is gone.
pub(crate) fn serve(kind: Kind, directory: &Path) -> anyhow::Result<()> {
    let log = web::Data::new(log::Log::open(&directory.join("log"))?);
    let sessions = web::Data::new(instant::Sessions::default());
    System::new().block_on(async move {
        let server = HttpServer::new(move || {
            let message = match kind {
                Kind::Log => web::post().to(log::message),
                Kind::Instant => web::post().to(instant::message),
            };
            App::new()
                .app_data(web::Data::clone(&log))
                .app_data(web::Data::clone(&sessions))
                .route("/v1/session/message", message)
        })
        .bind("127.0.0.1:0")?;
        let address = server.addrs().first().copied().context("listen")?;
        announce(address);
        let running = server.disable_signals().run();
        let handle = running.handle();
        thread::spawn(move || {
            let ended = std::io::stdin().read_to_end(&mut Vec::new());
            debug_assert!(ended.is_ok(), "a pipe can be read");
            System::new().block_on(handle.stop(false));
        });
        running.await?;
        Ok(())
    })
}

#[expect(clippy::print_stdout, reason = "the parent reads the address there")]
fn announce(address: SocketAddr) {
    println!("{address}");
}
