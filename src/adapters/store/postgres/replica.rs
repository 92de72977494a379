//! The replica of memories: what search, export and admin read.

use std::collections::BTreeMap;

use serde::Serialize;
use soma_contract::{
    SessionId, TenantId, decide,
    memory::{Memory, MemoryOp, MemoryQuery, MemoryWrite, Recalled},
    port::{
        memory::Receipt,
        store::{Page, StoreError},
    },
};
use sqlx::{PgConnection, query};
use uuid::Uuid;

use super::{
    engine::Terms,
    fault::Fault,
    row::{documents, integer, json, micros, one, parse, refused, sent},
    text::kept,
};

/// Undelivered writes of a tenant that a search looks at: the newest.
const PENDING_LIMIT: i64 = 2_000;

/// $1 rows, $2 now
const PUT: &str = "
INSERT INTO memory_replica (tenant, memory_id, session_id, persona_id, kind, content, payload,
    version, coord, request_id, trace_id, written_at, deleted_at, words)
SELECT tenant, memory_id, session_id, persona_id, kind, content, payload, version, coord,
    request_id, trace_id, written_at, CASE WHEN deleted THEN $2 END,
    words_of(content)
FROM jsonb_to_recordset($1::jsonb) AS r(tenant text, memory_id uuid, session_id uuid,
    persona_id text, kind text, content text, payload text, version bigint, coord text,
    request_id text, trace_id text, written_at bigint, deleted boolean)
ORDER BY tenant, memory_id
ON CONFLICT (tenant, memory_id) DO UPDATE SET session_id = excluded.session_id,
    persona_id = excluded.persona_id, kind = excluded.kind, content = excluded.content,
    payload = excluded.payload, version = excluded.version, coord = excluded.coord,
    request_id = excluded.request_id, trace_id = excluded.trace_id,
    written_at = excluded.written_at, deleted_at = excluded.deleted_at, words = excluded.words";

#[derive(Debug, Serialize)]
struct ReplicaRow<'w> {
    tenant: &'w TenantId,
    memory_id: Uuid,
    session_id: Option<SessionId>,
    persona_id: Option<&'w str>,
    kind: &'w str,
    content: &'w str,
    payload: String,
    version: u64,
    coord: Option<&'w str>,
    request_id: Option<&'w str>,
    trace_id: Option<&'w str>,
    written_at: i64,
    deleted: bool,
}

/// Writes versions that the replica takes; of a deleted memory only the tombstone stays.
pub(super) async fn put(
    connection: &mut PgConnection,
    terms: Terms,
    writes: &[(MemoryWrite, Receipt)],
) -> Result<(), Fault> {
    if writes.is_empty() {
        return Ok(());
    }
    // Of one memory only the newest: a statement changes a row once.
    let mut newest: BTreeMap<(&TenantId, Uuid), &(MemoryWrite, Receipt)> = BTreeMap::new();
    for one in writes {
        let memory = &one.0.memory;
        let known = newest.entry((&memory.tenant, memory.memory_id)).or_insert(one);
        if known.0.memory.version < memory.version {
            *known = one;
        }
    }
    let rows: Vec<ReplicaRow<'_>> =
        newest.values().map(|(write, receipt)| row(write, receipt)).collect::<Result<_, _>>()?;
    query(PUT).bind(sent(&rows)?).bind(micros(terms.now)).execute(connection).await?;
    Ok(())
}

fn row<'w>(write: &'w MemoryWrite, receipt: &'w Receipt) -> Result<ReplicaRow<'w>, Fault> {
    let memory = &write.memory;
    let deleted = write.op == MemoryOp::Delete;
    Ok(ReplicaRow {
        tenant: &memory.tenant,
        memory_id: memory.memory_id,
        session_id: memory.session_id,
        persona_id: memory.persona_id.as_deref(),
        kind: &memory.kind,
        content: if deleted { "" } else { &memory.content },
        payload: if deleted { "null".to_owned() } else { json(memory)? },
        version: memory.version,
        coord: receipt.coordinate.as_deref(),
        request_id: receipt.request_id.as_deref(),
        trace_id: receipt.trace_id.as_deref(),
        written_at: micros(memory.written_at),
        deleted,
    })
}

/// $1 tenant, $2 memory, $3 event
const SEEN: &str = "
SELECT json_build_array(
    (SELECT version FROM memory_replica WHERE tenant = $1 AND memory_id = $2),
    EXISTS (SELECT 1 FROM memory_event WHERE event_id = $3 AND tenant = $1))::text";

/// $1 tenant, $2 memory: the counter is held before anything is read.
const HOLD: &str = "
INSERT INTO memory_head AS h (tenant, memory_id, version) VALUES ($1, $2, 0)
ON CONFLICT (tenant, memory_id) DO UPDATE SET version = h.version";

/// $1 tenant, $2 memory, $3 event, $4 version
const LEARN: &str = "
WITH head AS (
    UPDATE memory_head SET version = greatest(version, $4) WHERE tenant = $1 AND memory_id = $2
)
INSERT INTO memory_event (event_id, tenant, memory_id, version) VALUES ($3, $1, $2, $4)
ON CONFLICT DO NOTHING";

/// Applies a foreign write; returns whether anything changed.
pub(super) async fn replicate(
    connection: &mut PgConnection,
    terms: Terms,
    write: MemoryWrite,
    receipt: Receipt,
) -> Result<bool, Fault> {
    let memory = &write.memory;
    let (tenant, event) = (kept(&memory.tenant.0), memory.event_id.0);
    query(HOLD).bind(tenant.clone()).bind(memory.memory_id).execute(&mut *connection).await?;
    let seen = query(SEEN).bind(tenant.clone()).bind(memory.memory_id).bind(event);
    let (stored, event_seen): (Option<u64>, bool) = one(seen, connection).await?;
    if !decide::replica_takes(stored, event_seen, memory.version) {
        return Ok(false);
    }
    query(LEARN)
        .bind(tenant)
        .bind(memory.memory_id)
        .bind(event)
        .bind(integer(memory.version))
        .execute(&mut *connection)
        .await?;
    put(connection, terms, &[(write, receipt)]).await?;
    Ok(true)
}

/// $1 words, $2 tenant, $3 session, $4 persona, $5 kind, $6 limit. How often a word stands in a memory
/// counts by its logarithm, as does the memory's length against it; a word that few memories of the
/// match have counts more than one that all have, as with the embedded store.
const RANKED: &str = "
WITH wanted AS MATERIALIZED (
    SELECT w.word, w.word::tsquery AS one FROM (
        SELECT DISTINCT quote_literal(l.lexeme) AS word
        FROM unnest(words_of($1)) l) w
), found AS MATERIALIZED (
    SELECT r.id, r.payload, r.written_at, r.words FROM memory_replica r
    WHERE r.words @@ (SELECT string_agg(word, ' | ')::tsquery FROM wanted)
        AND r.tenant = $2 AND r.deleted_at IS NULL
        AND ($3::uuid IS NULL OR r.session_id = $3)
        AND ($4::text IS NULL OR r.persona_id = $4)
        AND ($5::text IS NULL OR r.kind = $5)
), weight AS MATERIALIZED (
    SELECT w.one, ln(1 + (n.total - hits + 0.5) / (hits + 0.5)) + 0.05 AS rarity
    FROM (SELECT w.one, count(f.id) AS hits FROM wanted w
          LEFT JOIN found f ON f.words @@ w.one GROUP BY w.one, w.word) w,
         (SELECT count(*) AS total FROM found) n
)
SELECT json_build_array(f.payload, s.rank)::text
FROM found f CROSS JOIN LATERAL (
    SELECT sum(w.rarity * (1 + ts_rank(f.words, w.one, 1)))::float8 AS rank
    FROM weight w WHERE f.words @@ w.one) s
ORDER BY s.rank DESC, f.written_at DESC LIMIT $6";

/// As [`RANKED`], for a query without words.
const NEWEST: &str = "
SELECT json_build_array(r.payload, 0.0)::text FROM memory_replica r
WHERE $1::text IS NOT NULL AND r.tenant = $2 AND r.deleted_at IS NULL
    AND ($3::uuid IS NULL OR r.session_id = $3) AND ($4::text IS NULL OR r.persona_id = $4)
    AND ($5::text IS NULL OR r.kind = $5)
ORDER BY r.written_at DESC, r.id DESC LIMIT $6";

/// Searches the replica and the undelivered writes: what is still on its way comes first where it
/// matches as well, and hides what it replaces.
pub(super) async fn search(
    connection: &mut PgConnection,
    tenant: &TenantId,
    wanted: &MemoryQuery,
) -> Result<Vec<Recalled>, Fault> {
    let pending = newest_pending(connection, tenant).await?;
    let words = decide::words(&wanted.text);
    let limit = i64::try_from(wanted.limit).unwrap_or(i64::MAX);
    let room = limit.saturating_add(i64::try_from(pending.len()).unwrap_or(i64::MAX));
    let sql = if words.is_empty() { NEWEST } else { RANKED };
    let rows = query(sql)
        .bind(kept(&words.join(" ")))
        .bind(kept(&tenant.0))
        .bind(wanted.session_id.map(|session| session.0))
        .bind(wanted.persona_id.as_deref().map(kept))
        .bind(wanted.kind.as_deref().map(kept))
        .bind(room);
    let mut found = matching(&pending, &words, wanted);
    for row in documents(rows, connection).await? {
        let (payload, rank): (String, f64) = parse(&row)?;
        let memory: Memory = parse(&payload)?;
        if pending.iter().all(|write| write.memory.memory_id != memory.memory_id) {
            // Bounded like the score of an undelivered write, in the same order as the rank.
            let score = rank / (1.0 + rank);
            found.push(Recalled { memory, score, pending: false });
        }
    }
    best(&mut found, &words, wanted.limit);
    Ok(found)
}

/// Searches only the undelivered writes.
pub(super) async fn search_pending(
    connection: &mut PgConnection,
    tenant: &TenantId,
    wanted: &MemoryQuery,
) -> Result<Vec<Recalled>, Fault> {
    let words = decide::words(&wanted.text);
    let mut found = matching(&newest_pending(connection, tenant).await?, &words, wanted);
    best(&mut found, &words, wanted.limit);
    Ok(found)
}

/// Orders by score, newest first among equals.
fn best(found: &mut Vec<Recalled>, words: &[String], limit: usize) {
    found.sort_by(|one, other| {
        let by_time = other.memory.written_at.cmp(&one.memory.written_at);
        if words.is_empty() { by_time } else { other.score.total_cmp(&one.score).then(by_time) }
    });
    found.truncate(limit);
}

/// The newest undelivered write `w` of each memory of the tenant $1, unless the replica has passed
/// it.
macro_rules! current_write {
    () => {
        "FROM memory_write_outbox w
LEFT JOIN memory_replica r ON r.tenant = w.tenant AND r.memory_id = w.memory_id
WHERE w.tenant = $1 AND w.version > coalesce(r.version, 0) AND w.version = (
    SELECT max(o.version) FROM memory_write_outbox o
    WHERE o.tenant = w.tenant AND o.memory_id = w.memory_id) "
    };
}

/// $1 tenant, $2 limit
const NEWEST_PENDING: &str =
    concat!("SELECT w.payload ", current_write!(), "ORDER BY w.id DESC LIMIT $2");

async fn newest_pending(
    connection: &mut PgConnection,
    tenant: &TenantId,
) -> Result<Vec<MemoryWrite>, Fault> {
    let rows = query(NEWEST_PENDING).bind(kept(&tenant.0)).bind(PENDING_LIMIT);
    documents(rows, connection).await?.iter().map(|payload| parse(payload)).collect()
}

fn matching(pending: &[MemoryWrite], words: &[String], wanted: &MemoryQuery) -> Vec<Recalled> {
    pending
        .iter()
        .filter(|write| write.op == MemoryOp::Put)
        .map(|write| &write.memory)
        .filter(|memory| wanted.session_id.is_none_or(|id| memory.session_id == Some(id)))
        .filter(|memory| wanted.persona_id.is_none() || memory.persona_id == wanted.persona_id)
        .filter(|memory| wanted.kind.as_ref().is_none_or(|kind| memory.kind == *kind))
        .filter_map(|memory| {
            let score = decide::match_score(words, &memory.content)?;
            Some(Recalled { memory: memory.clone(), score, pending: true })
        })
        .collect()
}

/// $1 tenant, $2 memory: the undelivered write and what the replica has, null where there is none.
const ONE: &str = concat!(
    "SELECT json_build_array((SELECT w.payload ",
    current_write!(),
    "AND w.memory_id = $2),
    (SELECT payload FROM memory_replica WHERE tenant = $1 AND memory_id = $2))::text"
);

/// Returns one memory, undelivered writes included.
pub(super) async fn memory(
    connection: &mut PgConnection,
    tenant: &TenantId,
    memory_id: Uuid,
) -> Result<Memory, Fault> {
    current(connection, tenant, memory_id).await?.ok_or(Fault::Outcome(StoreError::NotFound))
}

/// Returns a memory as it is with all writes delivered.
async fn current(
    connection: &mut PgConnection,
    tenant: &TenantId,
    memory_id: Uuid,
) -> Result<Option<Memory>, Fault> {
    let row = query(ONE).bind(kept(&tenant.0)).bind(memory_id);
    let (pending, stored): (Option<String>, Option<String>) = one(row, connection).await?;
    match (pending, stored) {
        (Some(write), _) => {
            let write: MemoryWrite = parse(&write)?;
            Ok((write.op == MemoryOp::Put).then_some(write.memory))
        }
        (None, Some(stored)) => parse(&stored),
        (None, None) => Ok(None),
    }
}

/// $1 tenant, $2 after, $3 limit
const EXPORT: &str = "
SELECT payload FROM memory_replica
WHERE tenant = $1 AND ($2::uuid IS NULL OR memory_id > $2) AND deleted_at IS NULL ORDER BY memory_id LIMIT $3";

/// Pages over a tenant's memories in id order.
pub(super) async fn export(
    connection: &mut PgConnection,
    tenant: &TenantId,
    cursor: Option<&str>,
    limit: u32,
) -> Result<Page<Memory>, Fault> {
    let after = match cursor {
        None => None,
        Some(cursor) => Some(cursor.parse::<Uuid>().map_err(|error| refused(&error))?),
    };
    let rows = query(EXPORT).bind(kept(&tenant.0)).bind(after).bind(i64::from(limit));
    let items: Vec<Memory> = documents(rows, connection)
        .await?
        .iter()
        .map(|payload| parse(payload))
        .collect::<Result<_, _>>()?;
    let full = items.len() == usize::try_from(limit).unwrap_or(usize::MAX);
    let next_cursor = items.last().filter(|_| full).map(|memory| memory.memory_id.to_string());
    Ok(Page { items, next_cursor })
}

/// $1 tenant, $2 session
const NAMED_BY_SESSION: &str = "
SELECT coalesce(json_agg(memory_id), '[]')::text FROM (
    SELECT memory_id FROM memory_replica
    WHERE session_id = $2 AND deleted_at IS NULL AND tenant = $1
    UNION
    SELECT memory_id FROM memory_write_outbox WHERE session_id = $2 AND tenant = $1) m";

/// Returns the memories of a session, undelivered ones included.
pub(super) async fn of_session(
    connection: &mut PgConnection,
    tenant: &TenantId,
    session_id: SessionId,
) -> Result<Vec<Memory>, Fault> {
    let named = query(NAMED_BY_SESSION).bind(kept(&tenant.0)).bind(session_id.0);
    let named: Vec<Uuid> = one(named, connection).await?;
    let mut memories = Vec::with_capacity(named.len());
    for memory_id in named {
        let memory = current(connection, tenant, memory_id).await?;
        memories.extend(memory.filter(|memory| memory.session_id == Some(session_id)));
    }
    Ok(memories)
}
