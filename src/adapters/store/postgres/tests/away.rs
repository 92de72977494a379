//! A database that is away is an error of the moment, and is found again by itself.

use soma_contract::{
    message::AcceptError,
    port::store::{Registry, StoreError, Transcript, Turns},
};

use super::{
    super::Options,
    database::{Database, host_and_port},
    proxy::Proxy,
    sample::{done, message, open, owner, session, tenant},
};

#[tokio::test]
async fn a_store_finds_its_database_again() {
    let database = Database::migrated().await;
    let mut proxy = Proxy::start(&host_and_port()).await;
    let dsn = database.dsn().replace(&host_and_port(), &proxy.address().to_string());
    let store = open(Options { dsn, ..database.options(false) }).await;
    let session_id = session();
    let said = message(session_id, "before");
    let accepted = store.accept(vec![said.clone()]).await.remove(0).unwrap();
    proxy.go().await;
    let away = store.accept(vec![message(session_id, "meanwhile")]).await.remove(0);
    assert!(matches!(away, Err(AcceptError::Unavailable(_))), "{away:?}");
    assert!(matches!(store.ping().await, Err(StoreError::Unavailable(_))));
    let claim = store.claim(&owner("one"), session_id).await;
    assert!(matches!(claim, Err(StoreError::Unavailable(_))), "{claim:?}");
    assert!(matches!(store.session(&tenant(), session_id).await, Err(StoreError::Unavailable(_))));
    proxy.come_back().await;
    store.ping().await.unwrap();
    let again = store.accept(vec![said]).await.remove(0).unwrap();
    assert_eq!((again.n, again.replayed), (accepted.n, true));
    let turn = store.claim(&owner("one"), session_id).await.unwrap().unwrap();
    store.end(turn.turn.turn_id, turn.epoch, done(&turn)).await.unwrap();
    assert_eq!(store.session(&tenant(), session_id).await.unwrap().last_n, 1);
}

#[tokio::test]
async fn a_commit_whose_answer_is_lost_is_an_unknown_outcome_and_safe_to_repeat() {
    let database = Database::migrated().await;
    let proxy = Proxy::start(&host_and_port()).await;
    let dsn = database.dsn().replace(&host_and_port(), &proxy.address().to_string());
    let store = open(Options { dsn, ..database.options(false) }).await;
    let session_id = session();
    let said = message(session_id, "once");
    proxy.lose_the_answer_to_the_next_commit();
    let lost = store.accept(vec![said.clone()]).await.remove(0);
    assert!(matches!(lost, Err(AcceptError::OutcomeUnknown(_))), "{lost:?}");
    // The server may still be at it; then the repetition waits for it, and answers what it stored.
    let again = store.accept(vec![said]).await.remove(0).unwrap();
    assert_eq!(again.n, 1);
    assert_eq!(store.session(&tenant(), session_id).await.unwrap().last_n, 1);
    let turn = store.claim(&owner("one"), session_id).await.unwrap().unwrap();
    proxy.lose_the_answer_to_the_next_commit();
    let lost = store.end(turn.turn.turn_id, turn.epoch, done(&turn)).await;
    assert!(matches!(lost, Err(StoreError::OutcomeUnknown(_))), "{lost:?}");
    let repeated = store.end(turn.turn.turn_id, turn.epoch, done(&turn)).await.unwrap();
    assert_eq!(repeated.seq, 2);
}
