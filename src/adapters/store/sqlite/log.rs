//! Appends durable events to the logs of sessions: each draws its place, `seq`, in the transaction
//! of what it tells.

use std::collections::HashMap;

use serde::Serialize;
use soma_contract::{EffectId, Event, SessionId, compose::Outgoing, decide, topic::Topic};
use sqlx::{SqliteConnection, query};

use super::{
    fault::Fault,
    row::{hex, json, micros},
    work::Terms,
};

/// $1 sessions, $2 events, $3 now, $4 whether the events are records too
const APPEND: &str = "
UPDATE session_envelopes SET last_seq = r.last_seq, updated_at = max(updated_at, $3)
FROM (SELECT unhex(e.value->>0) AS session_id, e.value->>1 AS last_seq FROM json_each($1) e) r
WHERE session_envelopes.session_id = r.session_id;

INSERT INTO session_events (session_id, seq, event_id, n, type, occurred_at, payload)
SELECT unhex(e.value->>0), e.value->>1, unhex(e.value->>2), e.value->>3, e.value->>4, $3,
       e.value->>5
FROM json_each($2) e;

INSERT INTO message_outbox (topic, session_id, seq, created_at)
SELECT 'conversation.outbound', unhex(e.value->>0), e.value->>1, $3
FROM json_each($2) e WHERE $4;
";

const SEND: &str = "
INSERT INTO message_outbox (topic, session_id, headers, payload, effect_id, created_at)
SELECT e.value->>0, unhex(e.value->>1), e.value->>2, e.value->>3, unhex(e.value->>4), $2
FROM json_each($1) e
";

/// Events that are to be appended in this transaction.
#[derive(Debug, Default)]
pub(super) struct Log {
    heads: HashMap<SessionId, u64>,
    events: Vec<EventRow>,
}

/// A row of `session_events`: session, seq, event id, n, type, payload.
#[derive(Debug, Serialize)]
struct EventRow(String, u64, String, u64, &'static str, String);

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
        self.events.push(EventRow(
            hex(event.session_id.0),
            *head,
            hex(event.event_id.0),
            event.n.unwrap_or_default(),
            event.event_type.as_str(),
            json(&event)?,
        ));
        Ok(*head)
    }

    /// Writes what was appended.
    pub(super) async fn write(
        &self,
        connection: &mut SqliteConnection,
        terms: Terms,
    ) -> Result<(), Fault> {
        if self.events.is_empty() {
            return Ok(());
        }
        let touched: HashMap<&str, u64> =
            self.events.iter().map(|row| (row.0.as_str(), row.1)).collect();
        let sessions: Vec<(&str, u64)> = touched.into_iter().collect();
        query(APPEND)
            .bind(json(&sessions)?)
            .bind(json(&self.events)?)
            .bind(micros(terms.now))
            .bind(decide::keeps_row(Topic::ConversationOutbound, terms.bus_is_local))
            .execute(connection)
            .await?;
        Ok(())
    }
}

/// A record with the step that it asks for, if it does.
pub(super) type Sent = (Outgoing, Option<EffectId>);

/// Writes records that are not events themselves; those that nobody would read are left out.
pub(super) async fn send(
    connection: &mut SqliteConnection,
    terms: Terms,
    records: &[Sent],
) -> Result<(), Fault> {
    let rows: Vec<_> = records
        .iter()
        .filter(|(record, _)| decide::keeps_row(record.topic, terms.bus_is_local))
        .map(|(record, effect)| {
            Ok((
                record.topic.as_str(),
                hex(record.session_id.0),
                json(&record.headers)?,
                String::from_utf8_lossy(&record.payload),
                effect.map(|effect| hex(effect.0)),
            ))
        })
        .collect::<Result<_, Fault>>()?;
    if rows.is_empty() {
        return Ok(());
    }
    query(SEND).bind(json(&rows)?).bind(micros(terms.now)).execute(connection).await?;
    Ok(())
}
