//! Deleting sessions.

use uuid::Uuid;

use super::{StoreFactory, bench::Bench};
use crate::{
    event::EventType,
    ids::{SessionId, TenantId},
    memory::MemoryQuery,
    message::{AcceptError, Accepted},
    port::store::{Attachment, CancelScope, JournalEntry, LayDown, StoreError},
    testing::sample,
    tool::Effect,
    topic::Group,
    turn::TurnStatus,
};

impl Bench<'_> {
    async fn delete(&self, session_id: SessionId) {
        self.store.delete_session(&TenantId::public(), session_id, false).await.unwrap();
    }
}

pub async fn a_deleted_session_takes_no_message_ever_again(factory: &dyn StoreFactory) {
    let mut bench = Bench::new(factory).await;
    let session_id = bench.session_id();
    bench.say(session_id, "hello").await;
    bench.delete(session_id).await;
    for _ in 0..2 {
        let answer = bench.store.accept(vec![bench.message(session_id, "again")]).await;
        assert_eq!(answer, [Err(AcceptError::SessionDeleted(session_id))]);
        bench.crash().await;
    }
}

pub async fn a_repetition_gets_its_first_answer_after_the_deletion_too(factory: &dyn StoreFactory) {
    let bench = Bench::new(factory).await;
    let message = sample::keyed(bench.message(bench.session_id(), "hello"), "k", "body");
    let first = bench.accept(message.clone()).await;
    bench.delete(first.session_id).await;
    let again = Accepted { replayed: true, ..first.clone() };
    assert_eq!(bench.accept(message).await, again);
    let unkeyed = sample::message(first.session_id, first.event_id, "hello");
    assert_eq!(bench.accept(unkeyed).await, again);
}

pub async fn deletion_ends_unfinished_turns_for_those_who_wait(factory: &dyn StoreFactory) {
    let bench = Bench::new(factory).await;
    let session_id = bench.session_id();
    let mut sent = Vec::new();
    for text in ["one", "two", "three"] {
        sent.push(bench.say(session_id, text).await.event_id);
    }
    let claimed = bench.claim(session_id).await;
    bench.answer(&claimed, "first").await;
    bench.claim(session_id).await;
    bench.delete(session_id).await;
    for event_id in &sent[1..] {
        let status = bench.store.message(&TenantId::public(), *event_id).await.unwrap();
        assert_eq!(status.turn.status, TurnStatus::Cancelled);
        let terminal = status.terminal.unwrap();
        assert_eq!(terminal.event_type, EventType::Cancelled);
        assert_eq!(terminal.message, "");
    }
    let ended_before = bench.store.message(&TenantId::public(), sent[0]).await;
    assert_eq!(ended_before, Err(StoreError::NotFound));
    assert_eq!(bench.store.backlog().await.unwrap().total, 0);
}

pub async fn a_deleted_session_shows_nothing(factory: &dyn StoreFactory) {
    let bench = Bench::new(factory).await;
    let public = TenantId::public();
    let failed = bench.running().await;
    let session_id = failed.turn.session_id;
    bench.fail(&failed, "boom").await;
    bench.say(session_id, "two").await;
    let claimed = bench.claim(session_id).await;
    bench.journal(&claimed, &[("echo", Effect::Pure)]).await;
    let upload = bench.upload(session_id).await;
    bench.delete(session_id).await;

    let gone = StoreError::NotFound;
    assert_eq!(bench.store.session(&public, session_id).await, Err(gone.clone()));
    assert_eq!(bench.store.events(&public, session_id, 0, 10).await, Err(gone.clone()));
    assert_eq!(bench.store.attachment(&public, upload).await, Err(gone.clone()));
    let cancel = bench.store.cancel(&public, session_id, CancelScope::All).await;
    assert_eq!(cancel, Err(gone));
    assert_eq!(bench.store.history(session_id, 9, 10).await.unwrap(), []);
    assert_eq!(bench.store.sessions(&public, None, 10).await.unwrap().items, []);
    assert_eq!(bench.store.steps(claimed.turn.turn_id).await.unwrap(), []);
    assert_eq!(bench.store.claim(&bench.owner, session_id).await.unwrap(), None);
    assert_eq!(bench.claim_steps().await, []);
    assert_eq!(bench.letters().await, []);
    assert_eq!(bench.records(Group::ConversationWorker).await, []);
    assert_eq!(bench.records(Group::ToolExecutor).await, []);
    let claimable = bench.store.claimable(std::time::Duration::ZERO, 10).await.unwrap();
    assert_eq!(claimable, []);
}

impl Bench<'_> {
    async fn upload(&self, session_id: SessionId) -> Uuid {
        let id = self.id();
        let attachment = Attachment {
            id,
            tenant: TenantId::public(),
            session_id: Some(session_id),
            filename: "a.txt".to_owned(),
            mime: "text/plain".to_owned(),
            size: 1,
            sha256: "00".to_owned(),
            created_at: chrono::DateTime::UNIX_EPOCH,
        };
        self.store.add_attachment(attachment, vec![1]).await.unwrap();
        id
    }
}

pub async fn deletion_fences_the_owners_of_turn_and_step(factory: &dyn StoreFactory) {
    let bench = Bench::new(factory).await;
    let claimed = bench.requested(&[("echo", Effect::Pure)]).await;
    let step = bench.claim_steps().await.remove(0).step;
    bench.delete(claimed.turn.session_id).await;
    let (turn_id, epoch) = (claimed.turn.turn_id, claimed.epoch);
    let fenced = StoreError::Fenced;
    assert_eq!(bench.store.beat(turn_id, epoch).await, Err(fenced.clone()));
    let entry = JournalEntry { answer: None, calls: Vec::new(), worked_ms: 1 };
    assert_eq!(bench.store.journal(turn_id, epoch, entry).await, Err(fenced.clone()));
    let ending = sample::done(&claimed, "late");
    assert_eq!(bench.store.end(turn_id, epoch, ending).await, Err(fenced.clone()));
    let laid = bench.store.lay_down(turn_id, epoch, LayDown::Drained).await;
    assert_eq!(laid, Err(fenced.clone()));
    let settled =
        bench.store.settle(step.effect_id, step.epoch, sample::outcome("late"), Vec::new()).await;
    assert_eq!(settled, Err(fenced));
}

pub async fn deletion_keeps_memories_unless_asked(factory: &dyn StoreFactory) {
    let bench = Bench::new(factory).await;
    let (session_id, settled, pending) = bench.session_with_memories().await;
    bench.delete(session_id).await;
    assert_eq!(bench.records(Group::MemoryReplicator).await.len(), 1);
    for memory_id in [settled, pending] {
        assert!(bench.store.memory(&TenantId::public(), memory_id).await.is_ok());
    }
}

pub async fn deletion_forgets_memories_if_asked(factory: &dyn StoreFactory) {
    let bench = Bench::new(factory).await;
    let public = TenantId::public();
    let (session_id, settled, pending) = bench.session_with_memories().await;
    let elsewhere = bench.id();
    bench.remember(vec![sample::put(elsewhere, bench.event_id(), "tea elsewhere")]).await;
    // Asked for only after the deletion itself.
    bench.delete(session_id).await;
    bench.store.delete_session(&public, session_id, true).await.unwrap();
    bench.remember(Vec::new()).await;
    for memory_id in [settled, pending] {
        let memory = bench.store.memory(&public, memory_id).await;
        assert_eq!(memory, Err(StoreError::NotFound));
    }
    let query = MemoryQuery { text: "tea".to_owned(), limit: 10, ..MemoryQuery::default() };
    let found = bench.store.search_memories(&public, &query).await.unwrap();
    let found: Vec<Uuid> = found.iter().map(|recalled| recalled.memory.memory_id).collect();
    assert_eq!(found, [elsewhere]);
}

impl Bench<'_> {
    /// Begins a session with one memory that is delivered and one that is not.
    async fn session_with_memories(&self) -> (SessionId, Uuid, Uuid) {
        let session_id = self.session_id();
        self.say(session_id, "I like tea").await;
        let write = |memory_id, text| {
            let mut write = sample::put(memory_id, self.event_id(), text);
            write.memory.session_id = Some(session_id);
            write
        };
        let (settled, pending) = (self.id(), self.id());
        self.remember(vec![write(settled, "likes tea")]).await;
        self.store.write_memories(vec![write(pending, "likes green tea")]).await.unwrap();
        (session_id, settled, pending)
    }
}

pub async fn deletion_is_repeatable_and_needs_a_session(factory: &dyn StoreFactory) {
    let bench = Bench::new(factory).await;
    let session_id = bench.session_id();
    let accepted = bench.say(session_id, "hello").await;
    bench.delete(session_id).await;
    let status = bench.store.message(&TenantId::public(), accepted.event_id).await.unwrap();
    bench.delete(session_id).await;
    let again = bench.store.message(&TenantId::public(), accepted.event_id).await.unwrap();
    assert_eq!(again, status);
    let unknown = bench.session_id();
    let deleted = bench.store.delete_session(&TenantId::public(), unknown, false).await;
    assert_eq!(deleted, Err(StoreError::NotFound));
}
