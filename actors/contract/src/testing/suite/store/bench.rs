//! The workbench of the cases: a store, ids, an owner, and the steps that most cases begin with.

use std::sync::Arc;

use super::StoreFactory;
use crate::{
    event::{Event, EventType},
    ids::{EventId, Ids, Owner, SessionId, TenantId},
    message::{Accepted, NewMessage},
    port::{
        bus::Record,
        memory::Receipt,
        store::{Appended, ClaimedStep, ClaimedTurn, DeadLetter, Inherited, Shards, Store},
    },
    testing::{FakeClock, FakeStore, SeqIds, sample},
    tool::Effect,
    topic::Group,
    turn::Turn,
};

/// A store to work on.
#[derive(Debug)]
pub(super) struct Bench<'a> {
    /// Where it came from.
    pub(super) factory: &'a dyn StoreFactory,
    /// The store.
    pub(super) store: Arc<dyn Store>,
    /// Whoever runs turns and steps.
    pub(super) owner: Owner,
    ids: SeqIds,
    crashes: u32,
}

impl<'a> Bench<'a> {
    /// Sets up a store beside a local bus.
    pub(super) async fn new(factory: &'a dyn StoreFactory) -> Self {
        Self::build(factory, true).await
    }

    /// Sets up a store beside a bus elsewhere.
    pub(super) async fn with_remote_bus(factory: &'a dyn StoreFactory) -> Self {
        Self::build(factory, false).await
    }

    async fn build(factory: &'a dyn StoreFactory, bus_is_local: bool) -> Self {
        let store = factory.fresh(bus_is_local).await;
        let owner = Owner("first".to_owned());
        store.inherit(&owner).await.unwrap();
        Self { factory, store, owner, ids: SeqIds::new(), crashes: 0 }
    }

    /// Lets the process die and another one inherit.
    pub(super) async fn crash(&mut self) -> Inherited {
        // The factory gets the only handle: what is left of the store must not outlive its process.
        let nothing: Arc<dyn Store> = Arc::new(FakeStore::new(Arc::new(FakeClock::new())));
        let store = std::mem::replace(&mut self.store, nothing);
        self.store = self.factory.reopen_after_crash(store).await;
        self.crashes += 1;
        self.owner = Owner(format!("heir-{}", self.crashes));
        self.store.inherit(&self.owner).await.unwrap()
    }

    /// Moves the clock on.
    pub(super) async fn pass(&self, seconds: u64) {
        self.factory.advance(std::time::Duration::from_secs(seconds)).await;
    }

    pub(super) fn id(&self) -> uuid::Uuid {
        self.ids.draw()
    }

    pub(super) fn session_id(&self) -> SessionId {
        SessionId(self.id())
    }

    pub(super) fn event_id(&self) -> EventId {
        EventId(self.id())
    }

    /// Builds a message with a new event id.
    pub(super) fn message(&self, session_id: SessionId, text: &str) -> NewMessage {
        sample::message(session_id, self.event_id(), text)
    }

    /// Accepts one message.
    pub(super) async fn accept(&self, message: NewMessage) -> Accepted {
        self.store.accept(vec![message]).await.remove(0).unwrap()
    }

    /// Says something in a session.
    pub(super) async fn say(&self, session_id: SessionId, text: &str) -> Accepted {
        self.accept(self.message(session_id, text)).await
    }

    /// Claims the session's lowest turn, which can be claimed.
    pub(super) async fn claim(&self, session_id: SessionId) -> ClaimedTurn {
        self.store.claim(&self.owner, session_id).await.unwrap().expect("a claimable turn")
    }

    /// Begins a session and claims the turn of its first message.
    pub(super) async fn running(&self) -> ClaimedTurn {
        let session_id = self.session_id();
        self.say(session_id, "hello").await;
        self.claim(session_id).await
    }

    /// Begins a session whose turn runs and has requested these calls.
    pub(super) async fn requested(&self, calls: &[(&str, Effect)]) -> ClaimedTurn {
        let claimed = self.running().await;
        self.journal(&claimed, calls).await;
        claimed
    }

    /// Journals an answer and these calls.
    pub(super) async fn journal(&self, claimed: &ClaimedTurn, calls: &[(&str, Effect)]) {
        let entry = sample::entry(&claimed.turn, calls);
        self.store.journal(claimed.turn.turn_id, claimed.epoch, entry).await.unwrap();
    }

    /// Claims every step that can be claimed.
    pub(super) async fn claim_steps(&self) -> Vec<ClaimedStep> {
        self.store.claim_steps(&self.owner, 100).await.unwrap()
    }

    /// Ends a turn with an answer.
    pub(super) async fn answer(&self, claimed: &ClaimedTurn, text: &str) -> Appended {
        let ending = sample::done(claimed, text);
        self.store.end(claimed.turn.turn_id, claimed.epoch, ending).await.unwrap()
    }

    /// Ends a turn by failure; returns its dead letter.
    pub(super) async fn fail(&self, claimed: &ClaimedTurn, reason: &str) -> DeadLetter {
        let ending = sample::failed(claimed, reason);
        self.store.end(claimed.turn.turn_id, claimed.epoch, ending).await.unwrap();
        self.letters().await.remove(0)
    }

    /// Says something and answers it.
    pub(super) async fn exchange(&self, session_id: SessionId, said: &str, answer: &str) {
        self.say(session_id, said).await;
        let claimed = self.claim(session_id).await;
        self.answer(&claimed, answer).await;
    }

    /// Returns the turn of a message.
    pub(super) async fn turn(&self, event_id: EventId) -> Turn {
        self.store.message(&TenantId::public(), event_id).await.unwrap().turn
    }

    /// Returns the session's whole log.
    pub(super) async fn log(&self, session_id: SessionId) -> Vec<Event> {
        self.store.events(&TenantId::public(), session_id, 0, 1_000).await.unwrap()
    }

    /// Returns the types of the session's whole log.
    pub(super) async fn told(&self, session_id: SessionId) -> Vec<EventType> {
        self.log(session_id).await.into_iter().map(|event| event.event_type).collect()
    }

    /// Returns the records that wait for a group of a local bus.
    pub(super) async fn records(&self, group: Group) -> Vec<Record> {
        self.store.records(group, &[], 1_000).await.unwrap()
    }

    /// Holds the shards of the relay.
    pub(super) async fn shards(&self) -> Shards {
        self.store.hold_shards("outbox-sync", &self.owner).await.unwrap()
    }

    /// Returns all dead letters.
    pub(super) async fn letters(&self) -> Vec<DeadLetter> {
        self.store.dead_letters(None, None, 1_000).await.unwrap().items
    }

    /// Writes memories and lets the service take them.
    pub(super) async fn remember(&self, writes: Vec<crate::memory::MemoryWrite>) {
        self.store.write_memories(writes).await.unwrap();
        let shards = self.shards_of_memory().await;
        loop {
            let pending = self.store.pending_writes(&shards, 100).await.unwrap();
            if pending.is_empty() {
                return;
            }
            let delivered =
                pending.into_iter().map(|write| (write.id, Receipt::default())).collect();
            self.store.settle_writes(&shards, delivered).await.unwrap();
        }
    }

    /// Holds the shards of the memory writes.
    pub(super) async fn shards_of_memory(&self) -> Shards {
        self.store.hold_shards("memory-sync", &self.owner).await.unwrap()
    }
}
