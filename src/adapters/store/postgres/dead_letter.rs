//! Dead letters: what failed for good, kept until somebody replays or drops it.

use serde::{Deserialize, Serialize};
use soma_contract::{
    SessionId, TenantId, TurnId,
    event::TraceContext,
    memory::MemoryWrite,
    port::{
        bus::OutboxRow,
        store::{DeadLetter, NewDeadLetter, Page, Replayed, StoreError},
    },
    topic::Group,
};
use sqlx::{PgConnection, query, query_scalar};

use super::{
    engine::Terms,
    fault::Fault,
    memory_write,
    row::{documents, json, micros, optional, parse, refused, sent, time},
    sessions,
    text::kept,
};

/// The most characters of an error that are kept.
const MAX_ERROR: usize = 8_000;

/// $1 rows, $2 now
const BURY: &str = "
INSERT INTO dlq_messages (tenant, topic, consumer_group, session_id, headers, turn_id, event, error,
    attempts, trace, created_at)
SELECT tenant, topic, consumer_group, session_id, headers, turn_id, event, error, attempts, trace, $2
FROM jsonb_to_recordset($1::jsonb) AS r(tenant text, topic text, consumer_group text,
    session_id uuid, headers text, turn_id uuid, event text, error text, attempts bigint,
    trace text)";

/// A row of `dlq_messages`.
#[derive(Debug, Serialize)]
struct LetterRow<'l> {
    tenant: Option<&'l TenantId>,
    topic: &'l str,
    consumer_group: Option<&'static str>,
    session_id: Option<SessionId>,
    headers: Option<String>,
    turn_id: Option<TurnId>,
    event: String,
    error: String,
    attempts: u32,
    trace: String,
}

fn row(letter: &NewDeadLetter) -> Result<LetterRow<'_>, Fault> {
    Ok(LetterRow {
        tenant: letter.tenant.as_ref(),
        topic: &letter.topic,
        consumer_group: None,
        session_id: None,
        headers: None,
        turn_id: letter.turn_id,
        event: json(&letter.event)?,
        error: letter.error.chars().take(MAX_ERROR).collect(),
        attempts: letter.attempts,
        trace: json(&letter.trace)?,
    })
}

async fn insert(
    connection: &mut PgConnection,
    terms: Terms,
    rows: &[LetterRow<'_>],
) -> Result<(), Fault> {
    query(BURY).bind(sent(rows)?).bind(micros(terms.now)).execute(connection).await?;
    Ok(())
}

/// Buries failed turns and memory writes.
pub(super) async fn bury(
    connection: &mut PgConnection,
    terms: Terms,
    letters: &[&NewDeadLetter],
) -> Result<(), Fault> {
    if letters.is_empty() {
        return Ok(());
    }
    let rows: Vec<LetterRow<'_>> =
        letters.iter().map(|letter| row(letter)).collect::<Result<_, _>>()?;
    insert(connection, terms, &rows).await
}

/// Buries a row that the bus refused, so that it can be sent again as it was.
pub(super) async fn bury_row(
    connection: &mut PgConnection,
    terms: Terms,
    letter: &NewDeadLetter,
    refused: &OutboxRow,
) -> Result<(), Fault> {
    let mut row = row(letter)?;
    row.session_id = Some(refused.session_id);
    row.headers = Some(json(&refused.headers)?);
    insert(connection, terms, &[row]).await
}

/// $1 group, $2 event, $3 now
const SEEN: &str = "
INSERT INTO inbox (consumer_group, event_id, created_at) VALUES ($1, $2, $3)
ON CONFLICT DO NOTHING";

/// Buries a record that cannot become work; of one group each event only once, for as long as the
/// inbox keeps it.
pub(super) async fn bury_record(
    connection: &mut PgConnection,
    terms: Terms,
    group: Group,
    letter: &NewDeadLetter,
) -> Result<(), Fault> {
    if let Some(event_id) = letter.event_id {
        let seen = query(SEEN)
            .bind(group.as_str())
            .bind(event_id.0)
            .bind(micros(terms.now))
            .execute(&mut *connection)
            .await?;
        if seen.rows_affected() == 0 {
            return Ok(());
        }
    }
    let mut row = row(letter)?;
    row.consumer_group = Some(group.as_str());
    insert(connection, terms, &[row]).await
}

macro_rules! letter_json {
    () => {
        "SELECT json_build_object('id',d.id,'tenant',d.tenant,'topic',d.topic,'turn_id',d.turn_id,\
         'event',d.event,'error',d.error,'attempts',d.attempts,'created_at',d.created_at,\
         'replayed_at',d.replayed_at,'trace',d.trace)::text FROM dlq_messages d "
    };
}

#[derive(Debug, Deserialize)]
struct StoredLetter {
    id: i64,
    tenant: Option<TenantId>,
    topic: String,
    turn_id: Option<TurnId>,
    event: String,
    error: String,
    attempts: u32,
    created_at: i64,
    replayed_at: Option<i64>,
    trace: String,
}

fn letter(stored: StoredLetter) -> Result<DeadLetter, Fault> {
    Ok(DeadLetter {
        id: stored.id,
        tenant: stored.tenant,
        topic: stored.topic,
        turn_id: stored.turn_id,
        event: parse(&stored.event)?,
        error: stored.error,
        attempts: stored.attempts,
        created_at: time(stored.created_at),
        replayed_at: stored.replayed_at.map(time),
        trace: parse::<TraceContext>(&stored.trace)?,
    })
}

/// $1 tenant or null, $2 below this id, $3 limit
const LIST: &str = concat!(
    letter_json!(),
    "WHERE ($1::text IS NULL OR d.tenant = $1) AND d.id < $2 ORDER BY d.id DESC LIMIT $3"
);

/// Lists letters, newest first.
pub(super) async fn list(
    connection: &mut PgConnection,
    tenant: Option<&TenantId>,
    cursor: Option<&str>,
    limit: u32,
) -> Result<Page<DeadLetter>, Fault> {
    let below = match cursor {
        None => i64::MAX,
        Some(cursor) => cursor.parse().map_err(|error: std::num::ParseIntError| refused(&error))?,
    };
    let rows = query(LIST).bind(tenant.map(|tenant| kept(&tenant.0))).bind(below);
    let rows = rows.bind(i64::from(limit));
    let items: Vec<DeadLetter> = documents(rows, connection)
        .await?
        .iter()
        .map(|json| letter(parse(json)?))
        .collect::<Result<_, _>>()?;
    let full = items.len() == usize::try_from(limit).unwrap_or(usize::MAX);
    let next_cursor = items.last().filter(|_| full).map(|letter| letter.id.to_string());
    Ok(Page { items, next_cursor })
}

/// $1 tenant or null, $2 id
const ONE: &str =
    concat!(letter_json!(), "WHERE ($1::text IS NULL OR d.tenant = $1) AND d.id = $2");

/// Returns one letter.
pub(super) async fn one(
    connection: &mut PgConnection,
    tenant: Option<&TenantId>,
    id: i64,
) -> Result<DeadLetter, Fault> {
    let row = query(ONE).bind(tenant.map(|tenant| kept(&tenant.0))).bind(id);
    letter(optional(row, connection).await?.ok_or(StoreError::NotFound)?)
}

const DROP: &str = "DELETE FROM dlq_messages WHERE ($1::text IS NULL OR tenant = $1) AND id = $2";

/// Drops a letter for good.
pub(super) async fn drop_one(
    connection: &mut PgConnection,
    tenant: Option<&TenantId>,
    id: i64,
) -> Result<(), Fault> {
    let dropped =
        query(DROP).bind(tenant.map(|tenant| kept(&tenant.0))).bind(id).execute(connection).await?;
    if dropped.rows_affected() == 0 { Err(StoreError::NotFound.into()) } else { Ok(()) }
}

/// $1 turn, $2 now, $3 letter
const REPLAY_TURN: &str = "
WITH replayed AS (
    UPDATE turn SET status = 'queued', replay = replay + 1, attempts = 0, panics = 0, deaths = 0,
        reason = NULL, waiting_since = NULL, not_before = NULL, cancel_requested = false,
        owner = NULL, epoch = epoch + 1, ended_at = NULL, end_seq = NULL, ready_at = $2,
        worked_ms = 0, worked_before_ms = 0
    WHERE turn_id = $1 AND status = 'failed' RETURNING session_id
), noted AS (
    UPDATE dlq_messages SET replayed_at = $2 WHERE id = $3 AND EXISTS (SELECT 1 FROM replayed)
)
SELECT session_id FROM replayed";

/// Replays a letter: its failed turn is queued again, its memory write or record waits again.
pub(super) async fn replay(
    connection: &mut PgConnection,
    terms: Terms,
    tenant: Option<&TenantId>,
    id: i64,
) -> Result<Replayed, Fault> {
    let letter = one(connection, tenant, id).await?;
    if let Some(turn_id) = letter.turn_id {
        sessions::hold_of_turns(connection, [turn_id]).await?;
        let replayed = query_scalar(REPLAY_TURN).bind(turn_id.0).bind(micros(terms.now)).bind(id);
        let session = replayed.fetch_optional(connection).await?;
        return Ok(session.map_or(Replayed::Already, |id| Replayed::Turn(SessionId(id))));
    }
    if letter.topic == memory_write::SOURCE {
        let write: MemoryWrite = parse(&letter.event.to_string())?;
        if !memory_write::again(connection, terms, &write).await? {
            return Ok(Replayed::Already);
        }
    } else if let Some(done) = send_again(connection, terms, &letter).await? {
        return Ok(done);
    }
    let sql = "UPDATE dlq_messages SET replayed_at = $2 WHERE id = $1";
    query(sql).bind(id).bind(micros(terms.now)).execute(connection).await?;
    Ok(Replayed::Requeued)
}

/// $1 letter, $2 now
const SEND_AGAIN: &str = "
INSERT INTO message_outbox (topic, session_id, headers, payload, created_at)
SELECT topic, session_id, headers, event, $2 FROM dlq_messages
WHERE id = $1 AND headers IS NOT NULL AND replayed_at IS NULL";

/// Sends a row that the bus had refused once more, unless it was before.
async fn send_again(
    connection: &mut PgConnection,
    terms: Terms,
    letter: &DeadLetter,
) -> Result<Option<Replayed>, Fault> {
    let kind = "SELECT headers IS NOT NULL FROM dlq_messages WHERE id = $1 FOR UPDATE";
    let kind = query_scalar::<_, bool>(kind).bind(letter.id);
    if !kind.fetch_optional(&mut *connection).await?.unwrap_or(false) {
        let never = "the record cannot become work".to_owned();
        return Err(StoreError::Refused(never).into());
    }
    let sent =
        query(SEND_AGAIN).bind(letter.id).bind(micros(terms.now)).execute(connection).await?;
    Ok((sent.rows_affected() == 0).then_some(Replayed::Already))
}
