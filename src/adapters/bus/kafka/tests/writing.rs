//! What writers can rely on.

use rdkafka::{
    admin::{AlterConfig, NewTopic, ResourceSpecifier, TopicReplication},
    consumer::{BaseConsumer, Consumer as _},
};
use tokio::time::timeout;

use super::*;

#[tokio::test]
async fn a_record_that_is_too_large_is_refused_and_later_ones_go_on() {
    let corner = Corner::new();
    let bus = corner.bus().await;
    let large = vec![b'x'; 9 * 1_024 * 1_024];
    let batch = [row(1, session(1), "{}"), row(2, session(1), large), row(3, session(1), "{}")];
    let deliveries = bus.publish(&batch).await;
    assert!(
        matches!(&deliveries[..], [Delivery::Delivered, Delivery::Refused(_), Delivery::Delivered]),
        "{deliveries:?}"
    );
    let records = receive(&mut *worker(&bus), 2).await;
    assert_eq!(records.iter().map(row_id).collect::<Vec<_>>(), [1, 3]);
}

#[tokio::test]
async fn a_record_that_shares_a_refused_batch_is_not_refused_with_it() {
    let corner = Corner::new();
    let bus = corner.bus().await;
    write(&bus, &[row(1, session(1), "{}")]).await;
    lower_the_limit(&corner).await;
    // Noise, so that compression does not help.
    let noise: Vec<u8> =
        (0..4_000_u32).flat_map(|n| n.wrapping_mul(2_654_435_761).to_be_bytes()).collect();
    let mut left =
        vec![row(2, session(1), "{}"), row(3, session(1), noise), row(4, session(1), "{}")];
    let mut refused = Vec::new();
    // As the relay does: what failed goes again.
    while !left.is_empty() {
        let deliveries = bus.publish(&left).await;
        let mut fates = deliveries.into_iter();
        left.retain(|row| match fates.next().unwrap() {
            Delivery::Refused(_) => {
                refused.push(row.id);
                false
            }
            delivery => delivery != Delivery::Delivered,
        });
    }
    assert_eq!(refused, [3]);
    let records = receive(&mut *worker(&bus), 3).await;
    let mut ids: Vec<i64> = records.iter().map(row_id).collect();
    ids.dedup();
    assert!(ids.starts_with(&[1, 2]), "{ids:?}");
}

async fn lower_the_limit(corner: &Corner) {
    let name = corner.options.topic(Topic::ConversationInbound);
    let change =
        AlterConfig::new(ResourceSpecifier::Topic(&name)).set("max.message.bytes", "10000");
    let outcomes = corner.admin().alter_configs([&change], &AdminOptions::new()).await.unwrap();
    assert!(outcomes.iter().all(Result::is_ok), "{outcomes:?}");
}

#[tokio::test]
async fn sessions_keep_their_order_and_partition() {
    let corner = Corner::new();
    let bus = corner.bus().await;
    write(&bus, &rows(0..600, 7)).await;
    let records = receive(&mut *worker(&bus), 600).await;
    for number in 0..7 {
        let of_session: Vec<i64> = records
            .iter()
            .filter(|record| record.session_id == Some(session(number)))
            .map(row_id)
            .collect();
        let expected: Vec<i64> =
            (0..600).filter(|id| id % 7 == i64::try_from(number).unwrap()).collect();
        assert_eq!(of_session, expected);
    }
}

#[tokio::test]
async fn topics_are_created_as_configured_and_existing_ones_kept() {
    let corner = Corner::new();
    let old = corner.options.topic(Topic::MemoryWal);
    let topic = NewTopic::new(&old, 2, TopicReplication::Fixed(1));
    corner.admin().create_topics([&topic], &AdminOptions::new()).await.unwrap();
    let bus = corner.bus().await;
    let consumer: BaseConsumer = corner.options.client().set("group.id", "x").create().unwrap();
    let partitions = |topic| {
        let metadata = consumer.fetch_metadata(Some(&corner.options.topic(topic)), LONG).unwrap();
        metadata.topics()[0].partitions().len()
    };
    assert_eq!(partitions(Topic::MemoryWal), 2);
    assert_eq!(partitions(Topic::ToolRequests), 3);
    drop(bus);
}

#[tokio::test]
async fn without_brokers_a_bus_is_built_and_says_so() {
    let corner = Corner::at("127.0.0.1:1".to_owned(), "absent.".to_owned());
    let bus = KafkaBus::connect(corner.options.clone()).await.unwrap();
    assert!(bus.ping().await.is_err());
    let deliveries = bus.publish(&rows(0..2, 1)).await;
    assert!(deliveries.iter().all(|delivery| matches!(delivery, Delivery::Failed(_))));
    let mut worker = worker(&bus);
    assert!(worker.receive(10, LONG).await.is_err());
    drop(worker);
    timeout(LONG, bus.close(LONG)).await.unwrap();
    std::mem::forget(corner);
}

#[tokio::test]
async fn settings_that_cannot_be_used_are_an_error() {
    let corner = Corner::new();
    let mut options = corner.options.clone();
    options.protocol = SecurityProtocol::Ssl;
    options.authorities = Some("/absent/ca.pem".into());
    let error = KafkaBus::connect(options).await.unwrap_err().to_string();
    assert!(error.contains("ssl.ca.location"), "{error}");
}
