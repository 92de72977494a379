//! What the prompt itself knows: recalled memories, and what the user said before.

use std::cmp::Reverse;

use soma_contract::model::ChatMessage;

use super::{answer, text::topics, wish};

/// The most things that are told at once.
const MAX_TOLD: usize = 5;

/// Returns what the prompt says about a question, best first: notes from memory in the system
/// message, and earlier messages of the user.
pub(super) fn about<'prompt>(
    messages: &'prompt [ChatMessage],
    question: &str,
) -> Vec<&'prompt str> {
    let asked = topics(question);
    let mut found: Vec<(usize, &str)> = messages
        .iter()
        .flat_map(said)
        .filter_map(statement)
        .map(|statement| (common(&asked, &topics(statement)), statement))
        .filter(|(score, _)| *score > 0)
        .collect();
    found.sort_by_key(|(score, _)| Reverse(*score));
    distinct(found.into_iter().map(|(_, statement)| statement))
}

/// Returns each statement once, and not too many.
pub(super) fn distinct<'text>(statements: impl Iterator<Item = &'text str>) -> Vec<&'text str> {
    let mut told: Vec<&str> = Vec::new();
    for statement in statements {
        if told.len() < MAX_TOLD && !told.contains(&statement) {
            told.push(statement);
        }
    }
    told
}

/// Returns what a text states, if it states anything: a question does not, what the offline model
/// itself said does not, and a request to remember states its fact.
pub(super) fn statement(text: &str) -> Option<&str> {
    let text = text.trim();
    let is_own = answer::OPENINGS.iter().any(|opening| text.starts_with(opening));
    let states = !text.is_empty() && !text.ends_with('?') && !is_own;
    states.then(|| wish::fact(text).unwrap_or(text))
}

fn said(message: &ChatMessage) -> Vec<&str> {
    match message {
        ChatMessage::System { content } => content.lines().filter_map(note).collect(),
        ChatMessage::User { content } => vec![content],
        ChatMessage::Assistant { .. } | ChatMessage::Tool { .. } => Vec::new(),
    }
}

/// Returns the text of a note from memory, `12. (user, 2026-01-31) text`.
fn note(line: &str) -> Option<&str> {
    let unnumbered = line.trim_start_matches(|character: char| character.is_ascii_digit());
    let (source, text) = unnumbered.strip_prefix(". (")?.split_once(") ")?;
    (!source.starts_with("assistant")).then_some(text)
}

/// Counts shared words, taking `live` and `lives` for one.
fn common(asked: &[String], said: &[String]) -> usize {
    asked.iter().filter(|word| said.iter().any(|other| stem(word) == stem(other))).count()
}

fn stem(word: &str) -> &str {
    word.strip_suffix('s').unwrap_or(word)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_notes_and_earlier_statements_with_shared_words_are_told() {
        let notes = "Use tea.\n\nNotes:\n1. (tool, 2026-01-31) Tea is at five\n2. (user, \
            2026-01-31) no milk\n3. (assistant, 2026-01-31) I love tea";
        let messages = [
            ChatMessage::System { content: notes.to_owned() },
            ChatMessage::User { content: "Remember that I like green tea.".to_owned() },
            ChatMessage::User { content: "Green tea?".to_owned() },
        ];
        assert_eq!(about(&messages, "Green tea?"), ["I like green tea", "Tea is at five"]);
        assert!(about(&messages, "And coffee?").is_empty());
    }
}
