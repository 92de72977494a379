//! `timestamp`: tells the present time.

use std::{fmt::Write, sync::Arc};

use async_trait::async_trait;
use chrono::{
    DateTime, Utc,
    format::{Item, StrftimeItems},
};
use serde_json::{Value, json};
use soma_contract::{
    Clock,
    tool::{Effect, ToolSpec},
};

use crate::tool::{CallContext, Tool, ToolError, ToolOutput};

/// Answers `{message}` with the time in UTC, by `format` or else as RFC 3339.
#[derive(Debug, Clone)]
pub struct Timestamp {
    clock: Arc<dyn Clock>,
}

impl Timestamp {
    /// Tells the time of this clock.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self { clock }
    }
}

#[async_trait]
impl Tool for Timestamp {
    fn spec(&self) -> ToolSpec {
        super::small(
            "timestamp",
            "Returns the present date and time in UTC.",
            Effect::Pure,
            json!({
                "type": "object",
                "properties": {"format": {
                    "type": "string",
                    "maxLength": 200,
                    "description": "A strftime format such as `%Y-%m-%d %H:%M`; RFC 3339 if absent."
                }},
                "additionalProperties": false
            }),
        )
    }

    async fn run(&self, arguments: Value, _call: CallContext) -> Result<ToolOutput, ToolError> {
        let format = arguments.get("format").and_then(Value::as_str).unwrap_or("%+");
        let message = formatted(self.clock.now(), format)
            .ok_or_else(|| ToolError::Failed(format!("`{format}` is no strftime format")))?;
        Ok(json!({ "message": message }).into())
    }
}

/// Formats a time; `None` if the format has a specifier that does not exist.
fn formatted(time: DateTime<Utc>, format: &str) -> Option<String> {
    let items: Vec<Item<'_>> = StrftimeItems::new(format).collect();
    if items.contains(&Item::Error) {
        return None;
    }
    let mut text = String::new();
    write!(text, "{}", time.format_with_items(items.iter())).ok()?;
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noon() -> DateTime<Utc> {
        "2026-03-01T12:00:00Z".parse().unwrap()
    }

    #[test]
    fn formats_are_followed() {
        assert_eq!(formatted(noon(), "%Y-%m-%d %H:%M").as_deref(), Some("2026-03-01 12:00"));
        assert_eq!(formatted(noon(), "%+").as_deref(), Some("2026-03-01T12:00:00+00:00"));
        assert_eq!(formatted(noon(), "").as_deref(), Some(""));
    }

    #[test]
    fn a_bad_format_is_no_panic() {
        assert_eq!(formatted(noon(), "%Q"), None);
        assert_eq!(formatted(noon(), "%"), None);
    }
}
