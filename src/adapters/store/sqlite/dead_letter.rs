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
use sqlx::{SqliteConnection, query};

use super::{
    fault::Fault,
    memory_write,
    row::{array, documents, hex, json, micros, parse, refused, time},
    work::Terms,
};

/// The most characters of an error that are kept.
const MAX_ERROR: usize = 8_000;

/// $1 rows, $2 now
const BURY: &str = "
INSERT INTO dlq_messages (tenant, topic, consumer_group, session_id, headers, turn_id, event, error,
    attempts, trace, created_at)
SELECT e.value->>0, e.value->>1, e.value->>2, unhex(e.value->>3), e.value->>4, unhex(e.value->>5),
       e.value->>6, e.value->>7, e.value->>8, e.value->>9, $2
FROM json_each($1) e";

/// Tenant, topic, group, session, headers, turn, event, error, attempts, trace.
#[derive(Debug, Serialize)]
struct LetterRow<'l>(
    Option<&'l TenantId>,
    &'l str,
    Option<&'static str>,
    Option<String>,
    Option<String>,
    Option<String>,
    String,
    String,
    u32,
    String,
);

fn row(letter: &NewDeadLetter) -> Result<LetterRow<'_>, Fault> {
    Ok(LetterRow(
        letter.tenant.as_ref(),
        &letter.topic,
        None,
        None,
        None,
        letter.turn_id.map(|turn| hex(turn.0)),
        json(&letter.event)?,
        letter.error.chars().take(MAX_ERROR).collect(),
        letter.attempts,
        json(&letter.trace)?,
    ))
}

async fn insert(
    connection: &mut SqliteConnection,
    terms: Terms,
    rows: &[LetterRow<'_>],
) -> Result<(), Fault> {
    query(BURY).bind(json(rows)?).bind(micros(terms.now)).execute(connection).await?;
    Ok(())
}

/// Buries failed turns and memory writes.
pub(super) async fn bury(
    connection: &mut SqliteConnection,
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
    connection: &mut SqliteConnection,
    terms: Terms,
    letter: &NewDeadLetter,
    refused: &OutboxRow,
) -> Result<(), Fault> {
    let mut row = row(letter)?;
    row.3 = Some(hex(refused.session_id.0));
    row.4 = Some(json(&refused.headers)?);
    insert(connection, terms, &[row]).await
}

/// $1 group, $2 event, $3 now
const SEEN: &str = "
INSERT INTO inbox (consumer_group, event_id, created_at) VALUES ($1, unhex($2), $3)
ON CONFLICT DO NOTHING";

/// Buries a record that cannot become work; of one group each event only once, for as long as the
/// inbox keeps it.
pub(super) async fn bury_record(
    connection: &mut SqliteConnection,
    terms: Terms,
    group: Group,
    letter: &NewDeadLetter,
) -> Result<(), Fault> {
    if let Some(event_id) = letter.event_id {
        let seen = query(SEEN)
            .bind(group.as_str())
            .bind(hex(event_id.0))
            .bind(micros(terms.now))
            .execute(&mut *connection)
            .await?;
        if seen.rows_affected() == 0 {
            return Ok(());
        }
    }
    let mut row = row(letter)?;
    row.2 = Some(group.as_str());
    insert(connection, terms, &[row]).await
}

macro_rules! letter_json {
    () => {
        "SELECT json_object('id',d.id,'tenant',d.tenant,'topic',d.topic,'turn_id',hex(d.turn_id),\
         'event',d.event,'error',d.error,'attempts',d.attempts,'created_at',d.created_at,\
         'replayed_at',d.replayed_at,'trace',d.trace) FROM dlq_messages d "
    };
}

#[derive(Debug, Deserialize)]
struct StoredLetter {
    id: i64,
    tenant: Option<TenantId>,
    topic: String,
    /// Empty if there is none: SQL's `hex` of null.
    turn_id: String,
    event: String,
    error: String,
    attempts: u32,
    created_at: i64,
    replayed_at: Option<i64>,
    trace: String,
}

fn letter(json: &str) -> Result<DeadLetter, Fault> {
    let stored: StoredLetter = parse(json)?;
    let turn_id = match stored.turn_id.as_str() {
        "" => None,
        hex => Some(hex.parse::<TurnId>().map_err(|error| refused(&error))?),
    };
    Ok(DeadLetter {
        id: stored.id,
        tenant: stored.tenant,
        topic: stored.topic,
        turn_id,
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
    "WHERE ($1 IS NULL OR d.tenant = $1) AND d.id < $2 ORDER BY d.id DESC LIMIT $3 + 0"
);

/// Lists letters, newest first.
pub(super) async fn list(
    connection: &mut SqliteConnection,
    tenant: Option<&TenantId>,
    cursor: Option<&str>,
    limit: u32,
) -> Result<Page<DeadLetter>, Fault> {
    let below = match cursor {
        None => i64::MAX,
        Some(cursor) => cursor.parse().map_err(|error: std::num::ParseIntError| refused(&error))?,
    };
    let rows = query(LIST).bind(tenant.map(|tenant| tenant.0.clone())).bind(below).bind(limit);
    let items: Vec<DeadLetter> = documents(rows, connection)
        .await?
        .iter()
        .map(|json| letter(json))
        .collect::<Result<_, _>>()?;
    let full = items.len() == usize::try_from(limit).unwrap_or(usize::MAX);
    let next_cursor = items.last().filter(|_| full).map(|letter| letter.id.to_string());
    Ok(Page { items, next_cursor })
}

/// $1 tenant or null, $2 id
const ONE: &str = concat!(letter_json!(), "WHERE ($1 IS NULL OR d.tenant = $1) AND d.id = $2");

/// Returns one letter.
pub(super) async fn one(
    connection: &mut SqliteConnection,
    tenant: Option<&TenantId>,
    id: i64,
) -> Result<DeadLetter, Fault> {
    let rows = query(ONE).bind(tenant.map(|tenant| tenant.0.clone())).bind(id);
    let found = documents(rows, connection).await?;
    found.first().map_or(Err(Fault::Outcome(StoreError::NotFound)), |json| letter(json))
}

const DROP: &str = "DELETE FROM dlq_messages WHERE ($1 IS NULL OR tenant = $1) AND id = $2";

/// Drops a letter for good.
pub(super) async fn drop_one(
    connection: &mut SqliteConnection,
    tenant: Option<&TenantId>,
    id: i64,
) -> Result<(), Fault> {
    let dropped = query(DROP)
        .bind(tenant.map(|tenant| tenant.0.clone()))
        .bind(id)
        .execute(connection)
        .await?;
    if dropped.rows_affected() == 0 { Err(StoreError::NotFound.into()) } else { Ok(()) }
}

/// $1 turn, $2 now, $3 letter
const REPLAY_TURN: &str = "
UPDATE dlq_messages SET replayed_at = $2 WHERE id = $3
    AND EXISTS (SELECT 1 FROM turn WHERE turn_id = unhex($1) AND status = 'failed');
UPDATE turn SET status = 'queued', replay = replay + 1, attempts = 0, panics = 0, deaths = 0,
    reason = NULL, waiting_since = NULL, not_before = NULL, cancel_requested = 0,
    owner = NULL, epoch = epoch + 1, ended_at = NULL, end_seq = NULL, ready_at = $2, worked_ms = 0,
    worked_before_ms = 0
WHERE turn_id = unhex($1) AND status = 'failed'
RETURNING json_array(hex(session_id));";

/// Replays a letter: its failed turn is queued again, its memory write or record waits again.
pub(super) async fn replay(
    connection: &mut SqliteConnection,
    terms: Terms,
    tenant: Option<&TenantId>,
    id: i64,
) -> Result<Replayed, Fault> {
    let letter = one(connection, tenant, id).await?;
    if let Some(turn_id) = letter.turn_id {
        let replayed = query(REPLAY_TURN).bind(hex(turn_id.0)).bind(micros(terms.now)).bind(id);
        let sessions: Vec<SessionId> = array(replayed, connection).await?;
        return Ok(sessions.first().map_or(Replayed::Already, |&id| Replayed::Turn(id)));
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
    connection: &mut SqliteConnection,
    terms: Terms,
    letter: &DeadLetter,
) -> Result<Option<Replayed>, Fault> {
    let kind = query("SELECT json_array(headers IS NOT NULL) FROM dlq_messages WHERE id = $1");
    let was_ours: Vec<u8> = array(kind.bind(letter.id), connection).await?;
    if was_ours != [1] {
        let never = "the record cannot become work".to_owned();
        return Err(StoreError::Refused(never).into());
    }
    let sent =
        query(SEND_AGAIN).bind(letter.id).bind(micros(terms.now)).execute(connection).await?;
    Ok((sent.rows_affected() == 0).then_some(Replayed::Already))
}
