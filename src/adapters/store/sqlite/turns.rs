//! The port's [`Turns`]: who runs which turn.

use std::{collections::HashSet, time::Duration};

use async_trait::async_trait;
use futures::FutureExt;
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
use sqlx::{SqliteConnection, query};

use super::{
    SqliteStore, cancel,
    claim::{self, Claim},
    end::End,
    fault::Fault,
    inherit,
    journal::{self, Journal},
    row::{StepRow, TurnRow, array, blob, documents, hex, json, micros, parse, step_json, time},
    work::Terms,
};

#[async_trait]
impl Turns for SqliteStore {
    async fn inherit(&self, _owner: &Owner) -> StoreResult<Inherited> {
        self.writer.write("inherit", |c, terms| inherit::inherit(c, terms).boxed()).await
    }

    async fn claim(
        &self,
        owner: &Owner,
        session_id: SessionId,
    ) -> StoreResult<Option<ClaimedTurn>> {
        self.writer.submit_one(Claim { owner: owner.clone(), session_id }).await
    }

    async fn claimable(&self, idle_for: Duration, limit: u32) -> StoreResult<Vec<SessionId>> {
        let before = self.clock.now() - idle_for;
        Ok(claim::claimable(&mut *self.reader().await?, before, limit).await?)
    }

    async fn beat(&self, turn_id: TurnId, epoch: u64) -> StoreResult<Beat> {
        let sql = "SELECT json_array(cancel_requested) FROM turn \
                   WHERE turn_id = unhex($1) AND epoch = $2 AND status = 'running'";
        let row = query(sql).bind(hex(turn_id.0)).bind(super::row::integer(epoch));
        beat(array(row, &mut *self.reader().await?).await?.first().copied())
    }

    async fn journal(&self, turn_id: TurnId, epoch: u64, entry: JournalEntry) -> StoreResult<()> {
        self.writer.submit_one(Journal { turn_id, epoch, entry }).await
    }

    async fn steps(&self, turn_id: TurnId) -> StoreResult<Vec<Step>> {
        Ok(steps(&mut *self.reader().await?, turn_id).await?)
    }

    async fn end(&self, turn_id: TurnId, epoch: u64, ending: Ending) -> StoreResult<Appended> {
        self.writer.submit_one(End { turn_id, epoch, ending }).await
    }

    async fn lay_down(&self, turn_id: TurnId, epoch: u64, why: LayDown) -> StoreResult<()> {
        self.writer
            .write("lay_down", move |c, terms| {
                async move {
                    let turns = journal::turns(c, std::iter::once(turn_id)).await?;
                    let turn = turns.get(&turn_id).filter(|turn| turn.runs(epoch));
                    let turn = turn.ok_or(StoreError::Fenced)?;
                    lay_down(c, terms, &[turn], &why).await
                }
                .boxed()
            })
            .await
    }

    async fn lay_down_orphans(
        &self,
        owner: &Owner,
        alive: &[TurnId],
    ) -> StoreResult<Vec<SessionId>> {
        let alive: HashSet<TurnId> = alive.iter().copied().collect();
        let orphans = orphans(&mut *self.reader().await?, owner, &alive).await?;
        if orphans.is_empty() {
            return Ok(Vec::new());
        }
        self.writer
            .write("lay_down", move |c, terms| {
                async move { lay_down_still_running(c, terms, &orphans).await }.boxed()
            })
            .await
    }

    async fn cancel(
        &self,
        tenant: &TenantId,
        session_id: SessionId,
        scope: CancelScope,
    ) -> StoreResult<CancelOutcome> {
        let tenant = tenant.clone();
        self.writer
            .write("cancel", move |c, terms| {
                async move { cancel::cancel(c, terms, &tenant, session_id, scope).await }.boxed()
            })
            .await
    }

    async fn backlog(&self) -> StoreResult<Backlog> {
        Ok(backlog(&mut *self.reader().await?, self.clock.now()).await?)
    }

    async fn tokens_today(&self, tenant: &TenantId) -> StoreResult<u64> {
        let sql = "SELECT json_array(input_tokens + output_tokens) FROM token_use \
                   WHERE tenant = $1 AND day = $2";
        let row = query(sql).bind(tenant.0.clone()).bind(self.clock.now().format("%F").to_string());
        let used: Vec<u64> = array(row, &mut *self.reader().await?).await?;
        Ok(used.first().copied().unwrap_or(0))
    }
}

/// Turns a flag that was found into a beat; none was found: fenced.
pub(super) fn beat(cancel_requested: Option<u8>) -> StoreResult<Beat> {
    cancel_requested
        .map_or(Err(StoreError::Fenced), |flag| Ok(Beat { cancel_requested: flag != 0 }))
}

const STEPS: &str = concat!(
    "SELECT json_group_array(",
    step_json!(),
    ") FROM turn t JOIN turn_step p ON p.turn_id = t.turn_id WHERE t.turn_id = $1"
);

async fn steps(connection: &mut SqliteConnection, turn_id: TurnId) -> Result<Vec<Step>, Fault> {
    let rows: Vec<StepRow> = array(query(STEPS).bind(blob(turn_id.0)), connection).await?;
    Ok(claim::journals(rows)?.remove(&turn_id).unwrap_or_default())
}

/// $1 rows, $2 now. The order of the columns is that of [`LaidRow`].
const LAY_DOWN: &str = "
UPDATE turn SET status = r.status, attempts = r.attempts, panics = r.panics,
    not_before = r.not_before, waiting_since = r.waiting_since, reason = r.reason, owner = NULL,
    epoch = epoch + 1, ready_at = max($2, coalesce(r.not_before, 0))
FROM (SELECT e.value->>0 AS id, e.value->>2 AS status, e.value->>3 AS attempts,
             e.value->>4 AS panics, e.value->>5 AS not_before, e.value->>6 AS waiting_since,
             e.value->>7 AS reason FROM json_each($1) e) r
WHERE turn.id = r.id;

UPDATE session_envelopes SET freed_at = $2
FROM (SELECT unhex(e.value->>1) AS session_id FROM json_each($1) e) r
WHERE session_envelopes.session_id = r.session_id;
";

/// Row, session, status, attempts, panics, not before, waiting since, reason.
#[derive(Debug, Serialize)]
struct LaidRow(i64, String, TurnStatus, u32, u32, Option<i64>, Option<i64>, Option<String>);

/// Lays running turns down. Their epoch passes, so that nothing of that run writes any more.
async fn lay_down(
    connection: &mut SqliteConnection,
    terms: Terms,
    turns: &[&TurnRow],
    why: &LayDown,
) -> Result<(), Fault> {
    let rows: Vec<LaidRow> = turns
        .iter()
        .map(|turn| {
            let waiting_since = turn.waiting_since.map(time);
            let laid = decide::lay_down(turn.tries(), waiting_since, why, terms.now);
            laid_row(turn, laid)
        })
        .collect();
    query(LAY_DOWN).bind(json(&rows)?).bind(micros(terms.now)).execute(connection).await?;
    Ok(())
}

fn laid_row(turn: &TurnRow, laid: Laid) -> LaidRow {
    LaidRow(
        turn.id,
        hex(turn.session_id.0),
        laid.status,
        laid.tries.attempts,
        laid.tries.panics,
        laid.not_before.map(micros),
        laid.waiting_since.map(micros),
        laid.reason,
    )
}

/// Returns turns of this owner that nobody runs, each with its epoch.
async fn orphans(
    connection: &mut SqliteConnection,
    owner: &Owner,
    alive: &HashSet<TurnId>,
) -> Result<Vec<(TurnId, u64)>, Fault> {
    let sql = "SELECT json_group_array(json_array(hex(turn_id), epoch)) FROM turn \
               WHERE status = 'running' AND owner = $1";
    let held: Vec<(TurnId, u64)> = array(query(sql).bind(owner.0.clone()), connection).await?;
    Ok(held.into_iter().filter(|(turn, _)| !alive.contains(turn)).collect())
}

async fn lay_down_still_running(
    connection: &mut SqliteConnection,
    terms: Terms,
    orphans: &[(TurnId, u64)],
) -> Result<Vec<SessionId>, Fault> {
    let turns = journal::turns(connection, orphans.iter().map(|(turn, _)| *turn)).await?;
    let running: Vec<&TurnRow> = orphans
        .iter()
        .filter_map(|(id, epoch)| turns.get(id).filter(|turn| turn.runs(*epoch)))
        .collect();
    lay_down(connection, terms, &running, &LayDown::Drained).await?;
    Ok(running.iter().map(|turn| turn.session_id).collect())
}

/// $1: how many tenants are told. Nothing waits for a person yet, so every unfinished turn counts.
const BACKLOG: &str = "
SELECT json_group_array(json_array(tenant, turns)) FROM (
    SELECT tenant, count(*) AS turns FROM turn WHERE ended_at IS NULL
    GROUP BY tenant ORDER BY turns DESC LIMIT $1 + 0);
SELECT json_array(count(*), min(created_at) FILTER (WHERE status = 'queued'))
FROM turn WHERE ended_at IS NULL;";

/// How many tenants a backlog names.
const BACKLOG_TENANTS: u32 = 1_000;

async fn backlog(
    connection: &mut SqliteConnection,
    now: chrono::DateTime<chrono::Utc>,
) -> Result<Backlog, Fault> {
    let found = documents(query(BACKLOG).bind(BACKLOG_TENANTS), connection).await?;
    let mut found = found.iter().map(String::as_str);
    let tenants = parse(found.next().unwrap_or("[]"))?;
    let (total, oldest): (u64, Option<i64>) = parse(found.next().unwrap_or("[0,null]"))?;
    Ok(Backlog { total, tenants, oldest_ms: oldest.map_or(0, |oldest| age_ms(now, oldest)) })
}

/// Returns how old a row is.
pub(super) fn age_ms(now: chrono::DateTime<chrono::Utc>, created_at: i64) -> u64 {
    u64::try_from((now - time(created_at)).num_milliseconds()).unwrap_or(0)
}
