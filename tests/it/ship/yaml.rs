//! YAML as JSON values. A key that stands twice is an error.

use serde_json::Value;

/// Parses one document.
pub(super) fn parse(text: &str) -> Value {
    serde_saphyr::from_str(text).unwrap_or_else(|error| panic!("{error}\n{text}"))
}

/// Parses a stream of documents; empty ones are left out.
pub(super) fn parse_all(text: &str) -> Vec<Value> {
    let all: Vec<Value> =
        serde_saphyr::from_multiple(text).unwrap_or_else(|error| panic!("{error}\n{text}"));
    all.into_iter().filter(|document| !document.is_null()).collect()
}

/// The strings of a list.
pub(super) fn strings(list: &Value) -> Vec<String> {
    let items = list.as_array().into_iter().flatten();
    items.map(|item| item.as_str().unwrap_or_else(|| panic!("{item}")).to_owned()).collect()
}
