//! What follows from the bus's reports on a batch of rows.

use std::collections::HashSet;

use soma_contract::{
    SessionId,
    port::bus::{Delivery, OutboxRow},
    topic::Topic,
};

/// Rows by what is to be done about them; what is in none of the lists stays.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Sorted {
    /// May go.
    pub(super) delivered: Vec<i64>,
    /// Become dead letters.
    pub(super) refused: Vec<(i64, String)>,
    /// How many are kept by the bus where they are.
    pub(super) in_place: usize,
    /// How many have to be published again.
    pub(super) retried: usize,
    /// Why, of the first of them.
    pub(super) failed: Option<String>,
}

/// Sorts rows by their reports. A row behind one of its session and topic that failed stays, however
/// it fared itself: it goes out again behind that one.
pub(super) fn sort(rows: &[OutboxRow], deliveries: &[Delivery]) -> Sorted {
    let mut sorted = Sorted::default();
    let mut stopped: HashSet<(SessionId, Topic)> = HashSet::new();
    let unreported = Delivery::Failed("the bus did not report on the row".to_owned());
    let reports = deliveries.iter().chain(std::iter::repeat(&unreported));
    for (row, delivery) in rows.iter().zip(reports) {
        if stopped.contains(&(row.session_id, row.topic)) {
            sorted.retried += 1;
            continue;
        }
        match delivery {
            Delivery::Delivered => sorted.delivered.push(row.id),
            Delivery::Refused(reason) => sorted.refused.push((row.id, reason.clone())),
            Delivery::InPlace => sorted.in_place += 1,
            Delivery::Failed(reason) => {
                stopped.insert((row.session_id, row.topic));
                sorted.retried += 1;
                sorted.failed.get_or_insert_with(|| reason.clone());
            }
        }
    }
    sorted
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use chrono::DateTime;
    use proptest::prelude::*;
    use uuid::Uuid;

    use super::*;

    fn row(id: i64, session: u8, topic: Topic) -> OutboxRow {
        OutboxRow {
            id,
            topic,
            session_id: SessionId(Uuid::from_u128(u128::from(session))),
            headers: BTreeMap::new(),
            payload: bytes::Bytes::new(),
            created_at: DateTime::default(),
        }
    }

    fn delivery() -> impl Strategy<Value = Delivery> {
        prop_oneof![
            4 => Just(Delivery::Delivered),
            1 => Just(Delivery::InPlace),
            1 => Just(Delivery::Refused("too large".to_owned())),
            1 => Just(Delivery::Failed("timed out".to_owned())),
        ]
    }

    proptest! {
        /// Invariants 1 and 2: nothing overtakes a row that failed, nothing is lost or doubled.
        #[test]
        fn a_row_goes_only_when_none_before_it_failed(
            batch in prop::collection::vec((0_u8..4, prop::bool::ANY, delivery()), 0..40),
            reported in 0_usize..45,
        ) {
            let rows: Vec<OutboxRow> = (0..)
                .zip(&batch)
                .map(|(id, (session, inbound, _))| {
                    let topic = if *inbound { Topic::ConversationInbound } else { Topic::MemoryWal };
                    row(id, *session, topic)
                })
                .collect();
            let reports: Vec<Delivery> =
                batch.iter().map(|(_, _, delivery)| delivery.clone()).take(reported).collect();
            let sorted = sort(&rows, &reports);
            prop_assert_eq!(
                sorted.delivered.len() + sorted.refused.len() + sorted.in_place + sorted.retried,
                rows.len()
            );
            prop_assert_eq!(sorted.failed.is_some(), sorted.retried > 0);
            let gone: HashSet<i64> = sorted
                .delivered
                .iter()
                .copied()
                .chain(sorted.refused.iter().map(|(id, _)| *id))
                .collect();
            for (place, later) in rows.iter().enumerate() {
                let failed_before = rows.iter().take(place).enumerate().any(|(earlier, row)| {
                    row.session_id == later.session_id
                        && row.topic == later.topic
                        && !matches!(
                            reports.get(earlier),
                            Some(Delivery::Delivered | Delivery::Refused(_) | Delivery::InPlace)
                        )
                });
                prop_assert!(!(failed_before && gone.contains(&later.id)));
            }
        }
    }

    #[test]
    fn other_sessions_and_topics_go_on() {
        let rows = [
            row(1, 1, Topic::ConversationInbound),
            row(2, 1, Topic::ConversationInbound),
            row(3, 1, Topic::MemoryWal),
            row(4, 2, Topic::ConversationInbound),
        ];
        let mut deliveries = vec![Delivery::Delivered; 4];
        deliveries[0] = Delivery::Failed("x".to_owned());
        let sorted = sort(&rows, &deliveries);
        assert_eq!(sorted.delivered, [3, 4]);
        assert_eq!((sorted.retried, sorted.failed.as_deref()), (2, Some("x")));
    }
}
