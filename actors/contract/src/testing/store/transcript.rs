//! Messages, sessions and their logs.

use async_trait::async_trait;
use chrono::{DateTime, Utc};

use super::{
    FakeStore,
    rows::{KeyRow, SessionRow, TurnRow, page, parse},
    state::State,
};
use crate::{
    compose,
    decide::{Known, SessionHead, TakenId},
    event::{Event, EventType},
    ids::{EventId, SessionId, TenantId},
    message::{AcceptError, Accepted, NewMessage},
    port::store::{MessageStatus, Page, Session, StoreError, StoreResult, Transcript},
    topic::Topic,
    turn::{Tries, Turn, TurnStatus},
};

#[async_trait]
impl Transcript for FakeStore {
    async fn accept(&self, batch: Vec<NewMessage>) -> Vec<Result<Accepted, AcceptError>> {
        let size = batch.len();
        let answers = self.run("accept", |state, now| {
            Ok(batch.into_iter().map(|message| state.accept(message, now)).collect())
        });
        answers.unwrap_or_else(|error| {
            let error = match error {
                StoreError::OutcomeUnknown(reason) => AcceptError::OutcomeUnknown(reason),
                other => AcceptError::Unavailable(other.to_string()),
            };
            vec![Err(error); size]
        })
    }

    async fn session(&self, tenant: &TenantId, session_id: SessionId) -> StoreResult<Session> {
        self.run("session", |state, _| Ok(state.listed(state.alive(tenant, session_id)?)))
    }

    async fn sessions(
        &self,
        tenant: &TenantId,
        cursor: Option<&str>,
        limit: u32,
    ) -> StoreResult<Page<Session>> {
        self.run("sessions", |state, _| state.sessions_after(tenant, cursor, limit))
    }

    async fn events(
        &self,
        tenant: &TenantId,
        session_id: SessionId,
        after: u64,
        limit: u32,
    ) -> StoreResult<Vec<Event>> {
        self.run("events", |state, _| {
            state.alive(tenant, session_id)?;
            let log = state.logs.get(&session_id).map_or(&[][..], Vec::as_slice);
            let limit = usize::try_from(limit).unwrap_or(usize::MAX);
            Ok(log.iter().filter(|event| event.seq > Some(after)).take(limit).cloned().collect())
        })
    }

    async fn history(
        &self,
        session_id: SessionId,
        before_n: u64,
        limit: u32,
    ) -> StoreResult<Vec<Event>> {
        self.run("history", |state, _| Ok(state.history(session_id, before_n, limit)))
    }

    async fn message(&self, tenant: &TenantId, event_id: EventId) -> StoreResult<MessageStatus> {
        self.run("message", |state, _| state.message(tenant, event_id))
    }

    async fn delete_session(
        &self,
        tenant: &TenantId,
        session_id: SessionId,
        forget_memories: bool,
    ) -> StoreResult<()> {
        self.run("delete_session", |state, now| {
            state.delete_session(tenant, session_id, forget_memories, now)
        })
    }
}

impl State {
    fn accept(&mut self, message: NewMessage, now: DateTime<Utc>) -> Result<Accepted, AcceptError> {
        let accepted = self.known(&message).place(&message)?;
        if !accepted.replayed {
            self.store(message, &accepted, now);
        }
        Ok(accepted)
    }

    /// Reads what is known of everything that a message names.
    fn known(&self, message: &NewMessage) -> Known {
        let mut known = Known::default();
        if let Some(idempotency) = &message.idempotency {
            let scope =
                (message.tenant.clone(), idempotency.route.clone(), idempotency.key.clone());
            if let Some(row) = self.keys.get(&scope) {
                known.keys.insert(scope, (row.body_hash.clone(), row.answer.clone()));
            }
        }
        if let Some(taken) = self.taken.get(&message.event.event_id) {
            known.events.insert(message.event.event_id, taken.clone());
        }
        if let Some(row) = self.sessions.get(&message.event.session_id) {
            let head = SessionHead {
                tenant: row.session.tenant.clone(),
                deleted: row.deleted,
                last_n: row.session.last_n,
                last_seq: row.session.last_seq,
            };
            known.sessions.insert(message.event.session_id, head);
        }
        known
    }

    fn store(&mut self, message: NewMessage, accepted: &Accepted, now: DateTime<Utc>) {
        let NewMessage { tenant, subject, kind, mut event, idempotency } = message;
        if let Some(idempotency) = idempotency {
            let row = KeyRow {
                body_hash: idempotency.body_hash,
                answer: accepted.clone(),
                created_at: now,
            };
            self.keys.insert((tenant.clone(), idempotency.route, idempotency.key), row);
        }
        let session_id = event.session_id;
        let session = self
            .sessions
            .entry(session_id)
            .or_insert_with(|| new_session(session_id, &tenant, &subject, now));
        session.session.last_n = accepted.n;
        session.session.persona_id.clone_from(&event.persona_id);
        let turn = Turn {
            turn_id: accepted.turn_id,
            session_id,
            tenant: tenant.clone(),
            n: accepted.n,
            kind,
            status: TurnStatus::Queued,
            tries: Tries::default(),
            replay: 0,
            event_id: event.event_id,
            reason: None,
            waiting_since: None,
            cancel_requested: false,
            worked_ms: 0,
            created_at: now,
            trace: event.trace_context.clone(),
        };
        let row = TurnRow {
            turn,
            subject,
            persona_id: event.persona_id.clone(),
            not_before: None,
            ready_at: now,
            suspect: false,
            epoch: None,
            worked_before: 0,
            ended_at: None,
        };
        self.turns.insert((session_id, accepted.n), row);
        let taken = TakenId { tenant: tenant.clone(), accepted: Some(accepted.clone()) };
        self.taken.insert(event.event_id, taken);
        event.n = Some(accepted.n);
        event.turn_id = Some(accepted.turn_id);
        event.seq = Some(accepted.seq);
        let record = compose::event_record(Topic::ConversationInbound, &tenant, &event);
        self.send(now, &tenant, record);
        self.append(now, event);
    }

    fn listed(&self, row: &SessionRow) -> Session {
        let unfinished =
            self.turns_of(row.session.session_id).filter(|row| !row.turn.status.is_over()).count();
        Session { unfinished: u64::try_from(unfinished).unwrap_or(u64::MAX), ..row.session.clone() }
    }

    fn sessions_after(
        &self,
        tenant: &TenantId,
        cursor: Option<&str>,
        limit: u32,
    ) -> StoreResult<Page<Session>> {
        let after = cursor.map(parse_place).transpose()?;
        let mut sessions: Vec<Session> = self
            .sessions
            .values()
            .filter(|row| row.session.tenant == *tenant && !row.deleted)
            .filter(|row| after.is_none_or(|after| place(&row.session) < after))
            .map(|row| self.listed(row))
            .collect();
        sessions.sort_by_key(|session| std::cmp::Reverse(place(session)));
        Ok(page(sessions, limit, |session| {
            let (micros, session_id) = place(session);
            format!("{micros}.{session_id}")
        }))
    }

    fn history(&self, session_id: SessionId, before_n: u64, limit: u32) -> Vec<Event> {
        let log = self.logs.get(&session_id).map_or(&[][..], Vec::as_slice);
        let mut events: Vec<Event> = log
            .iter()
            .filter(|event| event.n < Some(before_n))
            .filter(|event| matches!(event.event_type, EventType::User | EventType::Final))
            .cloned()
            .collect();
        events.sort_by_key(|event| (event.n, event.seq));
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        events.split_off(events.len().saturating_sub(limit))
    }

    fn message(&self, tenant: &TenantId, event_id: EventId) -> StoreResult<MessageStatus> {
        let row = self
            .turns
            .values()
            .find(|row| row.turn.event_id == event_id && row.turn.tenant == *tenant)
            .ok_or(StoreError::NotFound)?;
        let turn = row.turn.clone();
        let terminal = self.terminal_of(event_id);
        if self.alive(tenant, turn.session_id).is_err() && terminal.is_none() {
            return Err(StoreError::NotFound);
        }
        let before = self
            .turns_of(turn.session_id)
            .filter(|other| other.turn.n < turn.n && !other.turn.status.is_over());
        let place = if turn.status.is_over() { 0 } else { before.count() };
        let steps = self.steps.values().filter(|row| row.step.turn_id == turn.turn_id).count();
        Ok(MessageStatus {
            event_id,
            session_id: turn.session_id,
            n: turn.n,
            place: u64::try_from(place).unwrap_or(u64::MAX),
            steps: u32::try_from(steps).unwrap_or(u32::MAX),
            terminal,
            turn,
        })
    }
}

fn new_session(
    session_id: SessionId,
    tenant: &TenantId,
    subject: &str,
    now: DateTime<Utc>,
) -> SessionRow {
    let session = Session {
        session_id,
        tenant: tenant.clone(),
        subject: subject.to_owned(),
        persona_id: None,
        created_at: now,
        updated_at: now,
        last_n: 0,
        last_seq: 0,
        unfinished: 0,
    };
    SessionRow { session, epoch: 0, owner: None, running: None, free_since: now, deleted: false }
}

/// Orders sessions by their activity.
const fn place(session: &Session) -> (i64, SessionId) {
    (session.updated_at.timestamp_micros(), session.session_id)
}

fn parse_place(cursor: &str) -> StoreResult<(i64, SessionId)> {
    let bad = || StoreError::Refused(format!("`{cursor}` is not a cursor"));
    let (micros, session_id) = cursor.split_once('.').ok_or_else(bad)?;
    let micros = parse(Some(micros))?.ok_or_else(bad)?;
    Ok((micros, parse(Some(session_id))?.ok_or_else(bad)?))
}
