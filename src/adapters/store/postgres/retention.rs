//! What is too old goes, a bounded slice at a time; and how much of everything there is.

use std::time::Duration;

use chrono::{DateTime, Utc};
use soma_contract::port::store::{Depths, Retention};
use sqlx::{PgConnection, query};

use super::{
    engine::Terms,
    fault::Fault,
    row::{micros, one},
    turns::age_ms,
};

/// Rows of each kind that one call removes at most, so that no commit waits for long.
const SLICE: i64 = 500;

/// $1 older than this, $2 slice. Row ids follow the time, so the oldest are at the front.
const IDEMPOTENCY: &str = "
DELETE FROM idempotency WHERE id IN (
    SELECT id FROM (SELECT id, created_at FROM idempotency ORDER BY id LIMIT $2) o
    WHERE created_at < $1)";

const DEAD_LETTERS: &str = "
DELETE FROM dlq_messages WHERE id IN (
    SELECT id FROM (SELECT id, created_at FROM dlq_messages ORDER BY id LIMIT $2) o
    WHERE created_at < $1)";

const INBOX: &str = "
DELETE FROM inbox WHERE id IN (
    SELECT id FROM (SELECT id, created_at FROM inbox ORDER BY id LIMIT $2) o
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
    ORDER BY p.id LIMIT $2)";

const TOMBSTONES: &str = "
WITH gone AS MATERIALIZED (
    SELECT tenant, memory_id FROM memory_replica WHERE deleted_at < $1 AND NOT EXISTS (
        SELECT 1 FROM memory_write_outbox w
        WHERE w.tenant = memory_replica.tenant AND w.memory_id = memory_replica.memory_id)
    ORDER BY deleted_at LIMIT $2 FOR UPDATE
), events AS (
    DELETE FROM memory_event m USING gone g
    WHERE m.tenant = g.tenant AND m.memory_id = g.memory_id
), heads AS (
    DELETE FROM memory_head h USING gone g
    WHERE h.tenant = g.tenant AND h.memory_id = g.memory_id
)
DELETE FROM memory_replica r USING gone g
WHERE r.tenant = g.tenant AND r.memory_id = g.memory_id";

/// Removes a slice of each kind; returns how many rows went.
pub(super) async fn retire(
    connection: &mut PgConnection,
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
    let tombstones = before(terms.now, retention.memory_tombstones);
    let gone = query(TOMBSTONES).bind(tombstones).bind(SLICE).execute(connection).await?;
    Ok(removed + gone.rows_affected())
}

fn before(now: DateTime<Utc>, kept: Duration) -> i64 {
    micros(now).saturating_sub(i64::try_from(kept.as_micros()).unwrap_or(i64::MAX))
}

/// The oldest snapshot is that of any session of this database: it keeps dead rows from being cleaned
/// up, which makes every claim slow.
const DEPTHS: &str = "
SELECT json_build_array(
    (SELECT count(*) FROM message_outbox),
    (SELECT created_at FROM message_outbox ORDER BY id LIMIT 1),
    (SELECT count(*) FROM memory_write_outbox),
    (SELECT created_at FROM memory_write_outbox ORDER BY id LIMIT 1),
    (SELECT count(*) FROM dlq_messages WHERE replayed_at IS NULL),
    (SELECT coalesce((extract(epoch FROM clock_timestamp() - min(xact_start)) * 1000)::bigint, 0)
     FROM pg_stat_activity
     WHERE datname = current_database() AND backend_xmin IS NOT NULL
         AND pid <> pg_backend_pid()))::text";

/// Counts what waits.
pub(super) async fn depths(
    connection: &mut PgConnection,
    now: DateTime<Utc>,
) -> Result<Depths, Fault> {
    type Found = (u64, Option<i64>, u64, Option<i64>, u64, i64);
    let found: Found = one(query(DEPTHS), connection).await?;
    let (outbox, outbox_oldest, memory_writes, writes_oldest, dead_letters, snapshot) = found;
    let age = |oldest: Option<i64>| oldest.map_or(0, |oldest| age_ms(now, oldest));
    Ok(Depths {
        outbox,
        outbox_oldest_ms: age(outbox_oldest),
        memory_writes,
        memory_writes_oldest_ms: age(writes_oldest),
        dead_letters,
        oldest_snapshot_ms: u64::try_from(snapshot).unwrap_or(0),
    })
}
