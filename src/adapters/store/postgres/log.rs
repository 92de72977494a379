//! Appends durable events to the logs of sessions: each draws its place, `seq`, in the transaction
//! of what it tells.

use std::collections::HashMap;

use serde::Serialize;
use soma_contract::{EffectId, Event, EventId, SessionId, compose::Outgoing, decide, topic::Topic};
use sqlx::{PgConnection, query};

use super::{
    engine::Terms,
    fault::Fault,
    row::{json, micros, sent},
};

/// $1 sessions, $2 events, $3 now, $4 whether the events are records too
const APPEND: &str = "
WITH event AS MATERIALIZED (
    SELECT * FROM jsonb_to_recordset($2::jsonb)
        AS r(session_id uuid, seq bigint, event_id uuid, n bigint, type text, payload text)
), head AS (
    UPDATE session_envelopes s
    SET last_seq = r.last_seq, updated_at = greatest(s.updated_at, $3)
    FROM jsonb_to_recordset($1::jsonb) AS r(session_id uuid, last_seq bigint)
    WHERE s.session_id = r.session_id
), record AS (
    INSERT INTO message_outbox (topic, session_id, seq, created_at)
    SELECT 'conversation.outbound', session_id, seq, $3 FROM event WHERE $4
)
INSERT INTO session_events (session_id, seq, event_id, n, type, occurred_at, payload)
SELECT session_id, seq, event_id, n, type, $3, payload FROM event";

const SEND: &str = "
INSERT INTO message_outbox (topic, session_id, headers, payload, effect_id, created_at)
SELECT topic, session_id, headers, payload, effect_id, $2
FROM jsonb_to_recordset($1::jsonb)
    AS r(topic text, session_id uuid, headers text, payload text, effect_id uuid)";

/// Where the logs of held sessions end, and events that are to be appended in this transaction.
#[derive(Debug, Default)]
pub(super) struct Log {
    heads: HashMap<SessionId, u64>,
    events: Vec<EventRow>,
}

/// A row of `session_events`.
#[derive(Debug, Serialize)]
struct EventRow {
    session_id: SessionId,
    seq: u64,
    event_id: EventId,
    n: u64,
    r#type: &'static str,
    payload: String,
}

#[derive(Debug, Serialize)]
struct HeadRow {
    session_id: SessionId,
    last_seq: u64,
}

impl Log {
    /// Notes where a session's log ends now; the first word counts.
    pub(super) fn know(&mut self, session_id: SessionId, last_seq: u64) {
        self.heads.entry(session_id).or_insert(last_seq);
    }

    /// Appends an event and returns its place.
    pub(super) fn append(&mut self, mut event: Event) -> Result<u64, Fault> {
        let head = self.heads.entry(event.session_id).or_insert(0);
        *head += 1;
        event.seq = Some(*head);
        self.events.push(EventRow {
            session_id: event.session_id,
            seq: *head,
            event_id: event.event_id,
            n: event.n.unwrap_or_default(),
            r#type: event.event_type.as_str(),
            payload: json(&event)?,
        });
        Ok(*head)
    }

    /// Writes what was appended since it was last written.
    pub(super) async fn write(
        &mut self,
        connection: &mut PgConnection,
        terms: Terms,
    ) -> Result<(), Fault> {
        let events = std::mem::take(&mut self.events);
        if events.is_empty() {
            return Ok(());
        }
        let touched: HashMap<SessionId, u64> =
            events.iter().map(|row| (row.session_id, row.seq)).collect();
        let heads: Vec<HeadRow> = touched
            .into_iter()
            .map(|(session_id, last_seq)| HeadRow { session_id, last_seq })
            .collect();
        query(APPEND)
            .bind(sent(&heads)?)
            .bind(sent(&events)?)
            .bind(micros(terms.now))
            .bind(decide::keeps_row(Topic::ConversationOutbound, terms.bus_is_local))
            .execute(connection)
            .await?;
        Ok(())
    }
}

/// A record with the step that it asks for, if it does.
pub(super) type Sent = (Outgoing, Option<EffectId>);

/// A row of `message_outbox`.
#[derive(Debug, Serialize)]
struct SentRow<'s> {
    topic: &'static str,
    session_id: SessionId,
    headers: String,
    payload: std::borrow::Cow<'s, str>,
    effect_id: Option<EffectId>,
}

/// Writes records that are not events themselves; those that nobody would read are left out.
pub(super) async fn send(
    connection: &mut PgConnection,
    terms: Terms,
    records: &[Sent],
) -> Result<(), Fault> {
    let rows: Vec<SentRow<'_>> = records
        .iter()
        .filter(|(record, _)| decide::keeps_row(record.topic, terms.bus_is_local))
        .map(|(record, effect_id)| {
            Ok(SentRow {
                topic: record.topic.as_str(),
                session_id: record.session_id,
                headers: json(&record.headers)?,
                payload: String::from_utf8_lossy(&record.payload),
                effect_id: *effect_id,
            })
        })
        .collect::<Result<_, Fault>>()?;
    if rows.is_empty() {
        return Ok(());
    }
    query(SEND).bind(sent(&rows)?).bind(micros(terms.now)).execute(connection).await?;
    Ok(())
}
