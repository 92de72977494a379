//! Journaling a model's answer and the calls that follow: progress.

use std::collections::{HashMap, HashSet};

use serde::Serialize;
use soma_contract::{
    EffectId, TurnId,
    compose::{self, StepPlace},
    port::store::{JournalEntry, StoreError, StoreResult},
    tool::Effect,
    turn::{Step, StepKind, StepStatus},
};
use sqlx::{SqliteConnection, query};

use super::{
    fault::Fault,
    log::{self, Sent},
    row::{TurnRow, array, hex, json, micros, turn_json},
    work::{Operation, Terms},
};

/// $1: `[turn, …]`
const TURNS: &str = concat!(
    "SELECT json_group_array(",
    turn_json!(),
    ") FROM json_each($1) e CROSS JOIN turn t ON t.turn_id = unhex(e.value)"
);

/// $1: `[[turn, step, place], …]`
const KNOWN: &str = "
SELECT json_group_array(hex(p.effect_id))
FROM json_each($1) e CROSS JOIN turn_step p
    ON p.turn_id = unhex(e.value->>0) AND p.step = e.value->>1 AND p.place = e.value->>2";

/// $1 turns, $2 steps, $3 now. Only a newly journaled step is progress; a repetition is none.
const WRITE: &str = "
UPDATE turn SET worked_ms = max(turn.worked_ms, worked_before_ms + r.worked_ms),
    attempts = iif(r.news, 0, attempts), panics = iif(r.news, 0, panics),
    deaths = iif(r.news, 0, deaths), waiting_since = iif(r.news, NULL, waiting_since)
FROM (SELECT e.value->>0 AS id, e.value->>1 AS worked_ms, e.value->>2 AS news
      FROM json_each($1) e) r
WHERE turn.id = r.id;

INSERT INTO turn_step (turn_id, step, place, effect_id, kind, status, effect, name, call_id,
    input_hash, arguments, result, trace, created_at, settled_at)
SELECT unhex(e.value->>0), e.value->>1, e.value->>2, unhex(e.value->>3), e.value->>4, e.value->>5,
       e.value->>6, e.value->>7, e.value->>8, e.value->>9, e.value->>10, e.value->>11,
       e.value->>12, $3, iif(e.value->>5 IN ('requested', 'started'), NULL, $3)
FROM json_each($2) e WHERE true
ON CONFLICT (turn_id, step, place) DO NOTHING;
";

/// Journals an entry of a turn.
#[derive(Debug)]
pub(super) struct Journal {
    pub(super) turn_id: TurnId,
    pub(super) epoch: u64,
    pub(super) entry: JournalEntry,
}

/// Reads the turns of these ids.
pub(super) async fn turns(
    connection: &mut SqliteConnection,
    ids: impl Iterator<Item = TurnId>,
) -> Result<HashMap<TurnId, TurnRow>, Fault> {
    let ids: Vec<String> = ids.map(|id| hex(id.0)).collect();
    let rows: Vec<TurnRow> = array(query(TURNS).bind(json(&ids)?), connection).await?;
    Ok(rows.into_iter().map(|row| (row.turn_id, row)).collect())
}

impl Operation for Journal {
    type Answer = ();

    const NAME: &'static str = "journal";

    async fn run(
        connection: &mut SqliteConnection,
        terms: Terms,
        requests: &[Self],
    ) -> Result<Vec<StoreResult<()>>, Fault> {
        let turns = turns(connection, requests.iter().map(|request| request.turn_id)).await?;
        let known = known(connection, requests).await?;
        let mut progress = Vec::new();
        let mut steps = Vec::new();
        let mut answers = Vec::with_capacity(requests.len());
        for request in requests {
            let running = turns.get(&request.turn_id).filter(|turn| turn.runs(request.epoch));
            let Some(turn) = running else {
                answers.push(Err(StoreError::Fenced));
                continue;
            };
            let before = steps.len();
            let new = request.steps().filter(|step| !known.contains(&step.effect_id));
            steps.extend(new.map(|step| (turn, step)));
            progress.push((turn.id, request.entry.worked_ms, steps.len() > before));
            answers.push(Ok(()));
        }
        if !progress.is_empty() {
            write(connection, terms, &progress, &steps).await?;
        }
        Ok(answers)
    }
}

impl Journal {
    fn steps(&self) -> impl Iterator<Item = &Step> {
        self.entry.answer.iter().chain(&self.entry.calls)
    }
}

/// Returns which of the steps are journaled already.
async fn known(
    connection: &mut SqliteConnection,
    requests: &[Journal],
) -> Result<HashSet<EffectId>, Fault> {
    let places: Vec<_> = requests
        .iter()
        .flat_map(Journal::steps)
        .map(|step| (hex(step.turn_id.0), step.step, step.index))
        .collect();
    if places.is_empty() {
        return Ok(HashSet::new());
    }
    let known: Vec<EffectId> = array(query(KNOWN).bind(json(&places)?), connection).await?;
    Ok(known.into_iter().collect())
}

/// Writes progress (turn, its work in ms, whether there is a new step) and new steps, with the
/// records of the calls that ask to be run.
async fn write(
    connection: &mut SqliteConnection,
    terms: Terms,
    progress: &[(i64, u64, bool)],
    steps: &[(&TurnRow, &Step)],
) -> Result<(), Fault> {
    let records: Vec<Sent> = steps
        .iter()
        .filter(|(_, step)| step.status == StepStatus::Requested)
        .map(|(turn, step)| {
            let place = StepPlace { n: turn.n, persona_id: turn.persona_id.as_deref() };
            (compose::tool_request_record(step, place), Some(step.effect_id))
        })
        .collect();
    log::send(connection, terms, &records).await?;
    let rows: Vec<StepColumns<'_>> =
        steps.iter().map(|(_, step)| columns(step)).collect::<Result<_, Fault>>()?;
    query(WRITE)
        .bind(json(progress)?)
        .bind(json(&rows)?)
        .bind(micros(terms.now))
        .execute(connection)
        .await?;
    Ok(())
}

/// Turn, step, place, effect id, kind, status, effect, name, call id, input hash, arguments,
/// result, trace.
#[derive(Debug, Serialize)]
struct StepColumns<'s>(
    String,
    u32,
    u32,
    String,
    StepKind,
    StepStatus,
    Effect,
    &'s str,
    &'s str,
    &'s str,
    String,
    String,
    String,
);

fn columns(step: &Step) -> Result<StepColumns<'_>, Fault> {
    Ok(StepColumns(
        hex(step.turn_id.0),
        step.step,
        step.index,
        hex(step.effect_id.0),
        step.kind,
        step.status,
        step.effect,
        &step.name,
        &step.call_id,
        &step.input_hash,
        json(&step.arguments)?,
        json(&step.result)?,
        json(&step.trace)?,
    ))
}
