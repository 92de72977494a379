//! Tools: listed, and run as turns of their own.

use serde::Deserialize;
use serde_json::{Map, Value, json};
use soma_contract::{SessionId, tool::ToolCall, turn::TurnKind};
use utoipa::ToSchema;

use super::{
    accept::{self, Draft},
    call::{Call, ok},
    codes, messages, personas,
    problem::{Answer, Problem},
};

/// `GET /v1/tools`.
pub(super) async fn list(call: Call) -> Answer {
    let tools = call.edge.parts().tools.specs();
    ok(&json!({"count": tools.len(), "tools": tools}))
}

/// What `POST /v1/tool/request` takes.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ToolRequest {
    /// The session; a new one is begun if there is none.
    #[serde(default)]
    #[schema(value_type = Option<uuid::Uuid>)]
    session_id: Option<SessionId>,
    /// The tool, by its name in `GET /v1/tools`.
    tool_name: String,
    /// Its arguments, as its `parameters` describe them.
    #[serde(default)]
    #[schema(value_type = Object)]
    args: Map<String, Value>,
    /// The persona whose tools may be used; `default` if not set.
    #[serde(default)]
    persona_id: Option<String>,
    /// Details of the client's own.
    #[serde(default)]
    #[schema(value_type = Object)]
    metadata: Map<String, Value>,
}

/// `POST /v1/tool/request`.
pub(super) async fn request(call: Call) -> Answer {
    let wait = messages::wait(&call)?;
    let ToolRequest { session_id, tool_name, args, persona_id, metadata } = call.json()?;
    let asked =
        ToolCall { id: String::new(), name: tool_name, arguments: Value::Object(args).to_string() };
    let (spec, args) = call.edge.parts().tools.check(&asked)?;
    if let Some(persona_id) = &persona_id
        && !personas::named(&call, persona_id).await?.may_use(&spec.name)
    {
        let detail = format!("the persona `{persona_id}` may not use `{}`", spec.name);
        return Err(Problem::new(codes::POLICY_DENIED, detail));
    }
    let mut platform = Map::new();
    platform.insert("tool_name".to_owned(), spec.name.into());
    platform.insert("args".to_owned(), args);
    let draft = Draft {
        kind: TurnKind::Tool,
        session_id,
        persona_id,
        text: String::new(),
        attachments: Vec::new(),
        metadata,
        platform,
    };
    let message = accept::compose(&call, draft).await?;
    messages::submit(&call, message, wait).await
}
