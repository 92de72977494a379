//! A prompt in the endpoint's words.

use serde_json::{Map, Value, json};
use soma_contract::{
    model::{ChatMessage, ChatRequest},
    tool::{ToolCall, ToolSpec},
};

/// What an endpoint has shown that it does not understand.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Lacks {
    /// It refuses `stream_options`: tokens are counted here.
    pub(super) stream_options: bool,
    /// The model takes no tools.
    pub(super) tools: bool,
}

/// Composes the body of a streaming call.
pub(super) fn body(request: &ChatRequest, model: &str, lacks: Lacks) -> Value {
    let mut body = Map::new();
    body.insert("model".to_owned(), Value::from(model));
    body.insert("messages".to_owned(), request.messages.iter().map(message).collect());
    body.insert("stream".to_owned(), Value::Bool(true));
    if !lacks.stream_options {
        body.insert("stream_options".to_owned(), json!({ "include_usage": true }));
    }
    if !lacks.tools && !request.tools.is_empty() {
        body.insert("tools".to_owned(), request.tools.iter().map(tool).collect());
    }
    Value::Object(body)
}

fn message(message: &ChatMessage) -> Value {
    match message {
        ChatMessage::System { content } => json!({ "role": "system", "content": content }),
        ChatMessage::User { content } => json!({ "role": "user", "content": content }),
        ChatMessage::Assistant { content, tool_calls } if tool_calls.is_empty() => {
            json!({ "role": "assistant", "content": content })
        }
        ChatMessage::Assistant { content, tool_calls } => {
            let content =
                if content.is_empty() { Value::Null } else { Value::from(content.as_str()) };
            let calls: Vec<Value> = tool_calls.iter().map(call).collect();
            json!({ "role": "assistant", "content": content, "tool_calls": calls })
        }
        ChatMessage::Tool { tool_call_id, content, .. } => {
            json!({ "role": "tool", "tool_call_id": tool_call_id, "content": content })
        }
    }
}

fn call(call: &ToolCall) -> Value {
    // Several servers answer 500 to arguments in the history that are no JSON object; the model
    // has been told what was wrong with them by the tool's result.
    let whole = serde_json::from_str::<Value>(&call.arguments).is_ok_and(|value| value.is_object());
    let arguments = if whole { call.arguments.as_str() } else { "{}" };
    json!({
        "id": call.id,
        "type": "function",
        "function": { "name": call.name, "arguments": arguments },
    })
}

fn tool(tool: &ToolSpec) -> Value {
    json!({
        "type": "function",
        "function": {
            "name": tool.name,
            "description": tool.description,
            "parameters": tool.parameters,
        },
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use soma_contract::tool::Effect;

    use super::*;

    #[test]
    fn a_prompt_is_told_in_openais_words() {
        let call = |id: &str, arguments: &str| ToolCall {
            id: id.to_owned(),
            name: "echo".to_owned(),
            arguments: arguments.to_owned(),
        };
        let request = ChatRequest {
            model: None,
            messages: vec![
                ChatMessage::System { content: "Be brief.".to_owned() },
                ChatMessage::User { content: "Say hi".to_owned() },
                ChatMessage::Assistant {
                    content: String::new(),
                    tool_calls: vec![call("a", "{\"text\":\"hi\"}"), call("b", "{oops")],
                },
                ChatMessage::Tool {
                    tool_call_id: "a".to_owned(),
                    name: "echo".to_owned(),
                    content: "hi".to_owned(),
                },
            ],
            tools: vec![ToolSpec {
                name: "echo".to_owned(),
                description: "Says it.".to_owned(),
                parameters: json!({ "type": "object" }),
                effect: Effect::Pure,
                timeout: Duration::from_secs(1),
                max_output_bytes: 10,
            }],
        };
        let told = body(&request, "m", Lacks::default());
        assert_eq!(
            told,
            json!({
                "model": "m",
                "messages": [
                    { "role": "system", "content": "Be brief." },
                    { "role": "user", "content": "Say hi" },
                    { "role": "assistant", "content": null, "tool_calls": [
                        { "id": "a", "type": "function",
                          "function": { "name": "echo", "arguments": "{\"text\":\"hi\"}" } },
                        { "id": "b", "type": "function",
                          "function": { "name": "echo", "arguments": "{}" } },
                    ]},
                    { "role": "tool", "tool_call_id": "a", "content": "hi" },
                ],
                "stream": true,
                "stream_options": { "include_usage": true },
                "tools": [{ "type": "function", "function": {
                    "name": "echo", "description": "Says it.",
                    "parameters": { "type": "object" },
                }}],
            })
        );
        let told = body(&request, "m", Lacks { stream_options: true, tools: true });
        assert!(told.get("stream_options").is_none() && told.get("tools").is_none());
    }
}
