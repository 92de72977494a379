//! No text is refused or changed, whatever is in it.

use soma_contract::{
    memory::MemoryQuery,
    message::NewMessage,
    port::store::{Memories, Transcript, Turns},
    testing::sample as shared,
    tool::Effect,
};

use super::{
    database::Database,
    sample::{call, entry, keyed, message, open, owner, session, tenant},
};

const ODD: &str = "a\0b \u{10FFFF} \\u0000 \\ \" \u{fffd} é";

#[tokio::test]
async fn texts_with_nul_and_the_escape_itself_come_back() {
    let database = Database::migrated().await;
    let store = open(database.options(true)).await;
    let session_id = session();
    let mut said = message(session_id, ODD);
    said.event.persona_id = Some(ODD.to_owned());
    let said = keyed(NewMessage { subject: ODD.to_owned(), ..said }, ODD);
    let first = store.accept(vec![said.clone()]).await.remove(0).unwrap();
    let again = store.accept(vec![said]).await.remove(0).unwrap();
    assert_eq!((again.event_id, again.replayed), (first.event_id, true));
    let stored = store.session(&tenant(), session_id).await.unwrap();
    assert_eq!((&*stored.subject, stored.persona_id.as_deref()), (ODD, Some(ODD)));
    let events = store.events(&tenant(), session_id, 0, 1).await.unwrap();
    assert_eq!(events[0].message, ODD);
    let turn = store.claim(&owner("one"), session_id).await.unwrap().unwrap();
    assert_eq!(turn.event.message, ODD);
    let mut step = call(&turn, 0, Effect::Pure);
    (step.name, step.call_id) = (ODD.to_owned(), ODD.to_owned());
    step.arguments = serde_json::json!({ ODD: [ODD] });
    store.journal(turn.turn.turn_id, turn.epoch, entry(vec![step.clone()])).await.unwrap();
    assert_eq!(store.steps(turn.turn.turn_id).await.unwrap(), [step]);
}

#[tokio::test]
async fn memories_are_found_by_words_in_any_spelling() {
    let database = Database::migrated().await;
    let store = open(database.options(true)).await;
    let texts = [ODD, "Crème brûlée, twice: crème", "a plain cream", &"long ".repeat(100_000)];
    let ids: Vec<_> = texts.iter().map(|_| uuid::Uuid::now_v7()).collect();
    for (id, text) in ids.iter().zip(texts) {
        let event = soma_contract::EventId(uuid::Uuid::now_v7());
        let write = shared::put(*id, event, text);
        let tenant = write.memory.tenant.clone();
        store.replicate(write, soma_contract::port::memory::Receipt::default()).await.unwrap();
        assert_eq!(store.memory(&tenant, *id).await.unwrap().content, text);
    }
    for (wanted, place) in [("CREME", 1), ("brûlée", 1), ("cream", 2), ("LONG", 3), ("é", 0)] {
        let query = MemoryQuery { text: wanted.to_owned(), limit: 10, ..MemoryQuery::default() };
        let found = store.search_memories(&tenant(), &query).await.unwrap();
        let found: Vec<_> = found.iter().map(|one| one.memory.memory_id).collect();
        assert_eq!(found, [ids[place]], "{wanted}");
    }
}
