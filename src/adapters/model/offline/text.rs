//! Reading plain English, just enough for the offline model.

/// Words that say nothing about what a sentence is about.
const COMMON: &[&str] = &[
    "a", "about", "am", "an", "and", "are", "at", "be", "did", "do", "does", "for", "from", "had",
    "has", "have", "how", "i", "in", "is", "it", "know", "me", "my", "of", "on", "or", "our",
    "tell", "that", "the", "their", "there", "this", "to", "was", "were", "what", "when", "where",
    "which", "who", "why", "with", "you", "your",
];

/// Returns what follows `prefix`, whatever its case.
pub(super) fn after<'text>(text: &'text str, prefix: &str) -> Option<&'text str> {
    let (start, rest) = text.split_at_checked(prefix.len())?;
    start.eq_ignore_ascii_case(prefix).then_some(rest)
}

/// Returns what follows the first of the prefixes that fits.
pub(super) fn after_any<'text>(text: &'text str, prefixes: &[&str]) -> Option<&'text str> {
    prefixes.iter().find_map(|prefix| after(text, prefix))
}

/// Splits at the last place where one of the words stands, the longest first.
pub(super) fn split_last<'text>(
    text: &'text str,
    words: &[&str],
) -> Option<(&'text str, &'text str)> {
    let lower = text.to_ascii_lowercase(); // As many bytes as before, so places agree.
    words.iter().find_map(|word| {
        let place = lower.rfind(word)?;
        Some((text.get(..place)?, text.get(place + word.len()..)?))
    })
}

/// Drops what politeness puts before a request.
pub(super) fn without_courtesy(text: &str) -> &str {
    const COURTESY: &[&str] =
        &["please ", "can you ", "could you ", "would you ", "will you ", "hey ", "hey, ", "ok, "];
    let mut text = text.trim();
    while let Some(rest) = after_any(text, COURTESY) {
        text = rest.trim_start();
    }
    text
}

/// Drops quotes and the sentence's end.
pub(super) fn bare(text: &str) -> &str {
    text.trim()
        .trim_end_matches(['.', '!', '?', ','])
        .trim_matches(['"', '\'', '`', '“', '”', '«', '»'])
}

/// Returns the words that say what a text is about, in lower case.
pub(super) fn topics(text: &str) -> Vec<String> {
    text.split(|character: char| !character.is_alphanumeric())
        .map(str::to_lowercase)
        .filter(|word| word.chars().count() > 1 && !COMMON.contains(&word.as_str()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_taken_apart_whatever_their_case_and_alphabet() {
        assert_eq!(after("READ x", "read "), Some("x"));
        assert_eq!(after("é", "re"), None);
        assert_eq!(split_last("a to b TO c", &[" to "]), Some(("a to b", "c")));
        assert_eq!(without_courtesy("Please could you  go"), "go");
        assert_eq!(bare(" \"a.txt\". "), "a.txt");
        assert_eq!(topics("What is the Größe of my House?"), ["größe", "house"]);
    }
}
