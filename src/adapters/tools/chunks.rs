//! Splits a text into pieces that are each worth finding.

/// The length at which a piece is closed at the next good place, in characters.
const TARGET_CHARS: usize = 1_200;
/// The longest piece, in characters.
pub(super) const MAX_CHARS: usize = 2_000;

/// Splits at paragraphs; one that is too long at lines or sentences, and if need be at words.
/// Nothing but white space is lost, and equal texts are split equally.
pub(super) fn split(text: &str) -> Vec<String> {
    let mut chunks = Vec::new();
    let mut open = String::new();
    let mut open_chars = 0;
    for paragraph in text.split("\n\n").map(str::trim).filter(|paragraph| !paragraph.is_empty()) {
        for piece in pieces(paragraph) {
            let chars = piece.chars().count();
            if open_chars > 0 && open_chars + 2 + chars > TARGET_CHARS {
                chunks.push(std::mem::take(&mut open));
                open_chars = 0;
            }
            if open_chars > 0 {
                open.push_str("\n\n");
                open_chars += 2;
            }
            open.push_str(piece);
            open_chars += chars;
        }
    }
    if !open.is_empty() {
        chunks.push(open);
    }
    chunks
}

/// Splits a paragraph into pieces of at most [`MAX_CHARS`].
fn pieces(paragraph: &str) -> Vec<&str> {
    let mut pieces = Vec::new();
    let mut rest = paragraph;
    while let Some((limit, _)) = rest.char_indices().nth(MAX_CHARS) {
        let head = rest.get(..limit).unwrap_or(rest);
        let (piece, after) = rest.split_at(good_place(head));
        pieces.push(piece.trim_end());
        rest = after.trim_start();
    }
    if !rest.is_empty() {
        pieces.push(rest);
    }
    pieces
}

/// Finds where to cut: behind the last line, sentence or word of the second half, or at the end.
fn good_place(head: &str) -> usize {
    let half = head.len() / 2;
    ["\n", ". ", "! ", "? ", " "]
        .into_iter()
        .filter_map(|mark| head.rfind(mark).map(|at| at + mark.len()))
        .find(|at| *at > half)
        .unwrap_or(head.len())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn solid(text: &str) -> String {
        text.chars().filter(|character| !character.is_whitespace()).collect()
    }

    #[test]
    fn short_paragraphs_share_a_chunk() {
        assert_eq!(split("One.\n\nTwo.\n\n\n\nThree."), ["One.\n\nTwo.\n\nThree."]);
        assert!(split(" \n\n ").is_empty());
    }

    #[test]
    fn a_long_paragraph_is_cut_behind_a_sentence() {
        let text = "This sentence has exactly forty letters. ".repeat(100);
        let chunks = split(&text);
        assert!(chunks.len() > 1);
        assert!(chunks.iter().all(|chunk| chunk.ends_with('.')), "{chunks:?}");
    }

    proptest! {
        #[test]
        fn nothing_is_lost_and_no_chunk_is_too_long(
            words in prop::collection::vec(r"[a-zä€\. ]{0,40}|\n|\n\n|[x]{1500}", 0..120)
        ) {
            let text = words.concat();
            let chunks = split(&text);
            prop_assert_eq!(solid(&chunks.concat()), solid(&text));
            for chunk in &chunks {
                prop_assert!(!chunk.trim().is_empty());
                prop_assert!(chunk.chars().count() <= MAX_CHARS);
            }
        }
    }
}
