//! Many clients and several replicas at the same few sessions.

use std::{collections::BTreeMap, sync::Arc};

use futures::future::join_all;
use soma_contract::{
    SessionId,
    message::{AcceptError, Accepted, NewMessage},
    port::store::{Transcript, Turns},
};
use sqlx::Executor;
use tokio::runtime::Handle;

use super::{
    super::PostgresStore,
    database::Database,
    sample::{done, keyed, message, owner, replica, session, tenant},
};

/// Accepts a message as a client does that tries again until it knows.
async fn told(store: &PostgresStore, message: &NewMessage) -> Accepted {
    loop {
        match store.accept(vec![message.clone()]).await.remove(0) {
            Ok(accepted) => return accepted,
            Err(AcceptError::Unavailable(_) | AcceptError::OutcomeUnknown(_)) => {}
            Err(other) => panic!("{other}"),
        }
    }
}

async fn numbers_are_gap_free(store: &PostgresStore, session_id: SessionId, messages: u64) {
    let stored = store.session(&tenant(), session_id).await.unwrap();
    assert_eq!(stored.last_n, messages);
    let limit = u32::try_from(stored.last_seq + 1).unwrap();
    let events = store.events(&tenant(), session_id, 0, limit).await.unwrap();
    let places: Vec<u64> = events.iter().filter_map(|event| event.seq).collect();
    assert_eq!(places, (1..=stored.last_seq).collect::<Vec<u64>>());
    let mut numbers: Vec<u64> = events
        .iter()
        .filter(|event| event.event_type == soma_contract::EventType::User)
        .filter_map(|event| event.n)
        .collect();
    numbers.sort_unstable();
    assert_eq!(numbers, (1..=messages).collect::<Vec<u64>>());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn accepts_of_many_clients_at_hot_sessions_do_not_deadlock_and_have_no_gaps() {
    const CLIENTS: usize = 32;
    const EACH: usize = 12;
    let database = Database::migrated().await;
    let stores = [Arc::new(replica(&database).await), Arc::new(replica(&database).await)];
    let sessions = [session(), session(), session()];
    let clients = (0..CLIENTS).map(|client| {
        let stores = stores.clone();
        Handle::current().spawn(async move {
            for at in 0..EACH {
                let session_id = sessions[(client + at) % sessions.len()];
                let store = &stores[(client + at / 2) % stores.len()];
                // Not even a lock time-out: nothing here waits for long.
                store.accept(vec![message(session_id, "hello")]).await.remove(0).unwrap();
                if at % 3 == 0
                    && let Some(turn) = store.claim(&owner("any"), session_id).await.unwrap()
                {
                    store.end(turn.turn.turn_id, turn.epoch, done(&turn)).await.unwrap();
                }
            }
        })
    });
    for client in join_all(clients).await {
        client.unwrap();
    }
    let each = u64::try_from(CLIENTS * EACH / sessions.len()).unwrap();
    for session_id in sessions {
        numbers_are_gap_free(&stores[0], session_id, each).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_key_and_the_same_event_at_two_replicas_are_one_message() {
    let database = Database::migrated().await;
    let (one, two) = (replica(&database).await, replica(&database).await);
    for round in 0..20 {
        let session_id = session();
        let same_event = message(session_id, "event");
        let key = format!("key-{round}");
        let (first, second) =
            (keyed(message(session_id, "key"), &key), keyed(message(session(), "key"), &key));
        let (a, b, c, d) = tokio::join!(
            told(&one, &same_event),
            told(&two, &same_event),
            told(&one, &first),
            told(&two, &second),
        );
        assert_eq!((a.event_id, a.n), (b.event_id, b.n));
        assert_ne!(a.replayed, b.replayed);
        assert_eq!((c.event_id, c.session_id, c.n), (d.event_id, d.session_id, d.n));
        assert_ne!(c.replayed, d.replayed);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_answered_survives_backends_that_are_killed_in_the_middle() {
    const CLIENTS: usize = 16;
    const EACH: usize = 10;
    let database = Database::migrated().await;
    let store = Arc::new(replica(&database).await);
    let session_id = session();
    let mut clients: Vec<_> = (0..CLIENTS)
        .map(|_| {
            let store = Arc::clone(&store);
            Handle::current().spawn(async move {
                let mut accepted = Vec::new();
                for _ in 0..EACH {
                    accepted.push(told(&store, &message(session_id, "hello")).await);
                }
                accepted
            })
        })
        .collect();
    let kill = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity \
                WHERE datname = current_database() AND pid <> pg_backend_pid()";
    let mut killer = database.connect().await;
    while clients.iter().any(|client| !client.is_finished()) {
        killer.execute(kill).await.unwrap();
        // Between two kills somebody gets through.
        let before = store.session(&tenant(), session_id).await.map_or(0, |one| one.last_n);
        while clients.iter().any(|client| !client.is_finished())
            && store.session(&tenant(), session_id).await.map_or(0, |one| one.last_n) <= before
        {
            tokio::task::yield_now().await;
        }
    }
    let mut places = BTreeMap::new();
    for client in clients.drain(..) {
        for accepted in client.await.unwrap() {
            assert!(places.insert(accepted.n, accepted.event_id).is_none());
        }
    }
    let messages = u64::try_from(CLIENTS * EACH).unwrap();
    assert_eq!(places.len(), CLIENTS * EACH);
    numbers_are_gap_free(&store, session_id, messages).await;
}

#[tokio::test]
async fn a_row_that_is_held_for_long_holds_up_only_who_wants_it() {
    let database = Database::migrated().await;
    let store = replica(&database).await;
    let (held, free) = (session(), session());
    for session_id in [held, free] {
        told(&store, &message(session_id, "first")).await;
    }
    let mut other = database.connect().await;
    other.execute("BEGIN").await.unwrap();
    let hold = "SELECT 1 FROM session_envelopes WHERE session_id = $1 FOR UPDATE";
    other.execute(sqlx::query(hold).bind(held.0)).await.unwrap();
    let batch = vec![message(free, "a"), message(held, "b"), message(free, "c")];
    let answers = store.accept(batch.clone()).await;
    assert_eq!(answers[0].as_ref().unwrap().n, 2);
    assert!(matches!(answers[1], Err(AcceptError::Unavailable(_))), "{:?}", answers[1]);
    assert_eq!(answers[2].as_ref().unwrap().n, 3);
    other.execute("ROLLBACK").await.unwrap();
    let again = store.accept(batch).await;
    let again: Vec<_> = again.into_iter().map(|one| one.unwrap()).collect();
    assert_eq!(again.iter().map(|one| one.n).collect::<Vec<_>>(), [2, 2, 3]);
    assert_eq!(again.iter().map(|one| one.replayed).collect::<Vec<_>>(), [true, false, true]);
}
