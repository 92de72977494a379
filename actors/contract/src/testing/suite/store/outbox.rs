//! The outbox: rows for a bus elsewhere, records of a local one.

use super::{StoreFactory, bench::Bench};
use crate::{
    ids::EventId,
    port::{
        bus::{OutboxRow, Position, Record},
        memory::Receipt,
        store::Shards,
    },
    testing::sample,
    tool::Effect,
    topic::{Group, Topic},
};

impl Bench<'_> {
    async fn rows(&self, limit: u32) -> Vec<OutboxRow> {
        let shards = self.shards().await;
        self.store.outbox(&shards, limit).await.unwrap()
    }
}

pub async fn rows_leave_in_their_order_when_delivered(factory: &dyn StoreFactory) {
    let bench = Bench::with_remote_bus(factory).await;
    let (one, two) = (bench.session_id(), bench.session_id());
    for (session_id, text) in [(one, "a"), (two, "b"), (one, "c")] {
        bench.say(session_id, text).await;
    }
    let rows = bench.rows(100).await;
    assert!(rows.is_sorted_by_key(|row| row.id));
    let inbound = rows.iter().filter(|row| row.topic == Topic::ConversationInbound);
    let numbers: Vec<_> = inbound.map(|row| (row.session_id, row.headers["n"].as_str())).collect();
    assert_eq!(numbers, [(one, "1"), (two, "1"), (one, "2")]);
    assert_eq!(bench.rows(2).await, rows[..2]);
    let shards = bench.shards().await;
    let ids: Vec<i64> = rows[..2].iter().map(|row| row.id).collect();
    assert_eq!(bench.store.delivered(&shards, &ids).await.unwrap(), 2);
    assert_eq!(bench.rows(100).await, rows[2..]);
    assert_eq!(bench.store.delivered(&shards, &ids).await.unwrap(), 0);
}

pub async fn shards_that_are_not_held_give_and_take_nothing(factory: &dyn StoreFactory) {
    let bench = Bench::with_remote_bus(factory).await;
    bench.say(bench.session_id(), "hello").await;
    bench.store.write_memories(vec![sample::put(bench.id(), bench.event_id(), "x")]).await.unwrap();
    let rows = bench.rows(10).await;
    let none = Shards::default();
    assert_eq!(bench.store.outbox(&none, 10).await.unwrap(), []);
    assert_eq!(bench.store.delivered(&none, &[rows[0].id]).await.unwrap(), 0);
    bench.store.refused(&none, rows[0].id, "too large").await.unwrap();
    assert_eq!(bench.rows(10).await, rows);
    assert_eq!(bench.store.pending_writes(&none, 10).await.unwrap(), []);
    let held = bench.shards_of_memory().await;
    let pending = bench.store.pending_writes(&held, 10).await.unwrap();
    let delivered = vec![(pending[0].id, Receipt::default())];
    bench.store.settle_writes(&none, delivered).await.unwrap();
    bench.store.refuse_write(&none, pending[0].id, "no").await.unwrap();
    assert_eq!(bench.store.pending_writes(&held, 10).await.unwrap(), pending);
    assert_eq!(bench.letters().await, []);
}

pub async fn a_refused_row_is_a_dead_letter_and_later_rows_go_on(factory: &dyn StoreFactory) {
    let bench = Bench::with_remote_bus(factory).await;
    let session_id = bench.session_id();
    bench.say(session_id, "large").await;
    let rows = bench.rows(10).await;
    let row = rows.iter().find(|row| row.topic == Topic::ConversationInbound).unwrap();
    let shards = bench.shards().await;
    for _ in 0..2 {
        bench.store.refused(&shards, row.id, "too large").await.unwrap();
    }
    let letters = bench.letters().await;
    assert_eq!(letters.len(), 1);
    let letter = &letters[0];
    assert_eq!((&*letter.topic, &*letter.error), ("conversation.inbound", "too large"));
    assert_eq!(letter.tenant, Some(crate::ids::TenantId::public()));
    assert_eq!(letter.event["message"], "large");
    assert_eq!(letter.turn_id, None);
    let left = bench.rows(10).await;
    assert_eq!(left.len(), rows.len() - 1);
    assert!(!left.contains(row));
}

pub async fn records_are_read_until_acknowledged(factory: &dyn StoreFactory) {
    let mut bench = Bench::new(factory).await;
    let session_id = bench.session_id();
    let mut sent = Vec::new();
    for text in ["a", "b", "c"] {
        sent.push(Some(bench.say(session_id, text).await.event_id.0));
    }
    let records = bench.records(Group::ConversationWorker).await;
    let read: Vec<_> = records.iter().map(Record::event_id).collect();
    assert_eq!(read, sent);
    assert_eq!(bench.records(Group::ConversationWorker).await, records);
    let rows: Vec<i64> = records.iter().map(row_of).collect();
    let store = &bench.store;
    let skipping = store.records(Group::ConversationWorker, &rows[..1], 1).await.unwrap();
    assert_eq!(skipping, records[1..2]);
    // Another group's acknowledgement is none.
    store.acknowledge(Group::ToolExecutor, &rows).await.unwrap();
    store.acknowledge(Group::ConversationWorker, &rows[..2]).await.unwrap();
    store.acknowledge(Group::ConversationWorker, &rows[..1]).await.unwrap();
    assert_eq!(bench.records(Group::ConversationWorker).await, records[2..]);
    bench.crash().await;
    assert_eq!(bench.records(Group::ConversationWorker).await, records[2..]);
    bench.store.acknowledge(Group::ConversationWorker, &rows[2..]).await.unwrap();
    assert_eq!(bench.store.depths().await.unwrap().outbox, 0);
}

fn row_of(record: &Record) -> i64 {
    let Position::Row(row) = record.position else { panic!("a local bus has rows") };
    row
}

pub async fn a_topic_that_nobody_reads_keeps_no_row_beside_a_local_bus(factory: &dyn StoreFactory) {
    let bench = Bench::new(factory).await;
    let claimed = bench.requested(&[("echo", Effect::Pure)]).await;
    let step = bench.claim_steps().await.remove(0).step;
    let outcome = sample::outcome("hi");
    bench.store.settle(step.effect_id, step.epoch, outcome, Vec::new()).await.unwrap();
    bench.answer(&claimed, "done").await;
    assert_eq!(bench.store.depths().await.unwrap().outbox, 0);
}

pub async fn a_record_is_buried_once_per_group_and_event(factory: &dyn StoreFactory) {
    let bench = Bench::new(factory).await;
    let event_id = bench.event_id();
    let letter = |event_id: Option<EventId>| {
        let letter = sample::dead_letter("memory.wal", bench.event_id(), "not JSON");
        crate::port::store::NewDeadLetter { event_id, ..letter }
    };
    for (group, event_id) in [
        (Group::MemoryReplicator, Some(event_id)),
        (Group::MemoryReplicator, Some(event_id)),
        (Group::ToolExecutor, Some(event_id)),
        (Group::MemoryReplicator, None),
        (Group::MemoryReplicator, None),
    ] {
        bench.store.bury(group, letter(event_id)).await.unwrap();
    }
    assert_eq!(bench.letters().await.len(), 4);
    // Also when the first letter has been dropped.
    for letter in bench.letters().await {
        bench.store.drop_dead_letter(None, letter.id).await.unwrap();
    }
    bench.store.bury(Group::MemoryReplicator, letter(Some(event_id))).await.unwrap();
    assert_eq!(bench.letters().await, []);
}
