//! The relay over fakes.

use std::time::Duration;

use soma_contract::{
    EventId, SessionId,
    port::{
        bus::Record,
        store::{Outbox, Registry, Shards},
    },
    testing::{FakeBus, store::Fault},
    topic::Topic,
};
use soma_runtime::HealthStatus;

use super::*;
use crate::testing::{World, metrics, session};

fn relay(world: &World) -> OutboxSync {
    OutboxSync::new(world.ports(), MemoryConfig::default(), metrics())
}

fn inbound(world: &World, session: SessionId) -> Vec<EventId> {
    let log: Vec<Record> = world.bus.log(Topic::ConversationInbound);
    log.iter()
        .filter(|record| record.session_id == Some(session))
        .map(|record| EventId(record.event_id().unwrap()))
        .collect()
}

/// Counts the messages whose record waits; their events wait beside them.
async fn rows(world: &World) -> usize {
    let shards = Shards { held: vec![(0, 0)] };
    let rows = world.store.outbox(&shards, 1_000).await.unwrap();
    rows.iter().filter(|row| row.topic == Topic::ConversationInbound).count()
}

#[tokio::test]
async fn rows_reach_the_bus_in_order_and_go() {
    let world = World::new();
    let mut sent = Vec::new();
    for number in 0..5 {
        sent.push(world.accept(session(1), &number.to_string()).await);
    }
    let mut relay = relay(&world);
    assert_eq!(relay.pass().await, Ok(Pass::Busy));
    assert_eq!(relay.pass().await, Ok(Pass::Idle));
    assert_eq!(inbound(&world, session(1)), sent);
    assert_eq!(rows(&world).await, 0);
}

#[tokio::test]
async fn a_failure_stops_its_session_alone_and_is_made_good_in_order() {
    let world = World::new();
    let failing = [world.accept(session(1), "a").await, world.accept(session(1), "b").await];
    let other = world.accept(session(2), "c").await;
    world.bus.fail_next("broker is gone");
    let mut relay = relay(&world);
    assert_eq!(relay.pass().await, Ok(Pass::Idle));
    assert_eq!(relay.health().status, HealthStatus::Degraded);
    assert_eq!((inbound(&world, session(1)), inbound(&world, session(2))), (vec![], vec![other]));
    assert_eq!(rows(&world).await, 2);
    assert_eq!(relay.pass().await, Ok(Pass::Busy));
    assert_eq!(inbound(&world, session(1)), failing);
    assert_eq!(relay.health().status, HealthStatus::Ok);
}

#[tokio::test]
async fn a_bus_that_takes_nothing_is_a_fault_and_uses_up_nothing() {
    let world = World::new();
    world.accept(session(1), "a").await;
    world.bus.set_down(true);
    let mut relay = relay(&world);
    for _ in 0..50 {
        assert!(relay.pass().await.is_err());
    }
    assert_eq!(rows(&world).await, 1);
    world.bus.set_down(false);
    assert_eq!(relay.pass().await, Ok(Pass::Busy));
    assert_eq!(rows(&world).await, 0);
}

#[tokio::test]
async fn a_refusal_is_a_dead_letter_and_later_rows_go_on() {
    let world = World::new();
    world.bus.refuse(session(1), "too large");
    world.accept(session(1), "a").await;
    let other = world.accept(session(2), "b").await;
    let mut relay = relay(&world);
    assert_eq!(relay.pass().await, Ok(Pass::Busy));
    assert_eq!(rows(&world).await, 0);
    assert_eq!(inbound(&world, session(2)), [other]);
    let letters = world.store.dead_letters(None, None, 10).await.unwrap().items;
    assert!(letters.iter().any(|letter| letter.topic == "conversation.inbound"));
    assert!(letters.iter().all(|letter| letter.error.contains("too large")));
}

#[tokio::test]
async fn what_was_published_and_not_settled_is_published_again() {
    let world = World::new();
    let event = world.accept(session(1), "a").await;
    world.store.fail_next("delivered", Fault::UnknownBefore);
    let mut relay = relay(&world);
    assert!(relay.pass().await.is_err());
    assert_eq!(relay.pass().await, Ok(Pass::Busy));
    assert_eq!(inbound(&world, session(1)), [event, event]);
    assert_eq!(rows(&world).await, 0);
}

#[tokio::test]
async fn rows_in_place_stay_and_are_not_read_again_at_once() {
    let world = World::new();
    world.accept(session(1), "a").await;
    let bus = Arc::new(FakeBus::new(Arc::clone(&world.store)));
    let ports = MemoryPorts { bus, ..world.ports() };
    let config = MemoryConfig { rest_in_place: Duration::from_hours(1), ..MemoryConfig::default() };
    let mut relay = OutboxSync::new(ports, config, metrics());
    assert_eq!(relay.pass().await, Ok(Pass::Idle));
    assert_eq!(rows(&world).await, 1);
    let calls = world.store.changes();
    let before = *calls.borrow();
    for _ in 0..100 {
        assert_eq!(relay.pass().await, Ok(Pass::Idle));
    }
    assert_eq!(*calls.borrow(), before);
}

#[tokio::test]
async fn a_drain_flushes_what_waits() {
    let world = World::new();
    world.accept(session(1), "a").await;
    let mut relay = relay(&world);
    relay.stop().await;
    assert_eq!(inbound(&world, session(1)).len(), 1);
}
