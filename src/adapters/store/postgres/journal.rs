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
use sqlx::{PgConnection, query};

use super::{
    engine::Terms,
    fault::Fault,
    lane::Operation,
    log::{self, Sent},
    row::{TurnRow, json, micros, one, sent, turn_json},
    sessions,
};

/// $1 turns
const TURNS: &str = concat!(
    "SELECT coalesce(json_agg(",
    turn_json!(),
    "), '[]')::text FROM turn t WHERE t.turn_id = ANY($1)"
);

/// $1 places of steps
const KNOWN: &str = "
SELECT coalesce(json_agg(p.effect_id), '[]')::text
FROM jsonb_to_recordset($1::jsonb) AS e(turn_id uuid, step bigint, place bigint)
JOIN turn_step p ON p.turn_id = e.turn_id AND p.step = e.step AND p.place = e.place";

/// $1 turns, $2 steps, $3 now, $4 lease or null. Only a newly journaled step is progress; a
/// repetition is none.
const WRITE: &str = "
WITH progress AS (
    UPDATE turn t SET worked_ms = greatest(t.worked_ms, t.worked_before_ms + r.worked_ms),
        attempts = CASE WHEN r.news THEN 0 ELSE t.attempts END,
        panics = CASE WHEN r.news THEN 0 ELSE t.panics END,
        deaths = CASE WHEN r.news THEN 0 ELSE t.deaths END,
        waiting_since = CASE WHEN r.news THEN NULL ELSE t.waiting_since END,
        lease_until = coalesce(now_us() + $4, t.lease_until)
    FROM jsonb_to_recordset($1::jsonb) AS r(id bigint, worked_ms bigint, news boolean)
    WHERE t.id = r.id
)
INSERT INTO turn_step (turn_id, step, place, effect_id, kind, status, effect, name, call_id,
    input_hash, arguments, result, trace, created_at, settled_at)
SELECT turn_id, step, place, effect_id, kind, status, effect, name, call_id, input_hash, arguments,
    result, trace, $3, CASE WHEN status IN ('requested', 'started') THEN NULL ELSE $3 END
FROM jsonb_to_recordset($2::jsonb) AS r(turn_id uuid, step bigint, place bigint, effect_id uuid,
    kind text, status text, effect text, name text, call_id text, input_hash text, arguments text,
    result text, trace text)
ON CONFLICT (turn_id, step, place) DO NOTHING";

/// Journals an entry of a turn.
#[derive(Debug)]
pub(super) struct Journal {
    pub(super) turn_id: TurnId,
    pub(super) epoch: u64,
    pub(super) entry: JournalEntry,
}

/// Reads the turns of these ids.
pub(super) async fn turns(
    connection: &mut PgConnection,
    ids: impl Iterator<Item = TurnId>,
) -> Result<HashMap<TurnId, TurnRow>, Fault> {
    let ids: Vec<uuid::Uuid> = ids.map(|id| id.0).collect();
    let rows: Vec<TurnRow> = one(query(TURNS).bind(ids), connection).await?;
    Ok(rows.into_iter().map(|row| (row.turn_id, row)).collect())
}

/// How far a turn has come.
#[derive(Debug, Serialize)]
struct Progress {
    id: i64,
    worked_ms: u64,
    news: bool,
}

impl Operation for Journal {
    type Answer = ();

    const NAME: &'static str = "journal";

    async fn run(
        connection: &mut PgConnection,
        terms: Terms,
        requests: &[Self],
    ) -> Result<Vec<StoreResult<()>>, Fault> {
        let ids = || requests.iter().map(|request| request.turn_id);
        sessions::hold_of_turns(connection, ids()).await?;
        let turns = turns(connection, ids()).await?;
        let mut known = known(connection, requests).await?;
        let mut progress: HashMap<i64, Progress> = HashMap::new();
        let mut steps = Vec::new();
        let mut answers = Vec::with_capacity(requests.len());
        for request in requests {
            let running = turns.get(&request.turn_id).filter(|turn| turn.runs(request.epoch));
            let Some(turn) = running else {
                answers.push(Err(StoreError::Fenced));
                continue;
            };
            let before = steps.len();
            let new = request.steps().filter(|step| known.insert(step.effect_id));
            steps.extend(new.map(|step| (turn, step)));
            // One row is updated once in a statement, however many entries speak of it.
            let made = progress.entry(turn.id).or_insert(Progress {
                id: turn.id,
                worked_ms: 0,
                news: false,
            });
            made.worked_ms = made.worked_ms.max(request.entry.worked_ms);
            made.news |= steps.len() > before;
            answers.push(Ok(()));
        }
        if !progress.is_empty() {
            let progress: Vec<Progress> = progress.into_values().collect();
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

#[derive(Debug, Serialize)]
struct StepAt {
    turn_id: TurnId,
    step: u32,
    place: u32,
}

/// Returns which of the steps are journaled already.
async fn known(
    connection: &mut PgConnection,
    requests: &[Journal],
) -> Result<HashSet<EffectId>, Fault> {
    let places: Vec<StepAt> = requests
        .iter()
        .flat_map(Journal::steps)
        .map(|step| StepAt { turn_id: step.turn_id, step: step.step, place: step.index })
        .collect();
    if places.is_empty() {
        return Ok(HashSet::new());
    }
    one(query(KNOWN).bind(sent(&places)?), connection).await
}

/// Writes progress and new steps, with the records of the calls that ask to be run.
async fn write(
    connection: &mut PgConnection,
    terms: Terms,
    progress: &[Progress],
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
        .bind(sent(progress)?)
        .bind(sent(&rows)?)
        .bind(micros(terms.now))
        .bind(terms.lease_us())
        .execute(connection)
        .await?;
    Ok(())
}

/// A row of `turn_step`.
#[derive(Debug, Serialize)]
struct StepColumns<'s> {
    turn_id: TurnId,
    step: u32,
    place: u32,
    effect_id: EffectId,
    kind: StepKind,
    status: StepStatus,
    effect: Effect,
    name: &'s str,
    call_id: &'s str,
    input_hash: &'s str,
    arguments: String,
    result: String,
    trace: String,
}

fn columns(step: &Step) -> Result<StepColumns<'_>, Fault> {
    Ok(StepColumns {
        turn_id: step.turn_id,
        step: step.step,
        place: step.index,
        effect_id: step.effect_id,
        kind: step.kind,
        status: step.status,
        effect: step.effect,
        name: &step.name,
        call_id: &step.call_id,
        input_hash: &step.input_hash,
        arguments: json(&step.arguments)?,
        result: json(&step.result)?,
        trace: json(&step.trace)?,
    })
}
