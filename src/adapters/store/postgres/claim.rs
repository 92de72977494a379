//! Claiming turns: who asked since the last commit is served together.

use std::collections::{BTreeSet, HashMap, HashSet};

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use soma_contract::{
    Owner, SessionId, TurnId,
    decide::{self, Candidate},
    port::store::{ClaimedTurn, StoreResult},
    turn::{Step, Tries, TurnStatus},
};
use sqlx::{PgConnection, query, query_scalar};

use super::{
    engine::Terms,
    fault::Fault,
    lane::Operation,
    row::{StepRow, TurnRow, document, micros, parse, refused, sent, step_json, time, turn_json},
    sessions,
};

/// Whether the lease of a running turn `r` lives.
macro_rules! lives {
    ($turn:literal, $lease:literal) => {
        concat!("NOT run_out(", $turn, ".lease_until, ", $lease, ")")
    };
}

/// The lowest unfinished turn `t` of each session of $1.
macro_rules! lowest {
    () => {
        " FROM unnest($1::uuid[]) e (session_id)
CROSS JOIN LATERAL (
    SELECT o.* FROM turn o
    WHERE o.session_id = e.session_id AND o.ended_at IS NULL ORDER BY o.n LIMIT 1) t "
    };
}

/// Whether any turn of the session of `t` runs: a replay may be lower than the one that does.
macro_rules! leased {
    ($lease:literal) => {
        concat!(
            "EXISTS (SELECT 1 FROM turn r WHERE r.session_id = t.session_id AND r.ended_at IS NULL \
             AND r.status = 'running' AND ",
            lives!("r", $lease),
            ")"
        )
    };
}

/// Whether a suspect runs, anywhere.
macro_rules! suspect_runs {
    ($lease:literal) => {
        concat!(
            "EXISTS (SELECT 1 FROM turn x WHERE x.status = 'running' AND x.suspect AND ",
            lives!("x", $lease),
            ")"
        )
    };
}

/// $1 sessions, $2 lease
const READ: &str = concat!(
    "SELECT (SELECT coalesce(json_agg(json_build_object('turn', ",
    turn_json!(),
    ", 'leased', ",
    leased!("$2"),
    ", 'epoch', s.epoch, 'event', v.payload)), '[]')",
    lowest!(),
    "JOIN session_envelopes s ON s.session_id = t.session_id
JOIN session_events v ON v.session_id = t.session_id AND v.seq = t.seq)::text,
(SELECT coalesce(json_agg(",
    step_json!(),
    "), '[]')",
    lowest!(),
    "JOIN turn_step p ON p.turn_id = t.turn_id)::text"
);

/// $1 rows, $2 owner's lease or null, $3 whether outbox rows are the records, $4 sessions
const WRITE: &str = "
WITH claim AS MATERIALIZED (
    SELECT * FROM jsonb_to_recordset($1::jsonb)
        AS r(id bigint, session_id uuid, epoch bigint, owner text)
), passed AS (
    UPDATE session_envelopes s SET epoch = r.epoch FROM claim r WHERE s.session_id = r.session_id
), acknowledged AS (
    DELETE FROM message_outbox
    WHERE $3 AND topic = 'conversation.inbound' AND session_id = ANY($4)
)
UPDATE turn t SET status = 'running', attempts = t.attempts + 1, epoch = r.epoch, owner = r.owner,
    lease_until = coalesce(now_us() + $2, 9223372036854775807),
    worked_before_ms = t.worked_ms, not_before = NULL, reason = NULL
FROM claim r WHERE t.id = r.id";

/// $1 sessions, $2 lease: turns whose owner is gone. A turn with which its owner has died is a
/// suspect, and its death counts if it was one before ([`decide::after_death`]).
const REQUEUE: &str = "
UPDATE turn SET status = 'queued', suspect = true,
    deaths = deaths + CASE WHEN suspect THEN 1 ELSE 0 END,
    owner = NULL, lease_until = NULL, epoch = epoch + 1
WHERE session_id = ANY($1) AND status = 'running' AND run_out(lease_until, $2)";

/// At most one suspect is claimed at a time, in all replicas: only tried, for who does not get it
/// comes again.
const SUSPECTS: &str = "SELECT pg_try_advisory_xact_lock(8318821000000003)";

/// $1 lease
const SUSPECT_RUNS: &str = concat!("SELECT ", suspect_runs!("$1"));

/// Asks for the lowest unfinished turn of a session.
#[derive(Debug)]
pub(super) struct Claim {
    pub(super) owner: Owner,
    pub(super) session_id: SessionId,
}

#[derive(Debug, Deserialize)]
struct Found {
    turn: TurnRow,
    leased: bool,
    epoch: u64,
    event: String,
}

#[derive(Debug, Serialize)]
struct ClaimRow<'c> {
    id: i64,
    session_id: SessionId,
    epoch: u64,
    owner: &'c Owner,
}

impl Operation for Claim {
    type Answer = Option<ClaimedTurn>;

    const NAME: &'static str = "claim";

    async fn run(
        connection: &mut PgConnection,
        terms: Terms,
        requests: &[Self],
    ) -> Result<Vec<StoreResult<Self::Answer>>, Fault> {
        let asked: BTreeSet<SessionId> = requests.iter().map(|claim| claim.session_id).collect();
        sessions::hold(connection, asked.iter().copied()).await?;
        requeue(connection, terms, &asked).await?;
        let (mut turns, mut journals) = read(connection, terms, &asked).await?;
        let any_suspect = turns.values().any(|found| found.turn.suspect);
        let mut suspect_runs = any_suspect && !may_claim_suspects(connection, terms).await?;
        let mut rows = Vec::new();
        let mut answers = Vec::with_capacity(requests.len());
        for request in requests {
            let claimed = turns.remove(&request.session_id).filter(|found| {
                decide::may_claim(&found.turn.candidate(found.leased), terms.now, suspect_runs)
            });
            let Some(found) = claimed else {
                answers.push(Ok(None));
                continue;
            };
            suspect_runs |= found.turn.suspect;
            let epoch = found.epoch + 1;
            let (id, session_id) = (found.turn.id, request.session_id);
            rows.push(ClaimRow { id, session_id, epoch, owner: &request.owner });
            let journal = journals.remove(&found.turn.turn_id).unwrap_or_default();
            answers.push(Ok(Some(claim(&found, epoch, journal)?)));
        }
        write(connection, terms, &rows).await?;
        Ok(answers)
    }
}

/// Queues what the leases of dead owners still cover in these sessions.
async fn requeue(
    connection: &mut PgConnection,
    terms: Terms,
    asked: &BTreeSet<SessionId>,
) -> Result<(), Fault> {
    let Some(lease) = terms.lease_us() else { return Ok(()) };
    let lost = query(REQUEUE).bind(ids(asked)).bind(lease).execute(connection).await?;
    if lost.rows_affected() > 0 {
        tracing::warn!(turns = lost.rows_affected(), "the leases of turns have run out");
    }
    Ok(())
}

fn ids<'s>(sessions: impl IntoIterator<Item = &'s SessionId>) -> Vec<uuid::Uuid> {
    sessions.into_iter().map(|session| session.0).collect()
}

type FoundTurns = (HashMap<SessionId, Found>, HashMap<TurnId, Vec<Step>>);

async fn read(
    connection: &mut PgConnection,
    terms: Terms,
    asked: &BTreeSet<SessionId>,
) -> Result<FoundTurns, Fault> {
    let rows = query(READ).bind(ids(asked)).bind(terms.lease_us().unwrap_or(0));
    let row = rows.fetch_one(connection).await?;
    let turns = parse::<Vec<Found>>(&document(&row, 0)?)?
        .into_iter()
        .map(|found| (found.turn.session_id, found))
        .collect();
    Ok((turns, journals(parse(&document(&row, 1)?)?)?))
}

async fn may_claim_suspects(connection: &mut PgConnection, terms: Terms) -> Result<bool, Fault> {
    if !query_scalar::<_, bool>(SUSPECTS).fetch_one(&mut *connection).await? {
        return Ok(false);
    }
    let runs = query_scalar::<_, bool>(SUSPECT_RUNS).bind(terms.lease_us().unwrap_or(0));
    Ok(!runs.fetch_one(connection).await?)
}

async fn write(
    connection: &mut PgConnection,
    terms: Terms,
    rows: &[ClaimRow<'_>],
) -> Result<(), Fault> {
    if rows.is_empty() {
        return Ok(());
    }
    query(WRITE)
        .bind(sent(rows)?)
        .bind(terms.lease_us())
        .bind(terms.bus_is_local)
        .bind(ids(rows.iter().map(|row| &row.session_id)))
        .execute(connection)
        .await?;
    Ok(())
}

fn claim(found: &Found, epoch: u64, journal: Vec<Step>) -> Result<ClaimedTurn, Fault> {
    let mut turn = found.turn.turn()?;
    turn.status = TurnStatus::Running;
    turn.reason = None;
    turn.tries = Tries { attempts: turn.tries.attempts.saturating_add(1), ..turn.tries };
    Ok(ClaimedTurn { turn, epoch, event: parse(&found.event)?, journal })
}

/// Groups steps by turn, each in (step, index) order.
pub(super) fn journals(rows: Vec<StepRow>) -> Result<HashMap<TurnId, Vec<Step>>, Fault> {
    let mut journals: HashMap<TurnId, Vec<Step>> = HashMap::new();
    for row in rows {
        let step = row.step()?;
        journals.entry(step.turn_id).or_default().push(step);
    }
    for steps in journals.values_mut() {
        steps.sort_by_key(|step| (step.step, step.index));
    }
    Ok(journals)
}

/// $1 sessions, $2 lease
const NEXT: &str = concat!(
    "SELECT (SELECT coalesce(json_agg(json_build_array(t.session_id, t.status, t.not_before, \
     t.suspect, ",
    leased!("$2"),
    ")), '[]')",
    lowest!(),
    ")::text, ",
    suspect_runs!("$2")
);

/// Returns which of these sessions have a turn that may be claimed now.
pub(super) async fn with_more(
    connection: &mut PgConnection,
    terms: Terms,
    sessions: &HashSet<SessionId>,
) -> Result<HashSet<SessionId>, Fault> {
    type Row = (SessionId, TurnStatus, Option<i64>, bool, bool);
    let rows = query(NEXT).bind(ids(sessions)).bind(terms.lease_us().unwrap_or(0));
    let row = rows.fetch_one(connection).await?;
    let suspect_runs = super::row::get(&row, 1)?;
    let rows: Vec<Row> = parse(&document(&row, 0)?)?;
    Ok(rows
        .into_iter()
        .filter(|&(_, status, not_before, suspect, leased)| {
            let not_before = not_before.map(time);
            let candidate = Candidate { status, not_before, suspect, leased };
            decide::may_claim(&candidate, terms.now, suspect_runs)
        })
        .map(|(session, ..)| session)
        .collect())
}

/// $1 since when at the latest, $2 limit, $3 lease. A turn whose lease has run out may be taken at
/// once.
const CLAIMABLE: &str = concat!(
    "SELECT t.session_id::text
FROM turn t JOIN session_envelopes s ON s.session_id = t.session_id
WHERE t.ended_at IS NULL
    AND (t.status = 'running' OR greatest(t.ready_at, s.freed_at, coalesce(t.not_before, 0)) <= $1)
    AND t.n = (SELECT min(o.n) FROM turn o
               WHERE o.session_id = t.session_id AND o.ended_at IS NULL)
    AND NOT ",
    leased!("$3"),
    " AND (NOT t.suspect AND t.status <> 'running' OR NOT ",
    suspect_runs!("$3"),
    ")
ORDER BY greatest(t.ready_at, s.freed_at, coalesce(t.not_before, 0)) LIMIT $2"
);

/// Returns sessions whose lowest unfinished turn has been claimable since `before`, longest first.
pub(super) async fn claimable(
    connection: &mut PgConnection,
    terms: Terms,
    before: DateTime<Utc>,
    limit: u32,
) -> Result<Vec<SessionId>, Fault> {
    let rows = query_scalar::<_, String>(CLAIMABLE)
        .bind(micros(before))
        .bind(i64::from(limit))
        .bind(terms.lease_us().unwrap_or(0));
    let rows = rows.fetch_all(connection).await?;
    rows.iter()
        .map(|session| session.parse().map_err(|error: uuid::Error| refused(&error)))
        .collect()
}
