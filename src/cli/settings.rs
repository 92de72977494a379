//! Loads the configuration for a command, and the command `config`.
#![expect(clippy::print_stderr, reason = "faults go to standard error")]

use std::{net::SocketAddr, process::ExitCode, time::Duration};

use chrono::{TimeDelta, Utc};
use jsonwebtoken::{EncodingKey, Header};
use serde_json::json;
use soma_config::{Auth, CentralizedConfig, Loaded, Sources};
use soma_contract::TenantId;

use super::{
    admin,
    arguments::{Command, Common},
    chat::{self, ChatOptions},
    client::Client,
    exit, health, out,
};

/// How long the command line's own token holds.
const OWN_TOKEN_LIFE: TimeDelta = TimeDelta::minutes(5);

/// Loads the configuration; faults are told on standard error.
pub(super) fn load(common: &Common) -> Result<Loaded, ExitCode> {
    let mut flags = common.set.clone();
    if let Some(services) = &common.services {
        flags.push(("SA01_SERVICES".to_owned(), services.clone()));
    }
    let refused = |faults: &dyn std::fmt::Display| {
        eprintln!("{faults}");
        ExitCode::from(exit::CONFIG)
    };
    let sources = Sources::of_process(flags).map_err(|fault| refused(&fault))?;
    CentralizedConfig::load(sources).map_err(|faults| refused(&faults))
}

/// Prints every setting.
pub(super) fn print(loaded: &Loaded, json: bool) -> ExitCode {
    let report = loaded.report();
    if json {
        match serde_json::to_string_pretty(&report) {
            Ok(text) => out::line(&text),
            Err(error) => {
                eprintln!("failed to print the report: {error}");
                return ExitCode::from(exit::FAILED);
            }
        }
    } else {
        out::text(&format!("{report}"));
        for warning in &loaded.warnings {
            eprintln!("warning: {warning}");
        }
    }
    ExitCode::from(exit::OK)
}

/// Waits.
#[expect(clippy::disallowed_methods, reason = "waiting is the command, and nothing else runs")]
pub(super) fn sleep(time: Duration) -> ExitCode {
    std::thread::sleep(time);
    ExitCode::from(exit::OK)
}

/// Runs a command that talks to a running server.
pub(super) fn talk(config: &CentralizedConfig, common: &Common, command: Command) -> ExitCode {
    let outcome = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(anyhow::Error::from)
        .and_then(|runtime| runtime.block_on(converse(config, common, command)));
    match outcome {
        Ok(code) => code,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::from(exit::FAILED)
        }
    }
}

async fn converse(
    config: &CentralizedConfig,
    common: &Common,
    command: Command,
) -> anyhow::Result<ExitCode> {
    let client = client(config, common)?;
    match command {
        Command::Chat { session, resume, persona } => {
            let memory = Some(config.storage.data_dir.join("chat"));
            chat::chat(client, ChatOptions { session, persona, memory, resume }).await?;
        }
        Command::Health { json, strict } => return health::health(&client, json, strict).await,
        Command::Services { json, restart } => admin::services(&client, json, restart).await?,
        Command::Dlq { what } => admin::dlq(&client, what).await?,
        Command::Keys { what } => admin::keys(&client, what).await?,
        other => anyhow::bail!("`{other:?}` does not talk to a server"),
    }
    Ok(ExitCode::from(exit::OK))
}

fn client(config: &CentralizedConfig, common: &Common) -> anyhow::Result<Client> {
    crate::adapters::tls::install();
    let url =
        common.url.clone().unwrap_or_else(|| format!("http://{}", reachable(config.gateway.bind)));
    let key = match &common.key_file {
        Some(file) => Some(
            std::fs::read_to_string(file)
                .map_err(|error| {
                    anyhow::anyhow!("cannot read the key in `{}`: {error}", file.display())
                })?
                .trim()
                .to_owned(),
        ),
        None => match &config.client.key {
            Some(key) => Some(key.expose().to_owned()),
            None => own_token(&config.auth)?,
        },
    };
    Ok(Client::new(&url, key)?)
}

/// Whoever has the secret that tokens are signed with is an administrator, so that the first key
/// can be made without another system: the token is good for this command only.
fn own_token(auth: &Auth) -> anyhow::Result<Option<String>> {
    let Some(secret) = auth.jwt_secret.as_ref().filter(|_| auth.required) else {
        return Ok(None);
    };
    let mut claims = json!({
        "sub": "somaagent-cli",
        "scope": auth.admin_scope,
        "exp": (Utc::now() + OWN_TOKEN_LIFE).timestamp(),
    });
    if let Some(fields) = claims.as_object_mut() {
        if let Some(claim) = auth.jwt_tenant_claims.first() {
            fields.insert(claim.clone(), json!(TenantId::public()));
        }
        fields.extend(auth.jwt_audience.iter().map(|value| ("aud".to_owned(), json!(value))));
        fields.extend(auth.jwt_issuer.iter().map(|value| ("iss".to_owned(), json!(value))));
    }
    let key = EncodingKey::from_secret(secret.expose().as_bytes());
    let token = jsonwebtoken::encode(&Header::default(), &claims, &key)?;
    Ok(Some(token))
}

/// A server that listens on every address is reached on the loopback one.
fn reachable(mut bind: SocketAddr) -> SocketAddr {
    if bind.ip().is_unspecified() {
        let loopback = if bind.is_ipv4() { "127.0.0.1".parse() } else { "::1".parse() };
        if let Ok(address) = loopback {
            bind.set_ip(address);
        }
    }
    bind
}
