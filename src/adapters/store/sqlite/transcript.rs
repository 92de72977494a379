//! The port's [`Transcript`]: messages, sessions and their logs.

use async_trait::async_trait;
use futures::FutureExt;
use serde::Deserialize;
use soma_contract::{
    Event, EventId, SessionId, TenantId,
    message::{AcceptError, Accepted, NewMessage},
    port::store::{MessageStatus, Page, Session, StoreError, StoreResult, Transcript},
};
use sqlx::{SqliteConnection, query};

use super::{
    SqliteStore,
    accept::{self, Accept},
    cancel,
    fault::Fault,
    row::{TurnRow, blob, documents, get, integer, parse, refused, time, turn_json},
};

#[async_trait]
impl Transcript for SqliteStore {
    async fn accept(&self, batch: Vec<NewMessage>) -> Vec<Result<Accepted, AcceptError>> {
        let requests = batch.into_iter().map(Accept).collect();
        self.writer.submit(requests).await.into_iter().map(accept::answer).collect()
    }

    async fn session(&self, tenant: &TenantId, session_id: SessionId) -> StoreResult<Session> {
        Ok(session(&mut *self.reader().await?, tenant, session_id).await?)
    }

    async fn sessions(
        &self,
        tenant: &TenantId,
        cursor: Option<&str>,
        limit: u32,
    ) -> StoreResult<Page<Session>> {
        Ok(sessions(&mut *self.reader().await?, tenant, cursor, limit).await?)
    }

    async fn events(
        &self,
        tenant: &TenantId,
        session_id: SessionId,
        after: u64,
        limit: u32,
    ) -> StoreResult<Vec<Event>> {
        Ok(events(&mut *self.reader().await?, tenant, session_id, after, limit).await?)
    }

    async fn history(
        &self,
        session_id: SessionId,
        before_n: u64,
        limit: u32,
    ) -> StoreResult<Vec<Event>> {
        Ok(history(&mut *self.reader().await?, session_id, before_n, limit).await?)
    }

    async fn message(&self, tenant: &TenantId, event_id: EventId) -> StoreResult<MessageStatus> {
        Ok(message(&mut *self.reader().await?, tenant, event_id).await?)
    }

    async fn delete_session(
        &self,
        tenant: &TenantId,
        session_id: SessionId,
        forget_memories: bool,
    ) -> StoreResult<()> {
        let tenant = tenant.clone();
        self.writer
            .write("delete", move |c, terms| {
                async move { cancel::delete(c, terms, &tenant, session_id, forget_memories).await }
                    .boxed()
            })
            .await
    }
}

macro_rules! session_json {
    () => {
        "json_object('session_id',hex(s.session_id),'tenant',s.tenant,'subject',s.subject,\
         'persona_id',s.persona_id,'created_at',s.created_at,'updated_at',s.updated_at,\
         'last_n',s.last_n,'last_seq',s.last_seq,'unfinished',(SELECT count(*) FROM turn t \
         WHERE t.session_id = s.session_id AND t.ended_at IS NULL))"
    };
}

#[derive(Debug, Deserialize)]
struct SessionRow {
    session_id: SessionId,
    tenant: TenantId,
    subject: String,
    persona_id: Option<String>,
    created_at: i64,
    updated_at: i64,
    last_n: u64,
    last_seq: u64,
    unfinished: u64,
}

impl From<SessionRow> for Session {
    fn from(row: SessionRow) -> Self {
        Self {
            session_id: row.session_id,
            tenant: row.tenant,
            subject: row.subject,
            persona_id: row.persona_id,
            created_at: time(row.created_at),
            updated_at: time(row.updated_at),
            last_n: row.last_n,
            last_seq: row.last_seq,
            unfinished: row.unfinished,
        }
    }
}

const SESSION: &str = concat!(
    "SELECT ",
    session_json!(),
    " FROM session_envelopes s \
     WHERE s.session_id = $1 AND s.tenant = $2 AND s.deleted_at IS NULL"
);

async fn session(
    connection: &mut SqliteConnection,
    tenant: &TenantId,
    session_id: SessionId,
) -> Result<Session, Fault> {
    let row = query(SESSION).bind(blob(session_id.0)).bind(tenant.0.clone());
    let found = documents(row, connection).await?;
    let json = found.first().ok_or(StoreError::NotFound)?;
    Ok(parse::<SessionRow>(json)?.into())
}

/// $1 tenant, $2 and $3 the last session of the page before, $4 limit
const SESSIONS: &str = concat!(
    "SELECT ",
    session_json!(),
    " FROM session_envelopes s WHERE s.tenant = $1 AND s.deleted_at IS NULL
    AND (s.updated_at, s.session_id) < ($2, $3)
ORDER BY s.updated_at DESC, s.session_id DESC LIMIT $4 + 0"
);

async fn sessions(
    connection: &mut SqliteConnection,
    tenant: &TenantId,
    cursor: Option<&str>,
    limit: u32,
) -> Result<Page<Session>, Fault> {
    let (updated_at, session_id) = match cursor {
        None => (i64::MAX, vec![u8::MAX; 17]),
        Some(cursor) => sessions_cursor(cursor)?,
    };
    let rows = query(SESSIONS).bind(tenant.0.clone()).bind(updated_at).bind(session_id).bind(limit);
    let found = documents(rows, connection).await?;
    let rows: Vec<SessionRow> = found.iter().map(|json| parse(json)).collect::<Result<_, _>>()?;
    let full = rows.len() == usize::try_from(limit).unwrap_or(usize::MAX);
    let next_cursor =
        rows.last().filter(|_| full).map(|row| format!("{}.{}", row.updated_at, row.session_id));
    Ok(Page { items: rows.into_iter().map(Session::from).collect(), next_cursor })
}

fn sessions_cursor(cursor: &str) -> Result<(i64, Vec<u8>), Fault> {
    let bad = || refused(&format_args!("`{cursor}` is no cursor of this list"));
    let (updated_at, session) = cursor.split_once('.').ok_or_else(bad)?;
    let session: SessionId = session.parse().ok().ok_or_else(bad)?;
    Ok((updated_at.parse().ok().ok_or_else(bad)?, blob(session.0)))
}

/// $1 session, $2 tenant, $3 after, $4 limit: one row with null if there are no events, none if
/// there is no session.
const EVENTS: &str = "
SELECT v.payload FROM session_envelopes s
LEFT JOIN session_events v ON v.session_id = s.session_id AND v.seq > $3
WHERE s.session_id = $1 AND s.tenant = $2 AND s.deleted_at IS NULL
ORDER BY v.seq LIMIT $4 + 0";

async fn events(
    connection: &mut SqliteConnection,
    tenant: &TenantId,
    session_id: SessionId,
    after: u64,
    limit: u32,
) -> Result<Vec<Event>, Fault> {
    let rows = query(EVENTS)
        .bind(blob(session_id.0))
        .bind(tenant.0.clone())
        .bind(integer(after))
        .bind(limit.max(1))
        .fetch_all(connection)
        .await?;
    if rows.is_empty() {
        return Err(StoreError::NotFound.into());
    }
    let mut events = Vec::with_capacity(rows.len());
    for row in &rows {
        if let Some(payload) = get::<Option<String>>(row, 0)? {
            events.push(parse(&payload)?);
        }
    }
    events.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
    Ok(events)
}

/// $1 session, $2 before n, $3 limit: a turn has two such events at most.
const HISTORY: &str = "
SELECT v.payload
FROM (SELECT session_id, n, seq, end_seq, status FROM turn
      WHERE session_id = $1 AND n < $2 ORDER BY n DESC LIMIT $3 + 0) t
CROSS JOIN session_events v ON v.session_id = t.session_id
    AND (v.seq = t.seq OR (v.seq = t.end_seq AND t.status = 'done'))
WHERE v.payload <> ''
ORDER BY t.n DESC, v.seq DESC LIMIT $3 + 0";

async fn history(
    connection: &mut SqliteConnection,
    session_id: SessionId,
    before_n: u64,
    limit: u32,
) -> Result<Vec<Event>, Fault> {
    let rows = query(HISTORY).bind(blob(session_id.0)).bind(integer(before_n)).bind(limit);
    documents(rows, connection).await?.iter().rev().map(|payload| parse(payload)).collect()
}

/// $1 event, $2 tenant. Of a deleted session only the turns that the deletion ended have an end.
const MESSAGE: &str = concat!(
    "SELECT json_array(",
    turn_json!(),
    ", (SELECT count(*) FROM turn o
        WHERE o.session_id = t.session_id AND o.n < t.n AND o.ended_at IS NULL
            AND t.ended_at IS NULL),
    (SELECT count(*) FROM turn_step p WHERE p.turn_id = t.turn_id),
    (SELECT x.payload FROM session_events x
     WHERE x.session_id = t.session_id AND x.seq = t.end_seq))
FROM session_events v
JOIN turn t ON t.session_id = v.session_id AND t.n = v.n AND t.event_id = v.event_id
JOIN session_envelopes s ON s.session_id = v.session_id
WHERE v.event_id = $1 AND t.tenant = $2 AND (s.deleted_at IS NULL OR t.end_seq IS NOT NULL)"
);

async fn message(
    connection: &mut SqliteConnection,
    tenant: &TenantId,
    event_id: EventId,
) -> Result<MessageStatus, Fault> {
    let row = query(MESSAGE).bind(blob(event_id.0)).bind(tenant.0.clone());
    let found = documents(row, connection).await?;
    let json = found.first().ok_or(StoreError::NotFound)?;
    let (turn, place, steps, terminal): (TurnRow, u64, u32, Option<String>) = parse(json)?;
    Ok(MessageStatus {
        event_id,
        session_id: turn.session_id,
        n: turn.n,
        turn: turn.turn()?,
        place,
        steps,
        terminal: terminal.map(|payload| parse(&payload)).transpose()?,
    })
}
