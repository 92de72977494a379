//! What the brokers hand out, as a record: whatever it is, somebody has to decide about it.

use std::{
    collections::BTreeMap,
    panic::{AssertUnwindSafe, catch_unwind},
};

use bytes::Bytes;
use rdkafka::{Message, message::Headers};
use soma_contract::{
    ids::SessionId,
    port::bus::{Position, Record},
    topic::Topic,
};

/// Takes a message over.
pub(super) fn record(topic: Topic, message: &impl Message) -> Record {
    Record {
        topic,
        position: Position::Offset { partition: message.partition(), offset: message.offset() },
        session_id: message.key().and_then(session_id),
        headers: headers(message),
        payload: message.payload().map(Bytes::copy_from_slice).unwrap_or_default(),
    }
}

fn session_id(key: &[u8]) -> Option<SessionId> {
    std::str::from_utf8(key).ok()?.parse().ok().map(SessionId)
}

/// Reads the headers that are text. A header *name* that is none makes the library panic; such a
/// record has no headers, but is still a record.
fn headers(message: &impl Message) -> BTreeMap<String, String> {
    let read = || {
        let headers = message.headers().into_iter().flat_map(Headers::iter);
        let text = headers.filter_map(|header| {
            let value = std::str::from_utf8(header.value?).ok()?;
            Some((header.key.to_owned(), value.to_owned()))
        });
        text.collect()
    };
    catch_unwind(AssertUnwindSafe(read)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use rdkafka::{
        Timestamp,
        message::{Header, OwnedHeaders, OwnedMessage},
    };

    use super::*;

    fn message(key: Option<&[u8]>, headers: Option<OwnedHeaders>) -> OwnedMessage {
        OwnedMessage::new(
            Some(b"{}".to_vec()),
            key.map(<[u8]>::to_vec),
            "memory.wal".to_owned(),
            Timestamp::NotAvailable,
            3,
            7,
            headers,
        )
    }

    #[test]
    fn a_key_that_is_no_session_is_none() {
        let id = "00000000-0000-0000-0000-00000000000e";
        let read = |key| record(Topic::MemoryWal, &message(key, None)).session_id;
        assert_eq!(read(Some(id.as_bytes())).unwrap().to_string(), id);
        assert_eq!((read(None), read(Some(b"x")), read(Some(b"\xff"))), (None, None, None));
    }

    #[test]
    fn headers_that_are_no_text_are_left_out() {
        let headers = OwnedHeaders::new()
            .insert(Header { key: "tenant_id", value: Some("acme") })
            .insert(Header { key: "binary", value: Some(&[0xff_u8][..]) })
            .insert(Header::<'_, &str> { key: "null", value: None });
        let record = record(Topic::MemoryWal, &message(None, Some(headers)));
        assert_eq!(record.headers, BTreeMap::from([("tenant_id".to_owned(), "acme".to_owned())]));
        assert_eq!(record.position, Position::Offset { partition: 3, offset: 7 });
    }
}
