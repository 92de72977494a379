//! A session of the embedded store goes on in PostgreSQL where it was.

use std::{path::Path, sync::Arc};

use soma_contract::{
    EventType,
    ids::SystemClock,
    memory::MemoryQuery,
    port::store::{Attachment, Memories, Registry, Steps, Store, Transcript, Turns},
    testing::sample as shared,
    tool::Effect,
    turn::StepStatus,
};
use sqlx::Executor;
use tempfile::TempDir;
use tokio::runtime::Handle;

use super::{
    super::{
        postgres::{
            PostgresStore,
            tests::{
                database::Database,
                sample::{
                    call, done, entry, keyed, message, open, outcome, owner, session, tenant,
                },
            },
        },
        sqlite::{self, SqliteStore},
    },
    *,
};

async fn embedded(dir: &Path) -> SqliteStore {
    let options = sqlite::Options::default();
    SqliteStore::open(dir, options, &Handle::current(), Arc::new(SystemClock)).await.unwrap()
}

async fn promoted(dir: &Path, database: &Database) -> Result<Vec<Progress>, PromoteError> {
    let mut promotion = Promotion::begin(dir, &database.dsn(), &Handle::current()).await?;
    while promotion.step().await?.is_some() {}
    promotion.compare().await
}

#[tokio::test]
async fn a_session_goes_on_where_it_was() {
    let (dir, database) = (TempDir::new().unwrap(), Database::empty().await);
    let old = embedded(dir.path()).await;
    let session_id = session();
    let first = keyed(message(session_id, "odd: a\0b \u{10FFFF} é"), "key");
    old.accept(vec![first.clone(), message(session_id, "second")]).await;
    let held = old.claim(&owner("old"), session_id).await.unwrap().unwrap();
    let calls = vec![call(&held, 0, Effect::Pure), call(&held, 1, Effect::Once)];
    old.journal(held.turn.turn_id, held.epoch, entry(calls)).await.unwrap();
    let steps = old.claim_steps(&owner("old"), 1).await.unwrap();
    old.settle(steps[0].step.effect_id, steps[0].step.epoch, outcome(), Vec::new()).await.unwrap();
    old.claim_steps(&owner("old"), 1).await.unwrap();
    let memory = uuid::Uuid::now_v7();
    let event = soma_contract::EventId(uuid::Uuid::now_v7());
    let write = shared::put(memory, event, "Crème brûlée");
    let tenant_of_memory = write.memory.tenant.clone();
    old.replicate(write, soma_contract::port::memory::Receipt::default()).await.unwrap();
    let upload = Attachment {
        id: uuid::Uuid::now_v7(),
        tenant: tenant(),
        session_id: Some(session_id),
        filename: "a.bin".to_owned(),
        mime: "application/octet-stream".to_owned(),
        size: 4,
        sha256: "00".to_owned(),
        created_at: chrono::DateTime::UNIX_EPOCH,
    };
    old.add_attachment(upload.clone(), vec![0, 255, 1, 0]).await.unwrap();
    let events = old.events(&tenant(), session_id, 0, 100).await.unwrap();
    old.close().await;

    let same = promoted(dir.path(), &database).await.unwrap();
    let rows = |table| same.iter().find(|one| one.table == table).unwrap().rows;
    assert_eq!((rows("turn"), rows("turn_step"), rows("attachments")), (2, 2, 1));
    assert!(matches!(promoted(dir.path(), &database).await, Err(PromoteError::Done)));

    let new: PostgresStore = open(database.options(false)).await;
    assert_eq!(new.events(&tenant(), session_id, 0, 100).await.unwrap(), events);
    let inherited = new.inherit(&owner("new")).await.unwrap();
    assert_eq!((inherited.turns, inherited.steps_unknown), (1, 1));
    let again = new.accept(vec![first, message(session_id, "third")]).await;
    let numbers: Vec<_> =
        again.into_iter().map(|one| one.unwrap()).map(|one| (one.n, one.replayed)).collect();
    assert_eq!(numbers, [(1, true), (3, false)]);
    let goes_on = new.claim(&owner("new"), session_id).await.unwrap().unwrap();
    assert_eq!(goes_on.turn.turn_id, held.turn.turn_id);
    let statuses: Vec<_> = goes_on.journal.iter().map(|step| step.status).collect();
    assert_eq!(statuses, [StepStatus::Done, StepStatus::Unknown]);
    new.end(goes_on.turn.turn_id, goes_on.epoch, done(&goes_on)).await.unwrap();
    let last = new.events(&tenant(), session_id, 0, 100).await.unwrap().pop().unwrap();
    assert_eq!(last.event_type, EventType::Final);
    let query = MemoryQuery { text: "creme".to_owned(), limit: 5, ..MemoryQuery::default() };
    let found = new.search_memories(&tenant_of_memory, &query).await.unwrap();
    assert_eq!(found[0].memory.memory_id, memory);
    let (kept, content) = new.attachment(&tenant(), upload.id).await.unwrap();
    assert_eq!((kept, content), (upload, vec![0, 255, 1, 0]));
}

#[tokio::test]
async fn a_promotion_that_broke_off_goes_on() {
    let (dir, database) = (TempDir::new().unwrap(), Database::empty().await);
    let old = embedded(dir.path()).await;
    for _ in 0..3 {
        let batch = (0..400).map(|_| message(session(), "hello")).collect();
        assert!(old.accept(batch).await.iter().all(Result::is_ok));
    }
    old.close().await;
    let mut seen = Vec::new();
    loop {
        let mut promotion =
            Promotion::begin(dir.path(), &database.dsn(), &Handle::current()).await.unwrap();
        let Some(progress) = promotion.step().await.unwrap() else { break };
        seen.push(progress);
        if seen.len() == 4 {
            // From here on without a break.
            while promotion.step().await.unwrap().is_some() {}
            promotion.compare().await.unwrap();
            break;
        }
    }
    let rows: Vec<_> = seen.iter().map(|one| (one.table, one.rows)).collect();
    let first = "session_envelopes";
    assert_eq!(rows, [(first, 500), (first, 1000), (first, 1200), (first, 1200)]);
}

#[tokio::test]
async fn what_is_not_empty_or_has_changed_is_refused() {
    let (dir, database) = (TempDir::new().unwrap(), Database::migrated().await);
    let old = embedded(dir.path()).await;
    old.accept(vec![message(session(), "hello")]).await.remove(0).unwrap();
    let store: &dyn Store = &old;
    assert!(store.ping().await.is_ok());
    let in_use = promoted(dir.path(), &database).await;
    assert!(matches!(in_use, Err(PromoteError::Source(_))), "{in_use:?}");
    old.close().await;

    let used = open(database.options(false)).await;
    let in_use = promoted(dir.path(), &database).await;
    assert!(matches!(in_use, Err(PromoteError::Target(_))), "{in_use:?}");
    used.accept(vec![message(session(), "other")]).await.remove(0).unwrap();
    used.close().await;
    let used = promoted(dir.path(), &database).await;
    assert!(matches!(used, Err(PromoteError::NotEmpty("session_envelopes"))), "{used:?}");

    let database = Database::migrated().await;
    let mut promotion =
        Promotion::begin(dir.path(), &database.dsn(), &Handle::current()).await.unwrap();
    while promotion.step().await.unwrap().is_some() {}
    let mut connection = database.connect().await;
    connection.execute("UPDATE turn SET attempts = 7").await.unwrap();
    let differs = promotion.compare().await;
    assert!(matches!(differs, Err(PromoteError::Differs { table: "turn", .. })), "{differs:?}");
    drop(promotion);
    let missing = promoted(&dir.path().join("no"), &database).await;
    assert!(matches!(missing, Err(PromoteError::Source(_))), "{missing:?}");
    assert!(!dir.path().join("no").exists());
}
