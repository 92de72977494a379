//! Deliveries over fakes.

use std::time::Duration;

use async_trait::async_trait;
use soma_contract::{
    EventId, Ids, TenantId,
    memory::{MemoryOp, MemoryQuery, MemoryWrite, Recalled},
    port::{
        memory::{MemoryService, Receipt},
        store::{Memories, Registry},
    },
    testing::{sample, store::Fault},
    topic::Topic,
};
use soma_runtime::HealthStatus;
use uuid::Uuid;

use super::*;
use crate::testing::{World, metrics};

fn sync(world: &World) -> MemorySync {
    MemorySync::new(world.ports(), MemoryConfig::default(), metrics())
}

async fn write(world: &World, memory: u128, text: &str) {
    let write = sample::put(Uuid::from_u128(memory), EventId(world.ids.draw()), text);
    world.store.write_memories(vec![write]).await.unwrap();
}

async fn waiting(world: &World) -> usize {
    let query = MemoryQuery { limit: 100, ..MemoryQuery::default() };
    world.store.search_pending(&TenantId::public(), &query).await.unwrap().len()
}

fn delivered(world: &World) -> Vec<(String, u64)> {
    let writes = world.memory.delivered();
    writes.into_iter().map(|(write, _)| (write.memory.content, write.memory.version)).collect()
}

#[tokio::test]
async fn writes_are_delivered_settled_and_told_to_the_bus() {
    let world = World::new();
    write(&world, 1, "tea").await;
    write(&world, 2, "milk").await;
    let mut sync = sync(&world);
    assert_eq!(sync.pass().await, Ok(Pass::Busy));
    assert_eq!(sync.pass().await, Ok(Pass::Idle));
    assert_eq!((delivered(&world).len(), waiting(&world).await), (2, 0));
    let mut relay =
        crate::relay::OutboxSync::new(world.ports(), MemoryConfig::default(), metrics());
    assert_eq!(relay.pass().await, Ok(Pass::Busy));
    assert_eq!(world.bus.log(Topic::MemoryWal).len(), 2);
}

/// Invariant 3.
#[tokio::test]
async fn a_memorys_later_write_waits_for_its_earlier_one() {
    let world = World::new();
    write(&world, 1, "old").await;
    write(&world, 1, "new").await;
    world.memory.fail_next(MemoryError::Unavailable("busy".to_owned()));
    let mut sync = sync(&world);
    assert!(sync.pass().await.is_err());
    assert_eq!(sync.health().status, HealthStatus::Degraded);
    assert_eq!(sync.pass().await, Ok(Pass::Idle), "postponed, and the later one behind it");
    world.clock.advance(Duration::from_mins(2));
    assert_eq!(sync.pass().await, Ok(Pass::Busy));
    assert_eq!(sync.pass().await, Ok(Pass::Busy));
    assert_eq!(delivered(&world), [("old".to_owned(), 1), ("new".to_owned(), 2)]);
    assert_eq!(sync.health().status, HealthStatus::Ok);
}

#[tokio::test]
async fn a_delivery_whose_settling_was_lost_is_repeated_with_its_key() {
    let world = World::new();
    write(&world, 1, "tea").await;
    world.store.fail_next("settle_writes", Fault::UnknownBefore);
    let mut sync = sync(&world);
    assert!(sync.pass().await.is_err());
    assert_eq!(sync.pass().await, Ok(Pass::Busy));
    let keys: Vec<String> = world.memory.delivered().into_iter().map(|(_, key)| key).collect();
    assert_eq!(keys.len(), 2);
    assert_eq!(keys[0], keys[1]);
    assert_eq!(waiting(&world).await, 0);
}

#[tokio::test]
async fn a_refusal_is_a_dead_letter_and_lets_the_others_go_on() {
    let world = World::new();
    world.memory.fail_next(MemoryError::Refused("not allowed".to_owned()));
    write(&world, 1, "secret").await;
    write(&world, 2, "milk").await;
    let mut sync = sync(&world);
    assert_eq!(sync.pass().await, Ok(Pass::Busy));
    assert_eq!((delivered(&world).len(), waiting(&world).await), (1, 0));
    let letters = world.store.dead_letters(None, None, 10).await.unwrap().items;
    assert_eq!(letters.len(), 1);
    assert!(letters[0].error.contains("not allowed"));
}

#[tokio::test]
async fn no_number_of_failures_loses_a_write() {
    let world = World::new();
    write(&world, 1, "tea").await;
    world.memory.set_down(true);
    let mut sync = sync(&world);
    for _ in 0..100 {
        assert!(sync.pass().await.is_err());
        world.clock.advance(Duration::from_mins(2));
    }
    world.memory.set_down(false);
    assert_eq!(sync.pass().await, Ok(Pass::Busy));
    assert_eq!(delivered(&world), [("tea".to_owned(), 1)]);
}

/// Panics at one memory.
#[derive(Debug)]
struct Trap(Uuid);

#[async_trait]
impl MemoryService for Trap {
    async fn remember(&self, write: &MemoryWrite, _key: &str) -> Result<Receipt, MemoryError> {
        assert_ne!(write.memory.memory_id, self.0, "trapped");
        Ok(Receipt::default())
    }

    async fn recall(
        &self,
        _tenant: &TenantId,
        _query: &MemoryQuery,
    ) -> Result<Vec<Recalled>, MemoryError> {
        Ok(Vec::new())
    }

    async fn ping(&self) -> Result<(), MemoryError> {
        Ok(())
    }
}

#[tokio::test]
async fn a_write_that_panics_ends_as_a_dead_letter_beside_the_others() {
    let world = World::new();
    write(&world, 1, "trap").await;
    write(&world, 2, "milk").await;
    let memory = Arc::new(Trap(Uuid::from_u128(1)));
    let ports = MemoryPorts { memory, ..world.ports() };
    let mut sync = MemorySync::new(ports, MemoryConfig::default(), metrics());
    assert_eq!(sync.pass().await, Ok(Pass::Busy));
    for _ in 0..2 {
        world.clock.advance(Duration::from_mins(2));
        sync.pass().await.ok();
    }
    assert_eq!(waiting(&world).await, 0);
    let letters = world.store.dead_letters(None, None, 10).await.unwrap().items;
    assert_eq!(letters.len(), 1);
    assert!(letters[0].error.contains("panicked 3 times"), "{}", letters[0].error);
}

#[tokio::test]
async fn deletes_are_delivered_as_well() {
    let world = World::new();
    write(&world, 1, "tea").await;
    let mut sync = sync(&world);
    assert_eq!(sync.pass().await, Ok(Pass::Busy));
    let delete = sample::delete(Uuid::from_u128(1), EventId(world.ids.draw()));
    world.store.write_memories(vec![delete]).await.unwrap();
    assert_eq!(sync.pass().await, Ok(Pass::Busy));
    let (write, _) = world.memory.delivered().pop().unwrap();
    assert_eq!((write.op, write.memory.version), (MemoryOp::Delete, 2));
}
