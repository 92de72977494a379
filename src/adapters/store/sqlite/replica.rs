//! The replica of memories: what search, export and admin read.

use serde::Serialize;
use soma_contract::{
    SessionId, TenantId, decide,
    memory::{Memory, MemoryOp, MemoryQuery, MemoryWrite, Recalled},
    port::{
        memory::Receipt,
        store::{Page, StoreError},
    },
};
use sqlx::{SqliteConnection, query};
use uuid::Uuid;

use super::{
    fault::Fault,
    row::{array, blob, documents, hex, integer, json, micros, parse, refused},
    work::Terms,
};

/// Undelivered writes of a tenant that a search looks at: the newest.
const PENDING_LIMIT: u32 = 2_000;

/// $1 rows, $2 now. The order of the columns is that of [`ReplicaRow`].
const PUT: &str = "
INSERT INTO memory_replica (tenant, memory_id, session_id, persona_id, kind, content, payload,
    version, coord, request_id, trace_id, written_at, deleted_at)
SELECT e.value->>0, unhex(e.value->>1), unhex(e.value->>2), e.value->>3, e.value->>4, e.value->>5,
       e.value->>6, e.value->>7, e.value->>8, e.value->>9, e.value->>10, e.value->>11,
       iif(e.value->>12, $2, NULL)
FROM json_each($1) e WHERE true
ON CONFLICT (tenant, memory_id) DO UPDATE SET session_id = excluded.session_id,
    persona_id = excluded.persona_id, kind = excluded.kind, content = excluded.content,
    payload = excluded.payload, version = excluded.version, coord = excluded.coord,
    request_id = excluded.request_id, trace_id = excluded.trace_id,
    written_at = excluded.written_at, deleted_at = excluded.deleted_at
";

#[derive(Debug, Serialize)]
struct ReplicaRow<'w>(
    &'w TenantId,
    String,
    Option<String>,
    Option<&'w str>,
    &'w str,
    &'w str,
    String,
    u64,
    Option<&'w str>,
    Option<&'w str>,
    Option<&'w str>,
    i64,
    bool,
);

/// Writes versions that the replica takes; of a deleted memory only the tombstone stays.
pub(super) async fn put(
    connection: &mut SqliteConnection,
    terms: Terms,
    writes: &[(MemoryWrite, Receipt)],
) -> Result<(), Fault> {
    if writes.is_empty() {
        return Ok(());
    }
    let rows: Vec<ReplicaRow<'_>> =
        writes.iter().map(|(write, receipt)| row(write, receipt)).collect::<Result<_, _>>()?;
    query(PUT).bind(json(&rows)?).bind(micros(terms.now)).execute(connection).await?;
    Ok(())
}

fn row<'w>(write: &'w MemoryWrite, receipt: &'w Receipt) -> Result<ReplicaRow<'w>, Fault> {
    let memory = &write.memory;
    let gone = write.op == MemoryOp::Delete;
    Ok(ReplicaRow(
        &memory.tenant,
        hex(memory.memory_id),
        memory.session_id.map(|session| hex(session.0)),
        memory.persona_id.as_deref(),
        &memory.kind,
        if gone { "" } else { &memory.content },
        if gone { "null".to_owned() } else { json(memory)? },
        memory.version,
        receipt.coordinate.as_deref(),
        receipt.request_id.as_deref(),
        receipt.trace_id.as_deref(),
        micros(memory.written_at),
        gone,
    ))
}

/// $1 tenant, $2 memory, $3 event
const SEEN: &str = "
SELECT json_array(
    (SELECT version FROM memory_replica WHERE tenant = $1 AND memory_id = $2),
    EXISTS (SELECT 1 FROM memory_event WHERE event_id = $3 AND tenant = $1))";

/// $1 tenant, $2 memory, $3 event, $4 version
const LEARN: &str = "
INSERT INTO memory_head (tenant, memory_id, version) VALUES ($1, $2, $4)
ON CONFLICT (tenant, memory_id) DO UPDATE SET version = max(version, excluded.version);
INSERT INTO memory_event (event_id, tenant, memory_id, version) VALUES ($3, $1, $2, $4)
ON CONFLICT DO NOTHING;";

/// Applies a foreign write; returns whether anything changed.
pub(super) async fn replicate(
    connection: &mut SqliteConnection,
    terms: Terms,
    write: MemoryWrite,
    receipt: Receipt,
) -> Result<bool, Fault> {
    let memory = &write.memory;
    let (tenant, event) = (memory.tenant.0.clone(), blob(memory.event_id.0));
    let seen = query(SEEN).bind(tenant.clone()).bind(blob(memory.memory_id)).bind(event.clone());
    let found = documents(seen, connection).await?;
    let (stored, event_seen): (Option<u64>, u8) =
        parse(found.first().map_or("[null,0]", String::as_str))?;
    if !decide::replica_takes(stored, event_seen != 0, memory.version) {
        return Ok(false);
    }
    query(LEARN)
        .bind(tenant)
        .bind(blob(memory.memory_id))
        .bind(event)
        .bind(integer(memory.version))
        .execute(&mut *connection)
        .await?;
    put(connection, terms, &[(write, receipt)]).await?;
    Ok(true)
}

/// $1 words, $2 tenant, $3 session, $4 persona, $5 kind, $6 limit. A better match is a lower
/// `bm25`, below zero.
const RANKED: &str = "
SELECT json_array(r.payload, -bm25(memory_text))
FROM memory_text JOIN memory_replica r ON r.id = memory_text.rowid
WHERE memory_text MATCH $1 AND r.tenant = $2 AND r.deleted_at IS NULL
    AND ($3 IS NULL OR r.session_id = $3) AND ($4 IS NULL OR r.persona_id = $4)
    AND ($5 IS NULL OR r.kind = $5)
ORDER BY bm25(memory_text), r.written_at DESC LIMIT $6";

/// As [`RANKED`], for a query without words.
const NEWEST: &str = "
SELECT json_array(r.payload, 0.0) FROM memory_replica r
WHERE $1 IS NOT NULL AND r.tenant = $2 AND r.deleted_at IS NULL
    AND ($3 IS NULL OR r.session_id = $3) AND ($4 IS NULL OR r.persona_id = $4)
    AND ($5 IS NULL OR r.kind = $5)
ORDER BY r.written_at DESC, r.id DESC LIMIT $6";

/// Searches the replica and the undelivered writes: what is still on its way comes first where it
/// matches as well, and hides what it replaces.
pub(super) async fn search(
    connection: &mut SqliteConnection,
    tenant: &TenantId,
    wanted: &MemoryQuery,
) -> Result<Vec<Recalled>, Fault> {
    let pending = newest_pending(connection, tenant).await?;
    let words = decide::words(&wanted.text);
    let limit = i64::try_from(wanted.limit).unwrap_or(i64::MAX);
    let room = limit.saturating_add(i64::try_from(pending.len()).unwrap_or(i64::MAX));
    let sql = if words.is_empty() { NEWEST } else { RANKED };
    let rows = query(sql)
        .bind(match_any(&words))
        .bind(tenant.0.clone())
        .bind(wanted.session_id.map(|session| blob(session.0)))
        .bind(wanted.persona_id.clone())
        .bind(wanted.kind.clone())
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
    connection: &mut SqliteConnection,
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

/// Returns an FTS5 expression for any of the words; each is a quoted string, so none is syntax.
fn match_any(words: &[String]) -> String {
    words.iter().map(|word| format!("\"{word}\"")).collect::<Vec<_>>().join(" OR ")
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
    connection: &mut SqliteConnection,
    tenant: &TenantId,
) -> Result<Vec<MemoryWrite>, Fault> {
    let rows = query(NEWEST_PENDING).bind(tenant.0.clone()).bind(PENDING_LIMIT);
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

/// $1 tenant, $2 memory: as it is with all writes delivered, null if there is none.
const ONE: &str = concat!(
    "SELECT coalesce((SELECT iif(w.op = 'put', w.payload->>'memory', 'null') ",
    current_write!(),
    "AND w.memory_id = $2),
    (SELECT payload FROM memory_replica WHERE tenant = $1 AND memory_id = $2), 'null')"
);

/// Returns one memory, undelivered writes included.
pub(super) async fn memory(
    connection: &mut SqliteConnection,
    tenant: &TenantId,
    memory_id: Uuid,
) -> Result<Memory, Fault> {
    let rows = query(ONE).bind(tenant.0.clone()).bind(blob(memory_id));
    let found = documents(rows, connection).await?;
    let memory: Option<Memory> = parse(found.first().map_or("null", String::as_str))?;
    memory.ok_or(Fault::Outcome(StoreError::NotFound))
}

/// $1 tenant, $2 after, $3 limit
const EXPORT: &str = "
SELECT payload FROM memory_replica
WHERE tenant = $1 AND memory_id > $2 AND deleted_at IS NULL ORDER BY memory_id LIMIT $3";

/// Pages over a tenant's memories in id order.
pub(super) async fn export(
    connection: &mut SqliteConnection,
    tenant: &TenantId,
    cursor: Option<&str>,
    limit: u32,
) -> Result<Page<Memory>, Fault> {
    let after = match cursor {
        None => Vec::new(),
        Some(cursor) => blob(cursor.parse::<Uuid>().map_err(|error| refused(&error))?),
    };
    let rows = query(EXPORT).bind(tenant.0.clone()).bind(after).bind(limit);
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
SELECT json_group_array(hex(memory_id)) FROM (
    SELECT memory_id FROM memory_replica
    WHERE session_id = $2 AND deleted_at IS NULL AND tenant = $1
    UNION
    SELECT memory_id FROM memory_write_outbox WHERE session_id = $2 AND tenant = $1)";

/// Returns the memories of a session, undelivered ones included.
pub(super) async fn of_session(
    connection: &mut SqliteConnection,
    tenant: &TenantId,
    session_id: SessionId,
) -> Result<Vec<Memory>, Fault> {
    let named = query(NAMED_BY_SESSION).bind(tenant.0.clone()).bind(blob(session_id.0));
    let named: Vec<Uuid> = array(named, connection).await?;
    let mut memories = Vec::with_capacity(named.len());
    for memory_id in named {
        let rows = query(ONE).bind(tenant.0.clone()).bind(blob(memory_id));
        let found = documents(rows, connection).await?;
        let memory: Option<Memory> = parse(found.first().map_or("null", String::as_str))?;
        memories.extend(memory.filter(|memory| memory.session_id == Some(session_id)));
    }
    Ok(memories)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_word_of_a_query_is_syntax() {
        let words = decide::words("tea\" OR NEAR(a*) -x ^col:1");
        assert_eq!(match_any(&words), r#""tea" OR "or" OR "near" OR "a" OR "x" OR "col" OR "1""#);
    }
}
