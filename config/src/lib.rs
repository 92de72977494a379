//! The one validated configuration and the only reader of the environment.
//!
//! [`CentralizedConfig::load`] merges five layers, each stronger than the one before it: built-in
//! defaults, the profile of the deployment mode, `.env`, the environment, flags. It answers with
//! plain section structs that are passed to the parts that need them, or with *every* fault at
//! once. What it reads is handed in as [`Sources`]; only [`Sources::of_process`] looks at the
//! process, so that tests need no environment.
//!
//! Promises that tests cite:
//!
//! 1. A key is written down once, in `sections/`: its name, type, default and meaning. The struct
//!    field, `config/example.env` and `docs/reference/configuration.md` follow from it.
//! 2. Every fault is told, naming the variable, its value, where it came from, the reason and a
//!    way out.
//! 3. No secret is ever printed: not by a fault, a warning, the report or `Debug`.
//! 4. An `SA01_` name that means nothing is a fault, never ignored.

mod central;
mod check;
mod fault;
mod field;
mod key;
mod layers;
mod legacy;
mod nearest;
mod provenance;
mod reference;
mod report;
mod rules;
mod section;
mod sections;
mod sources;
mod value;

pub use central::{CentralizedConfig, Loaded};
pub use fault::{ConfigFault, ConfigFaults, Warning};
pub use key::{Key, Secrecy, keys};
pub use provenance::{Layer, Provenance};
pub use reference::{example_env, reference_page};
pub use report::{Report, Row};
pub use sections::{
    Auth, Bus, Client, Deployment, Gateway, Live, Memory, Model, Policy, RateLimit, Retention,
    SERVICES, Shutdown, Storage, Supervision, Telemetry, Tools, Turns,
};
pub use sources::{DotEnv, Sources};
pub use value::{
    JwtAlgorithm, LogFormat, Mode, Names, SaslMechanism, Secret, SecurityProtocol, ServerUrl, Size,
};
