//! Turns and steps pass from a replica that is gone to one that lives, and fence the one that comes
//! back.

use std::time::Duration;

use soma_contract::{
    EventType, SessionId,
    port::store::{ClaimedTurn, Inherited, Steps, StoreError, Transcript, Turns},
    tool::Effect,
    turn::{StepStatus, TurnStatus},
};
use sqlx::{Executor, PgConnection, query_scalar};

use super::{
    super::PostgresStore,
    database::Database,
    sample::{call, done, entry, message, open, outcome, owner, replica, session, tenant},
};

/// Lets every lease of turns and steps run out, as if their holders had not been heard of.
async fn run_out(database: &Database) {
    let mut connection = database.connect().await;
    for table in ["turn", "turn_step"] {
        let sql = format!("UPDATE {table} SET lease_until = 0 WHERE lease_until IS NOT NULL");
        connection.execute(sqlx::AssertSqlSafe(sql)).await.unwrap();
    }
    up_for_a_lease(&mut connection).await;
}

/// Waits until the server has been up for longer than the leases of these tests.
async fn up_for_a_lease(connection: &mut PgConnection) {
    let sql = "SELECT pg_sleep(greatest(0, 60.1 - \
               extract(epoch FROM clock_timestamp() - pg_postmaster_start_time())))::text";
    query_scalar::<_, String>(sql).fetch_one(connection).await.unwrap();
}

async fn claimed(store: &PostgresStore, name: &str, session_id: SessionId) -> ClaimedTurn {
    store.claim(&owner(name), session_id).await.unwrap().unwrap()
}

async fn said(store: &PostgresStore, session_id: SessionId, text: &str) {
    store.accept(vec![message(session_id, text)]).await.remove(0).unwrap();
}

#[tokio::test]
async fn a_turn_under_a_live_lease_is_nobody_elses() {
    let database = Database::migrated().await;
    let (one, two) = (replica(&database).await, replica(&database).await);
    let session_id = session();
    said(&one, session_id, "hello").await;
    claimed(&one, "one", session_id).await;
    assert_eq!(two.claim(&owner("two"), session_id).await.unwrap(), None);
    assert_eq!(two.claimable(Duration::ZERO, 10).await.unwrap(), []);
    // A replica that starts takes nothing over, nor does one that lays its own orphans down.
    assert_eq!(two.inherit(&owner("two")).await.unwrap(), Inherited::default());
    assert_eq!(two.lay_down_orphans(&owner("two"), &[]).await.unwrap(), []);
    assert_eq!(two.claim(&owner("two"), session_id).await.unwrap(), None);
}

#[tokio::test]
async fn a_turn_whose_lease_has_run_out_is_taken_over_and_its_owner_fenced() {
    let database = Database::migrated().await;
    let (one, two) = (replica(&database).await, replica(&database).await);
    let session_id = session();
    said(&one, session_id, "hello").await;
    let lost = claimed(&one, "one", session_id).await;
    let turn_id = lost.turn.turn_id;
    run_out(&database).await;
    assert_eq!(two.claimable(Duration::from_hours(1), 10).await.unwrap(), [session_id]);
    let taken = claimed(&two, "two", session_id).await;
    assert_eq!(taken.turn.turn_id, turn_id);
    assert_eq!(taken.turn.tries.attempts, 2);
    assert!(taken.epoch > lost.epoch);
    // The former owner wakes.
    assert_eq!(one.beat(turn_id, lost.epoch).await, Err(StoreError::Fenced));
    let calls = entry(vec![call(&lost, 0, Effect::Pure)]);
    assert_eq!(one.journal(turn_id, lost.epoch, calls).await, Err(StoreError::Fenced));
    assert_eq!(one.end(turn_id, lost.epoch, done(&lost)).await, Err(StoreError::Fenced));
    assert_eq!(one.lay_down_orphans(&owner("one"), &[]).await.unwrap(), []);
    assert!(!two.beat(turn_id, taken.epoch).await.unwrap().cancel_requested);
    two.end(turn_id, taken.epoch, done(&taken)).await.unwrap();
    let events = one.events(&tenant(), session_id, 0, 10).await.unwrap();
    let types: Vec<_> = events.iter().map(|event| event.event_type).collect();
    assert_eq!(types, [EventType::User, EventType::Final]);
}

#[tokio::test]
async fn an_owner_that_nobody_has_replaced_goes_on() {
    let database = Database::migrated().await;
    let one = replica(&database).await;
    let session_id = session();
    said(&one, session_id, "hello").await;
    let held = claimed(&one, "one", session_id).await;
    run_out(&database).await;
    one.beat(held.turn.turn_id, held.epoch).await.unwrap();
    let two = replica(&database).await;
    assert_eq!(two.claim(&owner("two"), session_id).await.unwrap(), None);
    one.end(held.turn.turn_id, held.epoch, done(&held)).await.unwrap();
}

#[tokio::test]
async fn turns_that_lost_their_owners_run_one_at_a_time_over_all_replicas() {
    let database = Database::migrated().await;
    let (one, two) = (replica(&database).await, replica(&database).await);
    let sessions = [session(), session(), session()];
    for session_id in sessions {
        said(&one, session_id, "hello").await;
        claimed(&one, "one", session_id).await;
    }
    run_out(&database).await;
    let mut taken = Vec::new();
    for (store, name) in [(&one, "three"), (&two, "two")] {
        for session_id in sessions {
            taken.extend(store.claim(&owner(name), session_id).await.unwrap());
        }
    }
    assert_eq!(taken.len(), 1);
    let suspect = taken.remove(0);
    let ended = one.end(suspect.turn.turn_id, suspect.epoch, done(&suspect)).await;
    ended.unwrap();
    let waiting = two.claimable(Duration::ZERO, 10).await.unwrap();
    assert_eq!(waiting.len(), 2);
    claimed(&two, "two", waiting[0]).await;
    assert_eq!(one.claim(&owner("three"), waiting[1]).await.unwrap(), None);
}

#[tokio::test]
async fn a_steps_lease_runs_out_by_itself_and_each_effect_has_its_fate() {
    let database = Database::migrated().await;
    let (one, two) = (replica(&database).await, replica(&database).await);
    let session_id = session();
    said(&one, session_id, "hello").await;
    let turn = claimed(&one, "one", session_id).await;
    let calls = vec![call(&turn, 0, Effect::Pure), call(&turn, 1, Effect::Once)];
    one.journal(turn.turn.turn_id, turn.epoch, entry(calls)).await.unwrap();
    let lost = one.claim_steps(&owner("executor"), 10).await.unwrap();
    assert_eq!(lost.len(), 2);
    assert_eq!(two.claim_steps(&owner("two"), 10).await.unwrap(), []);
    run_out(&database).await;
    // The turn's own owner is well.
    one.beat(turn.turn.turn_id, turn.epoch).await.unwrap();
    let again = two.claim_steps(&owner("two"), 10).await.unwrap();
    assert_eq!(again.len(), 1);
    assert_eq!(again[0].step.effect_id, lost[0].step.effect_id);
    assert_eq!(again[0].seq, lost[0].seq);
    for step in &lost {
        let (effect_id, epoch) = (step.step.effect_id, step.step.epoch);
        assert_eq!(one.beat_step(effect_id, epoch).await, Err(StoreError::Fenced));
        let settled = one.settle(effect_id, epoch, outcome(), Vec::new()).await;
        assert_eq!(settled, Err(StoreError::Fenced));
    }
    let step = &again[0].step;
    two.settle(step.effect_id, step.epoch, outcome(), Vec::new()).await.unwrap();
    let steps = one.steps(turn.turn.turn_id).await.unwrap();
    let statuses: Vec<_> = steps.iter().map(|step| step.status).collect();
    assert_eq!(statuses, [StepStatus::Done, StepStatus::Unknown]);
}

#[tokio::test]
async fn what_a_lone_owner_left_is_taken_over_by_the_first_replica() {
    let database = Database::migrated().await;
    let alone = open(database.options(true)).await;
    let session_id = session();
    said(&alone, session_id, "hello").await;
    let left = claimed(&alone, "alone", session_id).await;
    alone.close().await;
    let one = replica(&database).await;
    assert_eq!(one.claim(&owner("one"), session_id).await.unwrap(), None);
    assert_eq!(one.inherit(&owner("one")).await.unwrap().turns, 1);
    let taken = claimed(&one, "one", session_id).await;
    assert_eq!((taken.turn.status, taken.turn.tries.attempts), (TurnStatus::Running, 2));
    assert!(taken.epoch > left.epoch);
}
