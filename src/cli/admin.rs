//! `services`, `dlq` and `keys`: what an operator asks a running server.

use reqwest::Method;
use serde_json::{Value, json};
use uuid::Uuid;

use super::{
    arguments::{Dlq, Keys},
    client::Client,
    out,
    table::table,
};

/// Prints the supervision tree, or restarts one service.
pub(super) async fn services(
    client: &Client,
    json: bool,
    restart: Option<String>,
) -> anyhow::Result<()> {
    if let Some(name) = restart {
        let path = format!("/v1/services/{name}/restart");
        let _answer: Value = client.submit(Method::POST, &path, &json!({}), &once()).await?;
        out::line(&format!("`{name}` is restarted in order"));
        return Ok(());
    }
    let tree: Value = client.call(Method::GET, "/v1/services").await?;
    if json {
        out::line(&serde_json::to_string_pretty(&tree)?);
    } else {
        let mut rows = Vec::new();
        for service in array(&tree, "services") {
            flatten(service, 0, &mut rows);
        }
        out::text(&table(["service", "state", "gen", "restarts", "critical", "why"], &rows));
    }
    Ok(())
}

fn flatten(service: &Value, depth: usize, rows: &mut Vec<[String; 6]>) {
    let name = format!("{}{}", "  ".repeat(depth), text(service, "name"));
    let critical = if service.get("critical") == Some(&Value::Bool(true)) { "yes" } else { "no" };
    rows.push([
        name,
        text(service, "state"),
        text(service, "generation"),
        text(service, "restarts"),
        critical.to_owned(),
        text(service, "cause"),
    ]);
    for child in array(service, "children") {
        flatten(child, depth + 1, rows);
    }
}

/// Runs a dead-letter command.
pub(super) async fn dlq(client: &Client, what: Dlq) -> anyhow::Result<()> {
    match what {
        Dlq::List { limit } => {
            let page: Value =
                client.call(Method::GET, &format!("/v1/admin/dlq?limit={limit}")).await?;
            let rows: Vec<_> = array(&page, "items")
                .iter()
                .map(|letter| {
                    ["id", "created_at", "topic", "attempts", "replayed_at", "error"]
                        .map(|name| text(letter, name))
                })
                .collect();
            if rows.is_empty() {
                out::line("no dead letters");
            } else {
                out::text(&table(["id", "buried", "from", "attempts", "replayed", "why"], &rows));
            }
        }
        Dlq::Show { id } => {
            let letter: Value = client.call(Method::GET, &format!("/v1/admin/dlq/{id}")).await?;
            out::line(&serde_json::to_string_pretty(&letter)?);
        }
        Dlq::Replay { id } => {
            let path = format!("/v1/admin/dlq/{id}/replay");
            let answer: Value = client.submit(Method::POST, &path, &json!({}), &once()).await?;
            out::line(&format!("dead letter {id}: {}", text(&answer, "status")));
        }
        Dlq::Drop { id } => {
            let _answer: Value =
                client.call(Method::DELETE, &format!("/v1/admin/dlq/{id}")).await?;
            out::line(&format!("dead letter {id} is dropped"));
        }
    }
    Ok(())
}

/// Runs a key command.
pub(super) async fn keys(client: &Client, what: Keys) -> anyhow::Result<()> {
    match what {
        Keys::Create { label, tenant, admin } => {
            let mut body = json!({ "label": label, "admin": admin });
            if let (Value::Object(fields), Some(tenant)) = (&mut body, tenant) {
                fields.insert("tenant".to_owned(), json!(tenant));
            }
            let key: Value = client.submit(Method::POST, "/v1/keys", &body, &once()).await?;
            out::line(&text(&key, "secret"));
        }
        Keys::List => {
            let answer: Value = client.call(Method::GET, "/v1/keys").await?;
            let rows: Vec<_> = array(&answer, "keys")
                .iter()
                .map(|key| {
                    ["key_id", "label", "tenant", "admin", "revoked", "last_used_at"]
                        .map(|name| text(key, name))
                })
                .collect();
            out::text(&table(
                ["key id", "label", "tenant", "admin", "revoked", "last used"],
                &rows,
            ));
        }
        Keys::Revoke { key_id } => {
            let _answer: Value = client.call(Method::DELETE, &format!("/v1/keys/{key_id}")).await?;
            out::line(&format!("key {key_id} opens nothing any more"));
        }
    }
    Ok(())
}

fn once() -> String {
    Uuid::now_v7().to_string()
}

fn array<'a>(value: &'a Value, name: &str) -> &'a [Value] {
    let list = value.as_array().or_else(|| value.get(name).and_then(Value::as_array));
    list.map_or(&[], Vec::as_slice)
}

fn text(value: &Value, name: &str) -> String {
    match value.get(name) {
        Some(Value::String(text)) => text.clone(),
        Some(Value::Null) | None => String::new(),
        Some(other) => other.to_string(),
    }
}
