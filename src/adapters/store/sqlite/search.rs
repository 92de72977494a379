//! Ranked search over the memories in the replica and those on their way, at a bounded cost.
//!
//! FTS5's own rank looks at every match of every word, so that it takes longer the more is
//! remembered. Here each word gives its newest matches only. How far back they reach tells how rare
//! the word is, and the rarer the words that a memory has, the better it matches.

use std::collections::HashMap;

use soma_contract::{
    TenantId, decide,
    memory::{Memory, MemoryOp, MemoryQuery, MemoryWrite, Recalled},
};
use sqlx::{SqliteConnection, query};

use super::{
    fault::Fault,
    replica::current_write,
    row::{Query, blob, documents, json, parse},
};

/// Words of a query that are looked for: the longest, which tell the most.
const WORDS: usize = 8;
/// Matches that a word gives at least, where there are as many.
const MATCHES: usize = 16;
/// Matches of one word that are looked at, whosever they are.
const LOOKED_AT: i64 = 10_000;
/// Undelivered writes of a tenant that are looked at: the newest.
const PENDING: usize = 2_000;
/// Undelivered writes that are read first; then four times as many, and so on.
const FIRST_PENDING: usize = 16;

/// Whether a memory `r` of the replica is one that is asked for: $1 tenant, $2 session, $3 persona,
/// $4 kind.
macro_rules! is_wanted {
    () => {
        "r.tenant = $1
    AND ($2 IS NULL OR r.session_id = $2) AND ($3 IS NULL OR r.persona_id = $3)
    AND ($4 IS NULL OR r.kind = $4)"
    };
}

/// Whether no undelivered write replaces the memory `r`.
macro_rules! is_current {
    () => {
        " AND NOT EXISTS (SELECT 1 FROM memory_write_outbox w WHERE w.tenant = r.tenant
                 AND w.memory_id = r.memory_id AND w.version > r.version)"
    };
}

/// A deleted memory has no text. $5 words, each as an FTS5 string, $6 matches of one word, $7 how many of them are looked at.
const MATCHING: &str = concat!(
    "SELECT json_array(
    (SELECT max(id) FROM memory_replica),
    (SELECT json_group_array(json((
        SELECT json_group_array(f.id) FROM (
            SELECT r.id FROM (
                SELECT rowid FROM memory_text WHERE memory_text MATCH e.value
                ORDER BY rowid DESC LIMIT $7 + 0) m
            CROSS JOIN memory_replica r ON r.id = m.rowid
            WHERE ",
    is_wanted!(),
    " LIMIT $6 + 0) f))) FROM json_each($5) e))"
);

/// $1: `[id, …]`
const CONTENTS: &str = concat!(
    "SELECT json_array(r.id, r.payload)
FROM json_each($1) e CROSS JOIN memory_replica r ON r.id = e.value WHERE true",
    is_current!()
);

/// $5 limit
const NEWEST: &str = concat!(
    "SELECT r.payload FROM memory_replica r WHERE ",
    is_wanted!(),
    is_current!(),
    " AND r.deleted_at IS NULL ORDER BY r.written_at DESC, r.id DESC LIMIT $5 + 0"
);

/// $1 tenant, $2 id of the oldest write seen, $3 limit
const NEWEST_PENDING: &str = concat!(
    "SELECT json_array(w.id, w.payload) ",
    current_write!(),
    "AND w.id < $2 ORDER BY w.id DESC LIMIT $3 + 0"
);

/// Searches the replica and the undelivered writes: what is still on its way hides what it
/// replaces.
pub(super) async fn memories(
    connection: &mut SqliteConnection,
    tenant: &TenantId,
    wanted: &MemoryQuery,
) -> Result<Vec<Recalled>, Fault> {
    let mut search = Search::of(tenant, wanted);
    let pending = search.pending(connection).await?;
    let kept = if search.words.is_empty() {
        search.newest(connection).await?
    } else {
        search.matching(connection).await?
    };
    Ok(search.best(pending.into_iter().chain(kept)))
}

/// Searches only the undelivered writes.
pub(super) async fn pending(
    connection: &mut SqliteConnection,
    tenant: &TenantId,
    wanted: &MemoryQuery,
) -> Result<Vec<Recalled>, Fault> {
    let search = Search::of(tenant, wanted);
    let pending = search.pending(connection).await?;
    Ok(search.best(pending.into_iter()))
}

/// A memory, which of the words it has, and whether it is on its way.
struct Found {
    memory: Memory,
    has: Vec<bool>,
    pending: bool,
}

struct Search<'q> {
    tenant: &'q TenantId,
    wanted: &'q MemoryQuery,
    words: Vec<String>,
    /// How much each word tells.
    weights: Vec<f64>,
}

impl<'q> Search<'q> {
    fn of(tenant: &'q TenantId, wanted: &'q MemoryQuery) -> Self {
        let words = telling(decide::words(&wanted.text));
        let weights = vec![1.0; words.len()];
        Self { tenant, wanted, words, weights }
    }

    /// Reads undelivered writes that match, newest first, until there are enough of them.
    async fn pending(&self, connection: &mut SqliteConnection) -> Result<Vec<Found>, Fault> {
        let (mut found, mut seen) = (Vec::new(), 0);
        let (mut before, mut page) = (i64::MAX, FIRST_PENDING);
        while seen < PENDING && found.len() < self.wanted.limit {
            let limit = i64::try_from(page).unwrap_or(i64::MAX);
            let rows = query(NEWEST_PENDING).bind(self.tenant.0.clone()).bind(before).bind(limit);
            let rows = documents(rows, connection).await?;
            for row in &rows {
                let (id, payload): (i64, String) = parse(row)?;
                before = id;
                let write: MemoryWrite = parse(&payload)?;
                found.extend(self.asked_for(write).map(|memory| self.found(memory, true)));
            }
            found.retain(|one| self.matches(one));
            if rows.len() < page {
                break;
            }
            seen += page;
            page *= 4;
        }
        Ok(found)
    }

    fn asked_for(&self, write: MemoryWrite) -> Option<Memory> {
        let MemoryWrite { op, memory } = write;
        let wanted = self.wanted;
        let is_wanted = op == MemoryOp::Put
            && wanted.session_id.is_none_or(|id| memory.session_id == Some(id))
            && (wanted.persona_id.is_none() || memory.persona_id == wanted.persona_id)
            && wanted.kind.as_ref().is_none_or(|kind| memory.kind == *kind);
        is_wanted.then_some(memory)
    }

    fn found(&self, memory: Memory, pending: bool) -> Found {
        Found { has: decide::has_words(&self.words, &memory.content), memory, pending }
    }

    fn matches(&self, found: &Found) -> bool {
        self.words.is_empty() || found.has.contains(&true)
    }

    async fn newest(&self, connection: &mut SqliteConnection) -> Result<Vec<Found>, Fault> {
        let rows = self.bound(NEWEST).bind(limit(self.wanted.limit));
        let rows = documents(rows, connection).await?;
        rows.iter().map(|row| Ok(self.found(parse(row)?, false))).collect()
    }

    /// Lets each word give its newest matches, weighs the words by them, and reads the best.
    async fn matching(&mut self, connection: &mut SqliteConnection) -> Result<Vec<Found>, Fault> {
        let most = MATCHES.max(self.wanted.limit);
        let strings: Vec<String> = self.words.iter().map(|word| format!("\"{word}\"")).collect();
        let rows = self.bound(MATCHING).bind(json(&strings)?).bind(limit(most)).bind(LOOKED_AT);
        let rows = documents(rows, connection).await?;
        let (newest, matches): (Option<i64>, Vec<Vec<i64>>) =
            parse(rows.first().map_or("[null,[]]", String::as_str))?;
        let newest = newest.unwrap_or_default();
        self.weights = matches.iter().map(|ids| weight(ids, most, newest)).collect();
        let ids = best_known(&matches, &self.weights, most);
        let rows = documents(query(CONTENTS).bind(json(&ids)?), connection).await?;
        rows.iter()
            .map(|row| {
                let (id, payload): (i64, String) = parse(row)?;
                let mut found = self.found(parse(&payload)?, false);
                // The index may know a word by another spelling, such as without its accents.
                for (has, ids) in found.has.iter_mut().zip(&matches) {
                    *has |= ids.contains(&id);
                }
                Ok(found)
            })
            .collect()
    }

    /// Binds what [`is_wanted`] asks for.
    fn bound(&self, sql: &'static str) -> Query {
        let wanted = self.wanted;
        query(sql)
            .bind(self.tenant.0.clone())
            .bind(wanted.session_id.map(|session| blob(session.0)))
            .bind(wanted.persona_id.clone())
            .bind(wanted.kind.clone())
    }

    /// Scores each by the share of the words' weight that it has; the best first, and among equals
    /// the newest.
    fn best(&self, found: impl Iterator<Item = Found>) -> Vec<Recalled> {
        let all: f64 = self.weights.iter().sum();
        let mut recalled: Vec<Recalled> = found
            .map(|Found { memory, has, pending }| {
                let part: f64 =
                    has.iter().zip(&self.weights).filter(|(has, _)| **has).map(|(_, w)| w).sum();
                let score = if all > 0.0 { part / all } else { 0.0 };
                Recalled { memory, score, pending }
            })
            .collect();
        recalled.sort_by(|one, other| {
            let by_time = other.memory.written_at.cmp(&one.memory.written_at);
            other.score.total_cmp(&one.score).then(by_time)
        });
        recalled.truncate(self.wanted.limit);
        recalled
    }
}

/// Keeps the longest words, in their order.
fn telling(words: Vec<String>) -> Vec<String> {
    let mut lengths: Vec<usize> = words.iter().map(|word| word.chars().count()).collect();
    lengths.sort_unstable_by(|one, other| other.cmp(one));
    let Some(&shortest) = lengths.get(WORDS) else { return words };
    let longer = lengths.iter().filter(|length| **length > shortest).count();
    let mut room = WORDS - longer;
    words
        .into_iter()
        .filter(|word| match word.chars().count().cmp(&shortest) {
            std::cmp::Ordering::Greater => true,
            std::cmp::Ordering::Equal if room > 0 => {
                room -= 1;
                true
            }
            _ => false,
        })
        .collect()
}

/// Weighs a word by how many memories there are for each that has it, as far back as its matches
/// reach: up to `newest`, and to the beginning where it has fewer matches than were asked for.
#[expect(clippy::cast_precision_loss, reason = "a weight need not be exact")]
fn weight(ids: &[i64], most: usize, newest: i64) -> f64 {
    let oldest = ids.last().filter(|_| ids.len() >= most).copied().unwrap_or(1);
    let span = (newest - oldest + 1).max(1) as f64;
    (1.0 + span / ids.len().max(1) as f64).ln()
}

/// Returns the memories whose known words weigh most, the newest among equals.
fn best_known(matches: &[Vec<i64>], weights: &[f64], most: usize) -> Vec<i64> {
    let mut known: HashMap<i64, f64> = HashMap::new();
    for (ids, weight) in matches.iter().zip(weights) {
        for id in ids {
            *known.entry(*id).or_default() += weight;
        }
    }
    let mut known: Vec<(i64, f64)> = known.into_iter().collect();
    known.sort_unstable_by(|one, other| other.1.total_cmp(&one.1).then(other.0.cmp(&one.0)));
    known.truncate(most);
    known.into_iter().map(|(id, _)| id).collect()
}

fn limit(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use futures::FutureExt;
    use soma_contract::{
        Clock, EventId, SessionId,
        ids::SystemClock,
        port::{
            memory::Receipt,
            store::{Memories, Shards, StoreError, Transcript},
        },
        testing::sample,
    };
    use tempfile::TempDir;
    use tokio::runtime::Handle;
    use uuid::Uuid;

    use super::{
        super::{Options, SqliteStore},
        *,
    };

    async fn open(dir: &TempDir) -> SqliteStore {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        SqliteStore::open(dir.path(), Options::default(), &Handle::current(), clock).await.unwrap()
    }

    /// Stores memories, numbered from 1, the first ones as delivered.
    async fn remember(store: &SqliteStore, texts: &[String], delivered: usize) {
        let put = |(at, text): (usize, &String)| {
            let id = Uuid::from_u128(at as u128 + 1);
            sample::put(id, EventId(id), text)
        };
        store.write_memories(texts.iter().enumerate().map(put).collect()).await.unwrap();
        let shards = Shards { held: vec![(0, 0)] };
        let limit = u32::try_from(delivered).unwrap();
        let pending = store.pending_writes(&shards, limit).await.unwrap();
        let delivered = pending.iter().map(|write| (write.id, Receipt::default())).collect();
        store.settle_writes(&shards, delivered).await.unwrap();
    }

    async fn found(store: &SqliteStore, text: &str) -> Vec<u128> {
        let query = MemoryQuery { text: text.to_owned(), limit: 3, ..MemoryQuery::default() };
        let found = store.search_memories(&TenantId::public(), &query).await.unwrap();
        found.iter().map(|recalled| recalled.memory.memory_id.as_u128()).collect()
    }

    #[tokio::test]
    async fn a_rare_word_finds_what_is_old_among_many_newer_matches_of_common_ones() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(&dir).await;
        let mut texts = vec!["my bicycle is called Rosinante".to_owned()];
        texts.extend((0..400).map(|at| format!("my train number {at} is called late")));
        remember(&store, &texts, 300).await;
        assert_eq!(found(&store, "what is my bicycle called?").await[0], 1);
        assert_eq!(found(&store, "train 77").await[0], 79);
        // Still on its way: the newest of all that match as well.
        assert_eq!(found(&store, "a late train").await, [401, 400, 399]);
    }

    #[tokio::test]
    async fn searches_leave_a_connection_to_other_reads() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(&dir).await;
        let searching = [store.searcher().await.unwrap(), store.searcher().await.unwrap()];
        assert!(store.searcher().now_or_never().is_none());
        let read = store.session(&TenantId::public(), SessionId(Uuid::nil())).await;
        assert_eq!(read, Err(StoreError::NotFound));
        drop(searching);
        assert_eq!(found(&store, "anything").await, [0_u128; 0]);
    }

    fn words(text: &str) -> Vec<String> {
        telling(decide::words(text))
    }

    #[test]
    fn no_word_of_a_query_is_syntax() {
        assert_eq!(
            words("tea\" OR NEAR(a*) -x ^col:1"),
            ["tea", "or", "near", "a", "x", "col", "1"]
        );
    }

    #[test]
    fn of_many_words_the_longest_are_looked_for_in_their_order() {
        let text = "please do tell me what the colour of my old bicycle was in spring";
        let kept = ["please", "tell", "what", "colour", "bicycle", "spring", "the", "old"];
        let mut found = words(text);
        found.sort_by_key(|word| kept.iter().position(|one| one == word));
        assert_eq!(found, kept);
        assert_eq!(words("one two one"), ["one", "two"]);
    }

    #[test]
    fn a_word_weighs_more_the_further_back_its_matches_reach() {
        let rare = weight(&[900, 20], 4, 1_000);
        let common = weight(&[1_000, 999, 997, 996], 4, 1_000);
        let less_common = weight(&[1_000, 900, 800, 700], 4, 1_000);
        assert!(rare > less_common && less_common > common && common > 0.0);
        assert!(weight(&[], 4, 0) > 0.0);
    }

    #[test]
    fn the_best_known_have_the_heaviest_words_and_are_the_newest() {
        let matches = vec![vec![9, 8, 7, 3], vec![3, 2]];
        assert_eq!(best_known(&matches, &[1.0, 2.0], 4), [3, 2, 9, 8]);
    }
}
