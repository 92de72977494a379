//! Sessions, their logs, and what became of messages.

use super::{StoreFactory, bench::Bench};
use crate::{
    event::EventType,
    ids::{SessionId, TenantId},
    port::store::StoreError,
    testing::sample,
    tool::Effect,
    turn::TurnStatus,
};

pub async fn a_session_counts_its_messages_events_and_unfinished_turns(factory: &dyn StoreFactory) {
    let bench = Bench::new(factory).await;
    let session_id = bench.session_id();
    let mut message = bench.message(session_id, "one");
    message.event.persona_id = Some("pirate".to_owned());
    bench.accept(message).await;
    let begun = bench.store.session(&TenantId::public(), session_id).await.unwrap();
    bench.pass(5).await;
    bench.exchange_after_first(session_id).await;
    let session = bench.store.session(&TenantId::public(), session_id).await.unwrap();
    assert_eq!(session.session_id, session_id);
    assert_eq!((&*session.subject, begun.persona_id.as_deref()), ("ann", Some("pirate")));
    assert_eq!(session.persona_id, None);
    assert_eq!((session.last_n, session.last_seq, session.unfinished), (2, 3, 1));
    assert_eq!(session.created_at, begun.created_at);
    assert!(session.updated_at > begun.updated_at);
}

impl Bench<'_> {
    /// Says a second thing and answers the first one.
    async fn exchange_after_first(&self, session_id: SessionId) {
        self.say(session_id, "two").await;
        let claimed = self.claim(session_id).await;
        self.answer(&claimed, "first answer").await;
    }
}

pub async fn sessions_are_listed_by_newest_activity_in_pages(factory: &dyn StoreFactory) {
    let bench = Bench::new(factory).await;
    let sessions: Vec<SessionId> = (0..5).map(|_| bench.session_id()).collect();
    for session_id in &sessions {
        bench.say(*session_id, "hello").await;
        bench.pass(1).await;
    }
    bench.say(sessions[1], "again").await;
    let expected = [1, 4, 3, 2, 0].map(|at| sessions[at]);
    let (mut listed, mut cursor) = (Vec::new(), None);
    loop {
        let page = bench.store.sessions(&TenantId::public(), cursor.as_deref(), 2).await.unwrap();
        assert!(page.items.len() <= 2);
        listed.extend(page.items.iter().map(|session| session.session_id));
        cursor = page.next_cursor;
        if cursor.is_none() {
            break;
        }
    }
    assert_eq!(listed, expected);
}

pub async fn an_unreadable_cursor_is_refused(factory: &dyn StoreFactory) {
    let bench = Bench::new(factory).await;
    let public = TenantId::public();
    let sessions = bench.store.sessions(&public, Some("?"), 2).await;
    assert!(matches!(sessions, Err(StoreError::Refused(_))));
    let letters = bench.store.dead_letters(None, Some("?"), 2).await;
    assert!(matches!(letters, Err(StoreError::Refused(_))));
    let memories = bench.store.export_memories(&public, Some("?"), 2).await;
    assert!(matches!(memories, Err(StoreError::Refused(_))));
}

pub async fn events_are_paged_in_the_order_of_their_places(factory: &dyn StoreFactory) {
    let bench = Bench::new(factory).await;
    let claimed = bench.requested(&[("echo", Effect::Pure)]).await;
    let session_id = claimed.turn.session_id;
    let step = bench.claim_steps().await.remove(0);
    bench.say(session_id, "meanwhile").await;
    let outcome = sample::outcome("hi");
    let effect_id = step.step.effect_id;
    bench.store.settle(effect_id, step.step.epoch, outcome, Vec::new()).await.unwrap();
    bench.answer(&claimed, "done").await;
    let log = bench.log(session_id).await;
    let places: Vec<_> = log.iter().map(|event| event.seq.unwrap()).collect();
    assert_eq!(places, [1, 2, 3, 4, 5]);
    let told: Vec<_> = log.iter().map(|event| event.event_type).collect();
    let expected = [
        EventType::User,
        EventType::ToolStart,
        EventType::User,
        EventType::ToolResult,
        EventType::Final,
    ];
    assert_eq!(told, expected);
    let page = bench.store.events(&TenantId::public(), session_id, 2, 2).await.unwrap();
    assert_eq!(page, log[2..4]);
    let beyond = bench.store.events(&TenantId::public(), session_id, 5, 2).await.unwrap();
    assert_eq!(beyond, []);
}

pub async fn history_is_oldest_first_and_without_the_current_message(factory: &dyn StoreFactory) {
    let bench = Bench::new(factory).await;
    let session_id = bench.session_id();
    bench.exchange(session_id, "one", "first").await;
    bench.exchange(session_id, "two", "second").await;
    bench.say(session_id, "three").await;
    assert_eq!(bench.history(session_id, 3, 10).await, ["one", "first", "two", "second"]);
    assert_eq!(bench.history(session_id, 1, 10).await, [""; 0]);
}

pub async fn history_puts_each_answer_after_its_message(factory: &dyn StoreFactory) {
    let bench = Bench::new(factory).await;
    let session_id = bench.session_id();
    for text in ["one", "two", "three"] {
        bench.say(session_id, text).await;
    }
    for text in ["first", "second"] {
        let claimed = bench.claim(session_id).await;
        bench.answer(&claimed, text).await;
    }
    assert_eq!(bench.history(session_id, 3, 10).await, ["one", "first", "two", "second"]);
}

pub async fn history_keeps_the_newest_and_only_what_was_said(factory: &dyn StoreFactory) {
    let bench = Bench::new(factory).await;
    let claimed = bench.requested(&[("echo", Effect::Pure)]).await;
    let session_id = claimed.turn.session_id;
    bench.claim_steps().await;
    bench.answer(&claimed, "first").await;
    bench.say(session_id, "two").await;
    let second = bench.claim(session_id).await;
    bench.fail(&second, "boom").await;
    bench.exchange(session_id, "three", "third").await;
    let all = ["hello", "first", "two", "three", "third"];
    assert_eq!(bench.history(session_id, 4, 10).await, all);
    assert_eq!(bench.history(session_id, 4, 3).await, all[2..]);
}

impl Bench<'_> {
    async fn history(&self, session_id: SessionId, before_n: u64, limit: u32) -> Vec<String> {
        let events = self.store.history(session_id, before_n, limit).await.unwrap();
        events.into_iter().map(|event| event.message).collect()
    }
}

pub async fn a_message_tells_its_place_its_steps_and_its_end(factory: &dyn StoreFactory) {
    let bench = Bench::new(factory).await;
    let session_id = bench.session_id();
    let mut sent = Vec::new();
    for text in ["one", "two", "three"] {
        sent.push(bench.say(session_id, text).await);
    }
    let public = TenantId::public();
    let status = |at: usize| bench.store.message(&public, sent[at].event_id);
    let last = status(2).await.unwrap();
    assert_eq!((last.n, last.place, last.steps, last.terminal), (3, 2, 0, None));
    assert_eq!(last.turn.status, TurnStatus::Queued);
    let claimed = bench.claim(session_id).await;
    bench.journal(&claimed, &[("echo", Effect::Pure)]).await;
    let first = status(0).await.unwrap();
    assert_eq!((first.place, first.steps), (0, 2));
    assert_eq!(first.turn.status, TurnStatus::Running);
    bench.answer(&claimed, "first").await;
    let ended = status(0).await.unwrap();
    assert_eq!((ended.place, ended.turn.status), (0, TurnStatus::Done));
    assert_eq!(ended.terminal.unwrap().message, "first");
    assert_eq!(status(1).await.unwrap().place, 0);
    assert_eq!(status(2).await.unwrap().place, 1);
    let second = bench.claim(session_id).await;
    bench.fail(&second, "boom").await;
    let failed = status(1).await.unwrap();
    assert_eq!(failed.turn.reason.as_deref(), Some("boom"));
    assert_eq!(failed.terminal.unwrap().event_type, EventType::Error);
    let unknown = bench.store.message(&public, bench.event_id()).await;
    assert_eq!(unknown, Err(StoreError::NotFound));
}
