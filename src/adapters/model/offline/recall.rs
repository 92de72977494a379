//! What the prompt itself knows: recalled memories, and what the user said before.

use std::cmp::Reverse;

use soma_contract::model::ChatMessage;

use super::text::topics;

/// The most things that are told at once.
const MAX_TOLD: usize = 3;

/// Returns what the prompt says about a question, best first: lines of lists in system messages
/// (that is how memories are handed over) and earlier messages of the user.
pub(super) fn about<'prompt>(
    messages: &'prompt [ChatMessage],
    question: &str,
) -> Vec<&'prompt str> {
    let asked = topics(question);
    let mut found: Vec<(usize, &str)> = messages
        .iter()
        .flat_map(statements)
        .filter(|statement| *statement != question.trim() && !statement.ends_with('?'))
        .map(|statement| (common(&asked, &topics(statement)), statement))
        .filter(|(score, _)| *score > 0)
        .collect();
    found.sort_by_key(|(score, _)| Reverse(*score));
    let mut told: Vec<&str> = Vec::new();
    for (_, statement) in found {
        if told.len() < MAX_TOLD && !told.contains(&statement) {
            told.push(statement);
        }
    }
    told
}

fn statements(message: &ChatMessage) -> Vec<&str> {
    match message {
        ChatMessage::System { content } => content.lines().filter_map(list_item).collect(),
        ChatMessage::User { content } => vec![content.trim()],
        ChatMessage::Assistant { .. } | ChatMessage::Tool { .. } => Vec::new(),
    }
}

/// Returns the text of a line like `- text`, `* text` or `12. text`.
fn list_item(line: &str) -> Option<&str> {
    let line = line.trim();
    let numbered = line.trim_start_matches(|character: char| character.is_ascii_digit());
    line.strip_prefix("- ")
        .or_else(|| line.strip_prefix("* "))
        .or_else(|| if numbered.len() < line.len() { numbered.strip_prefix(". ") } else { None })
        .map(str::trim)
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
    fn only_items_and_earlier_statements_with_shared_words_are_told() {
        let messages = [
            ChatMessage::System { content: "Use tea.\n- Tea is at five\n2. no milk".to_owned() },
            ChatMessage::User { content: "I like green tea".to_owned() },
            ChatMessage::User { content: "Green tea?".to_owned() },
        ];
        assert_eq!(about(&messages, "Green tea?"), ["I like green tea", "Tea is at five"]);
        assert!(about(&messages, "And coffee?").is_empty());
    }
}
