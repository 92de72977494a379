//! Ending turns: one terminal event per (turn, replay), and everything that follows from it, in one
//! transaction that is conditional on the turn's epoch.

use std::collections::{BTreeMap, HashMap, HashSet};

use serde::Serialize;
use soma_contract::{
    Event, EventId, EventType, SessionId, TenantId, TurnId,
    port::store::{Appended, Ending, NewDeadLetter, StoreError, StoreResult},
    turn::TurnStatus,
};
use sqlx::{PgConnection, query};

use super::{
    claim::with_more,
    dead_letter,
    engine::Terms,
    fault::Fault,
    journal::turns,
    lane::Operation,
    log::Log,
    memory_write,
    row::{TurnRow, micros, sent},
    sessions,
};

/// $1 turns, $2 use, $3 now, $4 result of withdrawn steps
const WRITE: &str = "
WITH ending AS MATERIALIZED (
    SELECT * FROM jsonb_to_recordset($1::jsonb) AS r(id bigint, turn_id uuid, session_id uuid,
        status text, reason text, end_seq bigint)
), ended AS (
    UPDATE turn t SET status = r.status, reason = r.reason, end_seq = r.end_seq, ended_at = $3,
        not_before = NULL, waiting_since = NULL, lease_until = NULL
    FROM ending r WHERE t.id = r.id
), freed AS (
    UPDATE session_envelopes SET freed_at = $3
    WHERE session_id IN (SELECT session_id FROM ending)
), withdrawn AS (
    UPDATE turn_step SET status = 'withdrawn', result = $4, settled_at = $3
    WHERE turn_id IN (SELECT turn_id FROM ending) AND status = 'requested' RETURNING effect_id
), unsent AS (
    DELETE FROM message_outbox WHERE topic = 'tool.requests'
        AND session_id IN (SELECT session_id FROM ending)
        AND effect_id IN (SELECT effect_id FROM withdrawn)
)
INSERT INTO token_use AS u (tenant, day, input_tokens, output_tokens)
SELECT tenant, day, input_tokens, output_tokens
FROM jsonb_to_recordset($2::jsonb)
    AS r(tenant text, day text, input_tokens bigint, output_tokens bigint)
ORDER BY tenant, day
ON CONFLICT (tenant, day) DO UPDATE SET input_tokens = u.input_tokens + excluded.input_tokens,
    output_tokens = u.output_tokens + excluded.output_tokens";

/// Ends a turn.
#[derive(Debug)]
pub(super) struct End {
    pub(super) turn_id: TurnId,
    pub(super) epoch: u64,
    pub(super) ending: Ending,
}

impl Operation for End {
    type Answer = Appended;

    const NAME: &'static str = "end";

    async fn run(
        connection: &mut PgConnection,
        terms: Terms,
        requests: &[Self],
    ) -> Result<Vec<StoreResult<Appended>>, Fault> {
        let ids = || requests.iter().map(|request| request.turn_id);
        let log = sessions::hold_of_turns(connection, ids()).await?;
        let turns = turns(connection, ids()).await?;
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

/// A turn that ends; `end_seq` is the place of its terminal event.
#[derive(Debug, Serialize)]
struct EndedRow {
    id: i64,
    turn_id: TurnId,
    session_id: SessionId,
    status: TurnStatus,
    reason: Option<String>,
    end_seq: u64,
}

/// Tokens that a tenant used on a day.
#[derive(Debug, Serialize)]
struct UsedRow<'u> {
    tenant: &'u TenantId,
    day: &'u str,
    input_tokens: u64,
    output_tokens: u64,
}

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
        let (turn_id, session_id) = (turn.turn_id, turn.session_id);
        self.rows.push(EndedRow { id: turn.id, turn_id, session_id, status, reason, end_seq: seq });
        self.ended.insert(turn.turn_id, seq);
        Ok(seq)
    }

    /// Writes everything.
    pub(super) async fn write(
        &mut self,
        connection: &mut PgConnection,
        terms: Terms,
    ) -> Result<(), Fault> {
        if self.rows.is_empty() {
            return Ok(());
        }
        self.log.write(connection, terms).await?;
        let used: Vec<UsedRow<'_>> = self
            .used
            .iter()
            .map(|((tenant, day), &(input_tokens, output_tokens))| UsedRow {
                tenant,
                day,
                input_tokens,
                output_tokens,
            })
            .collect();
        query(WRITE)
            .bind(sent(&self.rows)?)
            .bind(sent(&used)?)
            .bind(micros(terms.now))
            .bind(sent(&soma_contract::compose::withdrawn())?)
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
