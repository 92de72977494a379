//! The sections: every key of the configuration, written down once.

mod edge;
mod process;
mod servers;
mod work;

pub use edge::{Auth, Client, Gateway, RateLimit};
pub use process::{Deployment, Retention, SERVICES, Shutdown, Supervision, Telemetry};
pub use servers::{Bus, Live, Memory, Model, Policy, Storage};
pub use work::{Tools, Turns};
