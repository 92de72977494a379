//! PostgreSQL's text holds no U+0000; ours may. It travels as U+10FFFF and a digit, a character that
//! no text means, and comes back as what it was: nothing is refused, nothing lost.

/// Stands before what it hides: `0` for U+0000, `1` for itself.
const MARK: char = '\u{10FFFF}';

/// Returns a plain text as its column keeps it.
pub(in crate::adapters::store) fn kept(text: &str) -> String {
    if !text.contains(['\0', MARK]) {
        return text.to_owned();
    }
    text.replace(MARK, "\u{10FFFF}1").replace('\0', "\u{10FFFF}0")
}

/// Returns a JSON document so that no string of it has a U+0000 when PostgreSQL has read it.
pub(in crate::adapters::store) fn kept_json(json: String) -> String {
    if !json.contains("\\u0000") && !json.contains(MARK) {
        return json;
    }
    let mut kept = String::with_capacity(json.len() + 16);
    let mut letters = json.chars();
    while let Some(letter) = letters.next() {
        match letter {
            MARK => kept.push_str("\u{10FFFF}1"),
            '\\' => match letters.as_str().strip_prefix("u0000") {
                Some(rest) => {
                    kept.push_str("\u{10FFFF}0");
                    letters = rest.chars();
                }
                // The escaped letter is taken along, lest a second backslash begins an escape.
                None => kept.extend(std::iter::once(letter).chain(letters.next())),
            },
            other => kept.push(other),
        }
    }
    kept
}

/// Returns a JSON document that PostgreSQL gave as what was meant.
pub(in crate::adapters::store) fn restored(json: String) -> String {
    if !json.contains(MARK) {
        return json;
    }
    json.replace("\u{10FFFF}0", "\\u0000").replace("\u{10FFFF}1", "\u{10FFFF}")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    proptest! {
        #[test]
        fn every_text_comes_back(text in "[a\\\\u0\u{0}\u{10FFFF}\"1]{0,24}") {
            let meant = json!([text, { "inner": json!([text]).to_string() }]);
            let sent = kept_json(meant.to_string());
            prop_assert!(!sent.replace("\\\\", "").contains("\\u0000"));
            let stored: Value = serde_json::from_str(&sent).unwrap();
            prop_assert_eq!(stored[0].as_str().unwrap(), kept(&text));
            let read: Value = serde_json::from_str(&restored(stored.to_string())).unwrap();
            prop_assert_eq!(read, meant);
        }
    }
}
