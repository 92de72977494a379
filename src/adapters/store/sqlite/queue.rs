//! What was asked of the writer and is not done yet: who comes into the next commit.
//!
//! A caller outside waits for an accept, which is short, while turns go on by themselves. So accepts
//! all come first, and the rest has what they leave of a short commit. It is never left out.

use std::collections::VecDeque;

use super::work::Work;

/// Accepts that one commit does at most.
const ACCEPTS: usize = 256;
/// Requests of a commit, beyond which the rest waits: an accept may come any moment, and waits for
/// the end of the commit that has begun.
const COMMIT: usize = 48;
/// Requests of the rest that each commit does.
const OTHERS: usize = 3;

/// Work that waits.
#[derive(Default)]
pub(super) struct Queue {
    accepts: VecDeque<Box<dyn Work>>,
    others: VecDeque<Box<dyn Work>>,
    /// Accepts that may come any moment: callers that have just been answered send the next ones.
    expected: usize,
}

impl Queue {
    /// Takes work in.
    pub(super) fn push(&mut self, work: Box<dyn Work>) {
        let line = if work.comes_first() { &mut self.accepts } else { &mut self.others };
        line.push_back(work);
    }

    /// Returns how much waits.
    pub(super) fn len(&self) -> usize {
        self.accepts.len() + self.others.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Takes out what the next commit does, work of one kind joined into one set.
    pub(super) fn next(&mut self) -> Vec<Box<dyn Work>> {
        let mut works = Vec::new();
        let accepts = take(&mut self.accepts, ACCEPTS, &mut works);
        self.expected = accepts.max(self.expected - self.expected.div_ceil(8));
        let share = COMMIT.saturating_sub(self.expected).max(OTHERS);
        take(&mut self.others, share, &mut works);
        works
    }
}

/// Moves work of at least one and about `most` requests; returns of how many.
fn take(line: &mut VecDeque<Box<dyn Work>>, most: usize, works: &mut Vec<Box<dyn Work>>) -> usize {
    let mut taken = 0;
    while taken < most
        && let Some(work) = line.pop_front()
    {
        taken += work.count();
        join(works, work);
    }
    taken
}

/// Joins work of one kind into one set.
fn join(works: &mut Vec<Box<dyn Work>>, work: Box<dyn Work>) {
    let mut rest = Some(work);
    for known in works.iter_mut() {
        match rest.take() {
            Some(work) => rest = known.absorb(work),
            None => return,
        }
    }
    works.extend(rest);
}

#[cfg(test)]
mod tests {
    use soma_contract::{
        Event, EventId, EventType, Role, SessionId, TenantId, ids::Owner, message::NewMessage,
        turn::TurnKind,
    };
    use tokio::sync::oneshot;
    use uuid::Uuid;

    use super::{
        super::{accept::Accept, claim::Claim, work::Set},
        *,
    };

    fn claim() -> Box<dyn Work> {
        let (owner, session_id) = (Owner("me".to_owned()), SessionId(Uuid::nil()));
        Box::new(Set::new(vec![Claim { owner, session_id }], oneshot::channel().0))
    }

    fn accepts(count: usize) -> Box<dyn Work> {
        let (id, session) = (EventId(Uuid::nil()), SessionId(Uuid::nil()));
        let message = || NewMessage {
            tenant: TenantId::public(),
            subject: "ann".to_owned(),
            kind: TurnKind::Message,
            event: Event::new(id, session, Role::User, EventType::User),
            idempotency: None,
        };
        let messages = (0..count).map(|_| Accept(message())).collect();
        Box::new(Set::new(messages, oneshot::channel().0))
    }

    fn next(queue: &mut Queue) -> Vec<(&'static str, usize)> {
        queue.next().iter().map(|work| (work.name(), work.count())).collect()
    }

    #[test]
    fn accepts_come_first_and_the_rest_has_what_they_leave() {
        let mut queue = Queue::default();
        (0..100).for_each(|_| queue.push(claim()));
        queue.push(accepts(8));
        assert_eq!(next(&mut queue), [("accept", 8), ("claim", 40)]);
        queue.push(accepts(60));
        (0..4).for_each(|_| queue.push(accepts(1)));
        assert_eq!(next(&mut queue), [("accept", 64), ("claim", 3)]);
    }

    #[test]
    fn when_no_more_accepts_come_the_rest_has_more_and_more() {
        let mut queue = Queue::default();
        (0..2_000).for_each(|_| queue.push(claim()));
        queue.push(accepts(64));
        let shares: Vec<usize> =
            (0..30).map(|_| next(&mut queue).last().map_or(0, |(_, count)| *count)).collect();
        assert!(shares.is_sorted());
        assert_eq!((shares[0], shares[1], shares[29]), (3, 3, COMMIT));
    }

    #[test]
    fn a_commit_is_bounded_and_leaves_nobody_out() {
        let mut queue = Queue::default();
        (0..10).for_each(|_| queue.push(claim()));
        (0..5).for_each(|_| queue.push(accepts(64)));
        assert_eq!(next(&mut queue), [("accept", 256), ("claim", 3)]);
        assert_eq!(next(&mut queue), [("accept", 64), ("claim", 3)]);
        assert_eq!(next(&mut queue), [("claim", 3)]);
        assert_eq!(next(&mut queue), [("claim", 1)]);
        assert!(queue.is_empty());
    }
}
