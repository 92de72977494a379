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
    https://…\"), read and write files (\"write hello to notes.txt\", \"add eggs to list.txt\"), \
    remember things (\"remember that …\") and look them up (\"what do you know about …?\").";

const ECHOED: &str = "You wrote:";
const RECALLED: &str = "From what I remember:";
const FAILED: &str = "This did not work,";
const TIME: &str = "The time is";
const FETCHED: &str = "The server answered with status";
const READ: &str = "The file contains:";
const WRITTEN: &str = "I have written";
const APPENDED: &str = "I have added the line to";
const REMEMBERED: &str = "I will remember that";
const FOUND: &str = "I know this:";
const NOTHING: &str = "I know nothing about that yet.";

/// How its answers begin, so that it does not take them for news when they are recalled.
pub(super) const OPENINGS: &[&str] =
    &[ECHOED, RECALLED, FAILED, TIME, FETCHED, READ, WRITTEN, APPENDED, REMEMBERED, FOUND, NOTHING];

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
        return format!("{ECHOED} \"{}\". {ABILITIES}", shortened(question.trim()));
    }
    listed(RECALLED, &known)
}

/// Tells one tool's result.
fn tell(name: &str, content: &str, before: &[ChatMessage], question: &str) -> String {
    if let Some(reason) = failure(content) {
        return format!("{FAILED} `{name}`: {}", shortened(reason));
    }
    let output = serde_json::from_str(content).unwrap_or_else(|_| Value::from(content));
    let field = |name| field(&output, name).unwrap_or_else(|| plain_text(&output));
    match name {
        "timestamp" => format!("{TIME} {}.", field("message")),
        "http_fetch" => {
            format!("{FETCHED} {}:\n{}", field("status"), field("text"))
        }
        "file_read" => format!("{READ}\n{}", field("content")),
        "file_write" => format!("{WRITTEN} {}.", field("path")),
        "file_append" => format!("{APPENDED} {}.", field("path")),
        "memory_save" => remembered(question),
        "memory_search" => found(&output, before, question),
        _ => format!("`{name}` says: {}", field("message")),
    }
}

/// Returns why a call failed: a result that is none begins with its status, like `[timeout] …`.
fn failure(content: &str) -> Option<&str> {
    let (status, reason) = content.strip_prefix('[')?.split_once("] ")?;
    let failed = ["error", "timeout", "blocked", "unknown", "withdrawn"].contains(&status);
    failed.then_some(reason)
}

fn remembered(question: &str) -> String {
    let facts: Vec<&str> = question.lines().filter_map(wish::fact).collect();
    format!("{REMEMBERED} {}.", facts.join(", and that "))
}

fn found(output: &Value, before: &[ChatMessage], question: &str) -> String {
    let memories = output.get("memories").and_then(Value::as_array).into_iter().flatten();
    let contents = memories.filter_map(|memory| memory.get("content")?.as_str());
    let known = recall::distinct(contents.filter_map(recall::statement));
    if !known.is_empty() {
        return listed(FOUND, &known);
    }
    let known = recall::about(before, question);
    if known.is_empty() { NOTHING.to_owned() } else { listed(RECALLED, &known) }
}

fn listed(heading: &str, items: &[&str]) -> String {
    let mut text = heading.to_owned();
    for item in items {
        text.push_str("\n- ");
        text.push_str(&shortened(item));
    }
    text
}

/// Returns a field as text, if there is one.
fn field(output: &Value, name: &str) -> Option<String> {
    output.get(name).filter(|value| !value.is_null()).map(plain_text)
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
    fn results_and_failures_are_told() {
        let tell = |name: &str, content: &str| tell(name, content, &[], "what is my name?");
        assert_eq!(tell("timestamp", "10:15"), "The time is 10:15.");
        assert_eq!(tell("anything", "{\"a\":1}"), "`anything` says: {\"a\":1}");
        assert!(tell("file_read", "[error] no such file").ends_with("`file_read`: no such file"));
        assert!(tell("file_read", "{\"content\":\"[error] x\"}").ends_with("[error] x"));
        assert_eq!(tell("memory_search", "{\"memories\":[]}"), NOTHING);
    }

    #[test]
    fn what_it_said_itself_and_what_was_asked_is_not_told_as_known() {
        let memories = serde_json::json!({ "memories": [
            { "content": "What is my name?" },
            { "content": NOTHING },
            { "content": format!("{FOUND}\n- my name is Eve") },
            { "content": "Remember that my name is Ada." },
            { "content": "my name is Ada" },
        ]});
        let told = tell("memory_search", &memories.to_string(), &[], "What is my name?");
        assert_eq!(told, "I know this:\n- my name is Ada");
    }

    #[test]
    fn a_long_output_is_cut_between_characters() {
        let text = shortened(&"ä".repeat(MAX_REPEATED + 1));
        assert_eq!(text.chars().count(), MAX_REPEATED + 1);
        assert!(text.ends_with('…'));
    }
}
