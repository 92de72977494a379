//! Taking over what a process that died left behind.

use std::collections::{BTreeSet, HashMap};

use serde::Serialize;
use soma_contract::{
    EffectId, SessionId,
    compose::{self, StepPlace},
    decide,
    port::store::Inherited,
    tool::ToolOutcome,
    turn::StepStatus,
};
use sqlx::{PgConnection, query};

use super::{
    engine::Terms,
    fault::Fault,
    log::{self, Log, Sent},
    row::{Query, StepRow, TurnRow, json, micros, one, sent, step_json, turn_json},
    sessions,
};

/// What a lone owner has left behind: everything, if this process is one too.
macro_rules! left_behind {
    ($row:literal) => {
        concat!("($1 OR ", $row, ".lease_until = 9223372036854775807)")
    };
}

/// $1 whether everything is this process's
const LEFT: &str = concat!(
    "SELECT coalesce(json_agg(DISTINCT t.session_id), '[]')::text FROM turn t
WHERE t.status = 'running' AND ",
    left_behind!("t"),
    " OR t.turn_id IN (SELECT p.turn_id FROM turn_step p
        WHERE p.settled_at IS NULL AND p.status = 'started' AND ",
    left_behind!("p"),
    ")"
);

/// $1 whether everything is this process's, $2 now, $3 sessions. A turn that nobody ran, but one of
/// whose steps had started, is a suspect too.
const REQUEUE: &str = concat!(
    "WITH suspects AS (
    UPDATE turn SET suspect = true WHERE ended_at IS NULL AND status <> 'running'
        AND session_id = ANY($3) AND turn_id IN (
            SELECT p.turn_id FROM turn_step p
            WHERE p.settled_at IS NULL AND p.status = 'started' AND ",
    left_behind!("p"),
    ")
), requeued AS (
    UPDATE turn t SET status = 'queued', suspect = true,
        deaths = deaths + CASE WHEN suspect THEN 1 ELSE 0 END,
        owner = NULL, lease_until = NULL, epoch = epoch + 1, ready_at = $2
    WHERE session_id = ANY($3) AND status = 'running' AND ",
    left_behind!("t"),
    " RETURNING 1
)
SELECT count(*) FROM requeued"
);

/// $1 whether everything is this process's, $2 sessions. The sessions' epochs pass, whoever held them.
const PASS: &str = "
UPDATE session_envelopes SET epoch = epoch + 1
WHERE ($1 OR session_id = ANY($2))
    AND session_id IN (SELECT session_id FROM turn WHERE ended_at IS NULL)";

/// However much is left behind, it is taken over in one go.
const PATIENT: &str = "SET LOCAL statement_timeout = 0";

/// Queues every running turn as a suspect, and settles every started step by its effect class: all of
/// them if this process is alone, else only those of a lone owner that had the store before.
pub(super) async fn inherit(
    connection: &mut PgConnection,
    terms: Terms,
) -> Result<Inherited, Fault> {
    let alone = terms.bus_is_local;
    query(PATIENT).execute(&mut *connection).await?;
    let left: BTreeSet<SessionId> = one(query(LEFT).bind(alone), connection).await?;
    let mut log = sessions::hold(connection, left.iter().copied()).await?;
    let ids: Vec<uuid::Uuid> = left.iter().map(|session| session.0).collect();
    let requeue = sqlx::query_scalar::<_, i64>(REQUEUE);
    let requeue = requeue.bind(alone).bind(micros(terms.now)).bind(ids.clone());
    let turns = requeue.fetch_one(&mut *connection).await?;
    query(PASS).bind(alone).bind(ids).execute(&mut *connection).await?;
    let started = in_order(query(STARTED_BEFORE).bind(alone), connection).await?;
    let lost = lose(connection, terms, &mut log, &started).await?;
    let count = |fate| lost.iter().filter(|status| **status == fate).count();
    Ok(Inherited {
        turns: super::row::count(turns),
        steps_again: u64::try_from(count(StepStatus::Requested)).unwrap_or(u64::MAX),
        steps_unknown: u64::try_from(count(StepStatus::Unknown)).unwrap_or(u64::MAX),
    })
}

/// A started step with its turn.
#[derive(Debug, serde::Deserialize)]
pub(super) struct Started {
    pub(super) step: StepRow,
    pub(super) turn: TurnRow,
}

/// A started step `p` with its turn `t`, as one JSON object.
macro_rules! started {
    ($which:expr) => {
        concat!(
            "SELECT coalesce(json_agg(json_build_object('step', ",
            step_json!(),
            ", 'turn', ",
            turn_json!(),
            ")), '[]')::text FROM turn_step p JOIN turn t ON t.turn_id = p.turn_id WHERE ",
            $which
        )
    };
}

/// $1 owner
pub(super) const STARTED_BY: &str =
    started!("p.settled_at IS NULL AND p.status = 'started' AND p.owner = $1");

/// $1 whether everything is this process's
const STARTED_BEFORE: &str =
    started!(concat!("p.settled_at IS NULL AND p.status = 'started' AND ", left_behind!("p")));

/// Reads steps with their turns in the order of journaling.
pub(super) async fn in_order(
    steps: Query,
    connection: &mut PgConnection,
) -> Result<Vec<Started>, Fault> {
    let mut found: Vec<Started> = one(steps, connection).await?;
    found.sort_by_key(|found| found.step.id);
    Ok(found)
}

/// $1 steps, $2 now. The epoch passes.
const LOSE: &str = "
UPDATE turn_step p SET status = r.status, result = r.result, owner = NULL, lease_until = NULL,
    epoch = p.epoch + 1, settled_at = CASE WHEN r.status = 'requested' THEN NULL ELSE $2 END
FROM jsonb_to_recordset($1::jsonb) AS r(id bigint, status text, result text)
WHERE p.id = r.id";

#[derive(Debug, Serialize)]
struct LostRow {
    id: i64,
    status: StepStatus,
    result: String,
}

/// Treats started steps as lost, each by its effect class; returns what became of those whose turn
/// goes on. The others get no event: the terminal one is a turn's last. Their sessions are held, `log` is
/// theirs.
pub(super) async fn lose(
    connection: &mut PgConnection,
    terms: Terms,
    log: &mut Log,
    started: &[Started],
) -> Result<Vec<StepStatus>, Fault> {
    if started.is_empty() {
        return Ok(Vec::new());
    }
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
                rows.push(LostRow { id: step.id, status: fate, result: "null".to_owned() });
                continue;
            }
        };
        if !over {
            tell(log, &mut records, step, place, &outcome)?;
        }
        rows.push(LostRow { id: step.id, status: fate, result: json(&outcome)? });
    }
    log.write(connection, terms).await?;
    log::send(connection, terms, &records).await?;
    query(LOSE).bind(sent(&rows)?).bind(micros(terms.now)).execute(connection).await?;
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
