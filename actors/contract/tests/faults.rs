//! The fakes fail when they are told to, in the way they are told to.

use std::sync::Arc;

use bytes::Bytes;
use soma_contract::{
    Clock, EventId, Ids, SessionId, TenantId,
    ids::Owner,
    message::AcceptError,
    port::{
        bus::{Bus, Delivery, OutboxRow},
        live::{Heard, Live, LiveEvent},
        memory::{MemoryError, MemoryService},
        store::{Registry, StoreError, Transcript, Turns},
    },
    testing::{FakeBus, FakeClock, FakeLive, FakeMemory, FakeStore, Fault, LogBus, SeqIds, sample},
    topic::{Group, Topic},
    turn::TurnStatus,
};

fn owner() -> Owner {
    Owner("me".to_owned())
}

fn session(ids: &SeqIds) -> SessionId {
    SessionId(ids.draw())
}

#[tokio::test]
async fn an_unknown_outcome_is_one_that_happened_or_one_that_did_not() {
    let (store, ids) = (FakeStore::new(Arc::new(FakeClock::new())), SeqIds::new());
    let message = sample::message(session(&ids), EventId(ids.draw()), "hello");
    for (fault, happened) in [(Fault::UnknownBefore, false), (Fault::UnknownAfter, true)] {
        store.fail_next("accept", fault);
        let answers = store.accept(vec![message.clone()]).await;
        assert!(matches!(answers[..], [Err(AcceptError::OutcomeUnknown(_))]));
        let status = store.message(&TenantId::public(), message.event.event_id).await;
        assert_eq!(status.is_ok(), happened);
    }
    assert!(store.accept(vec![message]).await[0].as_ref().unwrap().replayed);
}

#[tokio::test]
async fn a_fault_is_for_one_call_of_its_method_and_down_is_for_all() {
    let (store, ids) = (FakeStore::new(Arc::new(FakeClock::new())), SeqIds::new());
    store.fail_next("ping", Fault::Unavailable);
    store.backlog().await.unwrap();
    assert!(matches!(store.ping().await, Err(StoreError::Unavailable(_))));
    store.ping().await.unwrap();
    store.set_down(true);
    assert!(matches!(store.ping().await, Err(StoreError::Unavailable(_))));
    let claimed = store.claim(&owner(), session(&ids)).await;
    assert!(matches!(claimed, Err(StoreError::Unavailable(_))));
    store.set_down(false);
    store.ping().await.unwrap();
}

#[tokio::test]
async fn whoever_waits_for_a_terminal_event_gets_it() {
    let (store, ids) = (FakeStore::new(Arc::new(FakeClock::new())), SeqIds::new());
    let message = sample::message(session(&ids), EventId(ids.draw()), "hello");
    let event_id = message.event.event_id;
    let accepted = store.accept(vec![message]).await.remove(0).unwrap();
    let (terminal, ()) = futures::join!(store.terminal(event_id), async {
        store.claim(&owner(), accepted.session_id).await.unwrap().unwrap();
        let (heir, inherited) = store.crash().await.unwrap();
        assert_eq!(inherited.turns, 1);
        let claimed = store.claim(&heir, accepted.session_id).await.unwrap().unwrap();
        let ending = sample::done(&claimed, "hi");
        store.end(claimed.turn.turn_id, claimed.epoch, ending).await.unwrap();
    });
    assert_eq!(terminal.message, "hi");
    let status = store.message(&TenantId::public(), event_id).await.unwrap();
    assert_eq!(status.turn.status, TurnStatus::Done);
}

fn row(ids: &SeqIds, id: i64, session_id: SessionId) -> OutboxRow {
    OutboxRow {
        id,
        topic: Topic::ConversationInbound,
        session_id,
        headers: [("event_id".to_owned(), ids.draw().to_string())].into(),
        payload: Bytes::from_static(b"{}"),
        created_at: FakeClock::new().now(),
    }
}

#[tokio::test]
async fn a_failed_row_stops_its_session_and_a_refused_one_only_itself() {
    let (ids, bus) = (SeqIds::new(), LogBus::new());
    let (one, two, refused) = (session(&ids), session(&ids), session(&ids));
    let rows: Vec<OutboxRow> =
        (1..).zip([one, refused, one, two]).map(|(id, of)| row(&ids, id, of)).collect();
    bus.refuse(refused, "too large");
    bus.fail_next("broker gone");
    let failed = Delivery::Failed("broker gone".to_owned());
    let expected =
        [failed.clone(), Delivery::Refused("too large".to_owned()), failed, Delivery::Delivered];
    assert_eq!(bus.publish(&rows).await, expected);
    assert_eq!(bus.log(Topic::ConversationInbound).len(), 1);
    bus.set_down(true);
    assert!(bus.ping().await.is_err());
    assert!(matches!(bus.publish(&rows[3..]).await[0], Delivery::Failed(_)));
    let mut worker = bus.subscribe(Group::ConversationWorker);
    assert!(worker.receive(1, std::time::Duration::ZERO).await.is_err());
}

#[tokio::test]
async fn foreign_records_are_read_as_they_were_written() {
    let bus = LogBus::new();
    bus.write_foreign(Topic::MemoryWal, [("a".to_owned(), "b".to_owned())].into(), "not JSON");
    let mut replicator = bus.subscribe(Group::MemoryReplicator);
    let record = replicator.receive(9, std::time::Duration::ZERO).await.unwrap().pop().unwrap();
    assert_eq!((record.session_id, record.event_id()), (None, None));
    assert_eq!(&*record.payload, b"not JSON");
}

#[tokio::test]
async fn a_bus_in_place_fails_with_its_store() {
    let store = Arc::new(FakeStore::new(Arc::new(FakeClock::new())));
    let bus = FakeBus::new(Arc::clone(&store));
    let mut worker = bus.subscribe(Group::ConversationWorker);
    store.fail_next("records", Fault::Unavailable);
    assert!(worker.receive(1, std::time::Duration::ZERO).await.is_err());
    assert_eq!(worker.receive(1, std::time::Duration::ZERO).await.unwrap(), []);
}

#[tokio::test]
async fn a_live_port_that_goes_down_closes_its_readers_and_loses_what_is_told() {
    let ids = SeqIds::new();
    let live = FakeLive::new(Arc::new(FakeClock::new()));
    let room = session(&ids);
    let mut reader = live.listen(room).await.unwrap();
    live.set_down(true);
    assert_eq!(reader.next().await, Heard::Closed);
    live.publish(room, LiveEvent::Appended { seq: 1 }).await;
    assert!(live.listen(room).await.is_err());
    assert!(live.take("ann", 1, 1).await.is_err());
    live.set_down(false);
    let mut reader = live.listen(room).await.unwrap();
    live.publish(room, LiveEvent::Appended { seq: 2 }).await;
    assert_eq!(reader.next().await, Heard::Event(LiveEvent::Appended { seq: 2 }));
    assert_eq!(live.published(), [(room, LiveEvent::Appended { seq: 2 })]);
}

#[tokio::test]
async fn a_memory_service_fails_as_told_and_remembers_what_it_took() {
    let (ids, service) = (SeqIds::new(), FakeMemory::new());
    let write = sample::put(ids.draw(), EventId(ids.draw()), "tea");
    service.fail_next(MemoryError::Refused("malformed".to_owned()));
    let refused = service.remember(&write, "k").await;
    assert_eq!(refused, Err(MemoryError::Refused("malformed".to_owned())));
    service.remember(&write, "k").await.unwrap();
    service.set_down(true);
    assert!(matches!(service.remember(&write, "k").await, Err(MemoryError::Unavailable(_))));
    assert_eq!(service.delivered(), [(write, "k".to_owned())]);
}
