//! The built-in model: deterministic, says what it is, and really calls tools and memory.
//!
//! It makes a fresh installation complete without an account anywhere. It is no language model: it
//! knows a handful of plain requests (`wish`) and answers in fixed words (`answer`).

mod answer;
mod recall;
mod text;
mod wish;

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use futures::{
    StreamExt,
    stream::{self, BoxStream},
};
use soma_contract::{
    model::{ChatMessage, ChatRequest, ModelAnswer, ModelEvent, TokenCounter, Usage},
    port::model::{Model, ModelError},
    tool::ToolCall,
};

/// The name that its answers carry.
pub const NAME: &str = "offline";

/// The model that answers when no endpoint is configured.
#[derive(Debug)]
pub struct OfflineModel {
    word_delay: Duration,
    tokens: Arc<dyn TokenCounter>,
}

impl OfflineModel {
    /// Builds a model that pauses after each word; without a pause an answer is one piece.
    pub fn new(word_delay: Duration, tokens: Arc<dyn TokenCounter>) -> Self {
        Self { word_delay, tokens }
    }

    fn answer(&self, request: &ChatRequest) -> ModelAnswer {
        let tool_calls = wish::tool_calls(request);
        let text = if tool_calls.is_empty() { answer::text(request) } else { String::new() };
        let finish_reason = if tool_calls.is_empty() { "stop" } else { "tool_calls" };
        ModelAnswer {
            usage: self.usage(request, &text, &tool_calls),
            text,
            tool_calls,
            model: NAME.to_owned(),
            finish_reason: finish_reason.to_owned(),
        }
    }

    fn usage(&self, request: &ChatRequest, text: &str, calls: &[ToolCall]) -> Usage {
        let input: usize =
            request.messages.iter().map(|message| self.tokens.count(message.content())).sum();
        let output = self.tokens.count(text)
            + calls.iter().map(|call| self.tokens.count(&call.arguments)).sum::<usize>();
        Usage { input_tokens: input as u64, output_tokens: output as u64 }
    }
}

#[async_trait]
impl Model for OfflineModel {
    async fn chat(
        &self,
        request: ChatRequest,
    ) -> BoxStream<'static, Result<ModelEvent, ModelError>> {
        let answer = self.answer(&request);
        let word_delay = self.word_delay;
        let pieces = stream::iter(pieces(&answer.text, word_delay)).then(move |piece| async move {
            if !word_delay.is_zero() {
                tokio::time::sleep(word_delay).await;
            }
            Ok(ModelEvent::Delta(piece))
        });
        pieces.chain(stream::iter([Ok(ModelEvent::Answer(answer))])).boxed()
    }

    fn default_model(&self) -> String {
        NAME.to_owned()
    }

    async fn ping(&self) -> Result<(), ModelError> {
        Ok(())
    }
}

/// Cuts a text into words, each with the space behind it.
fn pieces(text: &str, word_delay: Duration) -> Vec<String> {
    if text.is_empty() {
        Vec::new()
    } else if word_delay.is_zero() {
        vec![text.to_owned()]
    } else {
        text.split_inclusive(char::is_whitespace).map(str::to_owned).collect()
    }
}

/// Returns what the user wrote last, and where.
fn last_question(messages: &[ChatMessage]) -> Option<(usize, &str)> {
    messages.iter().enumerate().rev().find_map(|(place, message)| match message {
        ChatMessage::User { content } => Some((place, content.as_str())),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};
    use soma_contract::tool::{Effect, ToolSpec};

    use super::*;
    use crate::adapters::model::tokens::Tokens;

    fn tool(name: &str, arguments: &[&str]) -> ToolSpec {
        let properties: serde_json::Map<String, Value> = arguments
            .iter()
            .map(|name| ((*name).to_owned(), json!({ "type": "string" })))
            .collect();
        ToolSpec {
            name: name.to_owned(),
            description: String::new(),
            parameters: json!({ "type": "object", "properties": properties }),
            effect: Effect::Pure,
            timeout: Duration::from_secs(1),
            max_output_bytes: 1_000,
        }
    }

    fn tools() -> Vec<ToolSpec> {
        vec![
            tool("timestamp", &["format"]),
            tool("http_fetch", &["url"]),
            tool("file_read", &["path"]),
            tool("file_write", &["path", "content"]),
            tool("memory_save", &["content", "kind"]),
            tool("memory_search", &["query", "limit"]),
        ]
    }

    fn user(text: &str) -> ChatMessage {
        ChatMessage::User { content: text.to_owned() }
    }

    fn system(text: &str) -> ChatMessage {
        ChatMessage::System { content: text.to_owned() }
    }

    async fn ask(messages: Vec<ChatMessage>, delay: Duration) -> (Vec<String>, ModelAnswer) {
        let model = OfflineModel::new(delay, Arc::new(Tokens::estimated()));
        let request = ChatRequest { model: None, messages, tools: tools() };
        let mut events: Vec<_> = model.chat(request).await.collect().await;
        let Some(Ok(ModelEvent::Answer(answer))) = events.pop() else { panic!("no answer") };
        let deltas = events.into_iter().map(|event| match event.unwrap() {
            ModelEvent::Delta(text) => text,
            other => panic!("{other:?}"),
        });
        (deltas.collect(), answer)
    }

    async fn answer_to(messages: Vec<ChatMessage>) -> ModelAnswer {
        ask(messages, Duration::ZERO).await.1
    }

    /// Asks, has the calls answered with `output`, and returns the calls and the final text.
    async fn with_tool(question: &str, output: Value) -> (Vec<ToolCall>, String) {
        let mut messages = vec![
            user("hi"),
            ChatMessage::Assistant { content: "Hello.".to_owned(), tool_calls: vec![] },
        ];
        messages.push(user(question));
        let first = answer_to(messages.clone()).await;
        messages.push(ChatMessage::Assistant {
            content: String::new(),
            tool_calls: first.tool_calls.clone(),
        });
        for call in &first.tool_calls {
            messages.push(ChatMessage::Tool {
                tool_call_id: call.id.clone(),
                name: call.name.clone(),
                content: output.to_string(),
            });
        }
        let last = answer_to(messages).await;
        assert!(last.tool_calls.is_empty());
        (first.tool_calls, last.text)
    }

    #[tokio::test]
    async fn the_first_answer_says_what_it_is_and_how_to_get_better() {
        let first = answer_to(vec![system("You are helpful."), user("Hello!")]).await;
        assert!(first.text.contains("not a language model"));
        for name in ["SA01_MODEL_BASE_URL", "SA01_MODEL_NAME", "SA01_MODEL_API_KEY"] {
            assert!(first.text.contains(name), "{name}");
        }
        let said = ChatMessage::Assistant { content: first.text, tool_calls: vec![] };
        let second = answer_to(vec![user("Hello!"), said, user("And you?")]).await;
        assert!(!second.text.contains("SA01_MODEL_BASE_URL"));
    }

    #[tokio::test]
    async fn the_pieces_add_up_to_the_answer_with_and_without_a_delay() {
        for delay in [Duration::ZERO, Duration::from_nanos(1)] {
            let (pieces, answer) = ask(vec![user("Hello!")], delay).await;
            assert_eq!(pieces.concat(), answer.text);
            assert_eq!(pieces.len() == 1, delay.is_zero());
            assert_eq!(answer.finish_reason, "stop");
            assert!(answer.usage.input_tokens > 0 && answer.usage.output_tokens > 0);
        }
    }

    #[tokio::test]
    async fn plain_requests_call_tools_and_their_results_are_told() {
        let (calls, text) = with_tool("What time is it?", json!({ "message": "10:15" })).await;
        assert_eq!((calls[0].name.as_str(), calls[0].arguments.as_str()), ("timestamp", "{}"));
        assert!(text.contains("10:15"), "{text}");

        let fetched = json!({ "url": "http://a.test", "status": 200, "text": "Welcome" });
        let (calls, text) = with_tool("please fetch http://a.test.", fetched).await;
        assert_eq!(calls[0].arguments, r#"{"url":"http://a.test"}"#);
        assert!(text.contains("200") && text.contains("Welcome"), "{text}");

        let written = json!({ "path": "a.txt", "bytes": 5 });
        let (calls, _) = with_tool("Write \"Hello\" to the file a.txt", written).await;
        assert_eq!(calls[0].arguments, r#"{"path":"a.txt","content":"Hello"}"#);

        let read = json!({ "path": "a.txt", "content": "Hello" });
        let (calls, text) = with_tool("read the file a.txt", read).await;
        assert_eq!(calls[0].arguments, r#"{"path":"a.txt"}"#);
        assert!(text.contains("Hello"), "{text}");

        let found = json!({ "memories": [{ "content": "my name is Ada", "kind": "fact" }] });
        let (calls, text) = with_tool("What is my name?", found).await;
        assert_eq!(calls[0].arguments, r#"{"query":"name"}"#);
        assert!(text.contains("my name is Ada"), "{text}");

        let (calls, text) = with_tool("Remember that my name is Ada.", json!({})).await;
        assert_eq!(calls[0].arguments, r#"{"content":"my name is Ada"}"#);
        assert!(text.contains("my name is Ada"), "{text}");
    }

    #[tokio::test]
    async fn several_lines_are_several_calls_with_ids_of_their_own() {
        let (calls, text) =
            with_tool("what time is it\nread file a.txt", json!({ "content": "x" })).await;
        assert_eq!(calls.len(), 2);
        assert_ne!(calls[0].id, calls[1].id);
        assert!(!text.is_empty());
    }

    #[tokio::test]
    async fn a_question_is_answered_from_recalled_memory_in_the_prompt() {
        let messages = vec![
            system(
                "You are helpful.\n\nNotes from memory:\n1. (user, 2026-01-31) Ada lives in \
                 London\n2. (tool, 2026-01-31) The cat is grey",
            ),
            user("In which city does Ada live?"),
        ];
        let answer = answer_to(messages).await;
        assert!(answer.text.contains("Ada lives in London"), "{}", answer.text);
        assert!(!answer.text.contains("grey"), "{}", answer.text);
    }
}
