//! What a client of OpenAI's protocol asks for, and what of it is the new message.

use serde::Deserialize;
use serde_json::Value;
use soma_contract::model::ChatMessage;
use utoipa::ToSchema;

use crate::http::{codes, problem::Problem};

const MAX_USER: usize = 256;

/// What `POST /v1/chat/completions` takes; other fields of OpenAI's are ignored.
#[derive(Debug, Deserialize, ToSchema)]
pub(in crate::http) struct ChatCompletionRequest {
    /// A name from `GET /v1/models`; `persona/<id>` picks a persona.
    pub(super) model: String,
    /// The conversation, the newest message last.
    messages: Vec<RequestMessage>,
    /// Whether to answer with chunks as they come.
    #[serde(default)]
    pub(super) stream: bool,
    /// Options of a stream.
    #[serde(default)]
    stream_options: Option<StreamOptions>,
    /// Names the session, one per user.
    #[serde(default)]
    pub(super) user: Option<String>,
    /// Must be 1.
    #[serde(default)]
    n: Option<u32>,
    /// Not offered: the tools are the agent's own.
    #[serde(default)]
    #[schema(value_type = Option<Vec<Object>>)]
    tools: Option<Vec<Value>>,
    /// Not offered.
    #[serde(default)]
    #[schema(value_type = Option<Vec<Object>>)]
    functions: Option<Vec<Value>>,
    /// Only `{"type": "text"}`.
    #[serde(default)]
    #[schema(value_type = Option<Object>)]
    response_format: Option<Value>,
    /// Not offered.
    #[serde(default)]
    logprobs: Option<bool>,
}

/// Options of a stream.
#[derive(Debug, Clone, Copy, Deserialize, ToSchema)]
pub(in crate::http) struct StreamOptions {
    /// Whether a last chunk tells the usage.
    #[serde(default)]
    include_usage: bool,
}

/// A message of the conversation.
#[derive(Debug, Deserialize, ToSchema)]
pub(in crate::http) struct RequestMessage {
    /// `system`, `developer`, `user` or `assistant`.
    role: String,
    /// The text, whole or in parts of the type `text`.
    #[serde(default)]
    content: Option<Content>,
}

/// The text of a message.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(untagged)]
pub(in crate::http) enum Content {
    /// Whole.
    Text(String),
    /// In parts.
    Parts(Vec<Part>),
}

/// A part of a message.
#[derive(Debug, Deserialize, ToSchema)]
pub(in crate::http) struct Part {
    /// `text`; others are not offered.
    #[serde(rename = "type")]
    kind: String,
    /// The text.
    #[serde(default)]
    text: String,
}

/// What is new, and what was said before.
#[derive(Debug, PartialEq)]
pub(super) struct Asked {
    pub(super) text: String,
    pub(super) prior: Vec<ChatMessage>,
}

impl ChatCompletionRequest {
    pub(super) fn wants_usage(&self) -> bool {
        self.stream_options.is_some_and(|options| options.include_usage)
    }

    /// Reads the conversation. In a named session the log is the history.
    pub(super) fn asked(&self, in_named_session: bool) -> Result<Asked, Problem> {
        self.check()?;
        let mut said: Vec<ChatMessage> = Vec::with_capacity(self.messages.len());
        for (place, message) in self.messages.iter().enumerate() {
            said.push(message.read(place)?);
        }
        let Some(ChatMessage::User { content: last }) = said.last() else {
            let detail = "the last of `messages` must have the role `user`";
            return Err(Problem::new(codes::INVALID_BODY, detail));
        };
        if last.trim().is_empty() {
            return Err(Problem::new(codes::INVALID_BODY, "the last message is empty"));
        }
        Ok(if in_named_session { newest(said) } else { whole(said) })
    }

    fn check(&self) -> Result<(), Problem> {
        let is_text = self.response_format.as_ref().is_none_or(|format| format["type"] == "text");
        let has = |list: &Option<Vec<Value>>| list.as_ref().is_some_and(|list| !list.is_empty());
        let refused = [
            ("n", self.n.is_some_and(|n| n != 1)),
            ("tools", has(&self.tools)),
            ("functions", has(&self.functions)),
            ("response_format", !is_text),
            ("logprobs", self.logprobs == Some(true)),
        ];
        if let Some((name, _)) = refused.iter().find(|(_, is_asked)| *is_asked) {
            let detail = format!("`{name}` asks for what is not offered here");
            return Err(Problem::new(codes::UNSUPPORTED_PARAMETER, detail));
        }
        if self.user.as_ref().is_some_and(|user| user.len() > MAX_USER) {
            let detail = format!("`user` has at most {MAX_USER} bytes");
            return Err(Problem::new(codes::INVALID_BODY, detail));
        }
        Ok(())
    }
}

impl RequestMessage {
    fn read(&self, place: usize) -> Result<ChatMessage, Problem> {
        let content = match &self.content {
            None => String::new(),
            Some(Content::Text(text)) => text.clone(),
            Some(Content::Parts(parts)) => {
                if let Some(part) = parts.iter().find(|part| part.kind != "text") {
                    let detail = format!("`messages[{place}]` has a part of type `{}`", part.kind);
                    return Err(Problem::new(codes::UNSUPPORTED_PARAMETER, detail));
                }
                parts.iter().map(|part| part.text.as_str()).collect::<Vec<_>>().join("\n")
            }
        };
        match self.role.as_str() {
            "system" | "developer" => Ok(ChatMessage::System { content }),
            "user" => Ok(ChatMessage::User { content }),
            "assistant" => Ok(ChatMessage::Assistant { content, tool_calls: Vec::new() }),
            other => {
                let detail = format!("`messages[{place}]` has the role `{other}`");
                Err(Problem::new(codes::UNSUPPORTED_PARAMETER, detail))
            }
        }
    }
}

/// Takes the last message as new and everything before it as said.
fn whole(mut said: Vec<ChatMessage>) -> Asked {
    let text = said.pop().map(|message| message.content().to_owned()).unwrap_or_default();
    said.retain(|message| !message.content().is_empty());
    Asked { text, prior: said }
}

/// Takes what the user said since the last answer as new, and of what was said before only the
/// instructions.
fn newest(said: Vec<ChatMessage>) -> Asked {
    let answered =
        said.iter().rposition(|message| matches!(message, ChatMessage::Assistant { .. }));
    let begin = answered.map_or(0, |place| place + 1);
    let text: Vec<&str> = said
        .iter()
        .skip(begin)
        .filter(|message| matches!(message, ChatMessage::User { .. }))
        .map(ChatMessage::content)
        .collect();
    let text = text.join("\n\n");
    let prior = said
        .into_iter()
        .filter(|message| {
            matches!(message, ChatMessage::System { .. }) && !message.content().is_empty()
        })
        .collect();
    Asked { text, prior }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn request(value: Value) -> ChatCompletionRequest {
        serde_json::from_value(value).unwrap()
    }

    fn conversation() -> ChatCompletionRequest {
        request(json!({"model": "m", "messages": [
            {"role": "system", "content": "be brief"},
            {"role": "user", "content": "one"},
            {"role": "assistant", "content": "uno"},
            {"role": "user", "content": [{"type": "text", "text": "two"}]},
            {"role": "user", "content": "three"},
        ]}))
    }

    #[test]
    fn a_new_session_is_told_everything_that_was_said() {
        let asked = conversation().asked(false).unwrap();
        assert_eq!(asked.text, "three");
        let prior: Vec<_> = asked.prior.iter().map(ChatMessage::content).collect();
        assert_eq!(prior, ["be brief", "one", "uno", "two"]);
    }

    #[test]
    fn a_named_session_is_told_what_is_new() {
        let asked = conversation().asked(true).unwrap();
        assert_eq!(asked.text, "two\n\nthree");
        assert_eq!(asked.prior, [ChatMessage::System { content: "be brief".to_owned() }]);
    }

    #[test]
    fn what_is_not_offered_is_refused_by_name() {
        let message = json!([{"role": "user", "content": "x"}]);
        for (name, value) in [
            ("n", json!(2)),
            ("tools", json!([{"type": "function"}])),
            ("response_format", json!({"type": "json_object"})),
            ("logprobs", json!(true)),
        ] {
            let request = request(json!({"model": "m", "messages": message, name: value}));
            let problem = request.asked(false).unwrap_err();
            assert_eq!(problem.code(), codes::UNSUPPORTED_PARAMETER);
            assert!(problem.detail().contains(name), "{name}");
        }
        let image = json!([{"role": "user", "content": [{"type": "image_url"}]}]);
        let problem = request(json!({"model": "m", "messages": image})).asked(false).unwrap_err();
        assert_eq!(problem.code(), codes::UNSUPPORTED_PARAMETER);
    }

    #[test]
    fn somebody_must_have_said_something_last() {
        for messages in [
            json!([]),
            json!([{"role": "assistant", "content": "x"}]),
            json!([{"role": "user", "content": " "}]),
            json!([{"role": "user"}]),
        ] {
            let problem = request(json!({"model": "m", "messages": messages})).asked(false);
            assert_eq!(problem.unwrap_err().code(), codes::INVALID_BODY);
        }
    }
}
