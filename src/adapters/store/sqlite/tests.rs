//! What only this adapter promises: one owner, one file, one writer; the rest is the port's suite.

use std::sync::Arc;

use soma_contract::{
    EffectId, Event, EventId, EventType, Ids, Role, SessionId, TenantId,
    ids::{Owner, RandomIds, SystemClock},
    message::{AcceptError, Idempotency, NewMessage},
    model::Usage,
    port::store::{
        CancelOutcome, CancelScope, ClaimedTurn, Ending, JournalEntry, LayDown, NewDeadLetter,
        Outbox, Registry, Replayed, Steps, StoreError, Transcript, Turns,
    },
    tool::{Effect, ToolOutcome, ToolStatus},
    topic::Group,
    turn::{Step, StepKind, StepStatus, TurnKind, TurnStatus},
};
use tempfile::TempDir;

use super::*;

fn owner() -> Owner {
    Owner("me".to_owned())
}

fn acme() -> TenantId {
    TenantId("acme".to_owned())
}

async fn open(dir: &TempDir) -> SqliteStore {
    try_open(dir).await.unwrap()
}

async fn try_open(dir: &TempDir) -> Result<SqliteStore, OpenError> {
    SqliteStore::open(dir.path(), Options::default(), &Handle::current(), Arc::new(SystemClock))
        .await
}

fn message(session: SessionId, text: &str) -> NewMessage {
    let id = EventId(RandomIds.draw());
    let mut event = Event::new(id, session, Role::User, EventType::User);
    event.message = text.to_owned();
    NewMessage {
        tenant: acme(),
        subject: "ann".to_owned(),
        kind: TurnKind::Message,
        event,
        idempotency: None,
    }
}

fn keyed(message: NewMessage, key: &str, hash: &str) -> NewMessage {
    let idempotency = Idempotency {
        route: "/v1/session/message".to_owned(),
        key: key.to_owned(),
        body_hash: hash.to_owned(),
    };
    NewMessage { idempotency: Some(idempotency), ..message }
}

fn session() -> SessionId {
    SessionId(RandomIds.draw())
}

fn ending(claimed: &ClaimedTurn, status: TurnStatus) -> Ending {
    let event_type = match status {
        TurnStatus::Done => EventType::Final,
        TurnStatus::Failed => EventType::Error,
        _ => EventType::Cancelled,
    };
    let turn = &claimed.turn;
    let event = Event::new(
        EventId::terminal(turn.turn_id, turn.replay),
        turn.session_id,
        Role::Assistant,
        event_type,
    );
    let dead_letter = (status == TurnStatus::Failed).then(|| NewDeadLetter {
        tenant: Some(turn.tenant.clone()),
        topic: "conversation.inbound".to_owned(),
        turn_id: Some(turn.turn_id),
        event_id: Some(turn.event_id),
        event: serde_json::json!({ "message": "x" }),
        error: "broken".to_owned(),
        attempts: 5,
        trace: turn.trace.clone(),
    });
    Ending {
        status,
        event,
        reason: Some("because".to_owned()),
        memory: Vec::new(),
        usage: Usage { input_tokens: 3, output_tokens: 4 },
        dead_letter,
    }
}

fn call(claimed: &ClaimedTurn, index: u32, effect: Effect) -> Step {
    let turn = &claimed.turn;
    Step {
        effect_id: EffectId::of(turn.turn_id, 1, index),
        turn_id: turn.turn_id,
        session_id: turn.session_id,
        tenant: turn.tenant.clone(),
        step: 1,
        index,
        kind: StepKind::Tool,
        status: StepStatus::Requested,
        effect,
        name: "echo".to_owned(),
        call_id: format!("call-{index}"),
        input_hash: "00".to_owned(),
        arguments: serde_json::json!({ "text": "hé" }),
        result: serde_json::Value::Null,
        epoch: 0,
        trace: turn.trace.clone(),
    }
}

fn entry(calls: Vec<Step>) -> JournalEntry {
    JournalEntry { answer: None, calls, worked_ms: 7 }
}

fn outcome() -> ToolOutcome {
    ToolOutcome { status: ToolStatus::Success, output: "done".into(), execution_ms: 1 }
}

#[tokio::test]
async fn what_was_answered_is_there_after_reopening() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir).await;
    let id = session();
    let first = store.accept(vec![keyed(message(id, "héllo \u{0}"), "k", "h")]).await;
    let first = first.into_iter().next().unwrap().unwrap();
    assert_eq!((first.n, first.seq, first.replayed), (1, 1, false));
    let claimed = store.claim(&owner(), id).await.unwrap().unwrap();
    store.journal(claimed.turn.turn_id, claimed.epoch, entry(vec![])).await.unwrap();
    // Not closed: the process is gone, its lock with it.
    store.lock.release();
    let store = open(&dir).await;
    let again = store.accept(vec![keyed(message(id, "héllo \u{0}"), "k", "h")]).await;
    let again = again.into_iter().next().unwrap().unwrap();
    assert!(again.replayed);
    assert_eq!((again.event_id, again.n, again.turn_id), (first.event_id, 1, first.turn_id));
    assert_eq!(store.claim(&owner(), id).await.unwrap(), None, "still another's");
    let inherited = store.inherit(&owner()).await.unwrap();
    assert_eq!(inherited.turns, 1);
    let claimed = store.claim(&owner(), id).await.unwrap().unwrap();
    assert_eq!(claimed.event.message, "héllo \u{0}");
    assert_eq!(claimed.turn.tries.deaths, 0);
    assert_eq!(claimed.turn.worked_ms, 7);
    store.close().await;
}

#[tokio::test]
async fn a_second_process_is_told_who_has_the_directory() {
    let dir = tempfile::tempdir().unwrap();
    let _store = open(&dir).await;
    let error = try_open(&dir).await.unwrap_err();
    assert!(matches!(error, OpenError::Lock(LockError::Held { .. })), "{error}");
    assert!(error.to_string().contains(&std::process::id().to_string()), "{error}");
}

#[tokio::test]
async fn a_schema_from_the_future_is_refused_and_one_from_the_past_only_without_permission() {
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(SqliteStore::inspect(dir.path()).await.unwrap(), Inspection::Missing);
    let strict = Options { migrate: false, ..Options::default() };
    let io = Handle::current();
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let error = SqliteStore::open(dir.path(), strict, &io, Arc::clone(&clock)).await.unwrap_err();
    assert!(matches!(error, OpenError::Schema(SchemaError::TooOld { found: 0, .. })), "{error}");
    open(&dir).await.close().await;
    let found = SqliteStore::inspect(dir.path()).await.unwrap();
    assert_eq!(found, Inspection::Found { version: newest_schema(), pending: vec![] });
    let mut connection = write_options(&dir.path().join(FILE)).connect().await.unwrap();
    sqlx::query("UPDATE _sqlx_migrations SET version = 999999")
        .execute(&mut connection)
        .await
        .unwrap();
    let error = try_open(&dir).await.unwrap_err();
    assert!(
        matches!(error, OpenError::Schema(SchemaError::TooNew { found: 999_999, .. })),
        "{error}"
    );
    assert!(SqliteStore::inspect(dir.path()).await.is_err());
}

#[tokio::test]
async fn the_migrations_can_be_taken_back() {
    let dir = tempfile::tempdir().unwrap();
    let mut connection = write_options(&dir.path().join(FILE)).connect().await.unwrap();
    schema::MIGRATIONS.run(&mut connection).await.unwrap();
    schema::MIGRATIONS.undo(&mut connection, 0).await.unwrap();
    let left: i64 = sqlx::query_scalar(
        "SELECT count(*) FROM sqlite_schema WHERE name NOT LIKE '%sqlx%' AND name NOT LIKE 'sqlite%'",
    )
    .fetch_one(&mut connection)
    .await
    .unwrap();
    assert_eq!(left, 0);
    schema::MIGRATIONS.run(&mut connection).await.unwrap();
}

#[tokio::test]
async fn each_item_of_a_batch_gets_its_own_answer() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir).await;
    let (mine, gone) = (session(), session());
    store.accept(vec![message(mine, "0"), message(gone, "0")]).await;
    store.delete_session(&acme(), gone, false).await.unwrap();
    let twice = message(mine, "same id");
    let foreign = NewMessage { tenant: TenantId("other".to_owned()), ..message(mine, "no") };
    let batch = vec![
        keyed(message(mine, "1"), "a", "x"),
        message(gone, "no"),
        keyed(message(mine, "1"), "a", "x"),
        foreign,
        keyed(message(mine, "?"), "a", "y"),
        twice.clone(),
        twice,
        message(mine, "2"),
    ];
    let answers = store.accept(batch).await;
    let numbers: Vec<_> = answers
        .iter()
        .map(|answer| answer.as_ref().map(|accepted| (accepted.n, accepted.replayed)))
        .collect();
    assert_eq!(numbers[0], Ok((2, false)));
    assert_eq!(numbers[1], Err(&AcceptError::SessionDeleted(gone)));
    assert_eq!(numbers[2], Ok((2, true)));
    assert_eq!(numbers[3], Err(&AcceptError::ForeignSession(mine)));
    assert_eq!(numbers[4], Err(&AcceptError::KeyReused("a".to_owned())));
    assert_eq!(numbers[5], Ok((3, false)));
    assert_eq!(numbers[6], Ok((3, true)));
    assert_eq!(numbers[7], Ok((4, false)));
    let events = store.events(&acme(), mine, 0, 100).await.unwrap();
    let places: Vec<_> = events.iter().map(|event| (event.n, event.seq)).collect();
    assert_eq!(places, (1..=4).map(|n| (Some(n), Some(n))).collect::<Vec<_>>());
}

#[tokio::test]
async fn data_that_the_database_refuses_fails_alone() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir).await;
    let mut connection = write_options(&dir.path().join(FILE)).connect().await.unwrap();
    let trigger = "CREATE TRIGGER picky BEFORE INSERT ON session_events
                   WHEN new.payload LIKE '%poison%' BEGIN SELECT raise(ABORT, 'no poison'); END";
    sqlx::query(trigger).execute(&mut connection).await.unwrap();
    let id = session();
    let batch = vec![message(id, "1"), message(id, "poison"), message(id, "2")];
    let answers = store.accept(batch).await;
    assert_eq!(answers[0].as_ref().unwrap().n, 1);
    assert!(matches!(answers[1], Err(AcceptError::Refused(_))), "{:?}", answers[1]);
    assert_eq!(answers[2].as_ref().unwrap().n, 2, "no gap where the refused one was");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn parallel_accepts_number_without_gaps() {
    let dir = tempfile::tempdir().unwrap();
    let store = Arc::new(open(&dir).await);
    let sessions: Vec<SessionId> = (0..5).map(|_| session()).collect();
    let tasks: Vec<_> = (0..40)
        .map(|task| {
            let (store, sessions) = (Arc::clone(&store), sessions.clone());
            Handle::current().spawn(async move {
                for round in 0..10 {
                    let id = sessions[(task + round) % sessions.len()];
                    store.accept(vec![message(id, "x")]).await.pop().unwrap().unwrap();
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    for id in sessions {
        let events = store.events(&acme(), id, 0, 1_000).await.unwrap();
        let numbers: Vec<_> = events.iter().filter_map(|event| event.n).collect();
        assert_eq!(numbers, (1..=80).collect::<Vec<_>>());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_of_many_claimants_gets_the_turn_and_only_its_epoch_writes() {
    let dir = tempfile::tempdir().unwrap();
    let store = Arc::new(open(&dir).await);
    let id = session();
    store.accept(vec![message(id, "1"), message(id, "2")]).await;
    let tasks: Vec<_> = (0..16)
        .map(|_| {
            let store = Arc::clone(&store);
            Handle::current().spawn(async move { store.claim(&owner(), id).await.unwrap() })
        })
        .collect();
    let mut claims = Vec::new();
    for task in tasks {
        claims.extend(task.await.unwrap());
    }
    let [claimed] = &claims[..] else { panic!("{} claims", claims.len()) };
    assert_eq!((claimed.turn.n, claimed.turn.tries.attempts), (1, 1));
    assert_eq!(store.records(Group::ConversationWorker, &[], 9).await.unwrap(), []);
    let turn_id = claimed.turn.turn_id;
    let stale = store.end(turn_id, claimed.epoch + 1, ending(claimed, TurnStatus::Done)).await;
    assert_eq!(stale, Err(StoreError::Fenced));
    let ended = store.end(turn_id, claimed.epoch, ending(claimed, TurnStatus::Done)).await.unwrap();
    assert_eq!((ended.seq, ended.more), (3, true));
    let again = store.end(turn_id, claimed.epoch, ending(claimed, TurnStatus::Done)).await;
    assert_eq!(again, Ok(ended), "a repetition answers what was stored");
    assert_eq!(store.tokens_today(&acme()).await.unwrap(), 7);
    let next = store.claim(&owner(), id).await.unwrap().unwrap();
    assert_eq!(next.turn.n, 2);
    assert_eq!(next.epoch, claimed.epoch + 1);
    let history = store.history(id, 2, 10).await.unwrap();
    let told: Vec<_> = history.iter().map(|event| event.event_type).collect();
    assert_eq!(told, [EventType::User, EventType::Final]);
}

#[tokio::test]
async fn tool_steps_are_claimed_settled_and_fenced() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir).await;
    let id = session();
    store.accept(vec![message(id, "1")]).await;
    let claimed = store.claim(&owner(), id).await.unwrap().unwrap();
    let calls = vec![call(&claimed, 0, Effect::Pure), call(&claimed, 1, Effect::Once)];
    let turn_id = claimed.turn.turn_id;
    for _ in 0..2 {
        store.journal(turn_id, claimed.epoch, entry(calls.clone())).await.unwrap();
    }
    assert_eq!(store.records(Group::ToolExecutor, &[], 9).await.unwrap().len(), 2);
    let steps = store.claim_steps(&owner(), 8).await.unwrap();
    assert_eq!(steps.iter().map(|step| step.seq).collect::<Vec<_>>(), [2, 3]);
    assert_eq!(store.records(Group::ToolExecutor, &[], 9).await.unwrap(), []);
    assert_eq!(store.claim_steps(&owner(), 8).await.unwrap(), []);
    let (pure, once) = (&steps[0].step, &steps[1].step);
    store.unclaim(pure.effect_id, pure.epoch).await.unwrap();
    assert_eq!(
        store.settle(pure.effect_id, pure.epoch, outcome(), vec![]).await,
        Err(StoreError::Fenced)
    );
    let again = store.claim_steps(&owner(), 8).await.unwrap();
    assert_eq!((again.len(), again[0].seq), (1, 2), "one start event per step");
    let pure = &again[0].step;
    let settled = store.settle(pure.effect_id, pure.epoch, outcome(), vec![]).await.unwrap();
    assert_eq!((settled.seq, settled.more), (4, false));
    let repeated = store.settle(pure.effect_id, pure.epoch, outcome(), vec![]).await;
    assert_eq!(repeated, Err(StoreError::Fenced));
    assert_eq!(store.lose_orphans(&owner(), &[once.effect_id]).await.unwrap(), 0);
    assert_eq!(store.lose_orphans(&owner(), &[]).await.unwrap(), 1);
    let journal = store.steps(turn_id).await.unwrap();
    let status: Vec<_> = journal.iter().map(|step| step.status).collect();
    assert_eq!(status, [StepStatus::Done, StepStatus::Unknown]);
    assert_eq!(journal[0].arguments["text"], "hé");
    let types: Vec<_> = store
        .events(&acme(), id, 1, 10)
        .await
        .unwrap()
        .iter()
        .map(|event| event.event_type)
        .collect();
    let (start, result) = (EventType::ToolStart, EventType::ToolResult);
    assert_eq!(types, [start, start, result, result]);
}

#[tokio::test]
async fn suspects_run_alone_and_only_their_deaths_count() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = open(&dir).await;
    let (a, b) = (session(), session());
    store.accept(vec![message(a, "1"), message(b, "1")]).await;
    for deaths in 0..3 {
        let first = store.claim(&owner(), a).await.unwrap().unwrap();
        assert_eq!(first.turn.tries.deaths, if deaths == 0 { 0 } else { deaths - 1 });
        assert_eq!(store.claim(&owner(), b).await.unwrap().is_some(), deaths == 0);
        store.close().await;
        drop(store);
        store = open(&dir).await;
        store.inherit(&owner()).await.unwrap();
    }
    let first = store.claim(&owner(), a).await.unwrap().unwrap();
    assert_eq!(first.turn.tries.deaths, 2);
    store.end(first.turn.turn_id, first.epoch, ending(&first, TurnStatus::Failed)).await.unwrap();
    let second = store.claim(&owner(), b).await.unwrap().unwrap();
    assert_eq!(second.turn.tries.deaths, 0);
}

#[tokio::test]
async fn a_replayed_turn_waits_for_the_one_that_runs() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir).await;
    let id = session();
    store.accept(vec![message(id, "1"), message(id, "2")]).await;
    let first = store.claim(&owner(), id).await.unwrap().unwrap();
    store.end(first.turn.turn_id, first.epoch, ending(&first, TurnStatus::Failed)).await.unwrap();
    let second = store.claim(&owner(), id).await.unwrap().unwrap();
    let letters = store.dead_letters(Some(&acme()), None, 9).await.unwrap().items;
    assert_eq!(letters[0].turn_id, Some(first.turn.turn_id));
    assert_eq!(store.replay(None, letters[0].id).await, Ok(Replayed::Turn(id)));
    assert_eq!(store.replay(None, letters[0].id).await, Ok(Replayed::Already));
    assert_eq!(store.claim(&owner(), id).await, Ok(None), "one running turn per session");
    let ended = store
        .end(second.turn.turn_id, second.epoch, ending(&second, TurnStatus::Done))
        .await
        .unwrap();
    assert!(ended.more);
    let replayed = store.claim(&owner(), id).await.unwrap().unwrap();
    assert_eq!((replayed.turn.n, replayed.turn.replay), (1, 1));
    let ended = ending(&replayed, TurnStatus::Done);
    store.end(replayed.turn.turn_id, replayed.epoch, ended).await.unwrap();
    let status = store.message(&acme(), replayed.turn.event_id).await.unwrap();
    assert_eq!(status.terminal.unwrap().event_type, EventType::Final);
}

#[tokio::test]
async fn cancelling_ends_what_waits_and_flags_what_runs() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir).await;
    let id = session();
    store.accept(vec![message(id, "1"), message(id, "2"), message(id, "3")]).await;
    let running = store.claim(&owner(), id).await.unwrap().unwrap();
    let flagged = store.cancel(&acme(), id, CancelScope::Lowest).await.unwrap();
    assert_eq!(flagged, CancelOutcome::Flagged(running.turn.turn_id));
    assert!(store.beat(running.turn.turn_id, running.epoch).await.unwrap().cancel_requested);
    let all = store.cancel(&acme(), id, CancelScope::All).await.unwrap();
    let CancelOutcome::Both(events, _) = all else { panic!("{all:?}") };
    let ended: Vec<_> = events.iter().map(|event| (event.n, event.seq)).collect();
    assert_eq!(ended, [(Some(2), Some(4)), (Some(3), Some(5))]);
    store.lay_down(running.turn.turn_id, running.epoch, LayDown::Drained).await.unwrap();
    assert_eq!(store.beat(running.turn.turn_id, running.epoch).await, Err(StoreError::Fenced));
    store.delete_session(&acme(), id, true).await.unwrap();
    assert_eq!(store.session(&acme(), id).await, Err(StoreError::NotFound));
    let status = store.message(&acme(), running.turn.event_id).await.unwrap();
    assert_eq!(status.turn.status, TurnStatus::Cancelled);
    assert_eq!(status.terminal.unwrap().event_type, EventType::Cancelled);
    let refused = store.accept(vec![message(id, "4")]).await;
    assert_eq!(refused, [Err(AcceptError::SessionDeleted(id))]);
}

#[tokio::test]
async fn a_backup_restores_into_an_empty_directory_only() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir).await;
    let id = session();
    store.accept(vec![message(id, "kept")]).await;
    let copy = dir.path().join("copy.db");
    store.backup(&copy).await.unwrap();
    assert!(matches!(store.backup(&copy).await, Err(StoreError::Refused(_))));
    let fresh = tempfile::tempdir().unwrap();
    restore(&copy, fresh.path()).await.unwrap();
    let error = restore(&copy, fresh.path()).await.unwrap_err();
    assert!(matches!(error, RestoreError::Used(_)), "{error}");
    let restored = open(&fresh).await;
    let events = restored.events(&acme(), id, 0, 9).await.unwrap();
    assert_eq!(events[0].message, "kept");
    let junk = dir.path().join("junk.db");
    std::fs::write(&junk, "this is no database, whatever its name may say").unwrap();
    let other = tempfile::tempdir().unwrap();
    let error = restore(&junk, other.path()).await.unwrap_err();
    assert!(matches!(error, RestoreError::Unsound { .. }), "{error}");
}

#[tokio::test]
async fn a_panicking_operation_fails_alone_and_the_writer_lives_on() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir).await;
    let failed = store
        .writer
        .write::<()>("test", |c, _| {
            use futures::FutureExt;
            async move {
                sqlx::query("DELETE FROM turn").execute(c).await?;
                panic!("on purpose")
            }
            .boxed()
        })
        .await;
    assert!(matches!(failed, Err(StoreError::Refused(_))), "{failed:?}");
    let accepted = store.accept(vec![message(session(), "1")]).await;
    assert!(accepted[0].is_ok());
}
