//! How the fakes rank memories: by [`decide::match_score`], the newest first among equals.

use crate::{
    decide,
    memory::{Memory, MemoryQuery, Recalled},
};

/// Returns what matches, best first.
pub(super) fn ranked(
    found: impl IntoIterator<Item = Recalled>,
    query: &MemoryQuery,
) -> Vec<Recalled> {
    let words = decide::words(&query.text);
    let mut matches: Vec<Recalled> = found
        .into_iter()
        .filter(|recalled| fits(&recalled.memory, query))
        .filter_map(|recalled| {
            let score = decide::match_score(&words, &recalled.memory.content)?;
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
