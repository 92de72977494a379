//! A guess at the number of tokens from the shapes of the words alone, on the high side.

/// Letters of an ordinary word per token.
const LETTERS: usize = 6;
/// Digits per token, which is exact.
const DIGITS: usize = 3;
/// Punctuation marks in a row per token.
const MARKS: usize = 2;
/// Letters beyond ASCII (of alphabets) per token.
const FOREIGN: usize = 2;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shape {
    Letter,
    Foreign,
    Ideograph,
    Digit,
    Mark,
    Space,
    Break,
}

/// Returns about how many tokens the text takes.
pub(super) fn tokens(text: &str) -> usize {
    let mut total = 0;
    let mut run: Option<(Shape, usize)> = None;
    for character in text.chars() {
        let shape = shape(character);
        match &mut run {
            Some((known, length)) if *known == shape => *length += 1,
            _ => {
                total += run.map_or(0, weigh);
                run = Some((shape, 1));
            }
        }
    }
    total + run.map_or(0, weigh)
}

/// Ideographs are five tokens for four with the older vocabulary.
/// A single space belongs to the word behind it; a longer run is one token more.
const fn weigh((shape, length): (Shape, usize)) -> usize {
    match shape {
        Shape::Letter => length.div_ceil(LETTERS),
        Shape::Foreign => length.div_ceil(FOREIGN),
        Shape::Ideograph => (length * 5).div_ceil(4),
        Shape::Digit => length.div_ceil(DIGITS),
        Shape::Mark => length.div_ceil(MARKS),
        Shape::Space => (length > 1) as usize,
        Shape::Break => 1,
    }
}

fn shape(character: char) -> Shape {
    match character {
        'a'..='z' | 'A'..='Z' => Shape::Letter,
        '0'..='9' => Shape::Digit,
        '\n' | '\r' => Shape::Break,
        _ if character.is_whitespace() => Shape::Space,
        _ if character.is_ascii() => Shape::Mark,
        '\u{2e80}'.. => Shape::Ideograph,
        _ => Shape::Foreign,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_digits_marks_and_spaces_are_weighed_by_their_shape() {
        for (text, expected) in
            [("", 0), ("word", 1), ("a word", 2), ("internationally", 3), ("1234", 2), ("日本", 3)]
        {
            assert_eq!(tokens(text), expected, "{text}");
        }
        assert_eq!(tokens("a,    b\n\n"), 5);
    }
}
