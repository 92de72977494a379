//! Taking over what a process that died left behind.

use std::collections::{HashMap, HashSet};

use serde::Serialize;
use soma_contract::{
    EffectId, SessionId,
    compose::{self, StepPlace},
    decide,
    port::store::Inherited,
    tool::ToolOutcome,
    turn::StepStatus,
};
use sqlx::{SqliteConnection, query};

use super::{
    end::heads,
    fault::Fault,
    log::{self, Log, Sent},
    row::{Query, StepRow, TurnRow, array, json, micros, step_json, turn_json},
    work::Terms,
};

const RUNNING: &str =
    concat!("SELECT json_group_array(", turn_json!(), ") FROM turn t WHERE t.status = 'running'");

/// $1: `[[turn, deaths], …]`, $2 now. A turn that nobody ran, but one of whose steps had started, is
/// a suspect too. The sessions' epochs pass, whoever held them.
const REQUEUE: &str = "
UPDATE turn SET suspect = 1 WHERE ended_at IS NULL AND turn_id IN (
    SELECT turn_id FROM turn_step WHERE settled_at IS NULL AND status = 'started');

UPDATE turn SET status = 'queued', suspect = 1, deaths = r.deaths, owner = NULL,
    epoch = epoch + 1, ready_at = $2
FROM (SELECT e.value->>0 AS id, e.value->>1 AS deaths FROM json_each($1) e) r
WHERE turn.id = r.id;

UPDATE session_envelopes SET epoch = epoch + 1
WHERE session_id IN (SELECT session_id FROM turn WHERE ended_at IS NULL);
";

/// Queues every running turn as a suspect, and settles every started step by its effect class.
pub(super) async fn inherit(
    connection: &mut SqliteConnection,
    terms: Terms,
) -> Result<Inherited, Fault> {
    let turns: Vec<TurnRow> = array(query(RUNNING), connection).await?;
    let rows: Vec<(i64, u32)> = turns
        .iter()
        .map(|turn| (turn.id, decide::after_death(turn.tries(), turn.suspect).deaths))
        .collect();
    query(REQUEUE).bind(json(&rows)?).bind(micros(terms.now)).execute(&mut *connection).await?;
    let started = started(connection, None).await?;
    let lost = lose(connection, terms, &started).await?;
    let again = lost.iter().filter(|status| **status == StepStatus::Requested).count();
    let unknown = lost.iter().filter(|status| **status == StepStatus::Unknown).count();
    Ok(Inherited {
        turns: u64::try_from(turns.len()).unwrap_or(u64::MAX),
        steps_again: u64::try_from(again).unwrap_or(u64::MAX),
        steps_unknown: u64::try_from(unknown).unwrap_or(u64::MAX),
    })
}

/// A started step with its turn.
#[derive(Debug, serde::Deserialize)]
pub(super) struct Started {
    pub(super) step: StepRow,
    pub(super) turn: TurnRow,
}

/// $1 owner, or null for all
const STARTED: &str = concat!(
    "SELECT json_group_array(json_object('step', ",
    step_json!(),
    ", 'turn', ",
    turn_json!(),
    ")) FROM turn_step p JOIN turn t ON t.turn_id = p.turn_id
WHERE p.settled_at IS NULL AND p.status = 'started' AND ($1 IS NULL OR p.owner = $1)"
);

/// Returns started steps, of one owner or of all.
pub(super) async fn started(
    connection: &mut SqliteConnection,
    owner: Option<String>,
) -> Result<Vec<Started>, Fault> {
    in_order(query(STARTED).bind(owner), connection).await
}

/// Reads steps with their turns in the order of journaling.
pub(super) async fn in_order(
    steps: Query,
    connection: &mut SqliteConnection,
) -> Result<Vec<Started>, Fault> {
    let mut found: Vec<Started> = array(steps, connection).await?;
    found.sort_by_key(|found| found.step.id);
    Ok(found)
}

/// $1 `[[row, status, result], …]`, $2 now. The epoch passes.
const LOSE: &str = "
UPDATE turn_step SET status = r.status, result = r.result, owner = NULL,
    epoch = epoch + 1, settled_at = iif(r.status = 'requested', NULL, $2)
FROM (SELECT e.value->>0 AS id, e.value->>1 AS status, e.value->>2 AS result
      FROM json_each($1) e) r
WHERE turn_step.id = r.id;
";

#[derive(Debug, Serialize)]
struct LostRow(i64, StepStatus, String);

/// Treats started steps as lost, each by its effect class; returns what became of those whose turn
/// goes on. The others get no event: the terminal one is a turn's last.
pub(super) async fn lose(
    connection: &mut SqliteConnection,
    terms: Terms,
    started: &[Started],
) -> Result<Vec<StepStatus>, Fault> {
    if started.is_empty() {
        return Ok(Vec::new());
    }
    let sessions: HashSet<SessionId> = started.iter().map(|lost| lost.turn.session_id).collect();
    let mut log = heads(connection, &sessions).await?;
    let mut rows = Vec::new();
    let mut records: Vec<Sent> = Vec::new();
    let mut fates = Vec::new();
    for Started { step, turn } in started {
        let over = turn.status.is_over();
        let fate = decide::after_loss(step.effect, over || turn.cancel_requested);
        if !over {
            fates.push(fate);
        }
        let place = StepPlace { n: turn.n, persona_id: turn.persona_id.as_deref() };
        let outcome = match fate {
            StepStatus::Unknown => compose::lost(),
            StepStatus::Withdrawn => compose::withdrawn(),
            _ => {
                let step_again = step.step()?;
                let record = compose::tool_request_record(&step_again, place);
                records.push((record, Some(step_again.effect_id)));
                rows.push(LostRow(step.id, fate, "null".to_owned()));
                continue;
            }
        };
        if !over {
            tell(&mut log, &mut records, step, place, &outcome)?;
        }
        rows.push(LostRow(step.id, fate, json(&outcome)?));
    }
    log.write(connection, terms).await?;
    log::send(connection, terms, &records).await?;
    query(LOSE).bind(json(&rows)?).bind(micros(terms.now)).execute(connection).await?;
    Ok(fates)
}

/// Appends the `tool.result` event of a step and its record; returns the event's place.
pub(super) fn tell(
    log: &mut Log,
    records: &mut Vec<Sent>,
    row: &StepRow,
    place: StepPlace<'_>,
    outcome: &ToolOutcome,
) -> Result<u64, Fault> {
    let step = row.step()?;
    records.push((compose::tool_result_record(&step, place, outcome), None));
    log.append(compose::tool_result(&step, place, outcome))
}

/// Indexes started steps by their effect.
pub(super) fn by_effect(started: Vec<Started>) -> Result<HashMap<EffectId, Started>, Fault> {
    started.into_iter().map(|one| Ok((one.step.step()?.effect_id, one))).collect()
}
