//! What every memory service does.

use std::{fmt, sync::Arc};

use async_trait::async_trait;
use uuid::Uuid;

use crate::{
    ids::{EventId, Ids, Owner, SessionId, TenantId},
    memory::{MemoryQuery, MemoryWrite, Recalled},
    port::{
        memory::{MemoryService, Receipt},
        store::{Shards, Store},
    },
    testing::{SeqIds, sample},
};

/// A memory service, and a store whose writes are delivered to it; the built-in service is the
/// replica of that store.
#[derive(Debug, Clone)]
pub struct MemoryWorld {
    /// The service.
    pub service: Arc<dyn MemoryService>,
    /// The store.
    pub store: Arc<dyn Store>,
}

/// Makes memory services of one kind; one factory serves one test.
#[async_trait]
pub trait MemoryFactory: fmt::Debug + Send + Sync {
    /// Makes a service that knows nothing of the tenants `public` and `other`.
    async fn fresh(&self) -> MemoryWorld;
}

/// Expands into the tests of a memory service; the expression makes a [`MemoryFactory`].
#[macro_export]
macro_rules! memory_suite {
    ($factory:expr) => {
        $crate::suite_cases! { $factory; memory {
            what_was_delivered_is_recalled
            a_delivery_repeated_with_its_key_is_one
            the_best_match_comes_first_and_no_more_than_asked_for
            recall_keeps_to_session_persona_and_kind
            tenants_recall_only_their_own
            the_newest_version_is_recalled
            what_was_deleted_is_not_recalled
            a_memory_service_that_answers_pings
        }}
    };
}

#[derive(Debug)]
struct Bench {
    world: MemoryWorld,
    shards: Shards,
    ids: SeqIds,
}

impl Bench {
    async fn new(factory: &dyn MemoryFactory) -> Self {
        let world = factory.fresh().await;
        let shards = world.store.hold_shards("memory-sync", &Owner("me".to_owned())).await;
        Self { world, shards: shards.unwrap(), ids: SeqIds::new() }
    }

    fn put(&self, text: &str) -> MemoryWrite {
        sample::put(self.ids.draw(), self.event_id(), text)
    }

    fn event_id(&self) -> EventId {
        EventId(self.ids.draw())
    }

    /// Delivers writes as `memory-sync` does, each this many times; returns the receipts.
    async fn deliver(&self, writes: Vec<MemoryWrite>, times: usize) -> Vec<Receipt> {
        let MemoryWorld { service, store } = &self.world;
        store.write_memories(writes).await.unwrap();
        let mut receipts = Vec::new();
        loop {
            let pending = store.pending_writes(&self.shards, 1).await.unwrap();
            let Some(pending) = pending.into_iter().next() else {
                return receipts;
            };
            let memory = &pending.write.memory;
            let key = format!("{}/{}", memory.tenant, memory.event_id);
            let mut receipt = Receipt::default();
            for _ in 0..times {
                receipt = service.remember(&pending.write, &key).await.unwrap();
                receipts.push(receipt.clone());
            }
            store.settle_writes(&self.shards, vec![(pending.id, receipt)]).await.unwrap();
        }
    }

    async fn recall(&self, tenant: &TenantId, query: &MemoryQuery) -> Vec<Recalled> {
        self.world.service.recall(tenant, query).await.unwrap()
    }
}

fn query(text: &str) -> MemoryQuery {
    MemoryQuery { text: text.to_owned(), limit: 10, ..MemoryQuery::default() }
}

fn ids(found: &[Recalled]) -> Vec<Uuid> {
    found.iter().map(|recalled| recalled.memory.memory_id).collect()
}

pub async fn what_was_delivered_is_recalled(factory: &dyn MemoryFactory) {
    let bench = Bench::new(factory).await;
    let write = bench.put("Ann's cat is called Tiger.");
    bench.deliver(vec![write.clone()], 1).await;
    let found = bench.recall(&TenantId::public(), &query("what is my cat called")).await;
    assert_eq!(ids(&found), [write.memory.memory_id]);
    assert_eq!(found[0].memory.content, write.memory.content);
    assert_eq!(found[0].memory.event_id, write.memory.event_id);
    assert!(!found[0].pending);
}

pub async fn a_delivery_repeated_with_its_key_is_one(factory: &dyn MemoryFactory) {
    let bench = Bench::new(factory).await;
    let receipts = bench.deliver(vec![bench.put("likes tea")], 3).await;
    assert_eq!(receipts.len(), 3);
    assert!(receipts.iter().all(|receipt| receipt.coordinate == receipts[0].coordinate));
    assert_eq!(bench.recall(&TenantId::public(), &query("tea")).await.len(), 1);
}

pub async fn the_best_match_comes_first_and_no_more_than_asked_for(factory: &dyn MemoryFactory) {
    let bench = Bench::new(factory).await;
    let one_word = bench.put("green walls in the kitchen");
    let both_words = bench.put("green tea in the morning");
    bench.deliver(vec![both_words.clone(), one_word, bench.put("black coffee")], 1).await;
    let public = TenantId::public();
    let found = bench.recall(&public, &query("green tea")).await;
    assert_eq!(ids(&found)[0], both_words.memory.memory_id);
    assert!(found.is_sorted_by(|one, other| one.score >= other.score));
    let bounded = MemoryQuery { limit: 1, ..query("green tea") };
    assert_eq!(ids(&bench.recall(&public, &bounded).await), [both_words.memory.memory_id]);
}

pub async fn recall_keeps_to_session_persona_and_kind(factory: &dyn MemoryFactory) {
    let bench = Bench::new(factory).await;
    let session_id = SessionId(bench.ids.draw());
    let (mut session, mut persona, mut kind) =
        (bench.put("tea"), bench.put("tea"), bench.put("tea"));
    session.memory.session_id = Some(session_id);
    persona.memory.persona_id = Some("pirate".to_owned());
    "document".clone_into(&mut kind.memory.kind);
    bench.deliver(vec![session.clone(), persona.clone(), kind.clone()], 1).await;
    let queries = [
        (MemoryQuery { session_id: Some(session_id), ..query("tea") }, session),
        (MemoryQuery { persona_id: Some("pirate".to_owned()), ..query("tea") }, persona),
        (MemoryQuery { kind: Some("document".to_owned()), ..query("tea") }, kind),
    ];
    for (query, expected) in queries {
        let found = bench.recall(&TenantId::public(), &query).await;
        assert_eq!(ids(&found), [expected.memory.memory_id]);
    }
}

pub async fn tenants_recall_only_their_own(factory: &dyn MemoryFactory) {
    let bench = Bench::new(factory).await;
    let (mine, mut theirs) = (bench.put("mine: tea"), bench.put("theirs: tea"));
    theirs.memory.tenant = sample::tenant("other");
    bench.deliver(vec![mine.clone(), theirs.clone()], 1).await;
    for write in [mine, theirs] {
        let found = bench.recall(&write.memory.tenant, &query("tea")).await;
        assert_eq!(ids(&found), [write.memory.memory_id]);
    }
}

pub async fn the_newest_version_is_recalled(factory: &dyn MemoryFactory) {
    let bench = Bench::new(factory).await;
    let first = bench.put("drinks tea");
    let memory_id = first.memory.memory_id;
    let second = sample::put(memory_id, bench.event_id(), "drinks coffee");
    bench.deliver(vec![first, second], 1).await;
    let found = bench.recall(&TenantId::public(), &query("drinks")).await;
    assert_eq!(ids(&found), [memory_id]);
    assert_eq!((&*found[0].memory.content, found[0].memory.version), ("drinks coffee", 2));
}

pub async fn what_was_deleted_is_not_recalled(factory: &dyn MemoryFactory) {
    let bench = Bench::new(factory).await;
    let (kept, gone) = (bench.put("tea, kept"), bench.put("tea, gone"));
    bench.deliver(vec![kept.clone(), gone.clone()], 1).await;
    let delete = sample::delete(gone.memory.memory_id, bench.event_id());
    bench.deliver(vec![delete], 1).await;
    let found = bench.recall(&TenantId::public(), &query("tea")).await;
    assert_eq!(ids(&found), [kept.memory.memory_id]);
}

pub async fn a_memory_service_that_answers_pings(factory: &dyn MemoryFactory) {
    factory.fresh().await.service.ping().await.unwrap();
}
