//! What other systems write: the predecessor, and anybody.

use rdkafka::{
    message::{Header, OwnedHeaders},
    producer::{BaseProducer, BaseRecord, Producer},
};

use super::*;

fn foreign(corner: &Corner) -> BaseProducer {
    corner.options.client().create().unwrap()
}

fn flushed(producer: &BaseProducer) {
    producer.flush(LONG).unwrap();
}

#[tokio::test]
async fn the_predecessors_records_are_read() {
    let corner = Corner::new();
    let bus = corner.bus().await;
    let producer = foreign(&corner);
    let headers = [
        ("tenant_id", "acme"),
        ("session_id", "00000000-0000-0000-0000-000000000001"),
        ("persona_id", ""),
        ("event_type", "user"),
        ("event_id", "00000000-0000-0000-0000-000000000002"),
        ("schema", ""),
    ];
    let written = headers.iter().fold(OwnedHeaders::new(), |written, (key, value)| {
        written.insert(Header { key, value: Some(*value) })
    });
    let topic = corner.options.topic(Topic::ConversationInbound);
    let record = BaseRecord::<(), str>::to(&topic).payload(r#"{"message":"gr\u00fc\u00df"}"#);
    producer.send(record.headers(written)).map_err(|(error, _)| error).unwrap();
    flushed(&producer);
    let record = receive(&mut *worker(&bus), 1).await.remove(0);
    assert_eq!(record.session_id, None);
    assert_eq!(record.event_id(), Some(uuid::Uuid::from_u128(2)));
    for (name, value) in headers {
        assert_eq!(record.headers[name], value);
    }
    assert_eq!(record.payload, r#"{"message":"gr\u00fc\u00df"}"#);
}

#[tokio::test]
async fn poison_is_handed_out_and_passed_when_it_is_acknowledged() {
    let corner = Corner::new();
    let bus = corner.bus().await;
    let producer = foreign(&corner);
    let topic = corner.options.topic(Topic::ConversationInbound);
    let one = |payload: Option<&'static [u8]>, key: Option<&'static [u8]>| {
        let mut record = BaseRecord::<[u8], [u8]>::to(&topic).partition(0);
        (record.payload, record.key) = (payload, key);
        let headers = OwnedHeaders::new().insert(Header { key: "x", value: Some(&[0xff_u8][..]) });
        producer.send(record.headers(headers)).map_err(|(error, _)| error).unwrap();
    };
    one(None, None);
    one(Some(b"\xff\xfe\x00"), Some(b"\xff"));
    one(Some(b"no json"), Some(b"no uuid"));
    flushed(&producer);
    let mut consumer = worker(&bus);
    let records = receive(&mut *consumer, 3).await;
    let payloads: Vec<&[u8]> = records.iter().map(|record| &*record.payload).collect();
    assert_eq!(payloads, [b"".as_slice(), b"\xff\xfe\x00", b"no json"]);
    assert!(records.iter().all(|record| record.session_id.is_none() && record.headers.is_empty()));
    consumer.acknowledge(&records).await.unwrap();
    drop(consumer);
    write(&bus, &[row(9, session(1), "{}")]).await;
    assert_eq!(row_id(&receive(&mut *worker(&bus), 1).await[0]), 9);
}
