//! What the person sees.

use std::{
    cell::Cell,
    io::{IsTerminal, Write},
};

use serde_json::Value;
use uuid::Uuid;

use super::super::out;
use super::follow::{Ending, News};

/// Tool arguments and results are cut to this many characters.
const GIST: usize = 160;

/// Writes to the terminal, with colour where it is one.
pub(super) struct Screen {
    colour: bool,
    /// Whether the cursor stands behind text of an answer.
    in_text: Cell<bool>,
}

impl Screen {
    pub(super) fn new() -> Self {
        Self { colour: std::io::stdout().is_terminal(), in_text: Cell::new(false) }
    }

    pub(super) fn welcome(&self, server: &str, health: &Value, session: Option<Uuid>) {
        let status = health.get("status").and_then(Value::as_str).unwrap_or("?");
        let session =
            session.map_or_else(|| "new session".to_owned(), |id| format!("session {id}"));
        out::line(&format!("{} {server} ({status}), {session}", self.paint("1", "somaagent chat")));
        out::line(&self.paint(
            "2",
            "Enter sends, Ctrl-C cancels an answer, /help lists commands, /quit leaves",
        ));
    }

    pub(super) fn farewell(&self, session: Option<Uuid>) {
        if let Some(session) = session {
            self.note(&format!("go on later with: somaagent chat --session {session}"));
        }
    }

    pub(super) fn help() {
        for (command, what) in [
            ("/cancel", "ends the answer that is under way (Ctrl-C does too)"),
            ("/history", "shows the session so far"),
            ("/new", "begins a new session"),
            ("/session [ID]", "shows the session's id, or opens another"),
            ("/quit", "leaves (Ctrl-D does too)"),
        ] {
            out::line(&format!("  {command:<14} {what}"));
        }
    }

    pub(super) fn note(&self, text: &str) {
        self.new_line();
        out::line(&self.paint("2", &format!("· {}", clean(text))));
    }

    pub(super) fn error(&self, text: &str) {
        self.new_line();
        out::line(&self.paint("31", &format!("! {}", clean(text))));
    }

    pub(super) fn show(&self, news: News) {
        match news {
            News::Text(text) => self.text(&text),
            News::Anew(text) => {
                self.note("the answer begins again");
                self.text(&text);
            }
            News::ToolStart(event) => {
                self.note(&format!("{} {}", tool(&event), gist(&event, "args")));
            }
            News::ToolResult(event) => self.note(&format!(
                "{} {}: {}",
                tool(&event),
                detail(&event, "status"),
                shorten(event.get("message").and_then(Value::as_str).unwrap_or_default()),
            )),
            News::Notice(text) => self.note(&text),
            News::Over(ending) => self.ending(&ending),
            News::Lost(why) => self.error(&why),
        }
    }

    pub(super) fn history(&self, page: &Value) {
        let events = page.get("events").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
        for event in events {
            let message = event.get("message").and_then(Value::as_str).unwrap_or_default();
            match event.get("type").and_then(Value::as_str) {
                Some("user") => {
                    out::line(&format!("{}{}", self.paint("1", "you> "), clean(message)));
                }
                Some("assistant.final") => {
                    out::line(&format!("{}{}", self.paint("36", "soma> "), clean(message)));
                }
                Some("assistant.error" | "assistant.cancelled") => {
                    self.note(&format!("{} {message}", kind(event)));
                }
                Some("tool.result") => {
                    self.note(&format!("{} {}", tool(event), detail(event, "status")));
                }
                _ => {}
            }
        }
    }

    fn ending(&self, ending: &Ending) {
        let event = &ending.event;
        let message = event.get("message").and_then(Value::as_str).unwrap_or_default();
        match event.get("type").and_then(Value::as_str) {
            Some("assistant.final") => match &ending.rest {
                Some(rest) => self.text(rest),
                None => self.text(&format!("\n{message}")),
            },
            Some("assistant.cancelled") => self.note("cancelled"),
            _ => self.error(if message.is_empty() { detail(event, "reason") } else { message }),
        }
        self.new_line();
        let usage = event.get("metadata").and_then(|metadata| metadata.get("usage"));
        let tokens = |name: &str| usage.and_then(|usage| usage.get(name)).and_then(Value::as_u64);
        if let (Some(input), Some(output)) = (tokens("input_tokens"), tokens("output_tokens")) {
            out::line(&self.paint("2", &format!("  {input} tokens in, {output} out")));
        }
    }

    fn text(&self, text: &str) {
        if text.is_empty() {
            return;
        }
        if !self.in_text.replace(true) {
            out::text(&self.paint("36", "soma> "));
        }
        out::text(&clean(text));
        self.flush();
    }

    fn new_line(&self) {
        if self.in_text.replace(false) {
            out::line("");
        }
    }

    /// A terminal that is gone is noticed by the reader of the keyboard.
    fn flush(&self) {
        if std::io::stdout().flush().is_err() {
            self.in_text.set(false);
        }
    }

    fn paint(&self, code: &str, text: &str) -> String {
        if self.colour { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }
}

/// Drops control characters, so that nothing a model or tool writes can steer the terminal.
fn clean(text: &str) -> String {
    text.chars().filter(|c| !c.is_control() || matches!(c, '\n' | '\t')).collect()
}

fn shorten(text: &str) -> String {
    let line = text.replace('\n', " ");
    match line.char_indices().nth(GIST) {
        Some((end, _)) => format!("{}…", line.get(..end).unwrap_or_default()),
        None => line,
    }
}

fn kind(event: &Value) -> &str {
    event.get("type").and_then(Value::as_str).unwrap_or_default()
}

fn detail<'a>(event: &'a Value, name: &str) -> &'a str {
    event
        .get("metadata")
        .and_then(|metadata| metadata.get(name))
        .and_then(Value::as_str)
        .unwrap_or_default()
}

fn tool(event: &Value) -> &str {
    detail(event, "tool_name")
}

fn gist(event: &Value, name: &str) -> String {
    let value = event.get("metadata").and_then(|metadata| metadata.get(name));
    value.map(|value| shorten(&value.to_string())).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escape_codes_do_not_reach_the_terminal() {
        assert_eq!(clean("a\x1b[31mb\x07\nc"), "a[31mb\nc");
    }

    #[test]
    fn long_results_are_cut_between_characters() {
        assert!(shorten(&"ä".repeat(500)).ends_with('…'));
    }
}
