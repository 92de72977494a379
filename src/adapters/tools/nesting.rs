//! How deep HTML is nested, before it is parsed: the parser's time grows with the square of it.

use std::collections::HashMap;

/// Elements that hold nothing, or that the next one of their kind ends: many of them in a row, never
/// closed, are common and not deep.
const NOT_COUNTED: [&str; 30] = [
    "area", "base", "body", "br", "col", "colgroup", "dd", "dt", "embed", "head", "hr", "html",
    "img", "input", "li", "link", "meta", "option", "optgroup", "p", "param", "source", "tbody",
    "td", "tfoot", "th", "thead", "tr", "track", "wbr",
];

/// Returns how many elements are open at the deepest place, at most. An end tag closes only
/// elements of its own name, as in the parser, so that odd ones hide nothing.
pub(super) fn nesting(html: &str) -> usize {
    let mut open: HashMap<String, usize> = HashMap::new();
    let (mut depth, mut deepest) = (0_usize, 0_usize);
    for tag in html.split('<').skip(1) {
        let (closes, tag) = match tag.strip_prefix('/') {
            Some(tag) => (true, tag),
            None => (false, tag),
        };
        let Some(name) = name_of(tag) else { continue };
        let count = open.entry(name).or_default();
        if closes && *count > 0 {
            *count -= 1;
            depth -= 1;
        } else if !closes {
            *count += 1;
            depth += 1;
            deepest = deepest.max(depth);
        }
    }
    deepest
}

/// Returns the name of a tag that counts.
fn name_of(tag: &str) -> Option<String> {
    let end = tag.find(|character: char| !character.is_ascii_alphanumeric()).unwrap_or(tag.len());
    let name = tag.get(..end)?.to_ascii_lowercase();
    let counts = name.starts_with(|first: char| first.is_ascii_alphabetic())
        && !NOT_COUNTED.contains(&name.as_str());
    counts.then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_closed_is_not_deep() {
        assert_eq!(nesting(&"<div><b>x</b></div>".repeat(100)), 2);
        assert_eq!(nesting("1 < 2 <!-- <> --> text"), 0);
    }

    #[test]
    fn loose_old_html_is_not_deep() {
        assert_eq!(nesting(&"<p>text<br><li>item<td>cell".repeat(1_000)), 0);
    }

    #[test]
    fn deep_is_deep_whatever_stands_between() {
        assert_eq!(nesting(&"<div>".repeat(500)), 500);
        assert_eq!(nesting(&"<DIV a='>'></x></p>".repeat(500)), 500);
    }
}
