//! Accepting messages: a batch holds its sessions and reads in one statement, is placed by the
//! contract's rules, and is written in another.
//!
//! What was read of keys and event ids may be older than the hold on the sessions. Then somebody else
//! has just stored the same key or event: the unique index says so, and the batch is done again, one
//! by one, on what is stored by now.

use std::collections::BTreeMap;

use serde::Serialize;
use soma_contract::{
    Event, EventId, SessionId, TenantId, TurnId,
    decide::{self, Known, SessionHead, TakenId},
    message::{AcceptError, Accepted, NewMessage},
    port::store::{StoreError, StoreResult},
    topic::Topic,
    turn::TurnKind,
};
use sqlx::{PgConnection, query};

use super::{
    engine::Terms,
    fault::Fault,
    lane::Operation,
    row::{document, json, micros, parse, sent},
};

/// $1: what the batch names, $2 its sessions
const READ: &str = "
WITH named AS MATERIALIZED (
    SELECT * FROM jsonb_to_recordset($1::jsonb)
        AS r(tenant text, route text, key text, event_id uuid)
), held AS MATERIALIZED (
    SELECT session_id, tenant, deleted_at IS NOT NULL AS deleted, last_n, last_seq
    FROM session_envelopes WHERE session_id = ANY($2) ORDER BY session_id FOR UPDATE
)
SELECT
    (SELECT coalesce(json_agg(json_build_array(session_id, tenant, deleted, last_n, last_seq)), '[]')
     FROM held)::text,
    (SELECT coalesce(json_agg(json_build_array(i.tenant, i.route, i.key, i.body_hash,
         t.session_id, t.event_id, t.turn_id, t.n, t.seq)), '[]')
     FROM named e
     JOIN idempotency i ON i.tenant = e.tenant AND i.route = e.route AND i.key = e.key
     JOIN session_events v ON v.event_id = i.event_id
     JOIN turn t ON t.session_id = v.session_id AND t.n = v.n)::text,
    (SELECT coalesce(json_agg(json_build_array(t.tenant, v.event_id = t.event_id,
         t.session_id, v.event_id, t.turn_id, t.n, t.seq)), '[]')
     FROM named e
     JOIN session_events v ON v.event_id = e.event_id
     JOIN turn t ON t.session_id = v.session_id AND t.n = v.n)::text";

/// $1 sessions, $2 messages, $3 now, $4 whether the events are records too
const WRITE: &str = "
WITH head AS MATERIALIZED (
    SELECT * FROM jsonb_to_recordset($1::jsonb) AS r(session_id uuid, tenant text, subject text,
        persona_id text, last_n bigint, last_seq bigint, is_new boolean)
), message AS MATERIALIZED (
    SELECT * FROM jsonb_to_recordset($2::jsonb) AS r(session_id uuid, n bigint, seq bigint,
        turn_id uuid, event_id uuid, tenant text, subject text, persona_id text, kind text,
        trace text, payload text, route text, key text, body_hash text)
), begun AS (
    INSERT INTO session_envelopes
        (session_id, tenant, subject, persona_id, last_n, last_seq, created_at, updated_at)
    SELECT session_id, tenant, subject, persona_id, last_n, last_seq, $3, $3
    FROM head WHERE is_new ORDER BY session_id
), moved AS (
    UPDATE session_envelopes s SET persona_id = h.persona_id, last_n = h.last_n,
        last_seq = h.last_seq, updated_at = greatest(s.updated_at, $3)
    FROM head h WHERE s.session_id = h.session_id AND NOT h.is_new
), queued AS (
    INSERT INTO turn (session_id, n, seq, turn_id, event_id, tenant, subject, persona_id, kind,
        status, ready_at, created_at, trace)
    SELECT session_id, n, seq, turn_id, event_id, tenant, subject, persona_id, kind,
        'queued', $3, $3, trace
    FROM message
), told AS (
    INSERT INTO session_events (session_id, seq, event_id, n, type, occurred_at, payload)
    SELECT session_id, seq, event_id, n, 'user', $3, payload FROM message
), record AS (
    INSERT INTO message_outbox (topic, session_id, seq, created_at)
    SELECT topic, session_id, seq, $3
    FROM message CROSS JOIN (VALUES ('conversation.inbound'), ('conversation.outbound')) o (topic)
    WHERE topic = 'conversation.inbound' OR $4
)
INSERT INTO idempotency (tenant, route, key, body_hash, event_id, created_at)
SELECT tenant, route, key, body_hash, event_id, $3
FROM message WHERE key IS NOT NULL ORDER BY tenant, route, key";

/// A message to accept.
#[derive(Debug)]
pub(super) struct Accept(pub(super) NewMessage);

impl Operation for Accept {
    type Answer = Result<Accepted, AcceptError>;

    const NAME: &'static str = "accept";

    async fn run(
        connection: &mut PgConnection,
        terms: Terms,
        requests: &[Self],
    ) -> Result<Vec<StoreResult<Self::Answer>>, Fault> {
        let mut known = read(connection, requests).await?;
        let mut rows = Rows::default();
        let mut answers = Vec::with_capacity(requests.len());
        for Self(message) in requests {
            let placed = known.place(message);
            if let Ok(accepted) = &placed
                && !accepted.replayed
            {
                rows.add(message, accepted)?;
            }
            answers.push(Ok(placed));
        }
        rows.write(connection, terms).await?;
        Ok(answers)
    }
}

/// Turns the lane's answer into the port's.
pub(super) fn answer(
    answer: StoreResult<Result<Accepted, AcceptError>>,
) -> Result<Accepted, AcceptError> {
    answer.unwrap_or_else(|error| {
        Err(match error {
            StoreError::Unavailable(why) => AcceptError::Unavailable(why),
            StoreError::OutcomeUnknown(why) => AcceptError::OutcomeUnknown(why),
            other => AcceptError::Refused(other.to_string()),
        })
    })
}

/// Session, event id, turn, n and seq of a stored message.
type Stored = (SessionId, EventId, TurnId, u64, u64);

/// Tenant, route, key, body hash, and the stored message.
type FoundKey = (TenantId, String, String, String, SessionId, EventId, TurnId, u64, u64);
/// Tenant, whether it is a message, and the stored message.
type FoundEvent = (TenantId, bool, SessionId, EventId, TurnId, u64, u64);
/// Session, tenant, whether it is deleted, last n, last seq.
type FoundSession = (SessionId, TenantId, bool, u64, u64);

const fn accepted((session_id, event_id, turn_id, n, seq): Stored) -> Accepted {
    Accepted { session_id, event_id, turn_id, n, seq, replayed: true }
}

#[derive(Debug, Serialize)]
struct Named<'m> {
    tenant: &'m TenantId,
    route: Option<&'m str>,
    key: Option<&'m str>,
    event_id: EventId,
}

async fn read(connection: &mut PgConnection, requests: &[Accept]) -> Result<Known, Fault> {
    let named: Vec<Named<'_>> = requests
        .iter()
        .map(|Accept(message)| {
            let key = message.idempotency.as_ref();
            Named {
                tenant: &message.tenant,
                route: key.map(|key| key.route.as_str()),
                key: key.map(|key| key.key.as_str()),
                event_id: message.event.event_id,
            }
        })
        .collect();
    let mut sessions: Vec<_> =
        requests.iter().map(|Accept(message)| message.event.session_id.0).collect();
    sessions.sort_unstable();
    sessions.dedup();
    let row = query(READ).bind(sent(&named)?).bind(sessions).fetch_one(connection).await?;
    let mut known = Known::default();
    for (session, tenant, deleted, last_n, last_seq) in
        parse::<Vec<FoundSession>>(&document(&row, 0)?)?
    {
        known.sessions.insert(session, SessionHead { tenant, deleted, last_n, last_seq });
    }
    for (tenant, route, key, hash, session, event, turn, n, seq) in
        parse::<Vec<FoundKey>>(&document(&row, 1)?)?
    {
        let stored = accepted((session, event, turn, n, seq));
        known.keys.insert((tenant, route, key), (hash, stored));
    }
    for (tenant, is_message, session, event, turn, n, seq) in
        parse::<Vec<FoundEvent>>(&document(&row, 2)?)?
    {
        let stored = is_message.then(|| accepted((session, event, turn, n, seq)));
        known.events.insert(event, TakenId { tenant, accepted: stored });
    }
    Ok(known)
}

/// What a batch writes.
#[derive(Debug, Default)]
struct Rows<'m> {
    sessions: BTreeMap<SessionId, SessionRow<'m>>,
    messages: Vec<MessageRow<'m>>,
}

#[derive(Debug, Serialize)]
struct SessionRow<'m> {
    session_id: SessionId,
    tenant: &'m TenantId,
    subject: &'m str,
    persona_id: Option<&'m str>,
    last_n: u64,
    last_seq: u64,
    is_new: bool,
}

#[derive(Debug, Serialize)]
struct MessageRow<'m> {
    session_id: SessionId,
    n: u64,
    seq: u64,
    turn_id: TurnId,
    event_id: EventId,
    tenant: &'m TenantId,
    subject: &'m str,
    persona_id: Option<&'m str>,
    kind: TurnKind,
    trace: String,
    payload: String,
    route: Option<&'m str>,
    key: Option<&'m str>,
    body_hash: Option<&'m str>,
}

impl<'m> Rows<'m> {
    fn add(&mut self, message: &'m NewMessage, accepted: &Accepted) -> Result<(), Fault> {
        let persona_id = message.event.persona_id.as_deref();
        let (session_id, n, seq) = (accepted.session_id, accepted.n, accepted.seq);
        // A new session belongs to the subject of its first message, speaks as its last one says.
        let head = self.sessions.entry(session_id).or_insert_with(|| SessionRow {
            session_id,
            tenant: &message.tenant,
            subject: &message.subject,
            persona_id,
            last_n: n,
            last_seq: seq,
            is_new: n == 1,
        });
        (head.persona_id, head.last_n, head.last_seq) = (persona_id, n, seq);
        let event = Event {
            turn_id: Some(accepted.turn_id),
            n: Some(n),
            seq: Some(seq),
            ..message.event.clone()
        };
        let key = message.idempotency.as_ref();
        self.messages.push(MessageRow {
            session_id,
            n,
            seq,
            turn_id: accepted.turn_id,
            event_id: accepted.event_id,
            tenant: &message.tenant,
            subject: &message.subject,
            persona_id,
            kind: message.kind,
            trace: json(&event.trace_context)?,
            payload: json(&event)?,
            route: key.map(|key| key.route.as_str()),
            key: key.map(|key| key.key.as_str()),
            body_hash: key.map(|key| key.body_hash.as_str()),
        });
        Ok(())
    }

    async fn write(self, connection: &mut PgConnection, terms: Terms) -> Result<(), Fault> {
        if self.messages.is_empty() {
            return Ok(());
        }
        let sessions: Vec<_> = self.sessions.into_values().collect();
        query(WRITE)
            .bind(sent(&sessions)?)
            .bind(sent(&self.messages)?)
            .bind(micros(terms.now))
            .bind(decide::keeps_row(Topic::ConversationOutbound, terms.bus_is_local))
            .execute(connection)
            .await?;
        Ok(())
    }
}
