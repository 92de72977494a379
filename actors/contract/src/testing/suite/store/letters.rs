//! Dead letters and their replay.

use super::{StoreFactory, bench::Bench};
use crate::{
    event::EventType,
    ids::EventId,
    port::store::{Replayed, StoreError},
    testing::sample,
    tool::Effect,
    topic::{Group, Topic},
    turn::{Tries, TurnStatus},
};

pub async fn dead_letters_are_listed_newest_first_in_pages(factory: &dyn StoreFactory) {
    let bench = Bench::new(factory).await;
    let mut expected = Vec::new();
    for at in 0..5 {
        let claimed = bench.running().await;
        expected.insert(0, bench.fail(&claimed, &format!("fault {at}")).await);
    }
    assert_eq!(expected[0].error, "fault 4");
    let (mut listed, mut cursor) = (Vec::new(), None);
    loop {
        let page = bench.store.dead_letters(None, cursor.as_deref(), 2).await.unwrap();
        assert!(page.items.len() <= 2);
        listed.extend(page.items);
        cursor = page.next_cursor;
        if cursor.is_none() {
            break;
        }
    }
    assert_eq!(listed, expected);
    let one = bench.store.dead_letter(None, expected[2].id).await.unwrap();
    assert_eq!(one, expected[2]);
    let unknown = bench.store.dead_letter(None, i64::MAX).await;
    assert_eq!(unknown, Err(StoreError::NotFound));
}

pub async fn a_replayed_turn_keeps_its_journal_and_ends_anew(factory: &dyn StoreFactory) {
    let bench = Bench::new(factory).await;
    let claimed = bench.requested(&[("echo", Effect::Pure)]).await;
    let (turn_id, session_id) = (claimed.turn.turn_id, claimed.turn.session_id);
    let letter = bench.fail(&claimed, "boom").await;
    let journal = bench.store.steps(turn_id).await.unwrap();
    bench.exchange(session_id, "later", "fine").await;
    let replayed = bench.store.replay(None, letter.id).await.unwrap();
    assert_eq!(replayed, Replayed::Turn(session_id));
    let status = bench.store.message(&claimed.turn.tenant, claimed.turn.event_id).await.unwrap();
    assert_eq!(status.turn.status, TurnStatus::Queued);
    assert_eq!((status.turn.replay, status.turn.tries), (1, Tries::default()));
    assert_eq!((status.terminal, status.turn.reason), (None, None));
    let again = bench.claim(session_id).await;
    assert_eq!((again.turn.turn_id, again.turn.n), (turn_id, 1));
    assert_eq!(again.journal, journal);
    bench.answer(&again, "well now").await;
    let log = bench.log(session_id).await;
    let last = log.last().unwrap();
    assert_eq!(last.event_id, EventId::terminal(turn_id, 1));
    let told: Vec<_> = log.iter().map(|event| event.event_type).collect();
    let expected =
        [EventType::User, EventType::Error, EventType::User, EventType::Final, EventType::Final];
    assert_eq!(told, expected);
    let history = bench.store.history(session_id, 3, 10).await.unwrap();
    let texts: Vec<_> = history.iter().map(|event| event.message.as_str()).collect();
    assert_eq!(texts, ["hello", "well now", "later", "fine"]);
    // It has ended well: there is nothing to replay any more.
    assert_eq!(bench.store.replay(None, letter.id).await.unwrap(), Replayed::Already);
}

pub async fn a_replay_twice_before_the_end_is_one(factory: &dyn StoreFactory) {
    let bench = Bench::new(factory).await;
    let claimed = bench.running().await;
    let session_id = claimed.turn.session_id;
    let letter = bench.fail(&claimed, "boom").await;
    bench.store.replay(None, letter.id).await.unwrap();
    assert_eq!(bench.store.replay(None, letter.id).await.unwrap(), Replayed::Already);
    let again = bench.claim(session_id).await;
    assert_eq!(bench.store.replay(None, letter.id).await.unwrap(), Replayed::Already);
    assert_eq!(again.turn.replay, 1);
    let shown = bench.store.dead_letter(None, letter.id).await.unwrap();
    assert!(shown.replayed_at.is_some());
    // It fails again: a dead letter of its own, and each may replay it.
    let second = bench.fail(&again, "boom again").await;
    assert_ne!(second.id, letter.id);
    let replayed = bench.store.replay(None, second.id).await.unwrap();
    assert_eq!(replayed, Replayed::Turn(session_id));
    assert_eq!(bench.claim(session_id).await.turn.replay, 2);
    let unknown = bench.store.replay(None, i64::MAX).await;
    assert_eq!(unknown, Err(StoreError::NotFound));
}

pub async fn a_replayed_turn_waits_for_the_one_that_runs(factory: &dyn StoreFactory) {
    let bench = Bench::new(factory).await;
    let failed = bench.running().await;
    let session_id = failed.turn.session_id;
    let letter = bench.fail(&failed, "boom").await;
    bench.say(session_id, "two").await;
    let running = bench.claim(session_id).await;
    bench.store.replay(None, letter.id).await.unwrap();
    assert_eq!(bench.store.claim(&bench.owner, session_id).await.unwrap(), None);
    let claimable = bench.store.claimable(std::time::Duration::ZERO, 10).await.unwrap();
    assert_eq!(claimable, []);
    bench.say(session_id, "three").await;
    assert!(bench.answer(&running, "second").await.more);
    // Then it is the lowest one.
    assert_eq!(bench.claim(session_id).await.turn.n, 1);
}

pub async fn a_replayed_memory_write_waits_with_its_version(factory: &dyn StoreFactory) {
    let bench = Bench::new(factory).await;
    let memory_id = bench.id();
    let write = sample::put(memory_id, bench.event_id(), "one");
    bench.store.write_memories(vec![write]).await.unwrap();
    let shards = bench.shards_of_memory().await;
    let pending = bench.store.pending_writes(&shards, 10).await.unwrap().remove(0);
    bench.store.refuse_write(&shards, pending.id, "malformed").await.unwrap();
    let letter = bench.letters().await.remove(0);
    let replayed = bench.store.replay(None, letter.id).await.unwrap();
    assert_eq!(replayed, Replayed::Requeued);
    assert_eq!(bench.store.replay(None, letter.id).await.unwrap(), Replayed::Already);
    let again = bench.store.pending_writes(&shards, 10).await.unwrap();
    assert_eq!(again.len(), 1);
    assert_eq!((&again[0].write, again[0].attempts), (&pending.write, 0));
    bench.remember(Vec::new()).await;
    assert_eq!(bench.store.replay(None, letter.id).await.unwrap(), Replayed::Already);
}

pub async fn a_refused_row_waits_again_and_a_buried_record_cannot(factory: &dyn StoreFactory) {
    let bench = Bench::with_remote_bus(factory).await;
    bench.say(bench.session_id(), "hello").await;
    let shards = bench.shards().await;
    let rows = bench.store.outbox(&shards, 10).await.unwrap();
    let row = rows.iter().find(|row| row.topic == Topic::ConversationInbound).unwrap();
    bench.store.refused(&shards, row.id, "too large").await.unwrap();
    let letter = bench.letters().await.remove(0);
    let replayed = bench.store.replay(None, letter.id).await.unwrap();
    assert_eq!(replayed, Replayed::Requeued);
    assert_eq!(bench.store.replay(None, letter.id).await.unwrap(), Replayed::Already);
    let again = bench.store.outbox(&shards, 10).await.unwrap();
    let again: Vec<_> = again.iter().filter(|one| one.topic == row.topic).collect();
    assert_eq!(again.len(), 1);
    assert_eq!(again[0].session_id, row.session_id);
    assert_eq!(again[0].headers, row.headers);
    assert_eq!(again[0].payload, row.payload);
    let buried = sample::dead_letter("tool.requests", bench.event_id(), "not JSON");
    bench.store.bury(Group::ToolExecutor, buried).await.unwrap();
    let letter = bench.letters().await.remove(0);
    let replayed = bench.store.replay(None, letter.id).await;
    assert!(matches!(replayed, Err(StoreError::Refused(_))));
}

pub async fn a_dropped_dead_letter_is_gone(factory: &dyn StoreFactory) {
    let bench = Bench::new(factory).await;
    let claimed = bench.running().await;
    let letter = bench.fail(&claimed, "boom").await;
    bench.store.drop_dead_letter(None, letter.id).await.unwrap();
    let gone = StoreError::NotFound;
    assert_eq!(bench.store.dead_letter(None, letter.id).await, Err(gone.clone()));
    assert_eq!(bench.store.replay(None, letter.id).await, Err(gone.clone()));
    assert_eq!(bench.store.drop_dead_letter(None, letter.id).await, Err(gone));
    assert_eq!(bench.turn(claimed.turn.event_id).await.status, TurnStatus::Failed);
}
