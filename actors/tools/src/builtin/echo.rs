//! `echo`: says what it is told; for trying things out.

use async_trait::async_trait;
use serde_json::{Value, json};
use soma_contract::tool::{Effect, ToolSpec};

use crate::tool::{CallContext, Tool, ToolError, ToolOutput};

/// Answers `{message}` with its `text`.
#[derive(Debug, Clone, Copy, Default)]
pub struct Echo;

#[async_trait]
impl Tool for Echo {
    fn spec(&self) -> ToolSpec {
        super::small(
            "echo",
            "Returns the given text unchanged.",
            Effect::Pure,
            json!({
                "type": "object",
                "properties": {"text": {"type": "string", "description": "What to return."}},
                "required": ["text"],
                "additionalProperties": false
            }),
        )
    }

    async fn run(&self, arguments: Value, _call: CallContext) -> Result<ToolOutput, ToolError> {
        let text = arguments.get("text").cloned().unwrap_or_default();
        Ok(json!({ "message": text }).into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::call_context;

    #[tokio::test]
    async fn the_text_comes_back() {
        let output = Echo.run(json!({"text": "hi"}), call_context()).await.unwrap();
        assert_eq!(output, ToolOutput::from(json!({"message": "hi"})));
    }
}
