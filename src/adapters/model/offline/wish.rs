//! What the user wants done: a handful of plain requests, and the tool calls that fulfil them.

use serde_json::json;
use soma_contract::{
    model::{ChatMessage, ChatRequest},
    tool::{ToolCall, ToolSpec},
};

use super::{
    last_question,
    text::{after_any, bare, split_last, without_courtesy},
};

/// The most calls of one answer.
const MAX_CALLS: usize = 8;

/// A request that a tool can fulfil.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Wish<'text> {
    Time,
    Fetch(&'text str),
    Read(&'text str),
    Write { path: &'text str, content: &'text str },
    Append { path: &'text str, line: &'text str },
    Remember(&'text str),
    Recall(&'text str),
    Echo(&'text str),
}

/// Returns the calls that fulfil what was asked last: one for each line, none once tools have
/// answered.
pub(super) fn tool_calls(request: &ChatRequest) -> Vec<ToolCall> {
    let Some((place, question)) = last_question(&request.messages) else { return Vec::new() };
    let answered =
        request.messages.iter().skip(place).any(|message| {
            matches!(message, ChatMessage::Tool { .. } | ChatMessage::Assistant { .. })
        });
    if answered {
        return Vec::new();
    }
    question
        .lines()
        .filter_map(wish)
        .filter_map(|wish| wish.call(&request.tools))
        .take(MAX_CALLS)
        .enumerate()
        .map(|(index, (name, arguments))| ToolCall {
            id: format!("call_{place}_{index}"),
            name,
            arguments,
        })
        .collect()
}

/// Returns the fact that a line asks to remember.
pub(super) fn fact(line: &str) -> Option<&str> {
    match wish(line) {
        Some(Wish::Remember(fact)) => Some(fact),
        _ => None,
    }
}

fn wish(line: &str) -> Option<Wish<'_>> {
    let line = without_courtesy(line);
    time(line)
        .or_else(|| remember(line))
        .or_else(|| recall(line))
        .or_else(|| fetch(line))
        .or_else(|| append(line))
        .or_else(|| write(line))
        .or_else(|| read(line))
        .or_else(|| after_any(line, &["echo "]).map(|rest| Wish::Echo(bare(rest))))
}

fn time(line: &str) -> Option<Wish<'_>> {
    const ASKS: &[&str] = &[
        "what time is it",
        "what's the time",
        "what is the time",
        "tell me the time",
        "the current time",
        "what day is it",
        "what date is it",
        "what is the date",
        "what's the date",
        "what is today's date",
        "today's date",
    ];
    let lower = line.to_ascii_lowercase();
    ASKS.iter().any(|ask| lower.contains(ask)).then_some(Wish::Time)
}

fn remember(line: &str) -> Option<Wish<'_>> {
    const ASKS: &[&str] = &[
        "remember that ",
        "remember this: ",
        "remember: ",
        "remember ",
        "note that ",
        "keep in mind that ",
        "don't forget that ",
        "do not forget that ",
        "don't forget ",
    ];
    let fact = bare(after_any(line, ASKS)?);
    (!fact.is_empty() && !line.ends_with('?')).then_some(Wish::Remember(fact))
}

fn recall(line: &str) -> Option<Wish<'_>> {
    const ASKS: &[&str] = &[
        "what do you know about ",
        "what do you remember about ",
        "what did i tell you about ",
        "what did i say about ",
        "do you remember ",
        "do you know ",
        "what is my ",
        "what's my ",
        "what are my ",
        "what was my ",
        "where is my ",
        "when is my ",
        "who is my ",
        "recall ",
        "search your memory for ",
        "tell me about my ",
    ];
    if after_any(line, &["who am i"]).is_some() {
        return Some(Wish::Recall("name"));
    }
    let topic = bare(after_any(line, ASKS)?);
    (!topic.is_empty()).then_some(Wish::Recall(topic))
}

fn fetch(line: &str) -> Option<Wish<'_>> {
    const ASKS: &[&str] =
        &["fetch ", "get ", "open ", "load ", "download ", "read ", "what is at ", "look at "];
    after_any(line, ASKS)?.split_whitespace().map(bare).find_map(|word| {
        (word.starts_with("http://") || word.starts_with("https://")).then_some(Wish::Fetch(word))
    })
}

fn write(line: &str) -> Option<Wish<'_>> {
    let rest = after_any(line, &["write ", "save ", "put "])?;
    let (content, path) = split_last(
        rest,
        &[
            " to the file ",
            " into the file ",
            " in the file ",
            " to a file called ",
            " to file ",
            " into file ",
            " in file ",
            " to ",
            " into ",
        ],
    )?;
    let (path, content) = (as_path(path)?, bare(content));
    Some(Wish::Write { path, content })
}

fn append(line: &str) -> Option<Wish<'_>> {
    let rest = after_any(line, &["append ", "add "])?;
    let (line, path) =
        split_last(rest, &[" to the file ", " to file ", " to the end of ", " to "])?;
    let (path, line) = (as_path(path)?, bare(line));
    Some(Wish::Append { path, line })
}

fn read(line: &str) -> Option<Wish<'_>> {
    const ASKS: &[&str] = &["read ", "show me ", "show ", "open ", "cat ", "print "];
    const ARTICLES: &[&str] =
        &["the contents of ", "the content of ", "the file ", "file ", "the ", "my "];
    let mut rest = after_any(line, ASKS)?;
    while let Some(path) = after_any(rest, ARTICLES) {
        rest = path;
    }
    as_path(rest).map(Wish::Read)
}

/// Returns the text if it looks like the path of a file: one word with a dot or a slash.
fn as_path(text: &str) -> Option<&str> {
    let path = bare(text);
    let plain = !path.contains(char::is_whitespace) && path.contains(['.', '/']);
    plain.then_some(path)
}

impl Wish<'_> {
    /// Returns the tool and the arguments, if there is such a tool.
    fn call(&self, tools: &[ToolSpec]) -> Option<(String, String)> {
        let (name, arguments) = match self {
            Self::Time => ("timestamp", json!({})),
            Self::Fetch(url) => ("http_fetch", json!({ "url": url })),
            Self::Read(path) => ("file_read", json!({ "path": path })),
            Self::Write { path, content } => {
                ("file_write", json!({ "path": path, "content": content }))
            }
            Self::Append { path, line } => ("file_append", json!({ "path": path, "line": line })),
            Self::Remember(fact) => ("memory_save", json!({ "content": fact })),
            Self::Recall(topic) => ("memory_search", json!({ "query": topic })),
            Self::Echo(text) => ("echo", json!({ "text": text })),
        };
        let known = tools.iter().any(|tool| tool.name == name);
        known.then(|| (name.to_owned(), arguments.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_requests_are_understood() {
        for (line, expected) in [
            ("Could you tell me the time, please?", Wish::Time),
            ("What's today's date?", Wish::Time),
            ("get https://example.org/a?b=c", Wish::Fetch("https://example.org/a?b=c")),
            ("show me notes/todo.md", Wish::Read("notes/todo.md")),
            ("Read the file `a.txt`.", Wish::Read("a.txt")),
            ("save 1 to 2 to n.txt", Wish::Write { path: "n.txt", content: "1 to 2" }),
            ("Add eggs to list.txt", Wish::Append { path: "list.txt", line: "eggs" }),
            ("append a b to the file n/l.md", Wish::Append { path: "n/l.md", line: "a b" }),
            ("Remember: tea at five", Wish::Remember("tea at five")),
            ("what did I tell you about tea?", Wish::Recall("tea")),
            ("Who am I?", Wish::Recall("name")),
            ("echo hello", Wish::Echo("hello")),
        ] {
            assert_eq!(wish(line), Some(expected), "{line}");
        }
    }

    #[test]
    fn anything_else_is_no_wish() {
        for line in [
            "",
            "Hello!",
            "I read a book",
            "remember?",
            "write a poem",
            "read me a story",
            "get up",
        ] {
            assert_eq!(wish(line), None, "{line}");
        }
    }
}
