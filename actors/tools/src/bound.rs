//! Keeps what goes back to the model within its bound and within what every store can hold.

use serde_json::Value;

/// Returns the output, cut to at most `max` bytes (as JSON text, a plain text as itself) at a
/// character boundary with a note, and without U+0000, which JSONB refuses.
pub fn bounded(output: Value, max: usize) -> Value {
    match output {
        Value::String(text) => Value::String(cut(without_nul(text), max)),
        other => {
            let text = other.to_string();
            if text.len() > max {
                Value::String(cut(text, max))
            } else if text.contains("\\u0000") {
                cleaned(other)
            } else {
                other
            }
        }
    }
}

/// Cuts a text to at most `max` bytes, the note included.
fn cut(mut text: String, max: usize) -> String {
    if text.len() <= max {
        return text;
    }
    let note = format!("… [cut: the whole output has {} bytes]", text.len());
    let kept = text.floor_char_boundary(max.saturating_sub(note.len()));
    text.truncate(kept);
    text.push_str(&note);
    text.truncate(text.floor_char_boundary(max));
    text
}

/// Replaces U+0000 by the replacement character.
fn without_nul(text: String) -> String {
    if text.contains('\0') { text.replace('\0', "\u{FFFD}") } else { text }
}

/// Replaces U+0000 in every text and key.
fn cleaned(value: Value) -> Value {
    match value {
        Value::String(text) => Value::String(without_nul(text)),
        Value::Array(items) => Value::Array(items.into_iter().map(cleaned).collect()),
        Value::Object(fields) => Value::Object(
            fields.into_iter().map(|(key, value)| (without_nul(key), cleaned(value))).collect(),
        ),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[test]
    fn what_fits_is_left_alone() {
        let output = json!({"path": "a.txt", "lines": [1, 2]});
        assert_eq!(bounded(output.clone(), 100), output);
        assert_eq!(bounded(json!("short"), 5), json!("short"));
    }

    #[test]
    fn what_does_not_fit_is_cut_with_a_note() {
        let output = bounded(json!("x".repeat(1_000)), 100);
        let text = output.as_str().unwrap();
        assert_eq!(text.len(), 100);
        assert!(text.ends_with("… [cut: the whole output has 1000 bytes]"), "{text}");
    }

    #[test]
    fn a_structure_that_does_not_fit_becomes_a_cut_text() {
        let output = bounded(json!({"items": vec!["entry"; 100]}), 120);
        assert!(output.as_str().unwrap().starts_with(r#"{"items":["entry","#));
    }

    #[test]
    fn a_nul_is_replaced_wherever_it_is() {
        assert_eq!(bounded(json!("a\0b"), 100), json!("a\u{FFFD}b"));
        assert_eq!(
            bounded(json!({"k\0": ["\0", {"x": "\0"}]}), 100),
            json!({"k\u{FFFD}": ["\u{FFFD}", {"x": "\u{FFFD}"}]})
        );
    }

    proptest! {
        #[test]
        fn no_output_passes_the_bound(text in ".{0,200}", max in 0usize..300) {
            let output = bounded(Value::String(text.clone()), max);
            let kept = output.as_str().unwrap();
            // A replaced NUL grows from one byte to three, but only within the bound.
            prop_assert!(kept.len() <= max);
            if text.replace('\0', "\u{FFFD}").len() <= max {
                prop_assert_eq!(kept, text.replace('\0', "\u{FFFD}"));
            }
        }

        #[test]
        fn no_structure_passes_the_bound(texts in prop::collection::vec(".{0,20}", 0..20), max in 2usize..300) {
            let output = bounded(json!(texts), max);
            let length = output.as_str().map_or_else(|| output.to_string().len(), str::len);
            prop_assert!(length <= max);
        }
    }
}
