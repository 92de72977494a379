//! Claiming turns: who asked since the last commit is served in two calls.

use std::collections::{HashMap, HashSet};

use chrono::{DateTime, Utc};
use serde::Deserialize;
use soma_contract::{
    Owner, SessionId, TurnId,
    decide::{self, Candidate},
    port::store::{ClaimedTurn, StoreResult},
    turn::{Step, Tries, TurnStatus},
};
use sqlx::{SqliteConnection, query};

use super::{
    fault::Fault,
    row::{
        StepRow, TurnRow, documents, hex, json, micros, parse, refused, step_json, time, turn_json,
    },
    work::{Operation, Terms},
};

/// The lowest unfinished turn of each session `e.value` of $1.
macro_rules! lowest {
    () => {
        " FROM json_each($1) e
CROSS JOIN turn t ON t.id = (
    SELECT o.id FROM turn o
    WHERE o.session_id = unhex(e.value) AND o.ended_at IS NULL ORDER BY o.n LIMIT 1) "
    };
}

/// Whether any turn of the session of `t` runs: a replay may be lower than the one that does.
macro_rules! leased {
    () => {
        "EXISTS (SELECT 1 FROM turn r WHERE r.session_id = t.session_id AND r.ended_at IS NULL \
         AND r.status = 'running')"
    };
}

/// $1: `[session, …]`
const READ: &str = concat!(
    "SELECT json_group_array(json_object('turn', ",
    turn_json!(),
    ", 'leased', ",
    leased!(),
    ", 'epoch', s.epoch, 'event', v.payload))",
    lowest!(),
    "CROSS JOIN session_envelopes s ON s.session_id = t.session_id
CROSS JOIN session_events v ON v.session_id = t.session_id AND v.seq = t.seq;

SELECT json_group_array(",
    step_json!(),
    ")",
    lowest!(),
    "CROSS JOIN turn_step p ON p.turn_id = t.turn_id;

SELECT json_array(count(*)) FROM turn WHERE status = 'running' AND suspect = 1;"
);

/// $1: `[[turn, session, epoch, owner], …]`, $2 whether outbox rows are the records
const WRITE: &str = "
UPDATE session_envelopes SET epoch = r.epoch
FROM (SELECT unhex(e.value->>1) AS session_id, e.value->>2 AS epoch FROM json_each($1) e) r
WHERE session_envelopes.session_id = r.session_id;

UPDATE turn SET status = 'running', attempts = attempts + 1, epoch = r.epoch, owner = r.owner,
    worked_before_ms = worked_ms, not_before = NULL, reason = NULL
FROM (SELECT e.value->>0 AS id, e.value->>2 AS epoch, e.value->>3 AS owner
      FROM json_each($1) e) r
WHERE turn.id = r.id;

DELETE FROM message_outbox WHERE $2 AND topic = 'conversation.inbound'
    AND session_id IN (SELECT unhex(e.value->>1) FROM json_each($1) e);
";

/// Asks for the lowest unfinished turn of a session.
#[derive(Debug)]
pub(super) struct Claim {
    pub(super) owner: Owner,
    pub(super) session_id: SessionId,
}

#[derive(Debug, Deserialize)]
struct Found {
    turn: TurnRow,
    #[serde(deserialize_with = "super::row::flag")]
    leased: bool,
    epoch: u64,
    event: String,
}

impl Operation for Claim {
    type Answer = Option<ClaimedTurn>;

    const NAME: &'static str = "claim";

    async fn run(
        connection: &mut SqliteConnection,
        terms: Terms,
        requests: &[Self],
    ) -> Result<Vec<StoreResult<Self::Answer>>, Fault> {
        let sessions: HashSet<String> =
            requests.iter().map(|claim| hex(claim.session_id.0)).collect();
        let found = documents(query(READ).bind(json(&sessions)?), connection).await?;
        let mut found = found.iter().map(String::as_str);
        let mut next = || found.next().unwrap_or("[]");
        let mut turns: HashMap<SessionId, Found> = parse::<Vec<Found>>(next())?
            .into_iter()
            .map(|found| (found.turn.session_id, found))
            .collect();
        let mut journals = journals(parse(next())?)?;
        let mut suspect_runs = parse::<[u64; 1]>(next())? != [0];
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
            rows.push((found.turn.id, hex(request.session_id.0), epoch, &request.owner));
            let journal = journals.remove(&found.turn.turn_id).unwrap_or_default();
            answers.push(Ok(Some(claim(&found, epoch, journal)?)));
        }
        if !rows.is_empty() {
            let write = query(WRITE).bind(json(&rows)?).bind(terms.bus_is_local);
            write.execute(connection).await?;
        }
        Ok(answers)
    }
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

/// $1: `[session, …]`
const NEXT: &str = concat!(
    "SELECT json_group_array(json_array(hex(t.session_id), t.status, t.not_before, t.suspect, ",
    leased!(),
    "))",
    lowest!(),
    ";
SELECT json_array(count(*)) FROM turn WHERE status = 'running' AND suspect = 1;"
);

/// Returns which of these sessions have a turn that may be claimed now.
pub(super) async fn with_more(
    connection: &mut SqliteConnection,
    terms: Terms,
    sessions: &HashSet<SessionId>,
) -> Result<HashSet<SessionId>, Fault> {
    type Row = (SessionId, TurnStatus, Option<i64>, u8, u8);
    let named: Vec<String> = sessions.iter().map(|session| hex(session.0)).collect();
    let found = documents(query(NEXT).bind(json(&named)?), connection).await?;
    let mut found = found.iter().map(String::as_str);
    let rows: Vec<Row> = parse(found.next().unwrap_or("[]"))?;
    let suspect_runs = parse::<[u64; 1]>(found.next().unwrap_or("[0]"))? != [0];
    Ok(rows
        .into_iter()
        .filter(|&(_, status, not_before, suspect, leased)| {
            let candidate = Candidate {
                status,
                not_before: not_before.map(time),
                suspect: suspect != 0,
                leased: leased != 0,
            };
            decide::may_claim(&candidate, terms.now, suspect_runs)
        })
        .map(|(session, ..)| session)
        .collect())
}

/// $1 since when at the latest, $2 limit
const CLAIMABLE: &str = concat!(
    "SELECT hex(t.session_id)
FROM turn t JOIN session_envelopes s ON s.session_id = t.session_id
WHERE t.ended_at IS NULL AND t.status IN ('queued', 'waiting')
    AND max(t.ready_at, s.freed_at, coalesce(t.not_before, 0)) <= $1
    AND t.n = (SELECT min(o.n) FROM turn o
               WHERE o.session_id = t.session_id AND o.ended_at IS NULL)
    AND NOT ",
    leased!(),
    " AND (t.suspect = 0
         OR NOT EXISTS (SELECT 1 FROM turn x WHERE x.status = 'running' AND x.suspect = 1))
ORDER BY max(t.ready_at, s.freed_at, coalesce(t.not_before, 0)) LIMIT $2 + 0"
);

/// Returns sessions whose lowest unfinished turn has been claimable since `before`, longest first.
pub(super) async fn claimable(
    connection: &mut SqliteConnection,
    before: DateTime<Utc>,
    limit: u32,
) -> Result<Vec<SessionId>, Fault> {
    let rows = documents(query(CLAIMABLE).bind(micros(before)).bind(limit), connection).await?;
    rows.iter()
        .map(|session| session.parse().map_err(|error: uuid::Error| refused(&error)))
        .collect()
}
