//! What the offline model says.

use serde_json::Value;
use soma_contract::model::{ChatMessage, ChatRequest};

use super::{last_question, recall, wish};

/// Said once in each session, so that nobody takes it for more than it is.
const INTRODUCTION: &str = "I am not a language model. I am SomaAgent's built-in `offline` model \
    and follow a few fixed rules. To talk to a real model, set SA01_MODEL_BASE_URL to any \
    OpenAI-compatible endpoint, SA01_MODEL_NAME to one of its models and, if it wants a key, \
    SA01_MODEL_API_KEY; then start the server again.";

/// What it understands, for whoever asks for something else.
const ABILITIES: &str = "I can tell the time (\"what time is it?\"), fetch a page (\"fetch \
    https://…\"), read and write files (\"write hello to notes.txt\"), remember things (\"remember \
    that …\") and look them up (\"what do you know about …?\").";

/// The most characters of a tool's output that are repeated.
const MAX_REPEATED: usize = 2_000;

/// Returns the answer in words: from tool results if there are any, else from what the prompt
/// knows, else what can be asked.
pub(super) fn text(request: &ChatRequest) -> String {
    let Some((place, question)) = last_question(&request.messages) else {
        return INTRODUCTION.to_owned();
    };
    let (before, after) = request.messages.split_at(place);
    let results: Vec<String> = after
        .iter()
        .filter_map(|message| match message {
            ChatMessage::Tool { name, content, .. } => Some(tell(name, content, before, question)),
            _ => None,
        })
        .collect();
    let answer = if results.is_empty() { plain(before, question) } else { results.join("\n") };
    let introduced = before.iter().any(
        |message| matches!(message, ChatMessage::Assistant { content, .. } if !content.is_empty()),
    );
    if introduced { answer } else { format!("{answer}\n\n{INTRODUCTION}") }
}

/// Answers without tools.
fn plain(before: &[ChatMessage], question: &str) -> String {
    let known = recall::about(before, question);
    if known.is_empty() {
        return format!("You wrote: \"{}\". {ABILITIES}", shortened(question.trim()));
    }
    listed("From what I remember:", &known)
}

/// Tells one tool's result.
fn tell(name: &str, content: &str, before: &[ChatMessage], question: &str) -> String {
    let output = serde_json::from_str(content).unwrap_or_else(|_| Value::from(content));
    if let Some(error) = field(&output, &["error"]) {
        return format!("`{name}` could not do it: {}", shortened(&error));
    }
    match name {
        "timestamp" => {
            format!(
                "It is {}.",
                field(&output, &["message", "timestamp", "time"])
                    .unwrap_or_else(|| plain_text(&output))
            )
        }
        "http_fetch" => fetched(&output),
        "file_read" => {
            format!(
                "The file contains:\n{}",
                field(&output, &["content", "text"]).unwrap_or_else(|| plain_text(&output))
            )
        }
        "file_write" => format!(
            "I have written {}.",
            field(&output, &["path"]).unwrap_or_else(|| "the file".to_owned())
        ),
        "memory_save" => remembered(question),
        "memory_search" => found(&output, before, question),
        _ => format!(
            "`{name}` says: {}",
            field(&output, &["message"]).unwrap_or_else(|| plain_text(&output))
        ),
    }
}

fn fetched(output: &Value) -> String {
    let status = field(output, &["status_code", "status"]).unwrap_or_else(|| "unknown".to_owned());
    let body = field(output, &["text", "body", "content"]).unwrap_or_default();
    format!("The server answered with status {status}:\n{}", shortened(&body))
}

fn remembered(question: &str) -> String {
    let facts: Vec<&str> = question.lines().filter_map(wish::fact).collect();
    format!("I will remember that {}.", facts.join(", and that "))
}

fn found(output: &Value, before: &[ChatMessage], question: &str) -> String {
    let results =
        ["results", "memories", "items"].iter().find_map(|name| output.get(name)).unwrap_or(output);
    let texts: Vec<String> = results.as_array().into_iter().flatten().map(memory_text).collect();
    let mut texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    texts.retain(|text| *text != question.trim());
    if texts.is_empty() {
        texts = recall::about(before, question);
    }
    if texts.is_empty() {
        return "I know nothing about that yet.".to_owned();
    }
    listed("I know this:", &texts)
}

fn memory_text(memory: &Value) -> String {
    let inner = memory.get("memory").unwrap_or(memory);
    field(inner, &["content", "text"]).unwrap_or_else(|| plain_text(inner))
}

fn listed(heading: &str, items: &[&str]) -> String {
    let mut text = heading.to_owned();
    for item in items {
        text.push_str("\n- ");
        text.push_str(&shortened(item));
    }
    text
}

/// Returns the first of these fields as text.
fn field(output: &Value, names: &[&str]) -> Option<String> {
    names.iter().find_map(|name| output.get(name)).filter(|value| !value.is_null()).map(plain_text)
}

fn plain_text(value: &Value) -> String {
    let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    shortened(&text)
}

fn shortened(text: &str) -> String {
    text.char_indices().nth(MAX_REPEATED).map_or_else(
        || text.to_owned(),
        |(end, _)| format!("{}…", text.get(..end).unwrap_or_default()),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_of_any_shape_are_told() {
        let tell = |name: &str, content: &str| tell(name, content, &[], "what is my name?");
        assert_eq!(tell("timestamp", "10:15"), "It is 10:15.");
        assert_eq!(tell("anything", "{\"a\":1}"), "`anything` says: {\"a\":1}");
        assert!(tell("file_read", "{\"error\":\"no such file\"}").ends_with("no such file"));
        assert_eq!(tell("memory_search", "{\"results\":[]}"), "I know nothing about that yet.");
        let nested = r#"[{"memory":{"content":"Ada"},"score":1}]"#;
        assert_eq!(tell("memory_search", nested), "I know this:\n- Ada");
    }

    #[test]
    fn a_long_output_is_cut_between_characters() {
        let text = shortened(&"ä".repeat(MAX_REPEATED + 1));
        assert_eq!(text.chars().count(), MAX_REPEATED + 1);
        assert!(text.ends_with('…'));
    }
}
