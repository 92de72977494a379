//! Tenants are apart.

use chrono::DateTime;
use uuid::Uuid;

use super::{StoreFactory, bench::Bench, registry::key};
use crate::{
    ids::TenantId,
    memory::MemoryQuery,
    persona::Persona,
    port::store::{Attachment, CancelScope, DeadLetter, StoreError},
    testing::sample,
};

/// A row of each kind, all of tenant `public`.
struct Rows {
    failed: crate::port::store::ClaimedTurn,
    letter: DeadLetter,
    memory_id: Uuid,
    upload: Uuid,
}

impl Bench<'_> {
    async fn rows_of_public(&self) -> Rows {
        let public = TenantId::public();
        let failed = self.running().await;
        let letter = self.fail(&failed, "boom").await;
        let memory_id = self.id();
        self.remember(vec![sample::put(memory_id, self.event_id(), "tea")]).await;
        let pending = sample::put(self.id(), self.event_id(), "tea");
        self.store.write_memories(vec![pending]).await.unwrap();
        self.store.add_key(key("1", &public, 0)).await.unwrap();
        self.store.put_persona(&public, Persona::built_in()).await.unwrap();
        let upload = self.id();
        let attachment = Attachment {
            id: upload,
            tenant: public,
            session_id: None,
            filename: "a.txt".to_owned(),
            mime: "text/plain".to_owned(),
            size: 1,
            sha256: "00".to_owned(),
            created_at: DateTime::UNIX_EPOCH,
        };
        self.store.add_attachment(attachment, vec![1]).await.unwrap();
        Rows { failed, letter, memory_id, upload }
    }
}

/// What a tenant sees of some rows: by the name of the method, whether it sees them.
async fn sight(bench: &Bench<'_>, tenant: &TenantId, rows: &Rows) -> Vec<(&'static str, bool)> {
    let store = &bench.store;
    let turn = &rows.failed.turn;
    let query = MemoryQuery { text: "tea".to_owned(), limit: 9, ..MemoryQuery::default() };
    let found = |ok: bool, error: Option<StoreError>| {
        assert!(ok || error == Some(StoreError::NotFound), "{error:?}");
        ok
    };
    let session = store.session(tenant, turn.session_id).await;
    let events = store.events(tenant, turn.session_id, 0, 9).await;
    let message = store.message(tenant, turn.event_id).await;
    let memory = store.memory(tenant, rows.memory_id).await;
    let letter = store.dead_letter(Some(tenant), rows.letter.id).await;
    let persona = store.persona(tenant, Persona::DEFAULT).await;
    let upload = store.attachment(tenant, rows.upload).await;
    vec![
        ("session", found(session.is_ok(), session.err())),
        ("events", found(events.is_ok(), events.err())),
        ("message", found(message.is_ok(), message.err())),
        ("memory", found(memory.is_ok(), memory.err())),
        ("dead_letter", found(letter.is_ok(), letter.err())),
        ("persona", found(persona.is_ok(), persona.err())),
        ("attachment", found(upload.is_ok(), upload.err())),
        ("sessions", !store.sessions(tenant, None, 9).await.unwrap().items.is_empty()),
        ("search_memories", !store.search_memories(tenant, &query).await.unwrap().is_empty()),
        ("search_pending", !store.search_pending(tenant, &query).await.unwrap().is_empty()),
        ("export", !store.export_memories(tenant, None, 9).await.unwrap().items.is_empty()),
        ("letters", !store.dead_letters(Some(tenant), None, 9).await.unwrap().items.is_empty()),
        ("keys", !store.keys(Some(tenant)).await.unwrap().is_empty()),
        ("personas", !store.personas(tenant).await.unwrap().is_empty()),
        ("tokens_today", store.tokens_today(tenant).await.unwrap() > 0),
    ]
}

pub async fn tenants_never_see_each_others_rows(factory: &dyn StoreFactory) {
    let bench = Bench::new(factory).await;
    let rows = bench.rows_of_public().await;
    for (method, sees) in sight(&bench, &TenantId::public(), &rows).await {
        assert!(sees, "{method} hides a row from its owner");
    }
    for (method, sees) in sight(&bench, &sample::tenant("other"), &rows).await {
        assert!(!sees, "{method} shows a row to a stranger");
    }
}

pub async fn tenants_never_change_each_others_rows(factory: &dyn StoreFactory) {
    let bench = Bench::new(factory).await;
    let rows = bench.rows_of_public().await;
    let store = &bench.store;
    let other = sample::tenant("other");
    let session_id = rows.failed.turn.session_id;
    let gone = StoreError::NotFound;
    let deleted = store.delete_session(&other, session_id, true).await;
    assert_eq!(deleted, Err(gone.clone()));
    let cancelled = store.cancel(&other, session_id, CancelScope::All).await;
    assert_eq!(cancelled, Err(gone.clone()));
    assert_eq!(store.replay(Some(&other), rows.letter.id).await, Err(gone.clone()));
    assert_eq!(store.drop_dead_letter(Some(&other), rows.letter.id).await, Err(gone.clone()));
    assert_eq!(store.revoke_key(Some(&other), "1").await, Err(gone));
    let mine = Persona { prompt: "mine".to_owned(), ..Persona::built_in() };
    store.put_persona(&other, mine).await.unwrap();
    let theirs = vec![delete_as(&other, &bench, rows.memory_id)];
    store.write_memories(theirs).await.unwrap();
    for (method, sees) in sight(&bench, &TenantId::public(), &rows).await {
        assert!(sees, "{method} has lost a row to a stranger");
    }
    let persona = store.persona(&TenantId::public(), Persona::DEFAULT).await.unwrap();
    assert_eq!(persona, Persona::built_in());
    assert!(!store.key("1").await.unwrap().key.revoked);
}

fn delete_as(tenant: &TenantId, bench: &Bench<'_>, memory_id: Uuid) -> crate::memory::MemoryWrite {
    let mut write = sample::delete(memory_id, bench.event_id());
    write.memory.tenant = tenant.clone();
    write
}

pub async fn a_memory_id_of_another_tenant_is_a_new_memory(factory: &dyn StoreFactory) {
    let bench = Bench::new(factory).await;
    let other = sample::tenant("other");
    let memory_id = bench.id();
    bench.remember(vec![sample::put(memory_id, bench.event_id(), "mine")]).await;
    let mut theirs = sample::put(memory_id, bench.event_id(), "theirs");
    theirs.memory.tenant = other.clone();
    assert_eq!(bench.store.write_memories(vec![theirs]).await.unwrap(), [1]);
    for delivered in [false, true] {
        if delivered {
            bench.remember(Vec::new()).await;
        }
        for (tenant, content) in [(&TenantId::public(), "mine"), (&other, "theirs")] {
            let memory = bench.store.memory(tenant, memory_id).await.unwrap();
            assert_eq!((&*memory.content, &memory.tenant), (content, tenant));
        }
    }
}
