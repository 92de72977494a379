//! Ending turns: one terminal event per (turn, replay), and everything that follows from it, in one
//! transaction that is conditional on the turn's epoch.

use std::collections::{BTreeMap, HashMap, HashSet};

use serde::Serialize;
use soma_contract::{
    Event, EventId, EventType, SessionId, TenantId, TurnId,
    port::store::{Appended, Ending, NewDeadLetter, StoreError, StoreResult},
    turn::TurnStatus,
};
use sqlx::{SqliteConnection, query};

use super::{
    claim::with_more,
    dead_letter,
    fault::Fault,
    log::Log,
    memory_write,
    row::{TurnRow, array, documents, hex, json, micros, parse, turn_json},
    work::{Operation, Terms},
};

/// $1: `[turn, …]`: the turns, and where the logs of their sessions end.
const READ: &str = concat!(
    "SELECT json_group_array(",
    turn_json!(),
    ") FROM json_each($1) e CROSS JOIN turn t ON t.turn_id = unhex(e.value);

SELECT json_group_array(json_array(hex(s.session_id), s.last_seq))
FROM json_each($1) e CROSS JOIN turn t ON t.turn_id = unhex(e.value)
CROSS JOIN session_envelopes s ON s.session_id = t.session_id;"
);

/// $1: `[session, …]`
const HEADS: &str = "
SELECT json_group_array(json_array(hex(s.session_id), s.last_seq))
FROM json_each($1) e CROSS JOIN session_envelopes s ON s.session_id = unhex(e.value)";

/// $1 turns, $2 use, $3 now, $4 result of withdrawn steps
const WRITE: &str = "
UPDATE turn SET status = r.status, reason = r.reason, end_seq = r.end_seq, ended_at = $3,
    not_before = NULL, waiting_since = NULL
FROM (SELECT e.value->>0 AS id, e.value->>2 AS status, e.value->>3 AS reason,
             e.value->>4 AS end_seq FROM json_each($1) e) r
WHERE turn.id = r.id;

UPDATE session_envelopes SET freed_at = $3
FROM (SELECT unhex(e.value->>5) AS session_id FROM json_each($1) e) r
WHERE session_envelopes.session_id = r.session_id;

DELETE FROM message_outbox WHERE effect_id IN (
    SELECT p.effect_id FROM json_each($1) e
    CROSS JOIN turn_step p ON p.turn_id = unhex(e.value->>1) AND p.status = 'requested')
AND session_id IN (SELECT unhex(e.value->>5) FROM json_each($1) e) AND topic = 'tool.requests';

UPDATE turn_step SET status = 'withdrawn', result = $4, settled_at = $3
WHERE turn_id IN (SELECT unhex(e.value->>1) FROM json_each($1) e) AND status = 'requested';

INSERT INTO token_use (tenant, day, input_tokens, output_tokens)
SELECT e.value->>0, e.value->>1, e.value->>2, e.value->>3 FROM json_each($2) e WHERE true
ON CONFLICT (tenant, day) DO UPDATE SET input_tokens = input_tokens + excluded.input_tokens,
    output_tokens = output_tokens + excluded.output_tokens;
";

/// Ends a turn.
#[derive(Debug)]
pub(super) struct End {
    pub(super) turn_id: TurnId,
    pub(super) epoch: u64,
    pub(super) ending: Ending,
}

/// Reads where the logs of these sessions end.
pub(super) async fn heads(
    connection: &mut SqliteConnection,
    sessions: &HashSet<SessionId>,
) -> Result<Log, Fault> {
    let named: Vec<String> = sessions.iter().map(|session| hex(session.0)).collect();
    let rows = array(query(HEADS).bind(json(&named)?), connection).await?;
    Ok(log_of(rows))
}

fn log_of(heads: Vec<(SessionId, u64)>) -> Log {
    let mut log = Log::default();
    for (session, last_seq) in heads {
        log.know(session, last_seq);
    }
    log
}

/// Reads the turns that are to end, and where their sessions' logs end.
async fn read(
    connection: &mut SqliteConnection,
    requests: &[End],
) -> Result<(HashMap<TurnId, TurnRow>, Log), Fault> {
    let ids: Vec<String> = requests.iter().map(|request| hex(request.turn_id.0)).collect();
    let found = documents(query(READ).bind(json(&ids)?), connection).await?;
    let mut found = found.iter().map(String::as_str);
    let turns: Vec<TurnRow> = parse(found.next().unwrap_or("[]"))?;
    let log = log_of(parse(found.next().unwrap_or("[]"))?);
    Ok((turns.into_iter().map(|turn| (turn.turn_id, turn)).collect(), log))
}

impl Operation for End {
    type Answer = Appended;

    const NAME: &'static str = "end";

    async fn run(
        connection: &mut SqliteConnection,
        terms: Terms,
        requests: &[Self],
    ) -> Result<Vec<StoreResult<Appended>>, Fault> {
        let (turns, log) = read(connection, requests).await?;
        let sessions: HashSet<SessionId> = turns.values().map(|turn| turn.session_id).collect();
        let mut endings = Endings::onto(log);
        let mut places = Vec::with_capacity(requests.len());
        for request in requests {
            places.push(match turns.get(&request.turn_id) {
                Some(turn) => endings.end(turn, request, terms)?,
                None => Err(StoreError::Fenced),
            });
        }
        endings.write(connection, terms).await?;
        let more = with_more(connection, terms, &sessions).await?;
        Ok(places
            .into_iter()
            .map(|place| {
                place.map(|(session, seq)| Appended { seq, more: more.contains(&session) })
            })
            .collect())
    }
}

/// Everything that endings write together.
#[derive(Debug, Default)]
pub(super) struct Endings<'e> {
    log: Log,
    ended: HashMap<TurnId, u64>,
    rows: Vec<EndedRow>,
    used: BTreeMap<(&'e TenantId, String), (u64, u64)>,
    memory: Vec<soma_contract::memory::MemoryWrite>,
    letters: Vec<&'e NewDeadLetter>,
}

/// Row, turn, status, reason, seq of the terminal event, session.
#[derive(Debug, Serialize)]
struct EndedRow(i64, String, TurnStatus, Option<String>, u64, String);

type Place = Result<(SessionId, u64), StoreError>;

impl<'e> Endings<'e> {
    /// Begins with the logs that the terminal events go to.
    pub(super) fn onto(log: Log) -> Self {
        Self { log, ..Self::default() }
    }

    /// Takes one ending in; answers a repetition with what is stored.
    fn end(&mut self, turn: &'e TurnRow, request: &'e End, terms: Terms) -> Result<Place, Fault> {
        let ending = &request.ending;
        if let Some(&seq) = self.ended.get(&turn.turn_id) {
            return Ok(Ok((turn.session_id, seq)));
        }
        if turn.status.is_over() && turn.epoch == request.epoch {
            return Ok(turn.end_seq.map(|seq| (turn.session_id, seq)).ok_or(StoreError::Fenced));
        }
        if !turn.runs(request.epoch) {
            return Ok(Err(StoreError::Fenced));
        }
        if let Err(error) = agrees(turn, ending) {
            return Ok(Err(error));
        }
        let seq = self.add(turn, ending.event.clone(), ending.status, ending.reason.clone())?;
        if ending.usage.total() > 0 {
            let day = terms.now.format("%F").to_string();
            let used = self.used.entry((&turn.tenant, day)).or_default();
            used.0 += ending.usage.input_tokens;
            used.1 += ending.usage.output_tokens;
        }
        self.memory.extend(ending.memory.iter().cloned());
        self.letters.extend(&ending.dead_letter);
        Ok(Ok((turn.session_id, seq)))
    }

    /// Adds the end of a turn with its terminal event; returns the event's place.
    pub(super) fn add(
        &mut self,
        turn: &TurnRow,
        event: Event,
        status: TurnStatus,
        reason: Option<String>,
    ) -> Result<u64, Fault> {
        let seq =
            self.log.append(Event { turn_id: Some(turn.turn_id), n: Some(turn.n), ..event })?;
        let (turn_id, session_id) = (hex(turn.turn_id.0), hex(turn.session_id.0));
        self.rows.push(EndedRow(turn.id, turn_id, status, reason, seq, session_id));
        self.ended.insert(turn.turn_id, seq);
        Ok(seq)
    }

    /// Writes everything.
    pub(super) async fn write(
        &self,
        connection: &mut SqliteConnection,
        terms: Terms,
    ) -> Result<(), Fault> {
        if self.rows.is_empty() {
            return Ok(());
        }
        self.log.write(connection, terms).await?;
        let used: Vec<_> = self
            .used
            .iter()
            .map(|((tenant, day), (input, output))| (tenant, day, input, output))
            .collect();
        query(WRITE)
            .bind(json(&self.rows)?)
            .bind(json(&used)?)
            .bind(micros(terms.now))
            .bind(json(&soma_contract::compose::withdrawn())?)
            .execute(&mut *connection)
            .await?;
        memory_write::enqueue(connection, terms, &self.memory).await?;
        dead_letter::bury(connection, terms, &self.letters).await
    }
}

/// Checks that status, event type and event id of an ending say the same.
fn agrees(turn: &TurnRow, ending: &Ending) -> Result<(), StoreError> {
    let event_type = match ending.status {
        TurnStatus::Done => EventType::Final,
        TurnStatus::Failed => EventType::Error,
        TurnStatus::Cancelled => EventType::Cancelled,
        other => {
            return Err(StoreError::Refused(format!("`{}` is not an end", other.as_str())));
        }
    };
    let expected = EventId::terminal(turn.turn_id, turn.replay);
    if ending.event.event_type != event_type
        || ending.event.event_id != expected
        || ending.event.session_id != turn.session_id
    {
        return Err(StoreError::Refused(format!(
            "`{}` `{}` does not end turn `{}` as `{}`",
            ending.event.event_type.as_str(),
            ending.event.event_id,
            turn.turn_id,
            ending.status.as_str()
        )));
    }
    Ok(())
}
