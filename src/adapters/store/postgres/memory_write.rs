//! Memory writes on their way: numbered per memory, delivered in order, settled into the replica.

use std::collections::HashMap;

use serde::Serialize;
use soma_contract::{
    EventId, SessionId, TenantId, compose, decide,
    memory::{Memory, MemoryOp, MemoryWrite},
    port::{
        memory::Receipt,
        store::{NewDeadLetter, PendingWrite, Shards, StoreResult},
    },
};
use sqlx::{PgConnection, query};
use uuid::Uuid;

use super::{
    dead_letter,
    engine::Terms,
    fault::Fault,
    lane::Operation,
    log,
    row::{document, documents, json, micros, one, parse, sent},
    shards::{fenced, held, numbers},
};

/// Where a memory write that was refused comes from, in the dead letters.
pub(super) const SOURCE: &str = "memory_write_outbox";

/// $1: what is written. The counters are held in their order before they are read.
const HOLD: &str = "
INSERT INTO memory_head AS h (tenant, memory_id, version)
SELECT DISTINCT tenant, memory_id, 0 FROM jsonb_to_recordset($1::jsonb)
    AS r(tenant text, memory_id uuid)
ORDER BY tenant, memory_id
ON CONFLICT (tenant, memory_id) DO UPDATE SET version = h.version";

/// $1: what is written
const READ: &str = "
WITH named AS MATERIALIZED (
    SELECT * FROM jsonb_to_recordset($1::jsonb) AS r(tenant text, memory_id uuid, event_id uuid)
)
SELECT
    (SELECT coalesce(json_agg(json_build_array(h.tenant, h.memory_id, h.version)), '[]')
     FROM (SELECT DISTINCT tenant, memory_id FROM named) r
     JOIN memory_head h ON h.tenant = r.tenant AND h.memory_id = r.memory_id)::text,
    (SELECT coalesce(json_agg(json_build_array(m.tenant, m.memory_id, m.event_id, m.version)), '[]')
     FROM named e JOIN memory_event m ON m.event_id = e.event_id
         AND m.tenant = e.tenant AND m.memory_id = e.memory_id)::text";

/// $1 rows, $2 now
const WRITE: &str = "
WITH write AS MATERIALIZED (
    SELECT * FROM jsonb_to_recordset($1::jsonb) AS r(tenant text, memory_id uuid, event_id uuid,
        version bigint, session_id uuid, op text, payload text)
), head AS (
    UPDATE memory_head h SET version = r.version
    FROM (SELECT tenant, memory_id, max(version) AS version FROM write GROUP BY 1, 2) r
    WHERE h.tenant = r.tenant AND h.memory_id = r.memory_id
), event AS (
    INSERT INTO memory_event (event_id, tenant, memory_id, version)
    SELECT event_id, tenant, memory_id, version FROM write
)
INSERT INTO memory_write_outbox (tenant, memory_id, version, session_id, op, payload, created_at)
SELECT tenant, memory_id, version, session_id, op, payload, $2 FROM write";

type MemoryKey = (TenantId, Uuid);

/// A row of `memory_write_outbox`, and the event that made it.
#[derive(Debug, Serialize)]
struct WriteRow<'w> {
    tenant: &'w TenantId,
    memory_id: Uuid,
    event_id: EventId,
    version: u64,
    session_id: Option<SessionId>,
    op: MemoryOp,
    payload: String,
}

#[derive(Debug, Serialize)]
struct Named<'w> {
    tenant: &'w TenantId,
    memory_id: Uuid,
    event_id: EventId,
}

/// Stores writes and returns their versions: a memory's next one, or the one that the same event
/// made before.
pub(super) async fn enqueue(
    connection: &mut PgConnection,
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
        query(WRITE).bind(sent(&rows)?).bind(micros(terms.now)).execute(connection).await?;
    }
    Ok(versions)
}

async fn read(
    connection: &mut PgConnection,
    writes: &[MemoryWrite],
) -> Result<(HashMap<MemoryKey, u64>, HashMap<(MemoryKey, EventId), u64>), Fault> {
    let named: Vec<Named<'_>> = writes
        .iter()
        .map(|MemoryWrite { memory, .. }| Named {
            tenant: &memory.tenant,
            memory_id: memory.memory_id,
            event_id: memory.event_id,
        })
        .collect();
    let named = sent(&named)?;
    query(HOLD).bind(named.clone()).execute(&mut *connection).await?;
    let found = query(READ).bind(named).fetch_one(connection).await?;
    let heads: Vec<(TenantId, Uuid, u64)> = parse(&document(&found, 0)?)?;
    let made: Vec<(TenantId, Uuid, EventId, u64)> = parse(&document(&found, 1)?)?;
    Ok((
        heads.into_iter().map(|(tenant, memory, version)| ((tenant, memory), version)).collect(),
        made.into_iter()
            .map(|(tenant, memory, event, version)| (((tenant, memory), event), version))
            .collect(),
    ))
}

fn row(write: &MemoryWrite, version: u64) -> Result<WriteRow<'_>, Fault> {
    let numbered = MemoryWrite { op: write.op, memory: Memory { version, ..write.memory.clone() } };
    Ok(WriteRow {
        tenant: &write.memory.tenant,
        memory_id: write.memory.memory_id,
        event_id: write.memory.event_id,
        version,
        session_id: write.memory.session_id,
        op: write.op,
        payload: json(&numbered)?,
    })
}

/// Stores writes that wait to be delivered.
#[derive(Debug)]
pub(super) struct Enqueue(pub(super) Vec<MemoryWrite>);

impl Operation for Enqueue {
    type Answer = Vec<u64>;

    const NAME: &'static str = "write_memories";

    async fn run(
        connection: &mut PgConnection,
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

/// $1 now, $2 limit, $3 shards
const PENDING: &str = "
SELECT json_build_array(w.id, w.attempts, w.payload)::text FROM memory_write_outbox w
WHERE w.shard = ANY($3) AND w.not_before <= $1 AND NOT EXISTS (
    SELECT 1 FROM memory_write_outbox o
    WHERE o.tenant = w.tenant AND o.memory_id = w.memory_id
        AND o.version < w.version)
ORDER BY w.id LIMIT $2";

/// Returns writes that may be delivered now, of each memory only the earliest.
pub(super) async fn pending(
    connection: &mut PgConnection,
    now: chrono::DateTime<chrono::Utc>,
    shards: &Shards,
    limit: u32,
) -> Result<Vec<PendingWrite>, Fault> {
    let rows = query(PENDING).bind(micros(now)).bind(i64::from(limit)).bind(numbers(shards));
    documents(rows, connection)
        .await?
        .iter()
        .map(|row| {
            let (id, attempts, payload): (i64, u32, String) = parse(row)?;
            Ok(PendingWrite { id, attempts, write: parse(&payload)? })
        })
        .collect()
}

/// $1 writes, $2 held shards, $3 whether the bus is local. What was settled before, or is another's by
/// now, is none of ours.
const SETTLED: &str = concat!(
    "WITH settled AS (
    DELETE FROM memory_write_outbox w WHERE w.id = ANY($1) AND ",
    fenced!("memory-sync", "w.shard", "$2", "$3"),
    " RETURNING w.id, w.payload, w.tenant, w.memory_id
)
SELECT coalesce(json_agg(json_build_array(w.id, w.payload, r.version) ORDER BY w.id), '[]')::text
FROM settled w
LEFT JOIN memory_replica r ON r.tenant = w.tenant AND r.memory_id = w.memory_id"
);

/// Settles delivered writes: into the replica, onto the log, out of the queue.
pub(super) async fn settle(
    connection: &mut PgConnection,
    terms: Terms,
    shards: &Shards,
    delivered: &[(i64, Receipt)],
) -> Result<(), Fault> {
    let ids: Vec<i64> = delivered.iter().map(|(id, _)| *id).collect();
    let settled = query(SETTLED).bind(ids).bind(held(shards)?).bind(terms.bus_is_local);
    let rows: Vec<(i64, String, Option<u64>)> = one(settled, connection).await?;
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
    log::send(connection, terms, &records).await
}

/// $1 write, $2 error, $3 not before, $4 held shards, $5 whether the bus is local
const POSTPONE: &str = concat!(
    "UPDATE memory_write_outbox w SET attempts = w.attempts + 1, last_error = $2, not_before = $3
WHERE w.id = $1 AND ",
    fenced!("memory-sync", "w.shard", "$4", "$5")
);

/// Leaves a write for later.
pub(super) async fn postpone(
    connection: &mut PgConnection,
    terms: Terms,
    shards: &Shards,
    id: i64,
    error: &str,
    delay: std::time::Duration,
) -> Result<(), Fault> {
    query(POSTPONE)
        .bind(id)
        .bind(super::text::kept(error))
        .bind(micros(terms.now + delay))
        .bind(held(shards)?)
        .bind(terms.bus_is_local)
        .execute(connection)
        .await?;
    Ok(())
}

/// $1 write, $2 held shards, $3 whether the bus is local
const REFUSED: &str = concat!(
    "DELETE FROM memory_write_outbox w WHERE w.id = $1 AND ",
    fenced!("memory-sync", "w.shard", "$2", "$3"),
    " RETURNING json_build_array(w.attempts, w.payload)::text"
);

/// Moves a write that was refused for good to the dead letters.
pub(super) async fn refuse(
    connection: &mut PgConnection,
    terms: Terms,
    shards: &Shards,
    id: i64,
    reason: &str,
) -> Result<(), Fault> {
    let refused = query(REFUSED).bind(id).bind(held(shards)?).bind(terms.bus_is_local);
    for row in documents(refused, connection).await? {
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

/// $1 rows, $2 now. What waits, or was overtaken in the replica, does not wait again.
const AGAIN: &str = "
INSERT INTO memory_write_outbox (tenant, memory_id, version, session_id, op, payload, created_at)
SELECT tenant, memory_id, version, session_id, op, payload, $2
FROM jsonb_to_recordset($1::jsonb) AS e(tenant text, memory_id uuid, version bigint,
    session_id uuid, op text, payload text)
WHERE NOT EXISTS (SELECT 1 FROM memory_write_outbox w
                  WHERE w.tenant = e.tenant AND w.memory_id = e.memory_id
                      AND w.version = e.version)
    AND NOT EXISTS (SELECT 1 FROM memory_replica r
                    WHERE r.tenant = e.tenant AND r.memory_id = e.memory_id
                        AND r.version >= e.version)";

/// Puts a write that had been refused back to those that wait, with its version; returns whether
/// that was of use.
pub(super) async fn again(
    connection: &mut PgConnection,
    terms: Terms,
    write: &MemoryWrite,
) -> Result<bool, Fault> {
    let row = row(write, write.memory.version)?;
    // The counter is held, so that a second replay of the same letter comes after this one.
    query(HOLD).bind(sent(&[&row])?).execute(&mut *connection).await?;
    let queued = query(AGAIN).bind(sent(&[row])?).bind(micros(terms.now));
    Ok(queued.execute(connection).await?.rows_affected() > 0)
}
