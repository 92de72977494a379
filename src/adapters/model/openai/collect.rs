//! Puts the pieces of an answer together.

use std::collections::HashSet;

use serde_json::Value;
use soma_contract::tool::ToolCall;

use super::chunk::{CallPiece, Chunk, Counted};

/// An answer that grows.
#[derive(Debug, Default)]
pub(super) struct Collected {
    pub(super) text: String,
    pub(super) model: Option<String>,
    pub(super) finish_reason: Option<String>,
    pub(super) usage: Option<Counted>,
    calls: Vec<GrowingCall>,
}

#[derive(Debug, Default)]
struct GrowingCall {
    index: Option<u64>,
    id: String,
    name: String,
    arguments: String,
}

impl Collected {
    /// Adds a chunk; returns the text that it brought. Only the first choice counts.
    pub(super) fn add(&mut self, chunk: Chunk) -> Option<String> {
        self.model = chunk.model.filter(|name| !name.is_empty()).or_else(|| self.model.take());
        self.usage = chunk.usage.or(self.usage);
        let mut choices = chunk.choices.unwrap_or_default().into_iter();
        let choice = choices.find(|choice| choice.index.unwrap_or(0) == 0)?;
        if let Some(reason) = choice.finish_reason.filter(|reason| !reason.is_empty()) {
            self.finish_reason = Some(reason);
        }
        let delta = choice.delta?;
        let text = delta.text();
        self.text.push_str(text.as_deref().unwrap_or_default());
        for piece in delta.tool_calls.unwrap_or_default() {
            self.add_call(piece);
        }
        text
    }

    /// Returns how many bytes the answer has so far.
    pub(super) fn len(&self) -> usize {
        self.text.len()
            + self
                .calls
                .iter()
                .map(|call| call.arguments.len() + call.name.len() + 64)
                .sum::<usize>()
    }

    /// Returns whether the model wants tools called.
    pub(super) const fn has_calls(&self) -> bool {
        !self.calls.is_empty()
    }

    /// Returns the calls, each with an id that no other has and with arguments if only `{}`.
    pub(super) fn tool_calls(&mut self) -> Vec<ToolCall> {
        let mut taken = HashSet::new();
        std::mem::take(&mut self.calls)
            .into_iter()
            .enumerate()
            .map(|(place, call)| {
                let wanted = if call.id.is_empty() { format!("call_{place}") } else { call.id };
                let mut id = wanted.clone();
                let mut number = place;
                while !taken.insert(id.clone()) {
                    id = format!("{wanted}_{number}");
                    number += 1;
                }
                let arguments =
                    if call.arguments.trim().is_empty() { "{}".to_owned() } else { call.arguments };
                ToolCall { id, name: call.name, arguments }
            })
            .collect()
    }

    fn add_call(&mut self, piece: CallPiece) {
        let (name, arguments) = piece
            .function
            .map(|function| {
                let arguments = function.arguments();
                (function.name.unwrap_or_default(), arguments)
            })
            .unwrap_or_default();
        let id = piece.id.unwrap_or_default();
        let known = self.calls.iter_mut().rev().find(|call| match piece.index {
            Some(index) => call.index == Some(index),
            None => true, // Without an index only the newest call can be meant.
        });
        match known {
            Some(call) if call.goes_on(&id, &name, &arguments) => {
                if call.id.is_empty() {
                    call.id = id;
                }
                if call.name.is_empty() {
                    call.name = name;
                }
                call.arguments.push_str(&arguments);
            }
            _ => self.calls.push(GrowingCall { index: piece.index, id, name, arguments }),
        }
    }
}

impl GrowingCall {
    /// Returns whether a piece belongs to this call. Some servers give whole calls one and the same
    /// index, or none, or repeat id and name with each piece.
    fn goes_on(&self, id: &str, name: &str, arguments: &str) -> bool {
        let is_another = !id.is_empty() && !self.id.is_empty() && id != self.id;
        let begins_anew = !name.is_empty() && !arguments.is_empty() && self.is_whole();
        !is_another && !begins_anew
    }

    fn is_whole(&self) -> bool {
        matches!(serde_json::from_str(&self.arguments), Ok(Value::Object(_)))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn collect(pieces: &[Value]) -> Vec<(String, String, String)> {
        let mut collected = Collected::default();
        for piece in pieces {
            let chunk = json!({ "choices": [{ "delta": { "tool_calls": [piece] } }] });
            collected.add(serde_json::from_value(chunk).unwrap());
        }
        let calls = collected.tool_calls();
        calls.into_iter().map(|call| (call.id, call.name, call.arguments)).collect()
    }

    fn call(id: &str, name: &str, arguments: &str) -> (String, String, String) {
        (id.to_owned(), name.to_owned(), arguments.to_owned())
    }

    #[test]
    fn calls_grow_by_index_also_when_interleaved() {
        let calls = collect(&[
            json!({ "index": 0, "id": "a", "function": { "name": "x", "arguments": "" } }),
            json!({ "index": 1, "id": "b", "function": { "name": "y", "arguments": "{" } }),
            json!({ "index": 0, "function": { "arguments": "{\"k\":" } }),
            json!({ "index": 1, "function": { "arguments": "}" } }),
            json!({ "index": 0, "function": { "arguments": "1}" } }),
        ]);
        assert_eq!(calls, [call("a", "x", "{\"k\":1}"), call("b", "y", "{}")]);
    }

    #[test]
    fn whole_calls_are_kept_apart_whatever_their_index() {
        let object = json!({ "id": "a", "function": { "name": "x", "arguments": { "k": 1 } } });
        assert_eq!(collect(&[object]), [call("a", "x", "{\"k\":1}")]);
        let same_index = |id: &str| json!({ "index": 0, "id": id, "function": { "name": "x", "arguments": "{}" } });
        assert_eq!(
            collect(&[same_index("a"), same_index("b")]),
            [call("a", "x", "{}"), call("b", "x", "{}")]
        );
        assert_eq!(
            collect(&[same_index(""), same_index("")]),
            [call("call_0", "x", "{}"), call("call_1", "x", "{}")]
        );
    }

    #[test]
    fn pieces_without_an_index_belong_to_the_newest_call() {
        let calls = collect(&[
            json!({ "id": "a", "function": { "name": "x" } }),
            json!({ "function": { "arguments": "{}" } }),
            json!({ "id": "b", "function": { "name": "y" } }),
            json!({ "function": { "arguments": "{\"z\":2}" } }),
        ]);
        assert_eq!(calls, [call("a", "x", "{}"), call("b", "y", "{\"z\":2}")]);
    }

    #[test]
    fn an_id_and_name_repeated_with_each_piece_make_one_call() {
        let piece = |arguments: &str| json!({ "index": 0, "id": "a", "function": { "name": "x", "arguments": arguments } });
        assert_eq!(
            collect(&[piece("{\"k\""), piece(":1}"), piece("")]),
            [call("a", "x", "{\"k\":1}")]
        );
    }

    #[test]
    fn duplicate_ids_become_unique() {
        let piece = |index: u64| json!({ "index": index, "id": "same", "function": { "name": "x", "arguments": "{}" } });
        let ids: HashSet<_> =
            collect(&[piece(0), piece(1), piece(2)]).into_iter().map(|(id, ..)| id).collect();
        assert_eq!(ids.len(), 3);
        assert!(ids.contains("same"));
    }
}
