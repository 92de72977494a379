//! Searching, reading and exporting memories.

use chrono::{DateTime, TimeDelta};
use uuid::Uuid;

use super::{StoreFactory, bench::Bench};
use crate::{
    ids::TenantId,
    memory::{MemoryQuery, MemoryWrite, Recalled},
    port::store::StoreError,
    testing::sample,
};

fn query(text: &str) -> MemoryQuery {
    MemoryQuery { text: text.to_owned(), limit: 10, ..MemoryQuery::default() }
}

fn ids(found: &[Recalled]) -> Vec<Uuid> {
    found.iter().map(|recalled| recalled.memory.memory_id).collect()
}

impl Bench<'_> {
    async fn search(&self, query: &MemoryQuery) -> Vec<Recalled> {
        self.store.search_memories(&TenantId::public(), query).await.unwrap()
    }

    /// Writes a memory that is so many seconds old; delivers it.
    async fn known(&self, seconds: i64, text: &str) -> Uuid {
        let memory_id = self.id();
        let mut write = sample::put(memory_id, self.event_id(), text);
        write.memory.written_at = DateTime::UNIX_EPOCH - TimeDelta::seconds(seconds);
        self.remember(vec![write]).await;
        memory_id
    }

    async fn wait_to_be_delivered(&self, writes: Vec<MemoryWrite>) {
        self.store.write_memories(writes).await.unwrap();
    }
}

pub async fn search_finds_what_was_just_said(factory: &dyn StoreFactory) {
    let bench = Bench::new(factory).await;
    let memory_id = bench.id();
    let write = sample::put(memory_id, bench.event_id(), "Ann's cat is called Tiger.");
    bench.wait_to_be_delivered(vec![write.clone()]).await;
    let found = bench.search(&query("what is the name of my CAT?")).await;
    assert_eq!(ids(&found), [memory_id]);
    assert!(found[0].pending);
    assert_eq!(found[0].memory.version, 1);
    bench.remember(Vec::new()).await;
    let found = bench.search(&query("tiger")).await;
    assert_eq!(ids(&found), [memory_id]);
    assert!(!found[0].pending);
    assert_eq!(bench.search(&query("dog")).await, []);
    // Marks and operators of a search language are words like any other, or nothing.
    for text in ["\"cat", "cat*", "cat AND", "NEAR(cat", "-cat", "col:cat", "ca't OR cat)"] {
        assert_eq!(ids(&bench.search(&query(text)).await), [memory_id], "{text}");
    }
}

pub async fn search_ranks_and_bounds(factory: &dyn StoreFactory) {
    let bench = Bench::new(factory).await;
    let one_word = bench.known(0, "green walls in the kitchen").await;
    let both_words = bench.known(9, "green tea in the morning").await;
    bench.known(0, "black coffee at noon").await;
    let found = bench.search(&query("green tea")).await;
    assert_eq!(ids(&found), [both_words, one_word]);
    assert!(found[0].score > found[1].score);
    let bounded = MemoryQuery { limit: 1, ..query("green tea") };
    assert_eq!(ids(&bench.search(&bounded).await), [both_words]);
}

pub async fn search_filters(factory: &dyn StoreFactory) {
    let bench = Bench::new(factory).await;
    let session_id = bench.session_id();
    let mut expected = Vec::new();
    for pending in [false, true] {
        let write = |change: &dyn Fn(&mut crate::memory::Memory)| {
            let mut write = sample::put(bench.id(), bench.event_id(), "tea");
            change(&mut write.memory);
            write
        };
        let writes = vec![
            write(&|memory| memory.session_id = Some(session_id)),
            write(&|memory| memory.persona_id = Some("pirate".to_owned())),
            write(&|memory| "document".clone_into(&mut memory.kind)),
        ];
        expected.push(writes.iter().map(|one| one.memory.memory_id).collect::<Vec<_>>());
        if pending {
            bench.wait_to_be_delivered(writes).await;
        } else {
            bench.remember(writes).await;
        }
    }
    let queries = [
        MemoryQuery { session_id: Some(session_id), ..query("tea") },
        MemoryQuery { persona_id: Some("pirate".to_owned()), ..query("tea") },
        MemoryQuery { kind: Some("document".to_owned()), ..query("tea") },
    ];
    for (at, query) in queries.iter().enumerate() {
        let mut found = ids(&bench.search(query).await);
        found.sort_unstable();
        let mut expected = vec![expected[0][at], expected[1][at]];
        expected.sort_unstable();
        assert_eq!(found, expected);
    }
}

pub async fn an_empty_search_lists_the_newest_first(factory: &dyn StoreFactory) {
    let bench = Bench::new(factory).await;
    let old = bench.known(20, "old").await;
    let new = bench.known(0, "new").await;
    let pending = bench.id();
    let mut write = sample::put(pending, bench.event_id(), "pending");
    write.memory.written_at = DateTime::UNIX_EPOCH - TimeDelta::seconds(10);
    bench.wait_to_be_delivered(vec![write]).await;
    assert_eq!(ids(&bench.search(&query("")).await), [new, pending, old]);
}

pub async fn a_search_of_pending_writes_sees_only_those(factory: &dyn StoreFactory) {
    let bench = Bench::new(factory).await;
    bench.known(0, "old tea").await;
    let (kept, deleted) = (bench.id(), bench.id());
    let writes = vec![
        sample::put(kept, bench.event_id(), "new tea"),
        sample::put(kept, bench.event_id(), "newer tea"),
        sample::put(deleted, bench.event_id(), "gone tea"),
        sample::delete(deleted, bench.event_id()),
    ];
    bench.wait_to_be_delivered(writes).await;
    let found = bench.store.search_pending(&TenantId::public(), &query("tea")).await.unwrap();
    let texts: Vec<_> = found.iter().map(|one| (&*one.memory.content, one.pending)).collect();
    assert_eq!(texts, [("newer tea", true)]);
}

pub async fn a_memory_is_read_in_its_newest_version_until_deleted(factory: &dyn StoreFactory) {
    let bench = Bench::new(factory).await;
    let public = TenantId::public();
    let memory_id = bench.known(0, "likes tea").await;
    let update = sample::put(memory_id, bench.event_id(), "likes coffee");
    bench.wait_to_be_delivered(vec![update]).await;
    let memory = bench.store.memory(&public, memory_id).await.unwrap();
    assert_eq!((&*memory.content, memory.version), ("likes coffee", 2));
    assert_eq!(bench.search(&query("tea")).await, []);
    assert_eq!(ids(&bench.search(&query("coffee")).await), [memory_id]);
    for delivered in [false, true] {
        if delivered {
            bench.remember(Vec::new()).await;
        } else {
            bench.wait_to_be_delivered(vec![sample::delete(memory_id, bench.event_id())]).await;
        }
        let gone = bench.store.memory(&public, memory_id).await;
        assert_eq!(gone, Err(StoreError::NotFound));
        assert_eq!(bench.search(&query("coffee likes tea")).await, []);
        assert_eq!(bench.search(&query("")).await, []);
    }
    let exported = bench.store.export_memories(&public, None, 10).await.unwrap();
    assert_eq!(exported.items, []);
}

pub async fn the_export_pages_in_the_order_of_ids(factory: &dyn StoreFactory) {
    let bench = Bench::new(factory).await;
    let mut expected = Vec::new();
    for at in 0..5 {
        expected.push(bench.known(at, "text").await);
    }
    // Undelivered, hence not yet in the replica.
    bench.wait_to_be_delivered(vec![sample::put(bench.id(), bench.event_id(), "text")]).await;
    expected.sort_unstable();
    let (mut exported, mut cursor) = (Vec::new(), None);
    loop {
        let page =
            bench.store.export_memories(&TenantId::public(), cursor.as_deref(), 2).await.unwrap();
        assert!(page.items.len() <= 2);
        exported.extend(page.items.iter().map(|memory| memory.memory_id));
        cursor = page.next_cursor;
        if cursor.is_none() {
            break;
        }
    }
    assert_eq!(exported, expected);
}
