//! `somaagent run --dry-run`: whether a start would succeed, without changing anything.
#![expect(clippy::print_stderr, reason = "faults go to standard error")]

use std::{net::SocketAddr, process::ExitCode, time::Duration};

use serde::Serialize;
use soma_config::{CentralizedConfig, Loaded, ServerUrl};
use soma_runtime::Plan;

use super::{
    personas, ports,
    reach::{self, Reached},
    registry,
};
use crate::{
    adapters::store::{
        postgres::{self, PostgresStore},
        sqlite::{self, Inspection, LockError, SqliteStore},
    },
    cli::{exit, out},
    http,
};

/// How long our own server may take to say that a port is its.
const OWN_SERVER_LIMIT: Duration = Duration::from_secs(2);

/// What a check found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
enum Verdict {
    Ok,
    Warning,
    Fault,
}

#[derive(Debug, Serialize)]
struct Check {
    what: &'static str,
    verdict: Verdict,
    detail: String,
    /// The exit code of a start that fails because of this.
    #[serde(skip)]
    code: u8,
}

#[derive(Debug, Serialize)]
struct Outcome {
    verdict: Verdict,
    checks: Vec<Check>,
    plan: Option<Plan>,
}

/// Checks everything and prints what was found; the exit code is that of a start.
pub fn main(loaded: &Loaded, json: bool) -> ExitCode {
    let outcome = examine(loaded);
    if json {
        match serde_json::to_string_pretty(&outcome) {
            Ok(text) => out::line(&text),
            Err(error) => eprintln!("failed to print the outcome: {error}"),
        }
    } else {
        out::text(&render(&outcome));
    }
    let code = outcome.checks.iter().filter(|check| check.verdict == Verdict::Fault);
    ExitCode::from(code.map(|check| check.code).max().unwrap_or(exit::OK))
}

fn examine(loaded: &Loaded) -> Outcome {
    let config = &loaded.config;
    let plan = registry::plan(&config.deployment);
    let mut checks = vec![configuration(loaded), engines(config)];
    if let Err(error) = &plan {
        checks.push(fault("plan", error.to_string(), exit::GAVE_UP));
    }
    if config.storage.dsn.is_none() {
        checks.push(data_dir(config));
    }
    checks.push(store(config));
    checks.push(policy(config));
    checks.extend(servers(config));
    checks.extend(files(config));
    checks.push(port("API address", config.gateway.bind, config));
    checks.push(port("admin address", config.gateway.admin_bind, config));
    let verdict = checks.iter().map(|check| check.verdict).max().unwrap_or(Verdict::Ok);
    Outcome { verdict, checks, plan: plan.ok() }
}

fn configuration(loaded: &Loaded) -> Check {
    if loaded.warnings.is_empty() {
        return fine("configuration", "valid".to_owned());
    }
    let warnings: Vec<_> = loaded.warnings.iter().map(ToString::to_string).collect();
    warning("configuration", warnings.join("; "))
}

fn engines(config: &CentralizedConfig) -> Check {
    let of = |is_set: bool, server: &'static str, embedded| if is_set { server } else { embedded };
    let names = [
        of(config.storage.dsn.is_some(), "postgresql", "sqlite"),
        of(config.bus.bootstrap_servers.is_some(), "kafka", "local bus"),
        of(config.live.redis_url.is_some(), "redis", "local live"),
        of(config.policy.url.is_some(), "opa", "policy in process"),
        of(config.memory.base_url.is_some(), "somabrain", "built-in memory"),
    ];
    fine("engines", names.join(", "))
}

/// A directory that our own running server holds is no fault: the start would replace it.
fn data_dir(config: &CentralizedConfig) -> Check {
    let what = "data directory";
    match sqlite::could_own(&config.storage.data_dir) {
        Ok(()) => fine(what, format!("`{}` can be had", config.storage.data_dir.display())),
        Err(error @ LockError::Held { .. }) if is_ours(config.gateway.admin_bind) => {
            warning(what, error.to_string())
        }
        Err(error) => fault(what, format!("{:#}", anyhow::Error::from(error)), exit::CONFIG),
    }
}

/// What the configuration names and a start reads; told only if it is of no use.
fn files(config: &CentralizedConfig) -> Vec<Check> {
    crate::adapters::tls::install();
    let auth = http::check_auth(&config.auth).map_err(anyhow::Error::from).err();
    let personas = personas::load(config.turns.personas.as_deref()).map_err(Into::into).err();
    [("authentication", auth), ("personas", personas)]
        .into_iter()
        .filter_map(|(what, error)| Some(fault(what, format!("{:#}", error?), exit::CONFIG)))
        .collect()
}

fn store(config: &CentralizedConfig) -> Check {
    match &config.storage.dsn {
        None => sqlite(config),
        Some(dsn) => postgres(config, dsn),
    }
}

fn sqlite(config: &CentralizedConfig) -> Check {
    let data_dir = &config.storage.data_dir;
    let inspected = wait_for(SqliteStore::inspect(data_dir)).map(|found| found.map_err(Into::into));
    match inspected.and_then(|found| found) {
        Ok(Inspection::Missing) => {
            fine("store", format!("no file in `{}` yet: would be created", data_dir.display()))
        }
        Ok(Inspection::Found { version, pending }) if pending.is_empty() => {
            fine("store", format!("schema {version}, current"))
        }
        Ok(Inspection::Found { version, pending }) => {
            warning("store", format!("schema {version}; migrations {pending:?} would run"))
        }
        Err(error) => fault("store", format!("{error:#}"), exit::FAILED),
    }
}

fn postgres(config: &CentralizedConfig, dsn: &ServerUrl) -> Check {
    let found =
        wait_for(PostgresStore::version(dsn.expose())).map(|found| found.map_err(Into::into));
    let newest = postgres::newest_schema();
    match found.and_then(|found| found) {
        Ok(version) if version == newest => fine("store", format!("schema {version}, current")),
        Ok(version) if config.bus.bootstrap_servers.is_none() => {
            warning("store", format!("schema {version}; migrations to {newest} would run"))
        }
        Ok(version) => fault(
            "store",
            format!("schema {version} is older than {newest}; run `somaagent migrate`"),
            exit::FAILED,
        ),
        Err(error) => fault("store", format!("{error:#}"), exit::FAILED),
    }
}

/// The process starts without these and waits for them, so that silence is a warning.
fn servers(config: &CentralizedConfig) -> Vec<Check> {
    let said = |server: Reached| match server.outcome {
        Ok(()) => fine(server.what, "answers".to_owned()),
        Err(error) if ports::is_configuration(&error) => {
            fault(server.what, format!("{error:#}"), exit::CONFIG)
        }
        Err(error) => warning(server.what, format!("does not answer: {error:#}")),
    };
    match wait_for(reach::servers(config)) {
        Ok(reached) => reached.into_iter().map(said).collect(),
        Err(error) => vec![fault("servers", format!("{error:#}"), exit::FAILED)],
    }
}

fn policy(config: &CentralizedConfig) -> Check {
    match ports::policy(config) {
        Ok(_) if config.policy.url.is_some() => fine("policy", "asks a server".to_owned()),
        Ok(_) => fine("policy", "compiled".to_owned()),
        Err(error) => fault("policy", format!("{error:#}"), exit::CONFIG),
    }
}

/// A port that our own running server holds is no fault: the start would replace it.
fn port(what: &'static str, address: SocketAddr, config: &CentralizedConfig) -> Check {
    match std::net::TcpListener::bind(address) {
        Ok(_) => fine(what, format!("{address} is free")),
        Err(_) if is_ours(config.gateway.admin_bind) => {
            warning(what, format!("{address} is held by a running somaagent"))
        }
        Err(error) => fault(what, format!("{address}: {error}"), exit::FAILED),
    }
}

fn is_ours(admin: SocketAddr) -> bool {
    crate::adapters::tls::install();
    let ask = async {
        let client = reqwest::Client::builder().timeout(OWN_SERVER_LIMIT).build()?;
        let answer = client.get(format!("http://{admin}/startup")).send().await?;
        Ok::<_, reqwest::Error>(answer.headers().contains_key("x-request-id"))
    };
    matches!(wait_for(ask), Ok(Ok(true)))
}

fn wait_for<T>(work: impl Future<Output = T>) -> anyhow::Result<T> {
    Ok(tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(work))
}

fn fine(what: &'static str, detail: String) -> Check {
    Check { what, verdict: Verdict::Ok, detail, code: exit::OK }
}

fn warning(what: &'static str, detail: String) -> Check {
    Check { what, verdict: Verdict::Warning, detail, code: exit::OK }
}

fn fault(what: &'static str, detail: String, code: u8) -> Check {
    Check { what, verdict: Verdict::Fault, detail, code }
}

fn render(outcome: &Outcome) -> String {
    use std::fmt::Write;
    let mut text = String::new();
    if let Some(plan) = &outcome.plan {
        // Writing to a `String` cannot fail.
        let _ok = writeln!(text, "{plan}");
    }
    for check in &outcome.checks {
        let mark = match check.verdict {
            Verdict::Ok => "ok",
            Verdict::Warning => "warning",
            Verdict::Fault => "FAULT",
        };
        let _ok = writeln!(text, "{:<14} {mark:<8} {}", check.what, check.detail);
    }
    let verdict = match outcome.verdict {
        Verdict::Ok | Verdict::Warning => "would start",
        Verdict::Fault => "would not start",
    };
    let _ok = writeln!(text, "verdict        {verdict}");
    text
}
