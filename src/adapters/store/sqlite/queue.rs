//! What was asked of the writer and is not done yet: who comes into the next commit.
//!
//! A caller outside waits for an accept, which is short, while turns go on by themselves. So accepts
//! all come first, and while any come, the rest shares in each commit as far as it does not hold them
//! up. It is never left out.

use std::collections::VecDeque;

use super::work::Work;

/// Accepts that one commit does at most.
const ACCEPTS: usize = 256;
/// Requests of the rest that one commit does at most: a commit is short, as an accept may come any
/// moment and waits for its end.
const ALL_OTHERS: usize = 64;
/// Commits without an accept after which none is expected: callers that have just been answered send
/// the next one.
const CALM: u32 = 4;
/// One request of the rest for so many accepts, ...
const ACCEPTS_PER_OTHER: usize = 4;
/// ... and this many in any case.
const OTHERS: usize = 8;

/// Work that waits.
#[derive(Default)]
pub(super) struct Queue {
    accepts: VecDeque<Box<dyn Work>>,
    others: VecDeque<Box<dyn Work>>,
    /// Commits since the last one with an accept.
    calm: u32,
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
        self.calm = if accepts == 0 { self.calm.saturating_add(1) } else { 0 };
        let share = if self.calm > CALM { ALL_OTHERS } else { share(accepts) };
        take(&mut self.others, share, &mut works);
        works
    }
}

/// Returns how many requests of the rest a commit does beside so many accepts.
fn share(accepts: usize) -> usize {
    (accepts / ACCEPTS_PER_OTHER).max(OTHERS)
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
    fn accepts_come_first_and_leave_the_rest_its_share() {
        let mut queue = Queue::default();
        (0..200).for_each(|_| queue.push(claim()));
        queue.push(accepts(64));
        assert_eq!(next(&mut queue), [("accept", 64), ("claim", 16)]);
        (0..2).for_each(|_| queue.push(accepts(1)));
        assert_eq!(next(&mut queue), [("accept", 2), ("claim", 8)]);
    }

    #[test]
    fn when_no_more_accepts_come_the_rest_has_all() {
        let mut queue = Queue::default();
        (0..200).for_each(|_| queue.push(claim()));
        queue.push(accepts(1));
        for works in [&[("accept", 1), ("claim", 8)][..], &[("claim", 8)]] {
            assert_eq!(next(&mut queue), works);
        }
        (1..CALM).for_each(|_| drop(queue.next()));
        assert_eq!(next(&mut queue), [("claim", 64)]);
        while !queue.is_empty() {
            assert_ne!(next(&mut queue), []);
        }
    }

    #[test]
    fn a_commit_is_bounded() {
        let mut queue = Queue::default();
        (0..300).for_each(|_| queue.push(claim()));
        (0..5).for_each(|_| queue.push(accepts(64)));
        assert_eq!(next(&mut queue), [("accept", 256), ("claim", 64)]);
        assert_eq!(next(&mut queue), [("accept", 64), ("claim", 16)]);
    }
}
