//! What the executable itself knows: its settings, its commands, its routes, its metrics.

use std::{
    collections::{BTreeMap, BTreeSet},
    process::Command,
};

use reqwest::Method;
use soma_config::{CentralizedConfig, Sources};

use super::tool;
use crate::support::{Api, Server, Setup};

/// The variables of a container.
pub(super) type Environment = BTreeMap<String, String>;

/// Asserts that the command line takes these arguments, the name of the executable first.
pub(super) fn assert_takes(command_line: &[String]) {
    let (name, arguments) = command_line.split_first().expect("a command");
    assert_eq!(name, "somaagent", "{command_line:?}");
    let mut executable = Command::new(env!("CARGO_BIN_EXE_somaagent"));
    // What stands before `--help` is parsed, and nothing is run.
    tool::outcome(executable.args(arguments).arg("--help"))
        .unwrap_or_else(|error| panic!("{command_line:?}: {error}"));
}

/// Asserts that the executable would take these variables without a fault or a warning: none is
/// unknown, each can be read, and they go together.
pub(super) fn assert_configures(environment: &Environment) -> CentralizedConfig {
    let environment = environment.clone().into_iter().collect();
    let sources = Sources { environment, ..Sources::default() };
    let loaded = CentralizedConfig::load(sources).unwrap_or_else(|faults| panic!("{faults}"));
    assert!(loaded.warnings.is_empty(), "{:?}", loaded.warnings);
    loaded.config
}

/// Asserts that the admin listener answers this path well, as probes and scrapes need it.
pub(super) async fn assert_serves(server: &Server, path: &str) {
    let answer = Api::new(&server.admin).try_call(Method::GET, path, None, None).await;
    let (status, body) = answer.expect("the admin listener answers");
    assert!(status.is_success(), "{path}: {status} {body}");
}

/// Starts the executable on the embedded engines.
pub(super) async fn running() -> Server {
    Setup::new().start().await.unwrap()
}

/// The names of the metrics that a server exports.
pub(super) async fn metrics(server: &Server) -> BTreeSet<String> {
    // Requests are counted by route once there was one.
    server.api.get("/v1/sessions").await;
    let text = Api::new(&server.admin).get("/metrics").await;
    let types =
        text.as_str().expect("text").lines().filter_map(|line| line.strip_prefix("# TYPE "));
    types.filter_map(|line| line.split(' ').next()).map(str::to_owned).collect()
}

/// Asserts that each metric that an expression of Prometheus names is exported.
pub(super) fn assert_exported(metrics: &BTreeSet<String>, expression: &str) {
    let is_part = |letter: char| letter.is_ascii_alphanumeric() || letter == '_';
    let prefixes = ["soma_", "http_", "gateway_", "conversation_", "memory_", "outbox_"];
    let words = expression.split(|letter| !is_part(letter));
    for name in words.filter(|word| prefixes.iter().any(|prefix| word.starts_with(prefix))) {
        let known = ["", "_bucket", "_sum", "_count"]
            .iter()
            .any(|suffix| name.strip_suffix(suffix).is_some_and(|metric| metrics.contains(metric)));
        assert!(known, "`{name}` in `{expression}` is not exported");
    }
}
