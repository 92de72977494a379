//! The replicator over fakes.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use soma_contract::{
    EventId, Ids, TenantId,
    memory::MemoryQuery,
    port::store::{Memories, Registry},
    testing::{FakeBus, sample, store::Fault},
    topic::Topic,
};
use uuid::Uuid;

use super::*;
use crate::{
    relay::OutboxSync,
    sync::MemorySync,
    testing::{World, metrics},
};

fn replicator(world: &World) -> MemoryReplicator {
    MemoryReplicator::new(&world.ports(), MemoryConfig::default(), metrics())
}

fn foreign(world: &World, id: u128, text: &str) {
    let payload: Value = json!({
        "type": "memory.write", "tenant": "public", "timestamp": 1.5,
        "payload": { "id": Uuid::from_u128(id), "content": text },
    });
    world.bus.write_foreign(Topic::MemoryWal, BTreeMap::new(), payload.to_string());
}

async fn known(world: &World) -> Vec<String> {
    let query = MemoryQuery { limit: 100, ..MemoryQuery::default() };
    let found = world.store.search_memories(&TenantId::public(), &query).await.unwrap();
    found.into_iter().map(|recalled| recalled.memory.content).collect()
}

async fn letters(world: &World) -> usize {
    world.store.dead_letters(None, None, 10).await.unwrap().items.len()
}

#[tokio::test]
async fn foreign_records_are_applied_once_however_often_they_come() {
    let world = World::new();
    foreign(&world, 1, "tea");
    foreign(&world, 1, "tea");
    foreign(&world, 2, "milk");
    for _ in 0..2 {
        assert_eq!(replicator(&world).pass().await, Ok(Pass::Busy));
        assert_eq!(replicator(&world).pass().await, Ok(Pass::Idle), "acknowledged");
        foreign(&world, 1, "tea");
    }
    assert_eq!(known(&world).await.len(), 2);
    assert_eq!(letters(&world).await, 0);
}

#[tokio::test]
async fn our_own_records_change_nothing() {
    let world = World::new();
    let write = sample::put(Uuid::from_u128(1), EventId(world.ids.draw()), "tea");
    world.store.write_memories(vec![write]).await.unwrap();
    MemorySync::new(world.ports(), MemoryConfig::default(), metrics()).pass().await.unwrap();
    OutboxSync::new(world.ports(), MemoryConfig::default(), metrics()).pass().await.unwrap();
    let metrics = metrics();
    let config = MemoryConfig::default();
    let mut replicator = MemoryReplicator::new(&world.ports(), config, metrics.clone());
    assert_eq!(replicator.pass().await, Ok(Pass::Busy));
    assert_eq!(metrics.replicated.with_label_values(&["own"]).get(), 1);
    assert_eq!(known(&world).await, ["tea"]);
}

/// Invariant 4.
#[tokio::test]
async fn garbage_is_buried_once_and_the_rest_goes_on() {
    let world = World::new();
    world.bus.write_foreign(Topic::MemoryWal, BTreeMap::new(), vec![0xff, 0x00]);
    foreign(&world, 1, "tea");
    // Its acknowledgement is lost with the process: all is read again.
    let mut lost = replicator(&world);
    lost.receive().await.unwrap();
    for record in lost.in_hand.iter() {
        lost.handle(record).await.unwrap();
    }
    drop(lost);
    assert_eq!(replicator(&world).pass().await, Ok(Pass::Busy));
    assert_eq!((known(&world).await, letters(&world).await), (vec!["tea".to_owned()], 1));
}

#[tokio::test]
async fn records_in_hand_wait_for_the_store() {
    let world = World::new();
    foreign(&world, 1, "tea");
    foreign(&world, 2, "milk");
    world.store.fail_next("replicate", Fault::Unavailable);
    let mut replicator = replicator(&world);
    assert!(replicator.pass().await.is_err());
    assert_eq!(replicator.pass().await, Ok(Pass::Busy));
    assert_eq!(known(&world).await.len(), 2);
    world.bus.set_down(true);
    assert!(replicator.pass().await.is_err());
}

#[tokio::test]
async fn records_of_a_bus_in_this_process_are_acknowledged_unread() {
    let world = World::new();
    let write = sample::put(Uuid::from_u128(1), EventId(world.ids.draw()), "tea");
    world.store.write_memories(vec![write]).await.unwrap();
    MemorySync::new(world.ports(), MemoryConfig::default(), metrics()).pass().await.unwrap();
    let bus = Arc::new(FakeBus::new(Arc::clone(&world.store)));
    let ports = MemoryPorts { bus, ..world.ports() };
    let mut replicator = MemoryReplicator::new(&ports, MemoryConfig::default(), metrics());
    assert_eq!(replicator.pass().await, Ok(Pass::Busy));
    assert_eq!(replicator.pass().await, Ok(Pass::Idle));
    assert_eq!(world.store.depths().await.unwrap().outbox, 0);
}
