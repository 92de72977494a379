//! The performance floors: each figure of the whole product beside the limit of the same machine,
//! measured in the same run. `docs/PERFORMANCE.md` says what is measured, and how.
//!
//! `cargo bench --bench floors [-- [ROW]... [--quick] [--check] [--program PATH]]`
#![expect(clippy::print_stdout, reason = "a bench tells its figures there")]

mod figure;
mod limits;
mod load;
mod product;
mod rows;
mod table;

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::Context as _;
use clap::Parser;

use self::{
    figure::{Figure, Verdict},
    limits::Kind,
    rows::{Bench, Row},
};

/// A directory of Cargo's, on the same disk as everything that is built.
const SCRATCH: &str = env!("CARGO_TARGET_TMPDIR");

/// Measures the floors.
#[derive(Debug, Parser)]
struct Options {
    /// The rows to measure; all if none is named.
    rows: Vec<Row>,
    /// Measures shortly, once: enough to see that everything works.
    #[arg(long)]
    quick: bool,
    /// Fails if a floor is missed.
    #[arg(long)]
    check: bool,
    /// The executable to measure.
    #[arg(long, default_value = env!("CARGO_BIN_EXE_somaagent"))]
    program: PathBuf,
    /// Runs a limit in this process; the bench starts itself so.
    #[arg(long, hide = true)]
    serve: Option<Kind>,
    /// Where the limit keeps its file.
    #[arg(long, hide = true, default_value = SCRATCH)]
    directory: PathBuf,
    /// Cargo says this to every bench.
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> anyhow::Result<ExitCode> {
    let options = Options::parse();
    if let Some(kind) = options.serve {
        limits::serve(kind, &options.directory)?;
        return Ok(ExitCode::SUCCESS);
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let figures = runtime.block_on(measure(&options))?;
    println!("\n{}\n\n{ELSEWHERE}", table::table(&figures));
    let path = Path::new(SCRATCH).with_file_name("floors.json");
    table::write(&figures, &path)?;
    println!("written to {}", path.display());
    let missed = figures.iter().any(|figure| figure.verdict() == Verdict::Missed);
    Ok(if options.check && missed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

const ELSEWHERE: &str = "The runtime's rows (a panic and the next incarnation, a blocked service \
    replaced, 10,000 supervised actors) need no server: cargo bench -p soma-runtime";

async fn measure(options: &Options) -> anyhow::Result<Vec<Figure>> {
    let scratch = tempfile::Builder::new().prefix("floors").tempdir_in(SCRATCH)?;
    let bench = Bench::new(options.program.clone(), scratch.path(), options.quick);
    let mut figures = Vec::new();
    for row in Row::all(&options.rows) {
        println!("{row}");
        let more = bench.measure(row).await.with_context(|| format!("measure {row}"))?;
        for figure in &more {
            println!("  {} ({}): {}", figure.measured, figure.limit, figure.verdict());
        }
        figures.extend(more);
    }
    Ok(figures)
}
