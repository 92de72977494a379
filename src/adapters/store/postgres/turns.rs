//! The port's [`Turns`]: who runs which turn.

use std::{collections::HashSet, time::Duration};

use async_trait::async_trait;
use serde::Serialize;
use soma_contract::{
    Owner, SessionId, TenantId, TurnId,
    decide::{self, Laid},
    port::store::{
        Appended, Backlog, Beat, CancelOutcome, CancelScope, ClaimedTurn, Ending, Inherited,
        JournalEntry, LayDown, StoreError, StoreResult, Turns,
    },
    turn::{Step, TurnStatus},
};
use sqlx::{PgConnection, query, query_scalar};

use super::{
    PostgresStore, cancel,
    claim::{self, Claim},
    end::End,
    engine::{Terms, read, transact},
    fault::Fault,
    inherit,
    journal::{self, Journal},
    row::{StepRow, TurnRow, count, document, integer, micros, one, parse, sent, step_json, time},
    sessions,
    text::kept,
};

#[async_trait]
impl Turns for PostgresStore {
    async fn inherit(&self, _owner: &Owner) -> StoreResult<Inherited> {
        transact!(&self.engine, "inherit", |c, terms| inherit::inherit(c, terms))
    }

    async fn claim(
        &self,
        owner: &Owner,
        session_id: SessionId,
    ) -> StoreResult<Option<ClaimedTurn>> {
        self.claims.submit_one(Claim { owner: owner.clone(), session_id }).await
    }

    async fn claimable(&self, idle_for: Duration, limit: u32) -> StoreResult<Vec<SessionId>> {
        let terms = self.engine.terms();
        let before = terms.now - idle_for;
        read!(&self.engine, |c| claim::claimable(c, terms, before, limit))
    }

    async fn beat(&self, turn_id: TurnId, epoch: u64) -> StoreResult<Beat> {
        beat(read!(&self.engine, |c| beat_turn(c, self.engine.terms(), turn_id, epoch))?)
    }

    async fn journal(&self, turn_id: TurnId, epoch: u64, entry: JournalEntry) -> StoreResult<()> {
        self.entries.submit_one(Journal { turn_id, epoch, entry }).await
    }

    async fn steps(&self, turn_id: TurnId) -> StoreResult<Vec<Step>> {
        read!(&self.engine, |c| steps(c, turn_id))
    }

    async fn end(&self, turn_id: TurnId, epoch: u64, ending: Ending) -> StoreResult<Appended> {
        self.endings.submit_one(End { turn_id, epoch, ending }).await
    }

    async fn lay_down(&self, turn_id: TurnId, epoch: u64, why: LayDown) -> StoreResult<()> {
        let wanted = [(turn_id, epoch)];
        let laid =
            transact!(&self.engine, "lay_down", |c, terms| lay_down(c, terms, &wanted, &why))?;
        if laid.is_empty() { Err(StoreError::Fenced) } else { Ok(()) }
    }

    async fn lay_down_orphans(
        &self,
        owner: &Owner,
        alive: &[TurnId],
    ) -> StoreResult<Vec<SessionId>> {
        let alive: HashSet<TurnId> = alive.iter().copied().collect();
        let orphans = read!(&self.engine, |c| orphans(c, owner, &alive))?;
        if orphans.is_empty() {
            return Ok(Vec::new());
        }
        let why = LayDown::Drained;
        transact!(&self.engine, "lay_down", |c, terms| lay_down(c, terms, &orphans, &why))
    }

    async fn cancel(
        &self,
        tenant: &TenantId,
        session_id: SessionId,
        scope: CancelScope,
    ) -> StoreResult<CancelOutcome> {
        transact!(&self.engine, "cancel", |c, terms| {
            cancel::cancel(c, terms, tenant, session_id, scope)
        })
    }

    async fn backlog(&self) -> StoreResult<Backlog> {
        read!(&self.engine, |c| backlog(c, self.engine.clock.now()))
    }

    async fn tokens_today(&self, tenant: &TenantId) -> StoreResult<u64> {
        let day = self.engine.clock.now().format("%F").to_string();
        read!(&self.engine, |c| tokens(c, tenant, &day))
    }
}

/// $1 turn, $2 epoch, $3 lease or null: renewed when a third of it has gone.
const BEAT: &str = "
WITH renewed AS (
    UPDATE turn SET lease_until = now_us() + $3
    WHERE turn_id = $1 AND epoch = $2 AND status = 'running'
        AND lease_until < now_us() + $3 * 2 / 3
)
SELECT cancel_requested FROM turn WHERE turn_id = $1 AND epoch = $2 AND status = 'running'";

async fn beat_turn(
    connection: &mut PgConnection,
    terms: Terms,
    turn_id: TurnId,
    epoch: u64,
) -> Result<Option<bool>, Fault> {
    let beat = query_scalar(BEAT).bind(turn_id.0).bind(integer(epoch)).bind(terms.lease_us());
    Ok(beat.fetch_optional(connection).await?)
}

async fn tokens(connection: &mut PgConnection, tenant: &TenantId, day: &str) -> Result<u64, Fault> {
    let sql = "SELECT input_tokens + output_tokens FROM token_use WHERE tenant = $1 AND day = $2";
    let used = query_scalar::<_, i64>(sql).bind(kept(&tenant.0)).bind(day);
    Ok(count(used.fetch_optional(connection).await?.unwrap_or(0)))
}

/// Turns a flag that was found into a beat; none was found: fenced.
pub(super) fn beat(cancel_requested: Option<bool>) -> StoreResult<Beat> {
    cancel_requested
        .map_or(Err(StoreError::Fenced), |cancel_requested| Ok(Beat { cancel_requested }))
}

const STEPS: &str = concat!(
    "SELECT coalesce(json_agg(",
    step_json!(),
    "), '[]')::text FROM turn t JOIN turn_step p ON p.turn_id = t.turn_id WHERE t.turn_id = $1"
);

async fn steps(connection: &mut PgConnection, turn_id: TurnId) -> Result<Vec<Step>, Fault> {
    let rows: Vec<StepRow> = one(query(STEPS).bind(turn_id.0), connection).await?;
    Ok(claim::journals(rows)?.remove(&turn_id).unwrap_or_default())
}

/// $1 rows, $2 now
const LAY_DOWN: &str = "
WITH laid AS MATERIALIZED (
    SELECT * FROM jsonb_to_recordset($1::jsonb) AS r(id bigint, session_id uuid, status text,
        attempts bigint, panics bigint, not_before bigint, waiting_since bigint, reason text)
), freed AS (
    UPDATE session_envelopes SET freed_at = $2
    WHERE session_id IN (SELECT session_id FROM laid)
)
UPDATE turn t SET status = r.status, attempts = r.attempts, panics = r.panics,
    not_before = r.not_before, waiting_since = r.waiting_since, reason = r.reason, owner = NULL,
    lease_until = NULL, epoch = t.epoch + 1, ready_at = greatest($2, r.not_before)
FROM laid r WHERE t.id = r.id";

#[derive(Debug, Serialize)]
struct LaidRow {
    id: i64,
    session_id: SessionId,
    status: TurnStatus,
    attempts: u32,
    panics: u32,
    not_before: Option<i64>,
    waiting_since: Option<i64>,
    reason: Option<String>,
}

fn laid_row(turn: &TurnRow, laid: Laid) -> LaidRow {
    LaidRow {
        id: turn.id,
        session_id: turn.session_id,
        status: laid.status,
        attempts: laid.tries.attempts,
        panics: laid.tries.panics,
        not_before: laid.not_before.map(micros),
        waiting_since: laid.waiting_since.map(micros),
        reason: laid.reason,
    }
}

/// Lays down those of these turns that still run under these epochs; returns their sessions. Their
/// epoch passes, so that nothing of that run writes any more.
async fn lay_down(
    connection: &mut PgConnection,
    terms: Terms,
    wanted: &[(TurnId, u64)],
    why: &LayDown,
) -> Result<Vec<SessionId>, Fault> {
    let ids = || wanted.iter().map(|(turn, _)| *turn);
    sessions::hold_of_turns(connection, ids()).await?;
    let turns = journal::turns(connection, ids()).await?;
    let running: Vec<&TurnRow> = wanted
        .iter()
        .filter_map(|(id, epoch)| turns.get(id).filter(|turn| turn.runs(*epoch)))
        .collect();
    let rows: Vec<LaidRow> = running
        .iter()
        .map(|turn| {
            let waiting_since = turn.waiting_since.map(time);
            laid_row(turn, decide::lay_down(turn.tries(), waiting_since, why, terms.now))
        })
        .collect();
    query(LAY_DOWN).bind(sent(&rows)?).bind(micros(terms.now)).execute(connection).await?;
    Ok(running.iter().map(|turn| turn.session_id).collect())
}

/// Returns turns of this owner that nobody runs, each with its epoch.
async fn orphans(
    connection: &mut PgConnection,
    owner: &Owner,
    alive: &HashSet<TurnId>,
) -> Result<Vec<(TurnId, u64)>, Fault> {
    let sql = "SELECT coalesce(json_agg(json_build_array(turn_id, epoch)), '[]')::text FROM turn \
               WHERE status = 'running' AND owner = $1";
    let held: Vec<(TurnId, u64)> = one(query(sql).bind(kept(&owner.0)), connection).await?;
    Ok(held.into_iter().filter(|(turn, _)| !alive.contains(turn)).collect())
}

/// $1: how many tenants are told. Nothing waits for a person yet, so every unfinished turn counts.
const BACKLOG: &str = "
SELECT (SELECT coalesce(json_agg(json_build_array(tenant, turns) ORDER BY turns DESC), '[]')
        FROM (SELECT tenant, count(*) AS turns FROM turn WHERE ended_at IS NULL
              GROUP BY tenant ORDER BY turns DESC LIMIT $1) b)::text,
    (SELECT json_build_array(count(*), min(created_at) FILTER (WHERE status = 'queued'))
     FROM turn WHERE ended_at IS NULL)::text";

/// How many tenants a backlog names.
const BACKLOG_TENANTS: i64 = 1_000;

async fn backlog(
    connection: &mut PgConnection,
    now: chrono::DateTime<chrono::Utc>,
) -> Result<Backlog, Fault> {
    let found = query(BACKLOG).bind(BACKLOG_TENANTS).fetch_one(connection).await?;
    let tenants = parse(&document(&found, 0)?)?;
    let (total, oldest): (u64, Option<i64>) = parse(&document(&found, 1)?)?;
    Ok(Backlog { total, tenants, oldest_ms: oldest.map_or(0, |oldest| age_ms(now, oldest)) })
}

/// Returns how old a row is.
pub(super) fn age_ms(now: chrono::DateTime<chrono::Utc>, created_at: i64) -> u64 {
    u64::try_from((now - time(created_at)).num_milliseconds()).unwrap_or(0)
}
