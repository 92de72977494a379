//! The port's [`Steps`]: who runs which tool step.

use std::collections::{HashMap, HashSet};

use async_trait::async_trait;
use serde::Serialize;
use soma_contract::{
    EffectId, Owner, SessionId, TurnId,
    compose::{self, StepPlace},
    memory::MemoryWrite,
    port::store::{Appended, Beat, ClaimedStep, Steps, StoreError, StoreResult},
    tool::ToolOutcome,
    turn::StepStatus,
};
use sqlx::{PgConnection, query, query_scalar};

use super::{
    PostgresStore,
    claim::with_more,
    engine::{Terms, read, transact},
    fault::Fault,
    inherit::{self, Started},
    lane::Operation,
    log::{self, Log, Sent},
    memory_write,
    row::{TurnRow, integer, json, micros, one, sent, step_json, turn_json},
    sessions,
    text::kept,
    turns::beat,
};

#[async_trait]
impl Steps for PostgresStore {
    async fn claim_steps(&self, owner: &Owner, limit: u32) -> StoreResult<Vec<ClaimedStep>> {
        let lease = self.engine.terms().lease_us().unwrap_or(0);
        let any = read!(&self.engine, |c| any(c, lease))?;
        if !any {
            return Ok(Vec::new());
        }
        transact!(&self.engine, "steps", |c, terms| claim_steps(c, terms, owner, limit))
    }

    async fn beat_step(&self, effect_id: EffectId, epoch: u64) -> StoreResult<Beat> {
        beat(read!(&self.engine, |c| beat_step(c, self.engine.terms(), effect_id, epoch))?)
    }

    async fn settle(
        &self,
        effect_id: EffectId,
        epoch: u64,
        outcome: ToolOutcome,
        memory: Vec<MemoryWrite>,
    ) -> StoreResult<Appended> {
        self.settlings.submit_one(Settle { effect_id, epoch, outcome, memory }).await
    }

    async fn unclaim(&self, effect_id: EffectId, epoch: u64) -> StoreResult<()> {
        transact!(&self.engine, "unclaim", |c, terms| unclaim(c, terms, effect_id, epoch))
    }

    async fn lose_orphans(&self, owner: &Owner, alive: &[EffectId]) -> StoreResult<u64> {
        let alive: HashSet<EffectId> = alive.iter().copied().collect();
        let orphans: HashMap<EffectId, u64> = read!(&self.engine, |c| orphans(c, owner, &alive))?;
        if orphans.is_empty() {
            return Ok(0);
        }
        transact!(&self.engine, "lose_orphans", |c, terms| lose(c, terms, owner, &orphans))
    }
}

/// $1 effect, $2 epoch, $3 lease or null: renewed when a third of it has gone. The flag tells whether
/// the turn stops.
const BEAT: &str = "
WITH renewed AS (
    UPDATE turn_step SET lease_until = now_us() + $3
    WHERE effect_id = $1 AND kind = 'tool' AND epoch = $2 AND status = 'started'
        AND lease_until < now_us() + $3 * 2 / 3
)
SELECT t.cancel_requested OR t.ended_at IS NOT NULL
FROM turn_step p JOIN turn t ON t.turn_id = p.turn_id
WHERE p.effect_id = $1 AND p.kind = 'tool' AND p.epoch = $2 AND p.status = 'started'";

async fn beat_step(
    connection: &mut PgConnection,
    terms: Terms,
    effect_id: EffectId,
    epoch: u64,
) -> Result<Option<bool>, Fault> {
    let beat = query_scalar::<_, bool>(BEAT).bind(effect_id.0).bind(integer(epoch));
    Ok(beat.bind(terms.lease_us()).fetch_optional(connection).await?)
}

/// Returns started steps of this owner that nobody runs, each with its epoch.
async fn orphans(
    connection: &mut PgConnection,
    owner: &Owner,
    alive: &HashSet<EffectId>,
) -> Result<HashMap<EffectId, u64>, Fault> {
    let held = inherit::in_order(query(inherit::STARTED_BY).bind(kept(&owner.0)), connection);
    let mut held = inherit::by_effect(held.await?)?;
    held.retain(|effect, _| !alive.contains(effect));
    Ok(held.into_iter().map(|(effect, held)| (effect, held.step.epoch)).collect())
}

/// Treats as lost what is still as it was when it was found to be nobody's.
async fn lose(
    connection: &mut PgConnection,
    terms: Terms,
    owner: &Owner,
    orphans: &HashMap<EffectId, u64>,
) -> Result<u64, Fault> {
    let mut log = sessions::hold_of_effects(connection, orphans.keys().copied()).await?;
    let held = inherit::in_order(query(inherit::STARTED_BY).bind(kept(&owner.0)), connection);
    let mut lost: Vec<Started> = inherit::by_effect(held.await?)?
        .into_iter()
        .filter(|(effect, held)| orphans.get(effect) == Some(&held.step.epoch))
        .map(|(_, held)| held)
        .collect();
    lost.sort_by_key(|lost| lost.step.id);
    let fates = inherit::lose(connection, terms, &mut log, &lost).await?;
    Ok(u64::try_from(fates.len()).unwrap_or(u64::MAX))
}

/// Which requested steps `q` of turns `u` may start: [`soma_contract::decide::may_start`], in SQL for
/// the limit's sake.
macro_rules! may_start {
    () => {
        "q.settled_at IS NULL AND q.status = 'requested' AND q.kind = 'tool' \
         AND u.ended_at IS NULL AND NOT u.cancel_requested \
         AND (NOT u.suspect OR u.status = 'running')"
    };
}

/// $1 lease: whether any step waits to be claimed or was lost, so that an idle poll writes nothing.
const ANY: &str = "
SELECT EXISTS (SELECT 1 FROM turn_step WHERE settled_at IS NULL AND (
    status = 'requested' OR status = 'started' AND run_out(lease_until, $1)))";

async fn any(connection: &mut PgConnection, lease: i64) -> Result<bool, Fault> {
    Ok(query_scalar(ANY).bind(lease).fetch_one(connection).await?)
}

/// $1 limit, $2 lease: the steps that are to be looked at, lost ones first.
const CANDIDATES: &str = concat!(
    "SELECT coalesce(json_agg(json_build_array(effect_id, lost)), '[]')::text FROM (
    (SELECT q.effect_id, true AS lost FROM turn_step q
     WHERE q.settled_at IS NULL AND q.status = 'started' AND run_out(q.lease_until, $2)
     ORDER BY q.id LIMIT $1)
    UNION ALL
    (SELECT q.effect_id, false FROM turn_step q JOIN turn u ON u.turn_id = q.turn_id
     WHERE ",
    may_start!(),
    " ORDER BY q.id LIMIT $1)) c"
);

/// $1 steps, $2 lease: those of them whose executor is gone.
const LOST: &str = concat!(
    "SELECT coalesce(json_agg(json_build_object('step', ",
    step_json!(),
    ", 'turn', ",
    turn_json!(),
    ")), '[]')::text FROM turn_step p JOIN turn t ON t.turn_id = p.turn_id
WHERE p.effect_id = ANY($1) AND p.kind = 'tool' AND p.status = 'started'
    AND run_out(p.lease_until, $2)"
);

/// $1 turns. With an executor its process may have died, which the step may have been the cause of.
const SUSPECT: &str = "UPDATE turn SET suspect = true WHERE turn_id = ANY($1) AND ended_at IS NULL";

/// $1 steps, $2 limit
const REQUESTED: &str = concat!(
    "SELECT coalesce(json_agg(json_build_object('step', ",
    step_json!(),
    ", 'turn', ",
    turn_json!(),
    ")), '[]')::text
FROM (SELECT q.* FROM turn_step q JOIN turn u ON u.turn_id = q.turn_id
      WHERE q.effect_id = ANY($1) AND ",
    may_start!(),
    " ORDER BY q.id LIMIT $2) p
JOIN turn t ON t.turn_id = p.turn_id"
);

/// $1 rows, $2 owner, $3 lease or null, $4 whether outbox rows are the records
const START: &str = "
WITH start AS MATERIALIZED (
    SELECT * FROM jsonb_to_recordset($1::jsonb)
        AS r(id bigint, start_seq bigint, session_id uuid, effect_id uuid)
), acknowledged AS (
    DELETE FROM message_outbox WHERE $4 AND topic = 'tool.requests'
        AND session_id IN (SELECT session_id FROM start)
        AND effect_id IN (SELECT effect_id FROM start)
)
UPDATE turn_step p SET status = 'started', epoch = p.epoch + 1, owner = $2,
    start_seq = r.start_seq, lease_until = coalesce(now_us() + $3, 9223372036854775807)
FROM start r WHERE p.id = r.id";

#[derive(Debug, Serialize)]
struct StartRow {
    id: i64,
    start_seq: u64,
    session_id: SessionId,
    effect_id: EffectId,
}

async fn claim_steps(
    connection: &mut PgConnection,
    terms: Terms,
    owner: &Owner,
    limit: u32,
) -> Result<Vec<ClaimedStep>, Fault> {
    let lease = terms.lease_us().unwrap_or(0);
    let candidates = query(CANDIDATES).bind(i64::from(limit)).bind(lease);
    let candidates: Vec<(EffectId, bool)> = one(candidates, connection).await?;
    if candidates.is_empty() {
        return Ok(Vec::new());
    }
    let effects: Vec<uuid::Uuid> = candidates.iter().map(|(effect, _)| effect.0).collect();
    let ids = candidates.iter().map(|(effect, _)| *effect);
    let mut log = sessions::hold_of_effects(connection, ids).await?;
    if candidates.iter().any(|(_, lost)| *lost) {
        let lost = query(LOST).bind(effects.clone()).bind(lease);
        take_over(connection, terms, &mut log, lost).await?;
    }
    let requested = query(REQUESTED).bind(effects).bind(i64::from(limit));
    let found = inherit::in_order(requested, connection).await?;
    start_all(connection, terms, owner, &mut log, found).await
}

/// Deals with steps whose executors are gone.
async fn take_over(
    connection: &mut PgConnection,
    terms: Terms,
    log: &mut Log,
    lost: super::row::Query,
) -> Result<(), Fault> {
    let lost = inherit::in_order(lost, connection).await?;
    if lost.is_empty() {
        return Ok(());
    }
    tracing::warn!(steps = lost.len(), "the leases of tool steps have run out");
    let turns: Vec<TurnId> = lost.iter().map(|lost| lost.turn.turn_id).collect();
    let turns: Vec<uuid::Uuid> = turns.into_iter().map(|turn| turn.0).collect();
    query(SUSPECT).bind(turns).execute(&mut *connection).await?;
    inherit::lose(connection, terms, log, &lost).await.map(drop)
}

async fn start_all(
    connection: &mut PgConnection,
    terms: Terms,
    owner: &Owner,
    log: &mut Log,
    found: Vec<Started>,
) -> Result<Vec<ClaimedStep>, Fault> {
    let mut claimed = Vec::with_capacity(found.len());
    let mut rows = Vec::with_capacity(found.len());
    for Started { step: row, turn } in found {
        let mut step = row.step()?;
        step.status = StepStatus::Started;
        step.epoch += 1;
        let seq = match row.start_seq {
            Some(seq) => seq,
            None => log.append(compose::tool_start(&step, place(&turn)))?,
        };
        let (session_id, effect_id) = (turn.session_id, step.effect_id);
        rows.push(StartRow { id: row.id, start_seq: seq, session_id, effect_id });
        let (subject, persona_id) = (turn.subject, turn.persona_id);
        claimed.push(ClaimedStep { step, subject, persona_id, seq });
    }
    log.write(connection, terms).await?;
    if !rows.is_empty() {
        query(START)
            .bind(sent(&rows)?)
            .bind(kept(&owner.0))
            .bind(terms.lease_us())
            .bind(terms.bus_is_local)
            .execute(connection)
            .await?;
    }
    Ok(claimed)
}

fn place(turn: &TurnRow) -> StepPlace<'_> {
    StepPlace { n: turn.n, persona_id: turn.persona_id.as_deref() }
}

/// $1 effect, $2 epoch
const UNCLAIM: &str = "
UPDATE turn_step SET status = 'requested', owner = NULL, lease_until = NULL, epoch = epoch + 1
WHERE effect_id = $1 AND kind = 'tool' AND epoch = $2 AND status = 'started'";

async fn unclaim(
    connection: &mut PgConnection,
    terms: Terms,
    effect_id: EffectId,
    epoch: u64,
) -> Result<(), Fault> {
    sessions::hold_of_effects(connection, [effect_id]).await?;
    let found = by_effects(connection, &[effect_id]).await?;
    let put_back =
        query(UNCLAIM).bind(effect_id.0).bind(integer(epoch)).execute(&mut *connection).await?;
    let Some(Started { step, turn }) = found.get(&effect_id) else {
        return Err(StoreError::Fenced.into());
    };
    if put_back.rows_affected() == 0 {
        return Err(StoreError::Fenced.into());
    }
    let record = compose::tool_request_record(&step.step()?, place(turn));
    log::send(connection, terms, &[(record, Some(effect_id))]).await
}

/// Settles a step.
#[derive(Debug)]
pub(super) struct Settle {
    effect_id: EffectId,
    epoch: u64,
    outcome: ToolOutcome,
    memory: Vec<MemoryWrite>,
}

/// $1 steps
const STEPS: &str = concat!(
    "SELECT coalesce(json_agg(json_build_object('step', ",
    step_json!(),
    ", 'turn', ",
    turn_json!(),
    ")), '[]')::text FROM turn_step p JOIN turn t ON t.turn_id = p.turn_id
WHERE p.effect_id = ANY($1) AND p.kind = 'tool'"
);

/// $1 rows, $2 now
const SETTLED: &str = "
UPDATE turn_step p SET status = r.status, result = r.result, settled_at = $2, lease_until = NULL
FROM jsonb_to_recordset($1::jsonb) AS r(id bigint, status text, result text)
WHERE p.id = r.id";

#[derive(Debug, Serialize)]
struct SettledRow {
    id: i64,
    status: StepStatus,
    result: String,
}

async fn by_effects(
    connection: &mut PgConnection,
    effects: &[EffectId],
) -> Result<HashMap<EffectId, Started>, Fault> {
    let ids: Vec<uuid::Uuid> = effects.iter().map(|effect| effect.0).collect();
    inherit::by_effect(one(query(STEPS).bind(ids), connection).await?)
}

impl Operation for Settle {
    type Answer = Appended;

    const NAME: &'static str = "settle";

    async fn run(
        connection: &mut PgConnection,
        terms: Terms,
        requests: &[Self],
    ) -> Result<Vec<StoreResult<Appended>>, Fault> {
        let effects: Vec<EffectId> = requests.iter().map(|request| request.effect_id).collect();
        let mut log = sessions::hold_of_effects(connection, effects.iter().copied()).await?;
        let found = by_effects(connection, &effects).await?;
        let sessions: HashSet<SessionId> =
            found.values().map(|found| found.turn.session_id).collect();
        let mut settled: HashSet<EffectId> = HashSet::new();
        let (mut rows, mut records, mut memory) = (Vec::new(), Vec::<Sent>::new(), Vec::new());
        let mut places = Vec::with_capacity(requests.len());
        for request in requests {
            let Some(Started { step, turn }) = found.get(&request.effect_id) else {
                places.push(Err(StoreError::Fenced));
                continue;
            };
            let held = step.status == StepStatus::Started && step.epoch == request.epoch;
            let first = held && !settled.contains(&request.effect_id);
            if !first || turn.status.is_over() {
                places.push(Err(StoreError::Fenced));
                continue;
            }
            let seq = inherit::tell(&mut log, &mut records, step, place(turn), &request.outcome)?;
            settled.insert(request.effect_id);
            let status = compose::settled_as(request.outcome.status);
            let result = json(&request.outcome)?;
            rows.push(SettledRow { id: step.id, status, result });
            memory.extend(request.memory.iter().cloned());
            places.push(Ok((turn.session_id, seq)));
        }
        log.write(connection, terms).await?;
        log::send(connection, terms, &records).await?;
        if !rows.is_empty() {
            let write = query(SETTLED).bind(sent(&rows)?).bind(micros(terms.now));
            write.execute(&mut *connection).await?;
        }
        memory_write::enqueue(connection, terms, &memory).await?;
        let more = with_more(connection, terms, &sessions).await?;
        Ok(places
            .into_iter()
            .map(|place| {
                place.map(|(session, seq)| Appended { seq, more: more.contains(&session) })
            })
            .collect())
    }
}
