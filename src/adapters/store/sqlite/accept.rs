//! Accepting messages: a batch is read, placed by the contract's rules and written in two calls.

use std::collections::HashMap;

use serde::Serialize;
use soma_contract::{
    Event, EventId, SessionId, TenantId, TurnId,
    decide::{self, Known, SessionHead, TakenId},
    message::{AcceptError, Accepted, NewMessage},
    port::store::{StoreError, StoreResult},
    topic::Topic,
};
use sqlx::{SqliteConnection, query};

use super::{
    fault::Fault,
    row::{documents, hex, json, micros, name, parse},
    work::{Operation, Terms},
};

/// $1: `[[tenant, route, key, event, session], …]`
const READ: &str = "
SELECT json_group_array(json_array(i.tenant, i.route, i.key, i.body_hash,
    hex(t.session_id), hex(t.event_id), hex(t.turn_id), t.n, t.seq))
FROM json_each($1) e
CROSS JOIN idempotency i
    ON i.tenant = e.value->>0 AND i.route = e.value->>1 AND i.key = e.value->>2
CROSS JOIN session_events v ON v.event_id = i.event_id
CROSS JOIN turn t ON t.session_id = v.session_id AND t.n = v.n
WHERE e.value->>2 IS NOT NULL;

SELECT json_group_array(json_array(t.tenant, v.event_id = t.event_id,
    hex(t.session_id), hex(v.event_id), hex(t.turn_id), t.n, t.seq))
FROM json_each($1) e
CROSS JOIN session_events v ON v.event_id = unhex(e.value->>3)
CROSS JOIN turn t ON t.session_id = v.session_id AND t.n = v.n;

SELECT json_group_array(json_array(
    hex(s.session_id), s.tenant, s.deleted_at IS NOT NULL, s.last_n, s.last_seq))
FROM (SELECT DISTINCT unhex(e.value->>4) AS session_id FROM json_each($1) e) r
CROSS JOIN session_envelopes s ON s.session_id = r.session_id;
";

/// $1 sessions, $2 turns, $3 events, $4 keys, $5 now, $6 whether the events are
/// records too
const WRITE: &str = "
INSERT INTO session_envelopes
    (session_id, tenant, subject, persona_id, last_n, last_seq, created_at, updated_at)
SELECT unhex(e.value->>0), e.value->>1, e.value->>2, e.value->>3, e.value->>4, e.value->>5, $5, $5
FROM json_each($1) e WHERE true
ON CONFLICT (session_id) DO UPDATE SET persona_id = excluded.persona_id,
    last_n = excluded.last_n, last_seq = excluded.last_seq,
    updated_at = max(updated_at, excluded.updated_at);

INSERT INTO turn (session_id, n, seq, turn_id, event_id, tenant, subject, persona_id, kind, status,
    ready_at, created_at, trace)
SELECT unhex(e.value->>0), e.value->>1, e.value->>2, unhex(e.value->>3), unhex(e.value->>4),
       e.value->>5, e.value->>6, e.value->>7, e.value->>8, 'queued', $5, $5, e.value->>9
FROM json_each($2) e;

INSERT INTO session_events (session_id, seq, event_id, n, type, occurred_at, payload)
SELECT unhex(e.value->>0), e.value->>1, unhex(e.value->>2), e.value->>3, 'user', $5, e.value->>4
FROM json_each($3) e;

INSERT INTO message_outbox (topic, session_id, seq, created_at)
SELECT 'conversation.inbound', unhex(e.value->>0), e.value->>2, $5
FROM json_each($2) e;

INSERT INTO message_outbox (topic, session_id, seq, created_at)
SELECT 'conversation.outbound', unhex(e.value->>0), e.value->>2, $5
FROM json_each($2) e WHERE $6;

INSERT INTO idempotency (tenant, route, key, body_hash, event_id, created_at)
SELECT e.value->>0, e.value->>1, e.value->>2, e.value->>3, unhex(e.value->>4), $5
FROM json_each($4) e;
";

/// A message to accept.
#[derive(Debug)]
pub(super) struct Accept(pub(super) NewMessage);

impl Operation for Accept {
    type Answer = Result<Accepted, AcceptError>;

    const NAME: &'static str = "accept";
    const FIRST: bool = true;

    async fn run(
        connection: &mut SqliteConnection,
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

/// Turns the writer's answer into the port's.
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
type FoundEvent = (TenantId, u8, SessionId, EventId, TurnId, u64, u64);
/// Session, tenant, whether it is deleted, last n, last seq.
type FoundSession = (SessionId, TenantId, u8, u64, u64);

const fn accepted((session_id, event_id, turn_id, n, seq): Stored) -> Accepted {
    Accepted { session_id, event_id, turn_id, n, seq, replayed: true }
}

async fn read(connection: &mut SqliteConnection, requests: &[Accept]) -> Result<Known, Fault> {
    let named: Vec<_> = requests
        .iter()
        .map(|Accept(message)| {
            let key = message.idempotency.as_ref();
            (
                &message.tenant,
                key.map(|key| &key.route),
                key.map(|key| &key.key),
                hex(message.event.event_id.0),
                hex(message.event.session_id.0),
            )
        })
        .collect();
    let found = documents(query(READ).bind(json(&named)?), connection).await?;
    let mut documents = found.iter();
    let mut next = || documents.next().map_or("[]", String::as_str);
    let mut known = Known::default();
    for (tenant, route, key, hash, session, event, turn, n, seq) in parse::<Vec<FoundKey>>(next())?
    {
        let stored = accepted((session, event, turn, n, seq));
        known.keys.insert((tenant, route, key), (hash, stored));
    }
    for (tenant, is_message, session, event, turn, n, seq) in parse::<Vec<FoundEvent>>(next())? {
        let stored = (is_message != 0).then(|| accepted((session, event, turn, n, seq)));
        known.events.insert(event, TakenId { tenant, accepted: stored });
    }
    for (session, tenant, deleted, last_n, last_seq) in parse::<Vec<FoundSession>>(next())? {
        let head = SessionHead { tenant, deleted: deleted != 0, last_n, last_seq };
        known.sessions.insert(session, head);
    }
    Ok(known)
}

/// What a batch writes, table by table.
#[derive(Debug, Default)]
struct Rows<'m> {
    sessions: HashMap<SessionId, SessionRow<'m>>,
    turns: Vec<TurnRow<'m>>,
    events: Vec<(String, u64, String, u64, String)>,
    keys: Vec<(&'m TenantId, &'m str, &'m str, &'m str, String)>,
}

/// Session, tenant, subject, persona, last n, last seq.
#[derive(Debug, Serialize)]
struct SessionRow<'m>(String, &'m TenantId, &'m str, Option<&'m str>, u64, u64);

/// Session, n, seq, turn, event, tenant, subject, persona, kind, trace.
#[derive(Debug, Serialize)]
struct TurnRow<'m>(
    String,
    u64,
    u64,
    String,
    String,
    &'m TenantId,
    &'m str,
    Option<&'m str>,
    String,
    String,
);

impl<'m> Rows<'m> {
    fn add(&mut self, message: &'m NewMessage, accepted: &Accepted) -> Result<(), Fault> {
        let session = hex(accepted.session_id.0);
        let event_id = hex(accepted.event_id.0);
        let persona = message.event.persona_id.as_deref();
        let (n, seq) = (accepted.n, accepted.seq);
        let subject = message.subject.as_str();
        // A new session belongs to the subject of its first message, speaks as its last one says.
        let head = self.sessions.entry(accepted.session_id).or_insert_with(|| {
            SessionRow(session.clone(), &message.tenant, subject, persona, n, seq)
        });
        (head.3, head.4, head.5) = (persona, n, seq);
        if let Some(key) = &message.idempotency {
            let row = (
                &message.tenant,
                key.route.as_str(),
                key.key.as_str(),
                key.body_hash.as_str(),
                event_id.clone(),
            );
            self.keys.push(row);
        }
        self.turns.push(TurnRow(
            session.clone(),
            n,
            seq,
            hex(accepted.turn_id.0),
            event_id.clone(),
            &message.tenant,
            subject,
            persona,
            name(message.kind)?,
            json(&message.event.trace_context)?,
        ));
        let event = Event {
            turn_id: Some(accepted.turn_id),
            n: Some(n),
            seq: Some(seq),
            ..message.event.clone()
        };
        self.events.push((session, seq, event_id, n, json(&event)?));
        Ok(())
    }

    async fn write(self, connection: &mut SqliteConnection, terms: Terms) -> Result<(), Fault> {
        if self.turns.is_empty() {
            return Ok(());
        }
        let sessions: Vec<_> = self.sessions.into_values().collect();
        query(WRITE)
            .bind(json(&sessions)?)
            .bind(json(&self.turns)?)
            .bind(json(&self.events)?)
            .bind(json(&self.keys)?)
            .bind(micros(terms.now))
            .bind(decide::keeps_row(Topic::ConversationOutbound, terms.bus_is_local))
            .execute(connection)
            .await?;
        Ok(())
    }
}
