//! Which of the waiting messages share the next commit: a pure decision.

use std::collections::{HashSet, VecDeque};

use soma_contract::{EventId, TenantId, message::NewMessage};

/// Takes the next batch off the queue: at most `limit` items, oldest first, one per idempotency
/// key and per event id.
///
/// What is held back keeps its place, so that a repetition is answered by the commit after the one
/// that stores its first occurrence. A queue that is not empty gives a batch that is not empty.
pub fn take<T>(
    queue: &mut VecDeque<T>,
    limit: usize,
    message: impl Fn(&T) -> &NewMessage,
) -> Vec<T> {
    let chosen = choose(queue.iter().map(message), limit.max(1));
    if chosen.iter().all(|&fits| fits) {
        let rest = queue.split_off(chosen.len());
        return std::mem::replace(queue, rest).into();
    }
    let mut batch = Vec::with_capacity(chosen.len());
    let mut held = VecDeque::new();
    for fits in chosen {
        match queue.pop_front() {
            Some(item) if fits => batch.push(item),
            Some(item) => held.push_back(item),
            None => break,
        }
    }
    held.append(queue);
    *queue = held;
    batch
}

/// Says of each message, up to the one that fills the batch, whether it fits in.
fn choose<'m>(messages: impl Iterator<Item = &'m NewMessage>, limit: usize) -> Vec<bool> {
    let mut taken = Taken::default();
    let mut count = 0;
    let mut chosen = Vec::new();
    for message in messages {
        let fits = taken.take(message);
        chosen.push(fits);
        count += usize::from(fits);
        if count == limit {
            break;
        }
    }
    chosen
}

/// The marks of a batch and of what it holds back.
#[derive(Default)]
struct Taken<'m> {
    events: HashSet<EventId>,
    keys: HashSet<(&'m TenantId, &'m str, &'m str)>,
}

impl<'m> Taken<'m> {
    /// Takes a message in, unless an older one has the same event or key. The marks of one that is
    /// held back count too, or a younger one would overtake it.
    fn take(&mut self, message: &'m NewMessage) -> bool {
        let key = message
            .idempotency
            .as_ref()
            .map(|promise| (&message.tenant, promise.route.as_str(), promise.key.as_str()));
        let new_event = self.events.insert(message.event.event_id);
        let new_key = key.is_none_or(|key| self.keys.insert(key));
        new_event && new_key
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use soma_contract::{Event, EventType, Role, SessionId, message::Idempotency, turn::TurnKind};
    use uuid::Uuid;

    use super::*;

    fn message(event: u8, key: Option<u8>, tenant: u8) -> NewMessage {
        NewMessage {
            tenant: TenantId(format!("tenant-{tenant}")),
            subject: "somebody".to_owned(),
            kind: TurnKind::Message,
            event: Event::new(
                EventId(Uuid::from_u128(event.into())),
                SessionId(Uuid::from_u128(1)),
                Role::User,
                EventType::User,
            ),
            idempotency: key.map(|key| Idempotency {
                route: "/v1/session/message".to_owned(),
                key: key.to_string(),
                body_hash: String::new(),
            }),
        }
    }

    fn marks(item: &(usize, NewMessage)) -> (EventId, Option<(TenantId, String)>) {
        let key = item.1.idempotency.as_ref();
        let key = key.map(|promise| (item.1.tenant.clone(), promise.key.clone()));
        (item.1.event.event_id, key)
    }

    #[test]
    fn a_repetition_waits_for_the_next_commit_and_others_go_past_it() {
        let items = [message(1, Some(7), 0), message(2, Some(7), 0), message(3, Some(7), 1)];
        let mut queue: VecDeque<_> = items.into_iter().enumerate().collect();
        let first = take(&mut queue, 10, |item| &item.1);
        assert_eq!(first.iter().map(|item| item.0).collect::<Vec<_>>(), [0, 2]);
        let second = take(&mut queue, 10, |item| &item.1);
        assert_eq!(second.iter().map(|item| item.0).collect::<Vec<_>>(), [1]);
        assert!(queue.is_empty());
    }

    proptest! {
        #[test]
        fn batches_are_bounded_unique_in_order_and_lose_nothing(
            shape in prop::collection::vec((0_u8..12, prop::option::of(0_u8..4), 0_u8..2), 0..60),
            limit in 1_usize..8,
        ) {
            let mut queue: VecDeque<(usize, NewMessage)> = shape
                .iter()
                .map(|&(event, key, tenant)| message(event, key, tenant))
                .enumerate()
                .collect();
            let mut seen = Vec::new();
            while !queue.is_empty() {
                let batch = take(&mut queue, limit, |item| &item.1);
                prop_assert!(!batch.is_empty());
                prop_assert!(batch.len() <= limit);
                let mut events = HashSet::new();
                let mut keys = HashSet::new();
                for item in &batch {
                    let (event, key) = marks(item);
                    prop_assert!(events.insert(event));
                    prop_assert!(key.is_none_or(|key| keys.insert(key)));
                }
                prop_assert!(batch.is_sorted_by_key(|item| item.0));
                prop_assert!(queue.iter().is_sorted_by_key(|item| item.0));
                seen.extend(batch.into_iter().map(|item| item.0));
            }
            seen.sort_unstable();
            prop_assert_eq!(seen, (0..shape.len()).collect::<Vec<_>>());
        }

        #[test]
        fn of_two_messages_with_one_mark_the_older_is_committed_first(
            shape in prop::collection::vec((0_u8..6, prop::option::of(0_u8..3)), 0..40),
            limit in 1_usize..8,
        ) {
            let mut queue: VecDeque<(usize, NewMessage)> =
                shape.iter().map(|&(event, key)| message(event, key, 0)).enumerate().collect();
            let mut order = Vec::new();
            while !queue.is_empty() {
                order.extend(take(&mut queue, limit, |item| &item.1));
            }
            for (place, later) in order.iter().enumerate() {
                for earlier in &order[..place] {
                    let (event, key) = marks(earlier);
                    let (later_event, later_key) = marks(later);
                    if event == later_event || (key.is_some() && key == later_key) {
                        prop_assert!(earlier.0 < later.0);
                    }
                }
            }
        }
    }
}
