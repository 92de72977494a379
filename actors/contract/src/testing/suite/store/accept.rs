//! Accepting messages.

use futures::future::join_all;

use super::{StoreFactory, bench::Bench};
use crate::{
    event::EventType,
    ids::{SessionId, TenantId, TurnId},
    message::{AcceptError, Accepted, NewMessage},
    testing::sample,
    topic::{Group, Topic},
    turn::TurnStatus,
};

pub async fn numbers_are_gap_free_over_parallel_and_batched_accepts(factory: &dyn StoreFactory) {
    let bench = Bench::new(factory).await;
    let sessions: Vec<SessionId> = (0..3).map(|_| bench.session_id()).collect();
    let batches = (1..12).map(|size| {
        let batch: Vec<NewMessage> =
            (0..size).map(|at| bench.message(sessions[at % 3], "hello")).collect();
        bench.store.accept(batch)
    });
    let accepted: Vec<Accepted> =
        join_all(batches).await.into_iter().flatten().map(Result::unwrap).collect();
    for session_id in sessions {
        let of_session = accepted.iter().filter(|one| one.session_id == session_id);
        let mut numbers: Vec<u64> = of_session.map(|one| one.n).collect();
        numbers.sort_unstable();
        let expected: Vec<u64> = (1..).take(numbers.len()).collect();
        assert_eq!(numbers, expected);
        let stored: Vec<_> = bench.log(session_id).await.iter().map(|event| event.seq).collect();
        assert_eq!(stored, expected.iter().map(|n| Some(*n)).collect::<Vec<_>>());
    }
}

pub async fn the_stored_event_carries_number_place_and_turn(factory: &dyn StoreFactory) {
    let bench = Bench::new(factory).await;
    let session_id = bench.session_id();
    bench.say(session_id, "one").await;
    let mut message = bench.message(session_id, "two \u{1f980} \\u0000");
    message.event = message.event.with("source", "test");
    message.event.attachments = vec!["a".to_owned()];
    message.event.trace_context.0.insert("request_id".to_owned(), "r1".to_owned());
    let sent = message.event.clone();
    let accepted = bench.accept(message).await;
    let turn_id = TurnId::of(session_id, 2);
    let expected =
        Accepted { session_id, event_id: sent.event_id, turn_id, n: 2, seq: 2, replayed: false };
    assert_eq!(accepted, expected);
    let mut stored = sent;
    (stored.n, stored.seq, stored.turn_id) = (Some(2), Some(2), Some(turn_id));
    assert_eq!(bench.log(session_id).await[1], stored);
    let turn = bench.turn(stored.event_id).await;
    assert_eq!((turn.turn_id, turn.n, turn.status), (turn_id, 2, TurnStatus::Queued));
    assert_eq!(turn.trace, stored.trace_context);
}

pub async fn a_repeated_key_with_the_same_body_answers_the_stored_message(
    factory: &dyn StoreFactory,
) {
    let bench = Bench::new(factory).await;
    let first =
        bench.accept(sample::keyed(bench.message(bench.session_id(), "hello"), "k", "body")).await;
    // The edge draws a new session and event for each request that names none.
    let again =
        bench.accept(sample::keyed(bench.message(bench.session_id(), "hello"), "k", "body")).await;
    assert_eq!(again, Accepted { replayed: true, ..first.clone() });
    assert_eq!(bench.log(first.session_id).await.len(), 1);
    let sessions = bench.store.sessions(&TenantId::public(), None, 10).await.unwrap();
    assert_eq!(sessions.items.len(), 1);
}

pub async fn a_repeated_key_with_another_body_is_refused(factory: &dyn StoreFactory) {
    let bench = Bench::new(factory).await;
    let session_id = bench.session_id();
    bench.accept(sample::keyed(bench.message(session_id, "hello"), "k", "body")).await;
    let other = sample::keyed(bench.message(session_id, "hullo"), "k", "other");
    let answer = bench.store.accept(vec![other]).await;
    assert_eq!(answer, [Err(AcceptError::KeyReused("k".to_owned()))]);
    assert_eq!(bench.say(session_id, "next").await.n, 2);
}

pub async fn a_key_repeated_within_one_batch_is_one_message(factory: &dyn StoreFactory) {
    let bench = Bench::new(factory).await;
    let session_id = bench.session_id();
    let batch = ["body", "body", "other"]
        .map(|body| sample::keyed(bench.message(session_id, "hello"), "k", body));
    let answers = bench.store.accept(batch.to_vec()).await;
    let first = answers[0].clone().unwrap();
    assert_eq!(answers[1], Ok(Accepted { replayed: true, ..first }));
    assert_eq!(answers[2], Err(AcceptError::KeyReused("k".to_owned())));
    assert_eq!(bench.log(session_id).await.len(), 1);
}

pub async fn keys_are_apart_by_tenant_and_route(factory: &dyn StoreFactory) {
    let bench = Bench::new(factory).await;
    bench.accept(sample::keyed(bench.message(bench.session_id(), "one"), "k", "1")).await;
    let mut other_tenant = sample::keyed(bench.message(bench.session_id(), "two"), "k", "2");
    other_tenant.tenant = sample::tenant("other");
    let mut other_route = sample::keyed(bench.message(bench.session_id(), "three"), "k", "3");
    "/v1/tool/request".clone_into(&mut other_route.idempotency.as_mut().unwrap().route);
    for message in [other_tenant, other_route] {
        assert!(!bench.accept(message).await.replayed);
    }
}

pub async fn a_repeated_event_id_answers_the_stored_message(factory: &dyn StoreFactory) {
    let bench = Bench::new(factory).await;
    let message = bench.message(bench.session_id(), "hello");
    let answers = bench.store.accept(vec![message.clone(), message.clone()]).await;
    let first = answers[0].clone().unwrap();
    let again = Ok(Accepted { replayed: true, ..first.clone() });
    assert_eq!(answers[1], again);
    // Also after the turn has ended.
    let claimed = bench.claim(first.session_id).await;
    bench.answer(&claimed, "hi").await;
    assert_eq!(bench.store.accept(vec![message]).await, [again]);
    assert_eq!(bench.told(first.session_id).await, [EventType::User, EventType::Final]);
}

pub async fn an_event_id_of_another_session_or_tenant_is_taken(factory: &dyn StoreFactory) {
    let bench = Bench::new(factory).await;
    let first = bench.say(bench.session_id(), "hello").await;
    let other_session = sample::message(bench.session_id(), first.event_id, "hello");
    let mut other_tenant = other_session.clone();
    other_tenant.tenant = sample::tenant("other");
    let taken = Err(AcceptError::EventIdTaken(first.event_id));
    let answers = bench.store.accept(vec![other_session, other_tenant]).await;
    assert_eq!(answers, [taken.clone(), taken]);
}

pub async fn a_session_of_another_tenant_is_foreign(factory: &dyn StoreFactory) {
    let bench = Bench::new(factory).await;
    let session_id = bench.session_id();
    bench.say(session_id, "hello").await;
    let mut message = bench.message(session_id, "let me in");
    message.tenant = sample::tenant("other");
    let answer = bench.store.accept(vec![message]).await;
    assert_eq!(answer, [Err(AcceptError::ForeignSession(session_id))]);
    assert_eq!(bench.log(session_id).await.len(), 1);
}

pub async fn a_mixed_batch_numbers_only_the_survivors(factory: &dyn StoreFactory) {
    let bench = Bench::new(factory).await;
    let (live, gone) = (bench.session_id(), bench.session_id());
    bench.say(gone, "soon gone").await;
    bench.store.delete_session(&TenantId::public(), gone, false).await.unwrap();
    let first = bench.accept(sample::keyed(bench.message(live, "1"), "k", "body")).await;
    let mut foreign = bench.message(live, "foreign");
    foreign.tenant = sample::tenant("other");
    let batch = vec![
        bench.message(live, "2"),
        sample::keyed(bench.message(live, "-"), "k", "other"),
        bench.message(gone, "-"),
        bench.message(live, "3"),
        sample::keyed(bench.message(live, "-"), "k", "body"),
        foreign,
        bench.message(live, "4"),
    ];
    let answers = bench.store.accept(batch).await;
    let number = |at: usize| answers[at].as_ref().map(|accepted| accepted.n).unwrap();
    assert_eq!([number(0), number(3), number(6)], [2, 3, 4]);
    assert_eq!(answers[1], Err(AcceptError::KeyReused("k".to_owned())));
    assert_eq!(answers[2], Err(AcceptError::SessionDeleted(gone)));
    assert_eq!(answers[4], Ok(Accepted { replayed: true, ..first }));
    assert_eq!(answers[5], Err(AcceptError::ForeignSession(live)));
    let texts: Vec<String> = bench.log(live).await.into_iter().map(|event| event.message).collect();
    assert_eq!(texts, ["1", "2", "3", "4"]);
}

pub async fn an_accepted_message_is_a_record_for_the_conversation_worker(
    factory: &dyn StoreFactory,
) {
    let bench = Bench::new(factory).await;
    let accepted = bench.say(bench.session_id(), "hello").await;
    let records = bench.records(Group::ConversationWorker).await;
    assert_eq!(records.len(), 1);
    let record = &records[0];
    assert_eq!(record.topic, Topic::ConversationInbound);
    assert_eq!(record.session_id, Some(accepted.session_id));
    assert_eq!(record.event_id(), Some(accepted.event_id.0));
    assert_eq!(record.headers["tenant_id"], "public");
    assert_eq!((&*record.headers["n"], &*record.headers["seq"]), ("1", "1"));
    let event: crate::event::Event = serde_json::from_slice(&record.payload).unwrap();
    assert_eq!(event, bench.log(accepted.session_id).await[0]);
}

pub async fn durable_events_go_to_a_bus_elsewhere(factory: &dyn StoreFactory) {
    let bench = Bench::with_remote_bus(factory).await;
    let session_id = bench.session_id();
    bench.exchange(session_id, "hello", "hi").await;
    let shards = bench.shards().await;
    let rows = bench.store.outbox(&shards, 100).await.unwrap();
    let outbound = rows.iter().filter(|row| row.topic == Topic::ConversationOutbound);
    let told: Vec<&str> = outbound.map(|row| row.headers["event_type"].as_str()).collect();
    assert_eq!(told, ["user", "assistant.final"]);
    assert_eq!(rows.iter().filter(|row| row.topic == Topic::ConversationInbound).count(), 1);
}
