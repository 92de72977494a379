//! The replica of memories: what search, export and admin read, and how it is written.

use serde::Serialize;
use soma_contract::{
    SessionId, TenantId, decide,
    memory::{Memory, MemoryOp, MemoryWrite},
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
WHERE tenant = $1 AND memory_id > $2 AND deleted_at IS NULL ORDER BY memory_id LIMIT $3 + 0";

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

pub(super) use current_write;
