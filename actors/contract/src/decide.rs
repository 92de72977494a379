//! Decisions that every store makes alike. Pure, so that they are written and tested once: an
//! adapter reads what is known, asks here, and writes what follows in the same transaction.

use std::collections::HashMap;

use chrono::{DateTime, Utc};

use crate::{
    ids::{EventId, SessionId, TenantId, TurnId},
    message::{AcceptError, Accepted, NewMessage},
    port::store::LayDown,
    tool::Effect,
    topic::Topic,
    turn::{StepStatus, Tries, TurnStatus},
};

/// What is known of a session when messages are placed in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionHead {
    /// Whose it is.
    pub tenant: TenantId,
    /// Whether it was deleted.
    pub deleted: bool,
    /// The newest message number.
    pub last_n: u64,
    /// The newest place in its log.
    pub last_seq: u64,
}

/// What is known of an event id that is taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TakenId {
    /// Whose event it is.
    pub tenant: TenantId,
    /// The answer that its message got; `None` if the event is not an accepted message.
    pub accepted: Option<Accepted>,
}

/// The scope of an idempotency key: tenant, route and key.
pub type KeyScope = (TenantId, String, String);

/// What a store knows of everything that a batch of messages names; read in the transaction that
/// will write the batch.
#[derive(Debug, Clone, Default)]
pub struct Known {
    /// Used idempotency keys, each with the hash of its body and its answer.
    pub keys: HashMap<KeyScope, (String, Accepted)>,
    /// Taken event ids.
    pub events: HashMap<EventId, TakenId>,
    /// Sessions that exist.
    pub sessions: HashMap<SessionId, SessionHead>,
}

impl Known {
    /// Places one message of a batch, and knows it from then on: a later duplicate within the batch
    /// answers like a repetition. An answer that is not `replayed` is to be stored.
    ///
    /// The checks come in the order key, event id, session, so that a repetition gets its first
    /// answer even when the session has been deleted meanwhile; numbers are drawn only by messages
    /// that pass them all, hence without gaps.
    ///
    /// # Errors
    ///
    /// The message cannot be accepted; nothing is drawn for it.
    pub fn place(&mut self, message: &NewMessage) -> Result<Accepted, AcceptError> {
        if let Some(accepted) = self.repetition(message)? {
            return Ok(Accepted { replayed: true, ..accepted });
        }
        let session_id = message.event.session_id;
        let head = self.sessions.entry(session_id).or_insert_with(|| SessionHead {
            tenant: message.tenant.clone(),
            deleted: false,
            last_n: 0,
            last_seq: 0,
        });
        if head.tenant != message.tenant {
            return Err(AcceptError::ForeignSession(session_id));
        }
        if head.deleted {
            return Err(AcceptError::SessionDeleted(session_id));
        }
        head.last_n += 1;
        head.last_seq += 1;
        let accepted = Accepted {
            session_id,
            event_id: message.event.event_id,
            turn_id: TurnId::of(session_id, head.last_n),
            n: head.last_n,
            seq: head.last_seq,
            replayed: false,
        };
        self.learn(message, &accepted);
        Ok(accepted)
    }

    fn repetition(&self, message: &NewMessage) -> Result<Option<Accepted>, AcceptError> {
        if let Some(idempotency) = &message.idempotency
            && let Some((hash, accepted)) = self.keys.get(&key_scope(message, idempotency))
        {
            return if *hash == idempotency.body_hash {
                Ok(Some(accepted.clone()))
            } else {
                Err(AcceptError::KeyReused(idempotency.key.clone()))
            };
        }
        let event_id = message.event.event_id;
        match self.events.get(&event_id) {
            None => Ok(None),
            Some(TakenId { tenant, accepted: Some(accepted) })
                if *tenant == message.tenant && accepted.session_id == message.event.session_id =>
            {
                Ok(Some(accepted.clone()))
            }
            Some(_) => Err(AcceptError::EventIdTaken(event_id)),
        }
    }

    fn learn(&mut self, message: &NewMessage, accepted: &Accepted) {
        self.events.insert(
            accepted.event_id,
            TakenId { tenant: message.tenant.clone(), accepted: Some(accepted.clone()) },
        );
        if let Some(idempotency) = &message.idempotency {
            self.keys.insert(
                key_scope(message, idempotency),
                (idempotency.body_hash.clone(), accepted.clone()),
            );
        }
    }
}

fn key_scope(message: &NewMessage, idempotency: &crate::message::Idempotency) -> KeyScope {
    (message.tenant.clone(), idempotency.route.clone(), idempotency.key.clone())
}

/// What is known of a session's lowest unfinished turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Candidate {
    /// Where it stands.
    pub status: TurnStatus,
    /// Before when it may not be claimed, if it waits.
    pub not_before: Option<DateTime<Utc>>,
    /// Whether the process died while the turn ran, at any time since it was accepted.
    pub suspect: bool,
    /// Whether somebody holds a live lease on its session, be it for another turn of it (a replay
    /// may be the lowest while a later one runs). In an embedded store a running turn's always lives.
    pub leased: bool,
}

/// Returns whether the turn may be claimed now. At most one suspect runs at a time.
pub fn may_claim(turn: &Candidate, now: DateTime<Utc>, suspect_runs: bool) -> bool {
    let due = match turn.status {
        TurnStatus::Queued | TurnStatus::Running => true,
        TurnStatus::Waiting => turn.not_before.is_none_or(|not_before| not_before <= now),
        TurnStatus::Done | TurnStatus::Failed | TurnStatus::Cancelled => false,
    };
    due && !turn.leased && !(turn.suspect && suspect_runs)
}

/// Returns the tries of a turn during which the process died; it is a suspect from then on, until
/// it ends. A death counts only if it was a suspect already, since only then it ran with no other
/// suspect beside it.
#[must_use]
pub const fn after_death(tries: Tries, suspect: bool) -> Tries {
    if suspect { Tries { deaths: tries.deaths.saturating_add(1), ..tries } } else { tries }
}

/// How a turn lies that was laid down.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Laid {
    /// `Queued` or `Waiting`.
    pub status: TurnStatus,
    /// Its tries from now on.
    pub tries: Tries,
    /// Before when it may not be claimed.
    pub not_before: Option<DateTime<Utc>>,
    /// Since when it waits; kept over claims that only end in another wait, cleared by progress.
    pub waiting_since: Option<DateTime<Utc>>,
    /// Why it waits or was laid down.
    pub reason: Option<String>,
}

/// Lays a running turn down: a drain and a wait give the attempt back, a panic is counted.
pub fn lay_down(
    tries: Tries,
    waiting_since: Option<DateTime<Utc>>,
    why: &LayDown,
    now: DateTime<Utc>,
) -> Laid {
    let given_back = Tries { attempts: tries.attempts.saturating_sub(1), ..tries };
    let queued = |tries, reason| Laid {
        status: TurnStatus::Queued,
        tries,
        not_before: None,
        waiting_since,
        reason,
    };
    match why {
        LayDown::Drained => queued(given_back, None),
        LayDown::Panicked { reason } => {
            let tries = Tries { panics: tries.panics.saturating_add(1), ..tries };
            queued(tries, Some(reason.clone()))
        }
        LayDown::Waiting { reason, delay } => Laid {
            status: TurnStatus::Waiting,
            tries: given_back,
            not_before: Some(now + *delay),
            waiting_since: waiting_since.or(Some(now)),
            reason: Some(reason.clone()),
        },
    }
}

/// Returns whether a requested step of such a turn may be started. A suspect's steps wait until the
/// suspect itself runs, hence alone: else a tool that kills the process would do so for ever, with
/// no turn running that its deaths could be counted on.
pub const fn may_start(turn: TurnStatus, suspect: bool, cancel_requested: bool) -> bool {
    !turn.is_over() && !cancel_requested && (!suspect || matches!(turn, TurnStatus::Running))
}

/// Returns what becomes of a `started` step whose executor was lost. `stopped` says whether its
/// turn has ended or is to be cancelled, so that it need not run again.
pub const fn after_loss(effect: Effect, stopped: bool) -> StepStatus {
    match (effect, stopped) {
        (Effect::Once, _) => StepStatus::Unknown,
        (Effect::Pure | Effect::Idempotent, false) => StepStatus::Requested,
        (Effect::Pure | Effect::Idempotent, true) => StepStatus::Withdrawn,
    }
}

/// Returns whether a memory write changes the replica, by what it holds of that memory and whether
/// it has seen the event: the higher version wins; one without (0) only fills a gap.
pub fn replica_takes(stored: Option<u64>, event_seen: bool, version: u64) -> bool {
    match (stored, version) {
        (None, 0) => !event_seen,
        (None, _) => true,
        (Some(stored), version) => version > stored,
    }
}

/// Returns whether a record of this topic needs an outbox row: the local bus reads the rows
/// themselves, and keeps none that nobody reads.
pub const fn keeps_row(topic: Topic, bus_is_local: bool) -> bool {
    !bus_is_local || !topic.groups().is_empty()
}

/// Splits a text into the words that a search compares: lower case, letters and digits, each once.
pub fn words(text: &str) -> Vec<String> {
    let mut words: Vec<String> = Vec::new();
    for word in text.split(|letter: char| !letter.is_alphanumeric()) {
        let word = word.to_lowercase();
        if !word.is_empty() && !words.contains(&word) {
            words.push(word);
        }
    }
    words
}

/// Returns how well `content` matches the words of a query: the part of them that it has, or `None`
/// if it has none. An empty query matches everything alike.
pub fn match_score(query: &[String], content: &str) -> Option<f64> {
    if query.is_empty() {
        return Some(0.0);
    }
    let hits = has_words(query, content).into_iter().filter(|has| *has).count();
    let share = |count: usize| f64::from(u32::try_from(count).unwrap_or(u32::MAX));
    (hits > 0).then(|| share(hits) / share(query.len()))
}

/// Says of each word of a query, as [`words`] gives them, whether `content` has it.
pub fn has_words(query: &[String], content: &str) -> Vec<bool> {
    let mut has = vec![false; query.len()];
    for found in content.split(|letter: char| !letter.is_alphanumeric()) {
        let same = |word: &String| {
            if found.is_ascii() {
                word.eq_ignore_ascii_case(found)
            } else {
                *word == found.to_lowercase()
            }
        };
        if let Some(has) = query.iter().position(same).and_then(|at| has.get_mut(at)) {
            *has = true;
        }
    }
    has
}

#[cfg(test)]
mod tests {
    use chrono::TimeDelta;
    use proptest::prelude::*;
    use uuid::Uuid;

    use super::*;
    use crate::{
        event::{Event, EventType, Role},
        message::Idempotency,
        turn::TurnKind,
    };

    fn message(tenant: u8, session: u8, event: u8, key: Option<(u8, u8)>) -> NewMessage {
        NewMessage {
            tenant: TenantId(tenant.to_string()),
            subject: "ann".to_owned(),
            kind: TurnKind::Message,
            event: Event::new(
                EventId(Uuid::from_u128(event.into())),
                SessionId(Uuid::from_u128(session.into())),
                Role::User,
                EventType::User,
            ),
            idempotency: key.map(|(key, body)| Idempotency {
                route: "/v1/session/message".to_owned(),
                key: key.to_string(),
                body_hash: body.to_string(),
            }),
        }
    }

    fn batches() -> impl Strategy<Value = Vec<NewMessage>> {
        let key = proptest::option::of((0..6_u8, 0..2_u8));
        proptest::collection::vec(
            (0..2_u8, 0..4_u8, 0..40_u8, key).prop_map(|(t, s, e, k)| message(t, s, e, k)),
            0..60,
        )
    }

    proptest! {
        #[test]
        fn numbers_have_no_gaps_and_repetitions_answer_the_first(batch in batches()) {
            let mut known = Known::default();
            let answers: Vec<_> = batch.iter().map(|message| known.place(message)).collect();
            let mut last: HashMap<SessionId, u64> = HashMap::new();
            let mut first: HashMap<EventId, Accepted> = HashMap::new();
            for accepted in answers.into_iter().flatten() {
                if accepted.replayed {
                    let stored = &first[&accepted.event_id];
                    prop_assert_eq!(
                        (stored.n, stored.seq, stored.turn_id, stored.session_id),
                        (accepted.n, accepted.seq, accepted.turn_id, accepted.session_id)
                    );
                } else {
                    let n = last.entry(accepted.session_id).or_default();
                    *n += 1;
                    prop_assert_eq!(accepted.n, *n);
                    prop_assert_eq!(accepted.turn_id, TurnId::of(accepted.session_id, *n));
                    prop_assert!(first.insert(accepted.event_id, accepted).is_none());
                }
            }
        }

        #[test]
        fn placing_in_one_batch_or_in_many_gives_the_same(batch in batches(), cut in 0..60_usize) {
            let mut whole = Known::default();
            let together: Vec<_> = batch.iter().map(|message| whole.place(message)).collect();
            let (head, tail) = batch.split_at(cut.min(batch.len()));
            let mut known = Known::default();
            let mut apart: Vec<_> = head.iter().map(|message| known.place(message)).collect();
            let mut reread =
                Known { keys: known.keys, events: known.events, sessions: known.sessions };
            apart.extend(tail.iter().map(|message| reread.place(message)));
            prop_assert_eq!(together, apart);
        }

        #[test]
        fn a_turn_is_claimed_only_when_free(
            status in proptest::sample::select(vec![
                TurnStatus::Queued, TurnStatus::Running, TurnStatus::Waiting,
                TurnStatus::Done, TurnStatus::Failed, TurnStatus::Cancelled,
            ]),
            wait in -5..5_i64, suspect: bool, leased: bool, suspect_runs: bool,
        ) {
            let now = DateTime::UNIX_EPOCH;
            let not_before = Some(now + TimeDelta::seconds(wait));
            let turn = Candidate { status, not_before, suspect, leased };
            if may_claim(&turn, now, suspect_runs) {
                prop_assert!(!status.is_over());
                prop_assert!(!(suspect && suspect_runs));
                prop_assert!(!leased);
                prop_assert!(status != TurnStatus::Waiting || wait <= 0);
            }
        }
    }

    #[test]
    fn the_checks_come_in_order_key_event_session() {
        let mut known = Known::default();
        let first = known.place(&message(1, 1, 1, Some((1, 1)))).unwrap();
        known.sessions.get_mut(&first.session_id).unwrap().deleted = true;
        let again = Accepted { replayed: true, ..first.clone() };
        assert_eq!(known.place(&message(1, 1, 9, Some((1, 1)))), Ok(again.clone()));
        assert_eq!(
            known.place(&message(1, 1, 1, Some((1, 2)))),
            Err(AcceptError::KeyReused("1".to_owned()))
        );
        assert_eq!(known.place(&message(1, 1, 1, None)), Ok(again));
        assert_eq!(
            known.place(&message(2, 1, 1, None)),
            Err(AcceptError::EventIdTaken(first.event_id))
        );
        assert_eq!(
            known.place(&message(2, 1, 2, None)),
            Err(AcceptError::ForeignSession(first.session_id))
        );
        assert_eq!(
            known.place(&message(1, 1, 2, None)),
            Err(AcceptError::SessionDeleted(first.session_id))
        );
    }

    #[test]
    fn only_the_death_of_a_suspect_counts() {
        let tries = Tries { attempts: 2, panics: 1, deaths: 1 };
        assert_eq!(after_death(tries, false), tries);
        assert_eq!(after_death(tries, true), Tries { deaths: 2, ..tries });
    }

    #[test]
    fn drains_and_waits_give_the_attempt_back_and_panics_count() {
        let now = DateTime::UNIX_EPOCH;
        let tries = Tries { attempts: 3, panics: 1, deaths: 0 };
        let drained = lay_down(tries, None, &LayDown::Drained, now);
        assert_eq!((drained.status, drained.tries.attempts), (TurnStatus::Queued, 2));
        let panicked = LayDown::Panicked { reason: "oops".to_owned() };
        let panicked = lay_down(tries, None, &panicked, now);
        assert_eq!((panicked.tries.attempts, panicked.tries.panics), (3, 2));
        let delay = std::time::Duration::from_secs(2);
        let wait = LayDown::Waiting { reason: "model".to_owned(), delay };
        let since = now - TimeDelta::seconds(60);
        let waiting = lay_down(tries, Some(since), &wait, now);
        assert_eq!(waiting.status, TurnStatus::Waiting);
        assert_eq!(waiting.not_before, Some(now + delay));
        assert_eq!(waiting.waiting_since, Some(since));
        assert_eq!(lay_down(tries, None, &wait, now).waiting_since, Some(now));
    }

    #[test]
    fn the_steps_of_a_suspect_start_only_while_it_runs() {
        for suspect in [false, true] {
            assert!(may_start(TurnStatus::Running, suspect, false));
            assert!(!may_start(TurnStatus::Running, suspect, true));
            assert_eq!(may_start(TurnStatus::Queued, suspect, false), !suspect);
            assert!(!may_start(TurnStatus::Done, suspect, false));
        }
    }

    #[test]
    fn a_lost_once_step_never_runs_again() {
        for stopped in [false, true] {
            assert_eq!(after_loss(Effect::Once, stopped), StepStatus::Unknown);
        }
        for effect in [Effect::Pure, Effect::Idempotent] {
            assert_eq!(after_loss(effect, false), StepStatus::Requested);
            assert_eq!(after_loss(effect, true), StepStatus::Withdrawn);
        }
    }

    #[test]
    fn the_higher_version_wins_and_none_fills_only_gaps() {
        assert!(replica_takes(None, false, 0));
        assert!(!replica_takes(None, true, 0));
        assert!(!replica_takes(Some(1), false, 0));
        assert!(replica_takes(None, true, 1));
        assert!(replica_takes(Some(1), true, 2));
        assert!(!replica_takes(Some(2), false, 2));
    }

    #[test]
    fn words_match_whatever_their_case_and_marks() {
        let query = words("Tea, TEA; green-tea?");
        assert_eq!(query, ["tea", "green"]);
        assert_eq!(match_score(&query, "I like tea."), Some(0.5));
        assert_eq!(match_score(&query, "coffee"), None);
        assert_eq!(match_score(&[], "anything"), Some(0.0));
    }
}
