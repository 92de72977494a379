//! Records of `conversation.inbound`.

use std::{collections::BTreeMap, time::Duration};

use serde_json::{Value, json};
use soma_contract::{
    EventId, TenantId,
    port::store::{Registry as _, Transcript as _},
    testing::Play,
    topic::Topic,
};
use uuid::Uuid;

use crate::house::{House, SESSION, paused};

fn foreign(number: u128) -> Value {
    json!({
        "event_id": Uuid::from_u128(number), "session_id": SESSION, "persona_id": null,
        "message": "from afar", "attachments": [], "metadata": {"tenant": "public"},
        "role": "user",
    })
}

fn write(house: &House, headers: &[(&str, &str)], payload: impl Into<bytes::Bytes>) {
    let headers: BTreeMap<String, String> =
        headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    house.bus.write_foreign(Topic::ConversationInbound, headers, payload);
}

#[test]
fn a_foreign_message_is_answered_once_however_often_it_is_read() {
    paused(async {
        let house = House::new();
        for _ in 0..3 {
            write(&house, &[], foreign(7).to_string());
        }
        let process = house.open().await;
        let answer = house.store.terminal(EventId(Uuid::from_u128(7))).await;
        assert_eq!(answer.message, "from afar");
        write(&house, &[], foreign(7).to_string());
        tokio::time::sleep(Duration::from_secs(10)).await;
        process.stop().await;
        assert_eq!(house.terminals().await.len(), 1);
        let log = house.log().await;
        assert_eq!(log[0].metadata["tenant"], "public");
        assert_eq!(log[0].metadata["subject"], "bus");
    });
}

#[test]
fn what_cannot_become_a_turn_is_a_dead_letter_and_what_follows_goes_on() {
    paused(async {
        let house = House::new();
        write(&house, &[], "no JSON");
        let event_id = Uuid::from_u128(5).to_string();
        let session_id = SESSION.to_string();
        let ours = [("n", "4"), ("event_id", event_id.as_str()), ("session_id", &session_id)];
        write(&house, &ours, "{}");
        house.say(1, "soon deleted").await;
        let tenant = TenantId::public();
        house.store.delete_session(&tenant, SESSION, false).await.unwrap();
        write(&house, &[], foreign(6).to_string());
        let mut elsewhere = foreign(8);
        elsewhere["session_id"] = json!(Uuid::from_u128(0xB));
        write(&house, &[], elsewhere.to_string());
        let process = house.open().await;
        let answer = house.store.terminal(EventId(Uuid::from_u128(8))).await;
        assert_eq!(answer.message, "from afar");
        process.stop().await;
        let letters = house.store.dead_letters(None, None, 10).await.unwrap().items;
        let mut reasons: Vec<_> = letters.into_iter().map(|letter| letter.error).collect();
        reasons.sort();
        assert!(reasons[0].starts_with("it has a number"), "{reasons:?}");
        assert!(reasons[1].starts_with("not an event"), "{reasons:?}");
        assert!(reasons[2].contains("was deleted"), "{reasons:?}");
        assert_eq!(reasons.len(), 3);
    });
}

#[test]
fn records_of_ours_wake_the_session() {
    paused(async {
        let mut house = House::new();
        house.config.poll = Duration::from_hours(1);
        let process = house.open().await;
        tokio::time::sleep(Duration::from_secs(1)).await;
        let event_id = house.say(1, "hello").await;
        let (event, session_id) = (event_id.to_string(), SESSION.to_string());
        let headers =
            [("n", "1"), ("event_id", event.as_str()), ("session_id", session_id.as_str())];
        write(&house, &headers, "{}");
        assert_eq!(house.store.terminal(event_id).await.message, "hello");
        process.stop().await;
    });
}

#[test]
fn behind_a_full_backlog_foreign_messages_wait() {
    paused(async {
        let mut house = House::new();
        house.config.intake.backlog_total = 1;
        house.model.script(vec![Play::Hang]);
        let process = house.open().await;
        let first = house.say(1, "hello").await;
        process.ring();
        house.model.called(1).await;
        let mut other = foreign(7);
        other["session_id"] = json!(Uuid::from_u128(0xB));
        write(&house, &[], other.to_string());
        tokio::time::sleep(Duration::from_secs(30)).await;
        let foreign = EventId(Uuid::from_u128(7));
        let tenant = TenantId::public();
        assert!(house.store.message(&tenant, foreign).await.is_err());
        // The first turn comes to its end, by the cap of work.
        house.store.terminal(first).await;
        assert_eq!(house.store.terminal(foreign).await.message, "from afar");
        process.stop().await;
    });
}
