//! How the fakes rank memories: by the share of the query's words that the content has.

use std::collections::BTreeSet;

use crate::memory::{Memory, MemoryQuery, Recalled};

/// Returns what matches, best first, the newest first among equals.
pub(super) fn ranked(
    found: impl IntoIterator<Item = Recalled>,
    query: &MemoryQuery,
) -> Vec<Recalled> {
    let words = words(&query.text);
    let mut matches: Vec<Recalled> = found
        .into_iter()
        .filter(|recalled| fits(&recalled.memory, query))
        .filter_map(|recalled| {
            let score = score(&words, &recalled.memory.content)?;
            Some(Recalled { score, ..recalled })
        })
        .collect();
    matches.sort_by(|one, other| {
        other
            .score
            .total_cmp(&one.score)
            .then_with(|| other.memory.written_at.cmp(&one.memory.written_at))
            .then_with(|| one.memory.memory_id.cmp(&other.memory.memory_id))
    });
    matches.truncate(query.limit);
    matches
}

fn fits(memory: &Memory, query: &MemoryQuery) -> bool {
    query.session_id.is_none_or(|session_id| memory.session_id == Some(session_id))
        && query.persona_id.as_ref().is_none_or(|id| memory.persona_id.as_ref() == Some(id))
        && query.kind.as_ref().is_none_or(|kind| *kind == memory.kind)
}

#[expect(clippy::cast_precision_loss, reason = "a query has few words")]
fn score(wanted: &BTreeSet<String>, content: &str) -> Option<f64> {
    if wanted.is_empty() {
        return Some(0.0);
    }
    let found = words(content).intersection(wanted).count();
    (found > 0).then(|| found as f64 / wanted.len() as f64)
}

fn words(text: &str) -> BTreeSet<String> {
    text.split(|character: char| !character.is_alphanumeric())
        .filter(|word| !word.is_empty())
        .map(str::to_lowercase)
        .collect()
}
