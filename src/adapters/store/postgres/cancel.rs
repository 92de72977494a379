//! Cancelling turns and deleting sessions.

use soma_contract::{
    Event, EventId, SessionId, TenantId, TurnId, compose,
    memory::{Memory, MemoryOp, MemoryWrite},
    port::store::{CancelOutcome, CancelScope, StoreError},
    turn::TurnStatus,
};
use sqlx::{PgConnection, query, query_scalar};

use super::{
    end::Endings,
    engine::Terms,
    fault::Fault,
    log::Log,
    memory_write, replica,
    row::{TurnRow, integer, micros, one, sent, turn_json},
    sessions,
    text::kept,
};

/// $1 session, $2 tenant: whether it is deleted.
const SESSION: &str =
    "SELECT deleted_at IS NOT NULL FROM session_envelopes WHERE session_id = $1 AND tenant = $2";

/// $1 session
const UNFINISHED: &str = concat!(
    "SELECT coalesce(json_agg(",
    turn_json!(),
    " ORDER BY t.n), '[]')::text FROM (SELECT * FROM turn WHERE session_id = $1 AND ended_at IS NULL) t"
);

/// $1 session, $2 event
const ANSWERS: &str = "SELECT turn_id FROM turn WHERE session_id = $1 AND event_id = $2";

/// Returns whether the session is deleted.
async fn is_deleted(
    connection: &mut PgConnection,
    tenant: &TenantId,
    session_id: SessionId,
) -> Result<bool, Fault> {
    let row = query_scalar::<_, bool>(SESSION).bind(session_id.0).bind(kept(&tenant.0));
    let found = row.fetch_optional(connection).await?;
    found.ok_or(Fault::Outcome(StoreError::NotFound))
}

/// Cancels turns of a session.
pub(super) async fn cancel(
    connection: &mut PgConnection,
    terms: Terms,
    tenant: &TenantId,
    session_id: SessionId,
    scope: CancelScope,
) -> Result<CancelOutcome, Fault> {
    let log = sessions::hold(connection, [session_id]).await?;
    if is_deleted(connection, tenant, session_id).await? {
        return Err(StoreError::NotFound.into());
    }
    let mut turns: Vec<TurnRow> = one(query(UNFINISHED).bind(session_id.0), connection).await?;
    match scope {
        CancelScope::All => {}
        CancelScope::Lowest => turns.truncate(1),
        CancelScope::Of(event_id) => {
            let wanted = answering(connection, session_id, event_id).await?;
            turns.retain(|turn| turn.turn_id == wanted);
        }
    }
    let (running, idle): (Vec<_>, Vec<_>) =
        turns.into_iter().partition(|turn| turn.status == TurnStatus::Running);
    let ended = end_idle(connection, terms, log, &idle, "cancelled").await?;
    for turn in &running {
        flag(connection, terms, turn).await?;
    }
    Ok(match (ended.is_empty(), running.first()) {
        (true, None) => CancelOutcome::Nothing,
        (true, Some(turn)) => CancelOutcome::Flagged(turn.turn_id),
        (false, None) => CancelOutcome::Ended(ended),
        (false, Some(turn)) => CancelOutcome::Both(ended, turn.turn_id),
    })
}

async fn answering(
    connection: &mut PgConnection,
    session_id: SessionId,
    event_id: EventId,
) -> Result<TurnId, Fault> {
    let row = query_scalar(ANSWERS).bind(session_id.0).bind(event_id.0);
    let found = row.fetch_optional(connection).await?;
    found.map(TurnId).ok_or(Fault::Outcome(StoreError::NotFound))
}

/// Ends turns that nobody runs; returns their terminal events.
async fn end_idle(
    connection: &mut PgConnection,
    terms: Terms,
    log: Log,
    turns: &[TurnRow],
    reason: &str,
) -> Result<Vec<Event>, Fault> {
    if turns.is_empty() {
        return Ok(Vec::new());
    }
    let mut endings = Endings::onto(log);
    let mut events = Vec::with_capacity(turns.len());
    for turn in turns {
        let event = compose::cancelled(&turn.turn()?, turn.persona_id.as_deref(), reason);
        let reason = Some(reason.to_owned());
        let seq = endings.add(turn, event.clone(), TurnStatus::Cancelled, reason)?;
        events.push(Event { seq: Some(seq), ..event });
    }
    endings.write(connection, terms).await?;
    Ok(events)
}

/// $1 turn, $2 result of withdrawn steps, $3 now
const FLAG: &str = "
WITH flagged AS (
    UPDATE turn SET cancel_requested = true WHERE turn_id = $1 RETURNING session_id
), withdrawn AS (
    UPDATE turn_step SET status = 'withdrawn', result = $2, settled_at = $3
    WHERE turn_id = $1 AND status = 'requested' RETURNING effect_id
)
DELETE FROM message_outbox WHERE topic = 'tool.requests'
    AND session_id IN (SELECT session_id FROM flagged)
    AND effect_id IN (SELECT effect_id FROM withdrawn)";

async fn flag(connection: &mut PgConnection, terms: Terms, turn: &TurnRow) -> Result<(), Fault> {
    query(FLAG)
        .bind(turn.turn_id.0)
        .bind(sent(&compose::withdrawn())?)
        .bind(micros(terms.now))
        .execute(connection)
        .await?;
    Ok(())
}

/// $1 session, $2 now, $3 first place that is kept. Of the log stay the ids of the messages, so that
/// none is taken twice, and the envelopes of the turns that the deletion ended, for whoever waits for
/// them.
const DELETE: &str = "
WITH of_session AS MATERIALIZED (SELECT turn_id FROM turn WHERE session_id = $1),
unsent AS (DELETE FROM message_outbox WHERE session_id = $1 AND topic <> 'memory.wal'),
letters AS (
    DELETE FROM dlq_messages
    WHERE session_id = $1 OR turn_id IN (SELECT turn_id FROM of_session)
),
steps AS (DELETE FROM turn_step WHERE turn_id IN (SELECT turn_id FROM of_session)),
events AS (DELETE FROM session_events WHERE session_id = $1 AND type <> 'user' AND seq < $3),
said AS (UPDATE session_events SET payload = '' WHERE session_id = $1 AND type = 'user'),
uploads AS (DELETE FROM attachments WHERE session_id = $1),
turns AS (
    UPDATE turn SET epoch = epoch + 1, trace = '{}',
        end_seq = CASE WHEN end_seq < $3 THEN NULL ELSE end_seq END
    WHERE session_id = $1
)
UPDATE session_envelopes SET deleted_at = $2, epoch = epoch + 1 WHERE session_id = $1";

/// Deletes a session.
pub(super) async fn delete(
    connection: &mut PgConnection,
    terms: Terms,
    tenant: &TenantId,
    session_id: SessionId,
    forget_memories: bool,
) -> Result<(), Fault> {
    let log = sessions::hold(connection, [session_id]).await?;
    if !is_deleted(connection, tenant, session_id).await? {
        delete_content(connection, terms, log, session_id).await?;
    }
    if forget_memories {
        forget(connection, terms, tenant, session_id).await?;
    }
    Ok(())
}

async fn delete_content(
    connection: &mut PgConnection,
    terms: Terms,
    log: Log,
    session_id: SessionId,
) -> Result<(), Fault> {
    let turns: Vec<TurnRow> = one(query(UNFINISHED).bind(session_id.0), connection).await?;
    let ended = end_idle(connection, terms, log, &turns, "the session was deleted").await?;
    let first_kept = ended.iter().filter_map(|event| event.seq).min().unwrap_or(u64::MAX);
    query(DELETE)
        .bind(session_id.0)
        .bind(micros(terms.now))
        .bind(integer(first_kept))
        .execute(connection)
        .await?;
    Ok(())
}

async fn forget(
    connection: &mut PgConnection,
    terms: Terms,
    tenant: &TenantId,
    session_id: SessionId,
) -> Result<(), Fault> {
    let memories = replica::of_session(connection, tenant, session_id).await?;
    let deletes: Vec<MemoryWrite> = memories
        .into_iter()
        .map(|memory| {
            let event_id = compose::forgetting(tenant, memory.memory_id, memory.version);
            let memory = Memory {
                event_id,
                content: String::new(),
                metadata: serde_json::Map::new(),
                written_at: terms.now,
                ..memory
            };
            MemoryWrite { op: MemoryOp::Delete, memory }
        })
        .collect();
    memory_write::enqueue(connection, terms, &deletes).await.map(drop)
}
