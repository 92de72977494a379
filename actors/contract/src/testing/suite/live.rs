//! What every live port does.

use std::{fmt, sync::Arc, time::Duration};

use async_trait::async_trait;
use tokio::time::Instant;
use uuid::Uuid;

use crate::{
    event::{Event, EventType, Role},
    ids::{EventId, SessionId, TurnId},
    port::live::{Admission, Heard, Listener, Live, LiveEvent, Nudge, Snapshot, TextPosition},
};

/// Makes live ports of one kind; one factory serves one test.
#[async_trait]
pub trait LiveFactory: fmt::Debug + Send + Sync {
    /// Makes a port that nobody uses yet.
    async fn fresh(&self) -> Arc<dyn Live>;

    /// Returns when this much time has passed for its rate limits, or a little more.
    async fn pass(&self, time: Duration);
}

/// Expands into the tests of a live port; the expression makes a [`LiveFactory`].
#[macro_export]
macro_rules! live_suite {
    ($factory:expr) => {
        $crate::suite_cases! { $factory; live {
            every_reader_hears_what_is_told_from_now_on_in_order
            sessions_are_apart
            a_late_reader_has_the_text_so_far
            pieces_of_another_step_replace
            pieces_of_a_fenced_owner_change_nothing
            a_reset_forgets_the_text
            a_text_with_a_hole_is_never_shown
            a_cleared_text_is_gone
            only_pieces_make_text
            a_slow_reader_is_told_that_it_missed_some
            a_reader_that_went_away_harms_nobody
            every_service_hears_each_nudge
            a_bucket_grants_its_burst_and_then_its_rate
            buckets_are_apart
            a_live_port_that_answers_pings
        }}
    };
}

fn session(number: u128) -> SessionId {
    SessionId(Uuid::from_u128(number))
}

fn at(epoch: u64, step: u32, offset: u64) -> TextPosition {
    TextPosition { turn_id: TurnId::of(session(1), 1), epoch, step, offset }
}

fn piece(at: TextPosition, text: &str) -> LiveEvent {
    LiveEvent::Delta { at, text: text.to_owned() }
}

fn appended(seq: u64) -> LiveEvent {
    LiveEvent::Appended { seq }
}

/// Tells the pieces of a step's text, one after another.
async fn tell(live: &dyn Live, epoch: u64, step: u32, pieces: &[&str]) {
    let mut offset = 0;
    for text in pieces {
        live.publish(session(1), piece(at(epoch, step, offset), text)).await;
        offset += u64::try_from(text.len()).unwrap();
    }
}

async fn text(live: &dyn Live) -> Option<String> {
    live.snapshot(session(1)).await.unwrap().map(|snapshot| snapshot.text)
}

pub async fn every_reader_hears_what_is_told_from_now_on_in_order(factory: &dyn LiveFactory) {
    let live = factory.fresh().await;
    live.publish(session(1), appended(1)).await;
    let mut readers: [Box<dyn Listener>; 2] =
        [live.listen(session(1)).await.unwrap(), live.listen(session(1)).await.unwrap()];
    let id = Uuid::from_u128(9);
    let thinking = Event::new(EventId(id), session(1), Role::Assistant, EventType::Thinking);
    let told = [
        appended(2),
        LiveEvent::Notice { event: Box::new(thinking) },
        piece(at(1, 0, 0), "Gr\u{fc}\u{df} "),
        piece(at(1, 0, 7), "Gott"),
        LiveEvent::Reset { at: at(1, 0, 0) },
    ];
    for event in &told {
        live.publish(session(1), event.clone()).await;
    }
    for reader in &mut readers {
        for event in &told {
            assert_eq!(reader.next().await, Heard::Event(event.clone()));
        }
    }
}

pub async fn sessions_are_apart(factory: &dyn LiveFactory) {
    let live = factory.fresh().await;
    let mut reader = live.listen(session(1)).await.unwrap();
    live.publish(session(2), piece(at(1, 0, 0), "elsewhere")).await;
    live.publish(session(1), appended(1)).await;
    assert_eq!(reader.next().await, Heard::Event(appended(1)));
    assert_eq!(live.snapshot(session(1)).await.unwrap(), None);
    live.clear(session(1)).await;
    assert!(live.snapshot(session(2)).await.unwrap().is_some());
}

pub async fn a_late_reader_has_the_text_so_far(factory: &dyn LiveFactory) {
    let live = factory.fresh().await;
    assert_eq!(live.snapshot(session(1)).await.unwrap(), None);
    tell(&*live, 3, 1, &["one ", "tw\u{f6} ", "three"]).await;
    let expected = Snapshot { at: at(3, 1, 0), text: "one tw\u{f6} three".to_owned() };
    assert_eq!(live.snapshot(session(1)).await.unwrap(), Some(expected));
}

pub async fn pieces_of_another_step_replace(factory: &dyn LiveFactory) {
    let live = factory.fresh().await;
    for (epoch, step, said) in [(1, 0, "first"), (1, 2, "second"), (2, 2, "again")] {
        tell(&*live, epoch, step, &[said, "!"]).await;
        let expected = Snapshot { at: at(epoch, step, 0), text: format!("{said}!") };
        assert_eq!(live.snapshot(session(1)).await.unwrap(), Some(expected));
    }
}

pub async fn pieces_of_a_fenced_owner_change_nothing(factory: &dyn LiveFactory) {
    let live = factory.fresh().await;
    tell(&*live, 2, 0, &["the new owner"]).await;
    tell(&*live, 1, 5, &["the old one"]).await;
    live.publish(session(1), LiveEvent::Reset { at: at(1, 5, 0) }).await;
    assert_eq!(text(&*live).await.as_deref(), Some("the new owner"));
}

pub async fn a_reset_forgets_the_text(factory: &dyn LiveFactory) {
    let live = factory.fresh().await;
    tell(&*live, 1, 0, &["a wrong start"]).await;
    live.publish(session(1), LiveEvent::Reset { at: at(1, 0, 0) }).await;
    assert_eq!(text(&*live).await.unwrap_or_default(), "");
    tell(&*live, 1, 0, &["a right ", "one"]).await;
    assert_eq!(text(&*live).await.as_deref(), Some("a right one"));
}

pub async fn a_text_with_a_hole_is_never_shown(factory: &dyn LiveFactory) {
    let live = factory.fresh().await;
    tell(&*live, 1, 0, &["one "]).await;
    live.publish(session(1), piece(at(1, 0, 8), "three")).await;
    let shown = text(&*live).await.unwrap_or_default();
    assert!("one two three".starts_with(&shown), "{shown}");
}

pub async fn a_cleared_text_is_gone(factory: &dyn LiveFactory) {
    let live = factory.fresh().await;
    tell(&*live, 1, 0, &["done"]).await;
    for _ in 0..2 {
        live.clear(session(1)).await;
        assert_eq!(live.snapshot(session(1)).await.unwrap(), None);
    }
}

pub async fn only_pieces_make_text(factory: &dyn LiveFactory) {
    let live = factory.fresh().await;
    let id = Uuid::from_u128(9);
    let thinking = Event::new(EventId(id), session(1), Role::Assistant, EventType::Thinking);
    let others = [appended(1), LiveEvent::Notice { event: Box::new(thinking) }];
    for event in others.clone() {
        live.publish(session(1), event).await;
    }
    assert_eq!(live.snapshot(session(1)).await.unwrap(), None);
    tell(&*live, 1, 0, &["text"]).await;
    for event in others {
        live.publish(session(1), event).await;
    }
    assert_eq!(text(&*live).await.as_deref(), Some("text"));
}

pub async fn a_slow_reader_is_told_that_it_missed_some(factory: &dyn LiveFactory) {
    let live = factory.fresh().await;
    let mut reader = live.listen(session(1)).await.unwrap();
    let many = 10_000;
    for seq in 0..many {
        live.publish(session(1), appended(seq)).await;
    }
    for heard in 0..=many {
        assert!(heard < many, "nothing bounds what a reader leaves unheard");
        match reader.next().await {
            Heard::Event(_) => {}
            Heard::Lagged | Heard::Closed => return,
        }
    }
}

pub async fn a_reader_that_went_away_harms_nobody(factory: &dyn LiveFactory) {
    let live = factory.fresh().await;
    let gone = live.listen(session(1)).await.unwrap();
    let mut stays = live.listen(session(1)).await.unwrap();
    drop(gone);
    live.publish(session(1), appended(1)).await;
    assert_eq!(stays.next().await, Heard::Event(appended(1)));
    drop(stays);
    live.publish(session(1), appended(2)).await;
    let mut later = live.listen(session(1)).await.unwrap();
    live.publish(session(1), appended(3)).await;
    assert_eq!(later.next().await, Heard::Event(appended(3)));
}

pub async fn every_service_hears_each_nudge(factory: &dyn LiveFactory) {
    let live = factory.fresh().await;
    let mut ears = [live.nudges().await, live.nudges().await];
    let nudges = [
        Nudge::Session { session_id: session(1) },
        Nudge::Cancel { session_id: session(1), turn_id: TurnId::of(session(1), 1) },
        Nudge::Steps { session_id: session(2) },
    ];
    for nudge in &nudges {
        live.nudge(nudge.clone()).await;
    }
    for ear in &mut ears {
        for nudge in &nudges {
            assert_eq!(ear.next().await, Some(nudge.clone()));
        }
    }
}

pub async fn a_bucket_grants_its_burst_and_then_its_rate(factory: &dyn LiveFactory) {
    let live = factory.fresh().await;
    let (per_second, burst) = (1, 3);
    loop {
        // On a machine that stops for a second the bucket rightly fills: try another one.
        let start = Instant::now();
        let name = format!("bucket {start:?}");
        for _ in 0..burst {
            assert_eq!(live.take(&name, per_second, burst).await.unwrap(), Admission::Granted);
        }
        match live.take(&name, per_second, burst).await.unwrap() {
            Admission::Granted => assert!(start.elapsed() >= Duration::from_secs(1)),
            Admission::Limited(wait) => {
                assert!(wait > Duration::ZERO && wait <= Duration::from_secs(1));
                factory.pass(wait).await;
                let again = live.take(&name, per_second, burst).await.unwrap();
                assert_eq!(again, Admission::Granted);
                return;
            }
        }
    }
}

pub async fn buckets_are_apart(factory: &dyn LiveFactory) {
    let live = factory.fresh().await;
    for name in ["ann", "ben", "cat"] {
        assert_eq!(live.take(name, 1, 1).await.unwrap(), Admission::Granted);
    }
}

pub async fn a_live_port_that_answers_pings(factory: &dyn LiveFactory) {
    factory.fresh().await.ping().await.unwrap();
}
