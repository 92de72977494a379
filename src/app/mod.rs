//! The composition root: the one place that sees services and vendors.
//!
//! It reads top to bottom: bind, connect, build, start from the inside out, serve, wait, drain from
//! the outside in.

pub mod dry_run;

mod drain;
mod hooks;
mod personas;
mod ports;
mod reach;
mod registry;
mod services;
mod signals;
mod watch;

use std::{net::TcpListener, process::ExitCode, sync::Arc};

use anyhow::Context;
use prometheus::Registry;
use soma_config::{CentralizedConfig, Loaded, LogFormat};
use soma_contract::{Ids, Owner, ids::RandomIds};
use soma_runtime::{Io, Orchestrator, RestartPolicy, Running};

use self::{drain::Serving, services::Services, watch::Watch};
use crate::{
    adapters::tls,
    cli::exit,
    http::{self, Edge},
    telemetry::logs::{self, LogControl, Shape},
};

/// Threads that own sockets and files. The work on them is short; two keep one slow call from
/// holding up the others.
const IO_THREADS: usize = 2;

/// Runs the platform until it is told to end, or a critical service dies.
#[expect(clippy::print_stderr, reason = "a log that cannot be set up cannot tell of it")]
pub fn main(loaded: &Loaded) -> ExitCode {
    let telemetry = &loaded.config.telemetry;
    let log = match logs::install(&telemetry.log_level, shape(telemetry.log_format)) {
        Ok(log) => log,
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::from(exit::CONFIG);
        }
    };
    for warning in &loaded.warnings {
        tracing::warn!("{warning}");
    }
    let _armed = hooks::arm();
    match actix_rt::System::new().block_on(run(&loaded.config, log)) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            let code = code_of(&error);
            tracing::error!(exit_code = code, "failed to {error:#}");
            ExitCode::from(code)
        }
    }
}

async fn run(config: &CentralizedConfig, log: LogControl) -> anyhow::Result<u8> {
    tls::install();
    http::check_auth(&config.auth).context("set up authentication")?;
    let asked = signals::listen().context("listen for signals")?;
    // A port that is taken is the likeliest fault, so that it is found first.
    let admin = bind(config.gateway.admin_bind).context("bind SA01_ADMIN_BIND")?;
    let api = bind(config.gateway.bind).context("bind SA01_GATEWAY_BIND")?;
    let io = Io::new(IO_THREADS).context("start the i/o threads")?;
    let metrics = Registry::new();
    let mut hurry = asked.clone();
    let ports = tokio::select! {
        ports = ports::connect(config, &io, &metrics) => ports?,
        _ = hurry.wait_for(|count| *count > 0) => {
            tracing::info!("told to end before the start was over");
            return Ok(exit::OK);
        }
    };
    let owner = Owner(RandomIds.draw().to_string());
    inherit(&ports, &owner).await?;
    let Services { registry, accept, toolbox } = services::build(config, &ports, &owner, &metrics)?;
    let watch = Watch::new(config.gateway.ready_needs_store);
    let edge = Edge::new(http::Parts {
        store: Arc::clone(&ports.store),
        live: Arc::clone(&ports.live),
        policy: Arc::clone(&ports.policy),
        tools: Arc::new(toolbox),
        model: Arc::clone(&ports.model),
        accept,
        supervision: Arc::new(watch.clone()),
        health: Arc::new(watch.clone()),
        set_log_level: Arc::new(move |filter| log.set(filter).map_err(|error| error.to_string())),
        personas: Arc::clone(&ports.personas),
        clock: Arc::clone(&ports.clock),
        ids: Arc::clone(&ports.ids),
        io: io.clone(),
        registry: metrics.clone(),
        settings: http::Settings::from(config),
    })?;
    let admin = http::serve_admin(&edge, admin).context("serve health and metrics")?;
    let running = launch(config, &io, registry, metrics).await?;
    ports.watch(running.health());
    running.health().probe().await;
    watch.started(running.clone());
    let api = http::serve_api(&edge, api).context("serve the API")?;
    watch.serving();
    tracing::info!(api_address = %api.address(), admin_address = %admin.address(), "ready");
    let serving = Serving { edge, api, admin, running, watch, ports };
    Ok(serving.until_asked(&config.shutdown, asked).await)
}

fn bind(address: std::net::SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).with_context(|| format!("listen on {address}"))
}

/// Takes over what a process that died has left.
async fn inherit(ports: &ports::Ports, owner: &Owner) -> anyhow::Result<()> {
    let (store, heir) = (Arc::clone(&ports.store), owner.clone());
    let limit = ports::INHERIT_LIMIT;
    let left = ports.io.call(limit, async move { store.inherit(&heir).await }).await??;
    tracing::info!(
        turns = left.turns,
        steps_again = left.steps_again,
        steps_unknown = left.steps_unknown,
        "inherited"
    );
    Ok(())
}

async fn launch(
    config: &CentralizedConfig,
    io: &Io,
    registry: soma_runtime::Registry,
    metrics: Registry,
) -> anyhow::Result<Running> {
    let mut settings = soma_runtime::Settings::new(io.clone());
    settings.metrics = metrics;
    settings.hang_limit = config.supervision.hang_limit;
    settings.restart = RestartPolicy {
        budget: config.supervision.restart_budget,
        window: config.supervision.restart_window,
        ..RestartPolicy::default()
    };
    settings.critical_budget = config.supervision.critical_budget;
    settings.halt_deadline = config.shutdown.drain;
    Ok(Orchestrator::launch(registry, settings).await?)
}

fn shape(format: LogFormat) -> Shape {
    use std::io::IsTerminal;
    match format {
        LogFormat::Pretty => Shape::Text,
        LogFormat::Auto if std::io::stdout().is_terminal() => Shape::Text,
        LogFormat::Json | LogFormat::Auto => Shape::Json,
    }
}

/// Tells a wrong configuration from everything else that keeps the process from starting.
fn code_of(error: &anyhow::Error) -> u8 {
    let is_configuration = ports::is_configuration(error) || error.is::<http::AccessError>();
    if is_configuration {
        exit::CONFIG
    } else if error.is::<soma_runtime::LaunchError>() {
        exit::GAVE_UP
    } else {
        exit::FAILED
    }
}
