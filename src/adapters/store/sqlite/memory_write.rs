//! Memory writes on their way: numbered per memory, delivered in order, settled into the replica.

use std::collections::HashMap;

use serde::Serialize;
use soma_contract::{
    EventId, TenantId, compose, decide,
    memory::{Memory, MemoryOp, MemoryWrite},
    port::{
        memory::Receipt,
        store::{NewDeadLetter, PendingWrite, StoreResult},
    },
};
use sqlx::{SqliteConnection, query};
use uuid::Uuid;

use super::{
    dead_letter,
    fault::Fault,
    log,
    row::{array, documents, hex, json, micros, parse},
    work::{Operation, Terms},
};

/// Where a memory write that was refused comes from, in the dead letters.
pub(super) const SOURCE: &str = "memory_write_outbox";

/// $1: `[[tenant, memory, event], …]`
const READ: &str = "
SELECT json_group_array(json_array(h.tenant, hex(h.memory_id), h.version))
FROM (SELECT DISTINCT e.value->>0 AS tenant, unhex(e.value->>1) AS memory_id FROM json_each($1) e) r
CROSS JOIN memory_head h ON h.tenant = r.tenant AND h.memory_id = r.memory_id;

SELECT json_group_array(json_array(m.tenant, hex(m.memory_id), hex(m.event_id), m.version))
FROM json_each($1) e CROSS JOIN memory_event m ON m.event_id = unhex(e.value->>2)
    AND m.tenant = e.value->>0 AND m.memory_id = unhex(e.value->>1);
";

/// $1: `[[tenant, memory, event, version, session, op, payload], …]`, $2 now
const WRITE: &str = "
INSERT INTO memory_head (tenant, memory_id, version)
SELECT e.value->>0, unhex(e.value->>1), e.value->>3 FROM json_each($1) e WHERE true
ON CONFLICT (tenant, memory_id) DO UPDATE SET version = max(version, excluded.version);

INSERT INTO memory_event (event_id, tenant, memory_id, version)
SELECT unhex(e.value->>2), e.value->>0, unhex(e.value->>1), e.value->>3 FROM json_each($1) e;

INSERT INTO memory_write_outbox (tenant, memory_id, version, session_id, op, payload, created_at)
SELECT e.value->>0, unhex(e.value->>1), e.value->>3, unhex(e.value->>4), e.value->>5, e.value->>6,
       $2
FROM json_each($1) e;
";

type MemoryKey = (TenantId, Uuid);

/// Tenant, memory, event, version, session, op, payload.
#[derive(Debug, Serialize)]
struct WriteRow<'w>(&'w TenantId, String, String, u64, Option<String>, MemoryOp, String);

/// Stores writes and returns their versions: a memory's next one, or the one that the same event
/// made before.
pub(super) async fn enqueue(
    connection: &mut SqliteConnection,
    terms: Terms,
    writes: &[MemoryWrite],
) -> Result<Vec<u64>, Fault> {
    if writes.is_empty() {
        return Ok(Vec::new());
    }
    let (mut heads, mut made) = read(connection, writes).await?;
    let mut rows = Vec::new();
    let mut versions = Vec::with_capacity(writes.len());
    for write in writes {
        let memory = &write.memory;
        let key = (memory.tenant.clone(), memory.memory_id);
        let made = made.entry((key.clone(), memory.event_id));
        let version = *made.or_insert_with(|| {
            let head = heads.entry(key).or_insert(0);
            *head += 1;
            rows.push((write, *head));
            *head
        });
        versions.push(version);
    }
    if !rows.is_empty() {
        let rows: Vec<WriteRow<'_>> = rows
            .into_iter()
            .map(|(write, version)| row(write, version))
            .collect::<Result<_, _>>()?;
        query(WRITE).bind(json(&rows)?).bind(micros(terms.now)).execute(connection).await?;
    }
    Ok(versions)
}

async fn read(
    connection: &mut SqliteConnection,
    writes: &[MemoryWrite],
) -> Result<(HashMap<MemoryKey, u64>, HashMap<(MemoryKey, EventId), u64>), Fault> {
    let named: Vec<_> = writes
        .iter()
        .map(|MemoryWrite { memory, .. }| {
            (&memory.tenant, hex(memory.memory_id), hex(memory.event_id.0))
        })
        .collect();
    let found = documents(query(READ).bind(json(&named)?), connection).await?;
    let mut found = found.iter().map(String::as_str);
    let heads: Vec<(TenantId, Uuid, u64)> = parse(found.next().unwrap_or("[]"))?;
    let made: Vec<(TenantId, Uuid, EventId, u64)> = parse(found.next().unwrap_or("[]"))?;
    Ok((
        heads.into_iter().map(|(tenant, memory, version)| ((tenant, memory), version)).collect(),
        made.into_iter()
            .map(|(tenant, memory, event, version)| (((tenant, memory), event), version))
            .collect(),
    ))
}

fn row(write: &MemoryWrite, version: u64) -> Result<WriteRow<'_>, Fault> {
    let numbered = MemoryWrite { op: write.op, memory: Memory { version, ..write.memory.clone() } };
    Ok(WriteRow(
        &write.memory.tenant,
        hex(write.memory.memory_id),
        hex(write.memory.event_id.0),
        version,
        write.memory.session_id.map(|session| hex(session.0)),
        write.op,
        json(&numbered)?,
    ))
}

/// Stores writes that wait to be delivered.
#[derive(Debug)]
pub(super) struct Enqueue(pub(super) Vec<MemoryWrite>);

impl Operation for Enqueue {
    type Answer = Vec<u64>;

    const NAME: &'static str = "write_memories";

    async fn run(
        connection: &mut SqliteConnection,
        terms: Terms,
        requests: &[Self],
    ) -> Result<Vec<StoreResult<Vec<u64>>>, Fault> {
        let all: Vec<MemoryWrite> =
            requests.iter().flat_map(|Self(writes)| writes.iter().cloned()).collect();
        let mut versions = enqueue(connection, terms, &all).await?.into_iter();
        Ok(requests
            .iter()
            .map(|Self(writes)| Ok(versions.by_ref().take(writes.len()).collect()))
            .collect())
    }
}

/// $1 now, $2 limit
const PENDING: &str = "
SELECT json_array(w.id, w.attempts, w.payload) FROM memory_write_outbox w
WHERE w.not_before <= $1 AND NOT EXISTS (
    SELECT 1 FROM memory_write_outbox o
    WHERE o.tenant = w.tenant AND o.memory_id = w.memory_id
        AND o.version < w.version)
ORDER BY w.id LIMIT $2 + 0";

/// Returns writes that may be delivered now, of each memory only the earliest.
pub(super) async fn pending(
    connection: &mut SqliteConnection,
    now: chrono::DateTime<chrono::Utc>,
    limit: u32,
) -> Result<Vec<PendingWrite>, Fault> {
    let rows = documents(query(PENDING).bind(micros(now)).bind(limit), connection).await?;
    rows.iter()
        .map(|row| {
            let (id, attempts, payload): (i64, u32, String) = parse(row)?;
            Ok(PendingWrite { id, attempts, write: parse(&payload)? })
        })
        .collect()
}

/// $1: `[id, …]`; the version is that of the replica.
const TO_SETTLE: &str = "
SELECT json_group_array(json_array(w.id, w.payload, r.version))
FROM json_each($1) e CROSS JOIN memory_write_outbox w ON w.id = e.value
LEFT JOIN memory_replica r ON r.tenant = w.tenant AND r.memory_id = w.memory_id";

const SETTLED: &str = "
DELETE FROM memory_write_outbox WHERE id IN (SELECT e.value FROM json_each($1) e)";

/// Settles delivered writes: into the replica, onto the log, out of the queue.
pub(super) async fn settle(
    connection: &mut SqliteConnection,
    terms: Terms,
    delivered: &[(i64, Receipt)],
) -> Result<(), Fault> {
    let ids: Vec<i64> = delivered.iter().map(|(id, _)| *id).collect();
    let ids = json(&ids)?;
    let rows: Vec<(i64, String, Option<u64>)> =
        array(query(TO_SETTLE).bind(ids.clone()), connection).await?;
    let receipts: HashMap<i64, &Receipt> =
        delivered.iter().map(|(id, receipt)| (*id, receipt)).collect();
    let mut kept = Vec::new();
    let mut records = Vec::new();
    for (id, payload, stored) in rows {
        let write: MemoryWrite = parse(&payload)?;
        let Some(receipt) = receipts.get(&id) else { continue };
        records.push((compose::wal_record(&write, receipt), None));
        if decide::replica_takes(stored, true, write.memory.version) {
            kept.push((write, (*receipt).clone()));
        }
    }
    super::replica::put(connection, terms, &kept).await?;
    log::send(connection, terms, &records).await?;
    query(SETTLED).bind(ids).execute(connection).await?;
    Ok(())
}

const REFUSED: &str = "
DELETE FROM memory_write_outbox WHERE id = $1 RETURNING json_array(attempts, payload)";

/// Moves a write that was refused for good to the dead letters.
pub(super) async fn refuse(
    connection: &mut SqliteConnection,
    terms: Terms,
    id: i64,
    reason: &str,
) -> Result<(), Fault> {
    for row in documents(query(REFUSED).bind(id), connection).await? {
        let (attempts, payload): (u32, String) = parse(&row)?;
        let write: MemoryWrite = parse(&payload)?;
        let letter = NewDeadLetter {
            tenant: Some(write.memory.tenant.clone()),
            topic: SOURCE.to_owned(),
            turn_id: None,
            event_id: Some(write.memory.event_id),
            event: parse(&payload)?,
            error: reason.to_owned(),
            attempts: attempts.saturating_add(1),
            trace: soma_contract::event::TraceContext::default(),
        };
        dead_letter::bury(connection, terms, &[&letter]).await?;
    }
    Ok(())
}

/// $1: `[tenant, memory, version, session, op, payload]`, $2 now. What waits, or was overtaken in
/// the replica, does not wait again.
const AGAIN: &str = "
INSERT INTO memory_write_outbox (tenant, memory_id, version, session_id, op, payload, created_at)
SELECT $1->>0, unhex($1->>1), $1->>2, unhex($1->>3), $1->>4, $1->>5, $2
WHERE NOT EXISTS (SELECT 1 FROM memory_write_outbox w
                  WHERE w.tenant = $1->>0 AND w.memory_id = unhex($1->>1) AND w.version = $1->>2)
    AND NOT EXISTS (SELECT 1 FROM memory_replica r
                    WHERE r.tenant = $1->>0 AND r.memory_id = unhex($1->>1)
                        AND r.version >= $1->>2)";

/// Puts a write that had been refused back to those that wait, with its version; returns whether
/// that was of use.
pub(super) async fn again(
    connection: &mut SqliteConnection,
    terms: Terms,
    write: &MemoryWrite,
) -> Result<bool, Fault> {
    let memory = &write.memory;
    let row = (
        &memory.tenant,
        hex(memory.memory_id),
        memory.version,
        memory.session_id.map(|session| hex(session.0)),
        write.op,
        json(write)?,
    );
    let queued = query(AGAIN).bind(json(&row)?).bind(micros(terms.now)).execute(connection).await?;
    Ok(queued.rows_affected() > 0)
}
