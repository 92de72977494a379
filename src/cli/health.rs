//! `somaagent health`: how a running server is.

use std::process::ExitCode;

use reqwest::Method;
use serde_json::Value;

use super::{client::Client, exit, out, table::table};

/// Prints the health report; the exit code says whether the server does its work.
pub(super) async fn health(client: &Client, json: bool, strict: bool) -> anyhow::Result<ExitCode> {
    let report: Value = client.call(Method::GET, "/v1/health").await?;
    if json {
        out::line(&serde_json::to_string_pretty(&report)?);
    } else {
        out::text(&render(&report));
    }
    let fine = match report.get("status").and_then(Value::as_str) {
        Some("ok") => true,
        Some("degraded") => !strict,
        _ => false,
    };
    Ok(ExitCode::from(if fine { exit::OK } else { exit::FAILED }))
}

fn render(report: &Value) -> String {
    let text = |value: &Value, name: &str| match value.get(name) {
        Some(Value::String(text)) => text.clone(),
        Some(Value::Null) | None => String::new(),
        Some(other) => other.to_string(),
    };
    let components = report.get("components").and_then(Value::as_object);
    let millis = |component: &Value| {
        let latency = component.get("latency_ms").and_then(Value::as_f64);
        latency.map(|latency| format!("{latency:.1}")).unwrap_or_default()
    };
    let rows: Vec<_> = components
        .into_iter()
        .flatten()
        .map(|(name, component)| {
            [
                name.clone(),
                text(component, "status"),
                millis(component),
                text(component, "last_error"),
            ]
        })
        .collect();
    format!(
        "{}\n{}",
        text(report, "status"),
        table(["component", "status", "ms", "last error"], &rows)
    )
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_reason_stands_beside_the_component() {
        let text = render(&json!({
            "status": "degraded",
            "components": { "model": { "status": "degraded", "latency_ms": 3, "last_error": "key refused" } }
        }));
        assert!(text.starts_with("degraded\n"), "{text}");
        assert!(text.contains("model      degraded  3.0  key refused"), "{text}");
    }
}
