//! What is too old goes, a bounded slice at a time; and how much of everything there is.

use std::time::Duration;

use chrono::{DateTime, Utc};
use soma_contract::port::store::{Depths, Retention};
use sqlx::{SqliteConnection, query};

use super::{
    fault::Fault,
    row::{documents, micros, parse},
    turns::age_ms,
    work::Terms,
};

/// Rows of each kind that one call removes at most, so that no commit waits for long.
const SLICE: u32 = 500;

/// $1 older than this, $2 slice. Row ids follow the time, so the oldest are at the front.
const IDEMPOTENCY: &str = "
DELETE FROM idempotency WHERE id IN (
    SELECT id FROM (SELECT id, created_at FROM idempotency ORDER BY id LIMIT $2 + 0)
    WHERE created_at < $1)";

const DEAD_LETTERS: &str = "
DELETE FROM dlq_messages WHERE id IN (
    SELECT id FROM (SELECT id, created_at FROM dlq_messages ORDER BY id LIMIT $2 + 0)
    WHERE created_at < $1)";

const INBOX: &str = "
DELETE FROM inbox WHERE id IN (
    SELECT id FROM (SELECT id, created_at FROM inbox ORDER BY id LIMIT $2 + 0)
    WHERE created_at < $1)";

/// Steps of turns that have not ended stay, at the front, hence the join before the limit; nothing
/// behind the first young row is looked at. So do those of a turn that can be replayed: its next
/// owner goes on after them.
const DONE_STEPS: &str = "
DELETE FROM turn_step WHERE id IN (
    SELECT p.id FROM turn_step p JOIN turn t ON t.turn_id = p.turn_id
    WHERE p.id < coalesce((SELECT y.id FROM turn_step y WHERE y.created_at >= $1
                           ORDER BY y.id LIMIT 1), 9223372036854775807)
        AND t.ended_at < $1
        AND NOT EXISTS (SELECT 1 FROM dlq_messages d WHERE d.turn_id = t.turn_id)
    ORDER BY p.id LIMIT $2 + 0)";

const TOMBSTONES: &str = "
DELETE FROM memory_event WHERE (tenant, memory_id) IN (
    SELECT tenant, memory_id FROM memory_replica WHERE deleted_at < $1 AND NOT EXISTS (
        SELECT 1 FROM memory_write_outbox w
        WHERE w.tenant = memory_replica.tenant AND w.memory_id = memory_replica.memory_id)
    ORDER BY deleted_at LIMIT $2 + 0);
DELETE FROM memory_head WHERE (tenant, memory_id) IN (
    SELECT tenant, memory_id FROM memory_replica WHERE deleted_at < $1 AND NOT EXISTS (
        SELECT 1 FROM memory_write_outbox w
        WHERE w.tenant = memory_replica.tenant AND w.memory_id = memory_replica.memory_id)
    ORDER BY deleted_at LIMIT $2 + 0);
DELETE FROM memory_replica WHERE id IN (
    SELECT id FROM memory_replica WHERE deleted_at < $1 AND NOT EXISTS (
        SELECT 1 FROM memory_write_outbox w
        WHERE w.tenant = memory_replica.tenant AND w.memory_id = memory_replica.memory_id)
    ORDER BY deleted_at LIMIT $2 + 0) RETURNING id;
";

/// Removes a slice of each kind; returns how many rows went.
pub(super) async fn retire(
    connection: &mut SqliteConnection,
    terms: Terms,
    retention: &Retention,
) -> Result<u64, Fault> {
    let mut removed = 0;
    for (sql, kept) in [
        (IDEMPOTENCY, retention.idempotency),
        (DEAD_LETTERS, retention.dead_letters),
        (INBOX, retention.inbox),
        (DONE_STEPS, retention.done_steps),
    ] {
        let gone = query(sql).bind(before(terms.now, kept)).bind(SLICE);
        removed += gone.execute(&mut *connection).await?.rows_affected();
    }
    let tombstones = query(TOMBSTONES)
        .bind(before(terms.now, retention.memory_tombstones))
        .bind(SLICE)
        .fetch_all(connection)
        .await?;
    Ok(removed + u64::try_from(tombstones.len()).unwrap_or(u64::MAX))
}

fn before(now: DateTime<Utc>, kept: Duration) -> i64 {
    micros(now).saturating_sub(i64::try_from(kept.as_micros()).unwrap_or(i64::MAX))
}

const DEPTHS: &str = "
SELECT json_array(
    (SELECT count(*) FROM message_outbox),
    (SELECT created_at FROM message_outbox ORDER BY id LIMIT 1),
    (SELECT count(*) FROM memory_write_outbox),
    (SELECT created_at FROM memory_write_outbox ORDER BY id LIMIT 1),
    (SELECT count(*) FROM dlq_messages WHERE replayed_at IS NULL))";

/// Counts what waits. Readers of this store hold no snapshot for longer than a query.
pub(super) async fn depths(
    connection: &mut SqliteConnection,
    now: DateTime<Utc>,
) -> Result<Depths, Fault> {
    let found = documents(query(DEPTHS), connection).await?;
    let (outbox, outbox_oldest, memory_writes, writes_oldest, dead_letters): (
        u64,
        Option<i64>,
        u64,
        Option<i64>,
        u64,
    ) = parse(found.first().map_or("[0,null,0,null,0]", String::as_str))?;
    let age = |oldest: Option<i64>| oldest.map_or(0, |oldest| age_ms(now, oldest));
    Ok(Depths {
        outbox,
        outbox_oldest_ms: age(outbox_oldest),
        memory_writes,
        memory_writes_oldest_ms: age(writes_oldest),
        dead_letters,
        oldest_snapshot_ms: 0,
    })
}
