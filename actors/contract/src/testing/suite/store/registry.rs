//! Keys, personas, uploads, recorded answers, retention and depths.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Timelike, Utc};

use super::{StoreFactory, bench::Bench};
use crate::{
    access::{ApiKey, StoredKey},
    ids::TenantId,
    persona::Persona,
    port::store::{Attachment, Depths, RecordedAnswer, Retention, StoreError},
    testing::sample,
    tool::Effect,
    topic::Group,
};

pub(super) fn key(key_id: &str, tenant: &TenantId, age: i64) -> StoredKey {
    let key = ApiKey {
        key_id: key_id.to_owned(),
        label: "ci".to_owned(),
        tenant: tenant.clone(),
        admin: true,
        prefix: "sk-0123456789".to_owned(),
        created_by: "ann".to_owned(),
        created_at: DateTime::UNIX_EPOCH - TimeDelta::seconds(age),
        last_used_at: None,
        revoked: false,
    };
    StoredKey { key, hash: "abcdef".to_owned() }
}

pub async fn keys_are_kept_listed_touched_and_revoked(factory: &dyn StoreFactory) {
    let bench = Bench::new(factory).await;
    let store = &bench.store;
    let public = TenantId::public();
    let (old, new) = (key("1", &public, 9), key("2", &public, 1));
    for key in [&old, &new] {
        store.add_key(key.clone()).await.unwrap();
    }
    assert_eq!(store.key("1").await.unwrap(), old);
    let listed = [new.key.clone(), old.key.clone()];
    assert_eq!(store.keys(Some(&public)).await.unwrap(), listed);
    assert_eq!(store.keys(None).await.unwrap(), listed);
    store.touch_key("1").await.unwrap();
    let used: DateTime<Utc> = store.key("1").await.unwrap().key.last_used_at.unwrap();
    assert_eq!((used.second(), used.nanosecond()), (0, 0));
    for _ in 0..2 {
        store.revoke_key(Some(&public), "1").await.unwrap();
    }
    let revoked = store.key("1").await.unwrap();
    assert!(revoked.key.revoked);
    assert_eq!(revoked.hash, old.hash);
    assert!(!store.key("2").await.unwrap().key.revoked);
    assert_eq!(store.key("3").await, Err(StoreError::NotFound));
    assert_eq!(store.revoke_key(None, "3").await, Err(StoreError::NotFound));
}

pub async fn personas_are_replaced_and_listed_by_id(factory: &dyn StoreFactory) {
    let bench = Bench::new(factory).await;
    let store = &bench.store;
    let public = TenantId::public();
    let persona = |persona_id: &str, prompt: &str| Persona {
        persona_id: persona_id.to_owned(),
        prompt: prompt.to_owned(),
        model: Some("large".to_owned()),
        tools: Some(vec!["echo".to_owned()]),
    };
    for (persona_id, prompt) in [("pirate", "Arr."), ("butler", "Sir."), ("pirate", "Ahoy.")] {
        store.put_persona(&public, persona(persona_id, prompt)).await.unwrap();
    }
    let (butler, pirate) = (persona("butler", "Sir."), persona("pirate", "Ahoy."));
    assert_eq!(store.persona(&public, "pirate").await.unwrap(), pirate);
    assert_eq!(store.personas(&public).await.unwrap(), [butler, pirate]);
    assert_eq!(store.persona(&public, "ghost").await, Err(StoreError::NotFound));
    let plain = Persona { model: None, tools: None, ..persona("plain", "") };
    store.put_persona(&public, plain.clone()).await.unwrap();
    assert_eq!(store.persona(&public, "plain").await.unwrap(), plain);
}

pub async fn an_upload_is_read_as_it_was_kept(factory: &dyn StoreFactory) {
    let bench = Bench::new(factory).await;
    let content: Vec<u8> = (0..=255).cycle().take(100_000).collect();
    let attachment = Attachment {
        id: bench.id(),
        tenant: TenantId::public(),
        session_id: None,
        filename: "b\u{e4}r.bin".to_owned(),
        mime: "application/octet-stream".to_owned(),
        size: 100_000,
        sha256: "00".to_owned(),
        created_at: DateTime::UNIX_EPOCH,
    };
    bench.store.add_attachment(attachment.clone(), content.clone()).await.unwrap();
    let kept = bench.store.attachment(&TenantId::public(), attachment.id).await.unwrap();
    assert_eq!(kept, (attachment, content));
    let unknown = bench.store.attachment(&TenantId::public(), bench.id()).await;
    assert_eq!(unknown, Err(StoreError::NotFound));
}

pub async fn the_first_recorded_answer_stays(factory: &dyn StoreFactory) {
    let bench = Bench::new(factory).await;
    let store = &bench.store;
    let public = TenantId::public();
    let promise = sample::idempotency("k", "body");
    assert_eq!(store.recorded_answer(&public, &promise).await.unwrap(), None);
    let answer = |status| RecordedAnswer { status, body: "{}".to_owned() };
    store.record_answer(&public, &promise, answer(201)).await.unwrap();
    store.record_answer(&public, &promise, answer(500)).await.unwrap();
    assert_eq!(store.recorded_answer(&public, &promise).await.unwrap(), Some(answer(201)));
    let other_body = store.recorded_answer(&public, &sample::idempotency("k", "other")).await;
    assert!(matches!(other_body, Err(StoreError::Refused(_))));
    let other_tenant = store.recorded_answer(&sample::tenant("other"), &promise).await;
    assert_eq!(other_tenant.unwrap(), None);
}

const HOUR: Duration = Duration::from_hours(1);
const RETENTION: Retention = Retention {
    idempotency: HOUR,
    dead_letters: HOUR.saturating_mul(2),
    inbox: HOUR.saturating_mul(2),
    done_steps: HOUR.saturating_mul(3),
    memory_tombstones: HOUR.saturating_mul(4),
};

impl Bench<'_> {
    /// Lets an hour and a second pass and retires until nothing is left to retire.
    async fn retire_after_an_hour(&self) -> u64 {
        self.retire_by(&RETENTION).await
    }

    async fn retire_by(&self, retention: &Retention) -> u64 {
        self.factory.advance(HOUR + Duration::from_secs(1)).await;
        let mut retired = 0;
        loop {
            let now = self.store.retire(retention).await.unwrap();
            retired += now;
            if now == 0 {
                return retired;
            }
        }
    }
}

pub async fn what_is_too_old_is_retired(factory: &dyn StoreFactory) {
    let bench = Bench::new(factory).await;
    let public = TenantId::public();
    let claimed = bench.requested(&[("echo", Effect::Pure)]).await;
    let turn_id = claimed.turn.turn_id;
    bench.fail(&claimed, "boom").await;
    let unfinished = bench.requested(&[("echo", Effect::Pure)]).await;
    let promised = sample::keyed(bench.message(bench.session_id(), "hello"), "k", "body");
    let event_id = bench.accept(promised.clone()).await.event_id;
    let promise = sample::idempotency("other", "body");
    let answer = RecordedAnswer { status: 201, body: String::new() };
    bench.store.record_answer(&public, &promise, answer).await.unwrap();
    let memory_id = bench.id();
    bench.remember(vec![sample::put(memory_id, bench.event_id(), "x")]).await;
    bench.remember(vec![sample::delete(memory_id, bench.event_id())]).await;
    assert_eq!(bench.store.retire(&RETENTION).await.unwrap(), 0);

    // Keys: the message itself is known for ever.
    assert_eq!(bench.retire_after_an_hour().await, 2);
    assert_eq!(bench.store.recorded_answer(&public, &promise).await.unwrap(), None);
    assert_eq!(bench.accept(promised).await.event_id, event_id);
    let other = sample::keyed(bench.message(bench.session_id(), "other"), "k", "other");
    assert!(!bench.accept(other).await.replayed);
    // Dead letters (and the key of just now).
    assert_eq!(bench.retire_after_an_hour().await, 2);
    assert_eq!(bench.letters().await, []);
    // Steps of turns that are over.
    assert_eq!(bench.store.steps(turn_id).await.unwrap().len(), 2);
    assert_eq!(bench.retire_after_an_hour().await, 2);
    assert_eq!(bench.store.steps(turn_id).await.unwrap(), []);
    assert_eq!(bench.store.steps(unfinished.turn.turn_id).await.unwrap().len(), 2);
    // Tombstones.
    assert_eq!(bench.retire_after_an_hour().await, 1);
    assert_eq!(bench.log(claimed.turn.session_id).await.len(), 2);
}

pub async fn the_steps_of_a_turn_stay_while_it_can_be_replayed(factory: &dyn StoreFactory) {
    let bench = Bench::new(factory).await;
    let claimed = bench.requested(&[("pay", Effect::Once)]).await;
    let letter = bench.fail(&claimed, "boom").await;
    let retention = Retention { dead_letters: RETENTION.done_steps, done_steps: HOUR, ..RETENTION };
    assert_eq!(bench.retire_by(&retention).await, 0);
    bench.store.replay(None, letter.id).await.unwrap();
    let replayed = bench.claim(claimed.turn.session_id).await;
    assert_eq!(replayed.journal.len(), 2);
    bench.answer(&replayed, "paid").await;
    assert_eq!(bench.retire_by(&retention).await, 0);
    // The letter, and then the steps, in the one call or the next.
    assert_eq!(bench.retire_by(&retention).await, 3);
}

pub async fn depths_count_what_waits(factory: &dyn StoreFactory) {
    let bench = Bench::new(factory).await;
    let empty = bench.store.depths().await.unwrap();
    assert_eq!((empty.outbox, empty.memory_writes, empty.dead_letters), (0, 0, 0));
    assert_eq!((empty.outbox_oldest_ms, empty.memory_writes_oldest_ms), (0, 0));
    let claimed = bench.running().await;
    let letter = bench.fail(&claimed, "boom").await;
    let writes = vec![sample::put(bench.id(), bench.event_id(), "x")];
    bench.store.write_memories(writes).await.unwrap();
    bench.pass(3).await;
    bench.say(bench.session_id(), "hello").await;
    bench.say(bench.session_id(), "hello").await;
    bench.pass(2).await;
    let Depths { outbox, outbox_oldest_ms, memory_writes, memory_writes_oldest_ms, .. } =
        bench.store.depths().await.unwrap();
    assert_eq!((outbox, memory_writes), (2, 1));
    assert!((2_000..5_000).contains(&outbox_oldest_ms));
    assert!(memory_writes_oldest_ms >= 5_000);
    assert_eq!(bench.store.depths().await.unwrap().dead_letters, 1);
    bench.store.replay(None, letter.id).await.unwrap();
    assert_eq!(bench.store.depths().await.unwrap().dead_letters, 0);
    assert_eq!(bench.records(Group::ConversationWorker).await.len(), 2);
}

pub async fn a_store_that_answers_pings(factory: &dyn StoreFactory) {
    let bench = Bench::new(factory).await;
    bench.store.ping().await.unwrap();
}
