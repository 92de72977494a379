//! `tally`: a `once` tool of test builds, which keeps count of its own runs in a file.

use std::{io::Write, path::PathBuf};

use async_trait::async_trait;
use serde_json::{Value, json};
use soma_contract::tool::{Effect, ToolSpec};
use soma_tools::{CallContext, Tool, ToolError, ToolOutput};

/// Appends a line for each run to a file; nothing makes up for a second one.
#[derive(Debug, Clone)]
pub struct Tally {
    file: PathBuf,
}

impl Tally {
    /// Counts in this file, whose folder is made when first needed.
    pub fn new(file: impl Into<PathBuf>) -> Self {
        Self { file: file.into() }
    }
}

#[async_trait]
impl Tool for Tally {
    fn spec(&self) -> ToolSpec {
        ToolSpec {
            name: "tally".to_owned(),
            description: "Counts its own runs, for tests.".to_owned(),
            parameters: json!({"type": "object", "additionalProperties": false}),
            effect: Effect::Once,
            timeout: std::time::Duration::from_mins(1),
            max_output_bytes: 1024,
        }
    }

    async fn run(&self, _arguments: Value, call: CallContext) -> Result<ToolOutput, ToolError> {
        let file = self.file.clone();
        let counted = tokio::task::spawn_blocking(move || {
            if let Some(folder) = file.parent() {
                std::fs::create_dir_all(folder)?;
            }
            let mut file = std::fs::OpenOptions::new().append(true).create(true).open(file)?;
            file.write_all(format!("{}\n", call.effect_id).as_bytes())
        });
        counted.await.map_err(ToolError::failed)?.map_err(ToolError::failed)?;
        Ok(json!({"counted": true}).into())
    }
}
