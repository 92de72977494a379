//! The configuration as its users meet it.

#![cfg(test)]

mod faults;
mod golden;
mod layers;
mod legacy;
mod mixes;
mod report;
mod secrets;

use soma_config::{CentralizedConfig, ConfigFaults, DotEnv, Loaded, Sources};

/// Sources with nothing but these variables in the environment.
fn environment(variables: &[(&str, &str)]) -> Sources {
    Sources { environment: pairs(variables), ..Sources::default() }
}

fn pairs(variables: &[(&str, &str)]) -> Vec<(String, String)> {
    variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn dotenv(text: &str) -> DotEnv {
    DotEnv { path: ".env".into(), text: text.to_owned() }
}

/// Loads what must be in order.
fn loaded(sources: Sources) -> Loaded {
    CentralizedConfig::load(sources).unwrap_or_else(|faults| panic!("{faults}"))
}

/// Loads what must not be in order.
fn faults(sources: Sources) -> ConfigFaults {
    CentralizedConfig::load(sources).expect_err("the configuration has a fault")
}

/// The faults as an operator reads them, one a line.
fn told(variables: &[(&str, &str)]) -> Vec<String> {
    faults(environment(variables)).faults.iter().map(ToString::to_string).collect()
}

/// All that `prod` asks for.
const PROD: [(&str, &str); 6] = [
    ("SA01_DEPLOYMENT_MODE", "prod"),
    ("SA01_DB_DSN", "postgresql://soma:hunter2@db/soma"),
    ("SA01_KAFKA_BOOTSTRAP_SERVERS", "kafka:9092"),
    ("SA01_REDIS_URL", "redis://redis:6379/0"),
    ("SA01_POLICY_URL", "http://opa:8181"),
    ("SA01_AUTH_JWT_SECRET", "0123456789abcdef0123456789abcdef"),
];
