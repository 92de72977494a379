//! Shards are spread over the replicas that live, and fenced when they pass.

use std::collections::BTreeSet;

use soma_contract::{
    port::store::{Outbox, Shards, Transcript},
    topic::Topic,
};
use sqlx::{Executor, query};

use super::{
    super::PostgresStore,
    database::Database,
    sample::{message, owner, replica, session},
};

const RELAY: &str = "outbox-sync";

/// Lets each of these replicas make passes until none of them changes anything.
async fn settled(replicas: &[(&PostgresStore, &str)]) -> Vec<Shards> {
    let mut before = Vec::new();
    loop {
        let mut held = Vec::new();
        for (store, name) in replicas {
            held.push(store.hold_shards(RELAY, &owner(name)).await.unwrap());
        }
        if held == before {
            return held;
        }
        before = held;
    }
}

/// Makes it as if a replica had not been heard of for as long as its lease.
async fn gone(database: &Database, name: &str) {
    let mut connection = database.connect().await;
    let sql = "UPDATE service_lease SET lease_until = 0 WHERE owner = $1";
    connection.execute(query(sql).bind(name)).await.unwrap();
    let up = "SELECT pg_sleep(greatest(0, 10.1 - \
              extract(epoch FROM clock_timestamp() - pg_postmaster_start_time())))::text";
    connection.execute(up).await.unwrap();
}

fn counts(held: &[Shards]) -> Vec<usize> {
    held.iter().map(|shards| shards.held.len()).collect()
}

fn every_shard_once(held: &[Shards]) -> bool {
    let all: Vec<u16> = held.iter().flat_map(|one| &one.held).map(|(shard, _)| *shard).collect();
    all.len() == 64 && all.iter().collect::<BTreeSet<_>>().len() == 64
}

#[tokio::test]
async fn shards_are_spread_evenly_and_taken_over_from_the_dead() {
    let database = Database::migrated().await;
    let (a, b, c) = (replica(&database).await, replica(&database).await, replica(&database).await);
    let alone = settled(&[(&a, "a")]).await;
    assert_eq!(counts(&alone), [64]);
    let three = settled(&[(&a, "a"), (&b, "b"), (&c, "c")]).await;
    assert_eq!(counts(&three), [22, 21, 21]);
    assert!(every_shard_once(&three));
    gone(&database, "a").await;
    let two = settled(&[(&b, "b"), (&c, "c")]).await;
    assert_eq!(counts(&two), [32, 32]);
    assert!(every_shard_once(&two));
    // It wakes, holds nothing, and gets a share that is new to it.
    let woken = settled(&[(&a, "a"), (&b, "b"), (&c, "c")]).await;
    assert_eq!(counts(&woken), [22, 21, 21]);
    for (shard, epoch) in &woken[0].held {
        assert!(three[0].held.iter().all(|(old, then)| old != shard || epoch > then));
    }
    // Who closes in order is missed at once.
    a.close().await;
    assert_eq!(counts(&settled(&[(&b, "b"), (&c, "c")]).await), [32, 32]);
}

#[tokio::test]
async fn two_services_do_not_share_their_shards() {
    let database = Database::migrated().await;
    let a = replica(&database).await;
    for service in [RELAY, "memory-sync"] {
        assert_eq!(a.hold_shards(service, &owner("a")).await.unwrap().held.len(), 64);
    }
}

#[tokio::test]
async fn a_relay_that_wakes_late_removes_and_buries_nothing() {
    let database = Database::migrated().await;
    let (late, next) = (replica(&database).await, replica(&database).await);
    let session_id = session();
    late.accept(vec![message(session_id, "hello")]).await.remove(0).unwrap();
    let held = settled(&[(&late, "late")]).await.remove(0);
    let rows = late.outbox(&held, 10).await.unwrap();
    assert_eq!(rows.len(), 2);
    gone(&database, "late").await;
    let taken = settled(&[(&next, "next")]).await.remove(0);
    assert_eq!(taken.held.len(), 64);
    let ids: Vec<i64> = rows.iter().map(|row| row.id).collect();
    assert_eq!(late.delivered(&held, &ids).await.unwrap(), 0);
    late.refused(&held, ids[0], "too large").await.unwrap();
    assert_eq!(next.outbox(&taken, 10).await.unwrap(), rows);
    assert_eq!(next.delivered(&taken, &ids).await.unwrap(), 2);
}

#[tokio::test]
async fn a_row_that_is_committed_after_a_later_one_is_sent() {
    let database = Database::migrated().await;
    let store = replica(&database).await;
    let shards = store.hold_shards(RELAY, &owner("a")).await.unwrap();
    // A transaction draws an id, another draws a higher one and commits first.
    let mut slow = database.connect().await;
    slow.execute("BEGIN").await.unwrap();
    let sql = "INSERT INTO message_outbox (topic, session_id, headers, payload, created_at) \
               VALUES ('tool.results', $1, '{}', '{}', 0)";
    slow.execute(query(sql).bind(session().0)).await.unwrap();
    store.accept(vec![message(session(), "hello")]).await.remove(0).unwrap();
    let early: Vec<i64> =
        store.outbox(&shards, 10).await.unwrap().iter().map(|row| row.id).collect();
    assert_eq!(store.delivered(&shards, &early).await.unwrap(), 2);
    slow.execute("COMMIT").await.unwrap();
    let late = store.outbox(&shards, 10).await.unwrap();
    assert_eq!(late.len(), 1);
    assert_eq!(late[0].topic, Topic::ToolResults);
    assert!(late[0].id < early[0]);
}
