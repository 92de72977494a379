//! Tools that need nothing but the ports of the platform.

use std::time::Duration;

use serde_json::Value;
use soma_contract::tool::{Effect, ToolSpec};

mod echo;
mod memory_save;
mod memory_search;
mod timestamp;

pub use echo::Echo;
pub use memory_save::{MemorySave, may_write};
pub use memory_search::MemorySearch;
pub use timestamp::Timestamp;

/// Describes a tool that is done within moments and says little.
fn small(name: &str, description: &str, effect: Effect, parameters: Value) -> ToolSpec {
    ToolSpec {
        name: name.to_owned(),
        description: description.to_owned(),
        parameters,
        effect,
        timeout: Duration::from_secs(10),
        max_output_bytes: 16 * 1024,
    }
}
