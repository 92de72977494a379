//! Memory writes on their way to the service and the replica.

use std::time::Duration;

use super::{StoreFactory, bench::Bench};
use crate::{
    ids::TenantId,
    memory::{MemoryOp, MemoryWrite},
    port::{
        memory::Receipt,
        store::{PendingWrite, StoreError},
    },
    testing::sample,
    topic::{Group, Topic},
};

impl Bench<'_> {
    async fn pending(&self) -> Vec<PendingWrite> {
        let shards = self.shards_of_memory().await;
        self.store.pending_writes(&shards, 100).await.unwrap()
    }

    async fn replicate(&self, write: MemoryWrite, version: u64) -> bool {
        let mut write = write;
        write.memory.version = version;
        self.store.replicate(write, Receipt::default()).await.unwrap()
    }
}

pub async fn versions_count_from_one_for_each_memory(factory: &dyn StoreFactory) {
    let bench = Bench::new(factory).await;
    let (one, two) = (bench.id(), bench.id());
    let put = |memory_id| sample::put(memory_id, bench.event_id(), "text");
    let versions = bench.store.write_memories(vec![put(one), put(two), put(one)]).await.unwrap();
    assert_eq!(versions, [1, 1, 2]);
    bench.remember(Vec::new()).await;
    let delete = sample::delete(one, bench.event_id());
    let versions = bench.store.write_memories(vec![delete, put(one)]).await.unwrap();
    assert_eq!(versions, [3, 4]);
}

pub async fn a_repeated_event_is_one_write(factory: &dyn StoreFactory) {
    let bench = Bench::new(factory).await;
    let write = sample::put(bench.id(), bench.event_id(), "text");
    let versions = bench.store.write_memories(vec![write.clone(), write.clone()]).await.unwrap();
    assert_eq!(versions, [1, 1]);
    assert_eq!(bench.store.write_memories(vec![write.clone()]).await.unwrap(), [1]);
    assert_eq!(bench.pending().await.len(), 1);
    bench.remember(Vec::new()).await;
    assert_eq!(bench.store.write_memories(vec![write]).await.unwrap(), [1]);
    assert_eq!(bench.pending().await, []);
}

pub async fn of_each_memory_only_the_earliest_write_is_delivered(factory: &dyn StoreFactory) {
    let bench = Bench::new(factory).await;
    let (one, two) = (bench.id(), bench.id());
    let writes = vec![
        sample::put(one, bench.event_id(), "one"),
        sample::put(one, bench.event_id(), "uno"),
        sample::put(two, bench.event_id(), "two"),
        sample::delete(one, bench.event_id()),
    ];
    bench.store.write_memories(writes).await.unwrap();
    let shards = bench.shards_of_memory().await;
    let mut delivered = Vec::new();
    for expected in [vec!["one", "two"], vec!["uno"], vec![""]] {
        let pending = bench.pending().await;
        let texts: Vec<_> = pending.iter().map(|one| one.write.memory.content.clone()).collect();
        assert_eq!(texts, expected);
        delivered.extend(pending.iter().map(|one| (one.write.op, one.write.memory.version)));
        let receipts = pending.iter().map(|one| (one.id, Receipt::default())).collect();
        bench.store.settle_writes(&shards, receipts).await.unwrap();
    }
    let put = MemoryOp::Put;
    assert_eq!(delivered, [(put, 1), (put, 1), (put, 2), (MemoryOp::Delete, 3)]);
    assert_eq!(bench.pending().await, []);
}

pub async fn a_settled_write_is_in_the_replica_and_a_record(factory: &dyn StoreFactory) {
    let bench = Bench::new(factory).await;
    let public = TenantId::public();
    let mut write = sample::put(bench.id(), bench.event_id(), "likes tea");
    write.memory.session_id = Some(bench.session_id());
    write.memory.persona_id = Some("pirate".to_owned());
    write.memory.metadata.insert("source".to_owned(), "test".into());
    bench.store.write_memories(vec![write.clone()]).await.unwrap();
    let pending = bench.pending().await.remove(0);
    assert_eq!(pending.attempts, 0);
    let shards = bench.shards_of_memory().await;
    let receipt = Receipt { coordinate: Some("1,2".to_owned()), ..Receipt::default() };
    for _ in 0..2 {
        let delivered = vec![(pending.id, receipt.clone())];
        bench.store.settle_writes(&shards, delivered).await.unwrap();
    }
    write.memory.version = 1;
    let stored = bench.store.memory(&public, write.memory.memory_id).await.unwrap();
    assert_eq!(stored, write.memory);
    let exported = bench.store.export_memories(&public, None, 10).await.unwrap();
    assert_eq!(exported.items, [write.memory.clone()]);
    let records = bench.records(Group::MemoryReplicator).await;
    assert_eq!(records.len(), 1);
    assert_eq!(records[0].topic, Topic::MemoryWal);
    let expected = crate::compose::wal_record(&write, &receipt);
    assert_eq!(records[0].headers, expected.headers);
    let payload: serde_json::Value = serde_json::from_slice(&records[0].payload).unwrap();
    let expected: serde_json::Value = serde_json::from_slice(&expected.payload).unwrap();
    assert_eq!(payload, expected);
}

pub async fn a_postponed_write_holds_back_its_memory_only(factory: &dyn StoreFactory) {
    let bench = Bench::new(factory).await;
    let (one, two) = (bench.id(), bench.id());
    let writes = vec![
        sample::put(one, bench.event_id(), "one"),
        sample::put(one, bench.event_id(), "uno"),
        sample::put(two, bench.event_id(), "two"),
    ];
    bench.store.write_memories(writes).await.unwrap();
    let shards = bench.shards_of_memory().await;
    let first = bench.pending().await.remove(0);
    let delay = Duration::from_secs(10);
    bench.store.postpone_write(&shards, first.id, "not now", delay).await.unwrap();
    let pending = bench.pending().await;
    assert_eq!(pending.len(), 1);
    assert_eq!(pending[0].write.memory.memory_id, two);
    bench.pass(10).await;
    let pending = bench.pending().await;
    assert_eq!(pending[0], PendingWrite { attempts: 1, ..first });
    assert_eq!(pending.len(), 2);
}

pub async fn a_refused_write_is_a_dead_letter_and_others_go_on(factory: &dyn StoreFactory) {
    let bench = Bench::new(factory).await;
    let memory_id = bench.id();
    let writes = vec![
        sample::put(memory_id, bench.event_id(), "one"),
        sample::put(memory_id, bench.event_id(), "uno"),
    ];
    bench.store.write_memories(writes).await.unwrap();
    let shards = bench.shards_of_memory().await;
    let first = bench.pending().await.remove(0);
    for _ in 0..2 {
        bench.store.refuse_write(&shards, first.id, "malformed").await.unwrap();
    }
    let letters = bench.letters().await;
    assert_eq!(letters.len(), 1);
    let letter = &letters[0];
    assert_eq!((&*letter.topic, &*letter.error), ("memory_write_outbox", "malformed"));
    assert_eq!(letter.tenant, Some(TenantId::public()));
    let buried: MemoryWrite = serde_json::from_value(letter.event.clone()).unwrap();
    assert_eq!(buried, first.write);
    let next = bench.pending().await;
    assert_eq!(next.len(), 1);
    assert_eq!(next[0].write.memory.version, 2);
}

pub async fn the_higher_version_wins_in_the_replica(factory: &dyn StoreFactory) {
    let bench = Bench::new(factory).await;
    let memory_id = bench.id();
    let put = |text| sample::put(memory_id, bench.event_id(), text);
    assert!(bench.replicate(put("three"), 3).await);
    assert!(!bench.replicate(put("two"), 2).await);
    assert!(!bench.replicate(put("other three"), 3).await);
    let stored = bench.store.memory(&TenantId::public(), memory_id).await.unwrap();
    assert_eq!((&*stored.content, stored.version), ("three", 3));
    assert!(bench.replicate(put("four"), 4).await);
    // A later write of our own goes on from there.
    assert_eq!(bench.store.write_memories(vec![put("five")]).await.unwrap(), [5]);
}

pub async fn a_write_without_version_only_fills_a_gap(factory: &dyn StoreFactory) {
    let bench = Bench::new(factory).await;
    let (memory_id, event_id) = (bench.id(), bench.event_id());
    assert!(bench.replicate(sample::put(memory_id, event_id, "foreign"), 0).await);
    assert!(!bench.replicate(sample::put(memory_id, event_id, "foreign"), 0).await);
    assert!(!bench.replicate(sample::put(bench.id(), event_id, "same event"), 0).await);
    let own = bench.id();
    bench.remember(vec![sample::put(own, bench.event_id(), "own")]).await;
    assert!(!bench.replicate(sample::put(own, bench.event_id(), "foreign"), 0).await);
    let stored = bench.store.memory(&TenantId::public(), own).await.unwrap();
    assert_eq!(stored.content, "own");
}

pub async fn a_tombstone_outlives_older_writes(factory: &dyn StoreFactory) {
    let bench = Bench::new(factory).await;
    let memory_id = bench.id();
    bench.remember(vec![sample::put(memory_id, bench.event_id(), "one")]).await;
    bench.remember(vec![sample::delete(memory_id, bench.event_id())]).await;
    assert!(!bench.replicate(sample::put(memory_id, bench.event_id(), "late"), 1).await);
    let gone = bench.store.memory(&TenantId::public(), memory_id).await;
    assert_eq!(gone, Err(StoreError::NotFound));
    assert!(bench.replicate(sample::put(memory_id, bench.event_id(), "newer"), 3).await);
    assert!(bench.replicate(sample::delete(memory_id, bench.event_id()), 4).await);
    let gone = bench.store.memory(&TenantId::public(), memory_id).await;
    assert_eq!(gone, Err(StoreError::NotFound));
}
