//! The port's [`Steps`]: who runs which tool step.

use std::collections::{HashMap, HashSet};

use async_trait::async_trait;
use futures::FutureExt;
use serde::Serialize;
use soma_contract::{
    EffectId, Owner, SessionId,
    compose::{self, StepPlace},
    memory::MemoryWrite,
    port::store::{Appended, Beat, ClaimedStep, Steps, StoreError, StoreResult},
    tool::ToolOutcome,
    turn::{Step, StepStatus},
};
use sqlx::{SqliteConnection, query};

use super::{
    SqliteStore,
    claim::with_more,
    end::heads,
    fault::Fault,
    inherit::{self, Started},
    log::{self, Log, Sent},
    memory_write,
    row::{TurnRow, array, hex, integer, json, micros, step_json, turn_json},
    turns::beat,
    work::{Operation, Terms},
};

#[async_trait]
impl Steps for SqliteStore {
    async fn claim_steps(&self, owner: &Owner, limit: u32) -> StoreResult<Vec<ClaimedStep>> {
        let requested: Vec<u8> = array(query(ANY), &mut *self.reader().await?).await?;
        if requested == [0] {
            return Ok(Vec::new());
        }
        let owner = owner.clone();
        self.writer
            .write("steps", move |c, terms| {
                async move { claim_steps(c, terms, &owner, limit).await }.boxed()
            })
            .await
    }

    async fn beat_step(&self, effect_id: EffectId, epoch: u64) -> StoreResult<Beat> {
        let sql = "SELECT json_array(t.cancel_requested OR t.ended_at IS NOT NULL)
                   FROM turn_step p JOIN turn t ON t.turn_id = p.turn_id
                   WHERE p.effect_id = unhex($1) AND p.kind = 'tool' AND p.epoch = $2
                       AND p.status = 'started'";
        let row = query(sql).bind(hex(effect_id.0)).bind(integer(epoch));
        beat(array(row, &mut *self.reader().await?).await?.first().copied())
    }

    async fn settle(
        &self,
        effect_id: EffectId,
        epoch: u64,
        outcome: ToolOutcome,
        memory: Vec<MemoryWrite>,
    ) -> StoreResult<Appended> {
        self.writer.submit_one(Settle { effect_id, epoch, outcome, memory }).await
    }

    async fn unclaim(&self, effect_id: EffectId, epoch: u64) -> StoreResult<()> {
        self.writer
            .write("unclaim", move |c, terms| {
                async move { unclaim(c, terms, effect_id, epoch).await }.boxed()
            })
            .await
    }

    async fn lose_orphans(&self, owner: &Owner, alive: &[EffectId]) -> StoreResult<u64> {
        let alive: HashSet<EffectId> = alive.iter().copied().collect();
        let held = inherit::started(&mut *self.reader().await?, Some(owner.0.clone())).await?;
        let orphans = without(held, &alive)?;
        if orphans.is_empty() {
            return Ok(0);
        }
        let orphans: HashMap<EffectId, u64> =
            orphans.iter().map(|(effect, lost)| (*effect, lost.step.epoch)).collect();
        let owner = owner.0.clone();
        self.writer
            .write("lose_orphans", move |c, terms| {
                async move {
                    // Only what is still as it was when it was found to be nobody's.
                    let held = inherit::by_effect(inherit::started(c, Some(owner)).await?)?;
                    let mut lost: Vec<Started> = held
                        .into_iter()
                        .filter(|(effect, held)| orphans.get(effect) == Some(&held.step.epoch))
                        .map(|(_, held)| held)
                        .collect();
                    lost.sort_by_key(|lost| lost.step.id);
                    let fates = inherit::lose(c, terms, &lost).await?;
                    Ok(u64::try_from(fates.len()).unwrap_or(u64::MAX))
                }
                .boxed()
            })
            .await
    }
}

fn without(
    held: Vec<Started>,
    alive: &HashSet<EffectId>,
) -> Result<HashMap<EffectId, Started>, Fault> {
    let mut held = inherit::by_effect(held)?;
    held.retain(|effect, _| !alive.contains(effect));
    Ok(held)
}

/// Whether any step waits to be claimed, so that an idle poll does not trouble the writer.
const ANY: &str = "
SELECT json_array(EXISTS (
    SELECT 1 FROM turn_step WHERE settled_at IS NULL AND status = 'requested'))";

/// $1 limit. Which ones may start: [`soma_contract::decide::may_start`], in SQL for the limit's sake.
const REQUESTED: &str = concat!(
    "SELECT json_group_array(json_object('step', ",
    step_json!(),
    ", 'turn', ",
    turn_json!(),
    "))
FROM (SELECT q.* FROM turn_step q JOIN turn u ON u.turn_id = q.turn_id
      WHERE q.settled_at IS NULL AND q.status = 'requested' AND q.kind = 'tool'
          AND u.ended_at IS NULL AND u.cancel_requested = 0
          AND (u.suspect = 0 OR u.status = 'running')
      ORDER BY q.id LIMIT $1 + 0) p
JOIN turn t ON t.turn_id = p.turn_id"
);

/// $1 rows, $2 owner, $3 whether outbox rows are the records
const START: &str = "
UPDATE turn_step SET status = 'started', epoch = epoch + 1, owner = $2, start_seq = r.start_seq
FROM (SELECT e.value->>0 AS id, e.value->>1 AS start_seq FROM json_each($1) e) r
WHERE turn_step.id = r.id;

DELETE FROM message_outbox WHERE $3 AND topic = 'tool.requests'
    AND session_id IN (SELECT unhex(e.value->>2) FROM json_each($1) e)
    AND effect_id IN (SELECT unhex(e.value->>3) FROM json_each($1) e);
";

async fn claim_steps(
    connection: &mut SqliteConnection,
    terms: Terms,
    owner: &Owner,
    limit: u32,
) -> Result<Vec<ClaimedStep>, Fault> {
    let found = inherit::in_order(query(REQUESTED).bind(limit), connection).await?;
    if found.is_empty() {
        return Ok(Vec::new());
    }
    let sessions: HashSet<SessionId> = found.iter().map(|found| found.turn.session_id).collect();
    let mut log = heads(connection, &sessions).await?;
    let mut claimed = Vec::with_capacity(found.len());
    let mut rows = Vec::with_capacity(found.len());
    for Started { step: row, turn } in found {
        let mut step = row.step()?;
        step.status = StepStatus::Started;
        step.epoch += 1;
        let seq = match row.start_seq {
            Some(seq) => seq,
            None => start(&mut log, &step, &turn)?,
        };
        rows.push((row.id, seq, hex(turn.session_id.0), hex(step.effect_id.0)));
        let (subject, persona_id) = (turn.subject, turn.persona_id);
        claimed.push(ClaimedStep { step, subject, persona_id, seq });
    }
    log.write(connection, terms).await?;
    query(START)
        .bind(json(&rows)?)
        .bind(owner.0.clone())
        .bind(terms.bus_is_local)
        .execute(connection)
        .await?;
    Ok(claimed)
}

fn start(log: &mut Log, step: &Step, turn: &TurnRow) -> Result<u64, Fault> {
    log.append(compose::tool_start(step, place(turn)))
}

fn place(turn: &TurnRow) -> StepPlace<'_> {
    StepPlace { n: turn.n, persona_id: turn.persona_id.as_deref() }
}

/// $1 effect, $2 epoch
const UNCLAIM: &str = "
UPDATE turn_step SET status = 'requested', owner = NULL, epoch = epoch + 1
WHERE effect_id = unhex($1) AND kind = 'tool' AND epoch = $2 AND status = 'started'";

async fn unclaim(
    connection: &mut SqliteConnection,
    terms: Terms,
    effect_id: EffectId,
    epoch: u64,
) -> Result<(), Fault> {
    let found = by_effects(connection, &[effect_id]).await?;
    let put_back = query(UNCLAIM)
        .bind(hex(effect_id.0))
        .bind(integer(epoch))
        .execute(&mut *connection)
        .await?;
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
struct Settle {
    effect_id: EffectId,
    epoch: u64,
    outcome: ToolOutcome,
    memory: Vec<MemoryWrite>,
}

/// $1: `[effect, …]`
const STEPS: &str = concat!(
    "SELECT json_group_array(json_object('step', ",
    step_json!(),
    ", 'turn', ",
    turn_json!(),
    ")) FROM json_each($1) e
CROSS JOIN turn_step p ON p.effect_id = unhex(e.value) AND p.kind = 'tool'
CROSS JOIN turn t ON t.turn_id = p.turn_id"
);

/// $1 rows, $2 now
const SETTLED: &str = "
UPDATE turn_step SET status = r.status, result = r.result, settled_at = $2
FROM (SELECT e.value->>0 AS id, e.value->>1 AS status, e.value->>2 AS result
      FROM json_each($1) e) r
WHERE turn_step.id = r.id";

#[derive(Debug, Serialize)]
struct SettledRow(i64, StepStatus, String);

async fn by_effects(
    connection: &mut SqliteConnection,
    effects: &[EffectId],
) -> Result<HashMap<EffectId, Started>, Fault> {
    let named: Vec<String> = effects.iter().map(|effect| hex(effect.0)).collect();
    inherit::by_effect(array(query(STEPS).bind(json(&named)?), connection).await?)
}

impl Operation for Settle {
    type Answer = Appended;

    const NAME: &'static str = "settle";

    async fn run(
        connection: &mut SqliteConnection,
        terms: Terms,
        requests: &[Self],
    ) -> Result<Vec<StoreResult<Appended>>, Fault> {
        let effects: Vec<EffectId> = requests.iter().map(|request| request.effect_id).collect();
        let found = by_effects(connection, &effects).await?;
        let sessions: HashSet<SessionId> =
            found.values().map(|found| found.turn.session_id).collect();
        let mut log = heads(connection, &sessions).await?;
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
            rows.push(SettledRow(step.id, status, json(&request.outcome)?));
            memory.extend(request.memory.iter().cloned());
            places.push(Ok((turn.session_id, seq)));
        }
        log.write(connection, terms).await?;
        log::send(connection, terms, &records).await?;
        if !rows.is_empty() {
            let write = query(SETTLED).bind(json(&rows)?).bind(micros(terms.now));
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
