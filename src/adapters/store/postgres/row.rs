//! Rows as JSON documents. A round trip costs more than most statements, so a statement returns all
//! its rows as JSON arrays, and takes its input rows as one (`jsonb_to_recordset`).

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use soma_contract::{
    EffectId, EventId, SessionId, TenantId, TurnId,
    decide::Candidate,
    event::TraceContext,
    port::store::StoreError,
    tool::Effect,
    turn::{Step, StepKind, StepStatus, Tries, Turn, TurnKind, TurnStatus},
};
use sqlx::{
    PgConnection, Postgres, Row,
    postgres::{PgArguments, PgRow},
};

use super::{fault::Fault, text};

/// A query with its arguments, on its way.
pub(super) type Query = sqlx::query::Query<'static, Postgres, PgArguments>;

/// Returns the first column of every row.
pub(super) async fn documents(
    query: Query,
    connection: &mut PgConnection,
) -> Result<Vec<String>, Fault> {
    let rows = query.fetch_all(connection).await?;
    rows.iter().map(|row| document(row, 0)).collect()
}

/// Returns a column that holds a JSON document.
pub(super) fn document(row: &PgRow, column: usize) -> Result<String, Fault> {
    Ok(text::restored(get::<String>(row, column)?))
}

/// Returns the one JSON document that the query gives.
pub(super) async fn one<T: DeserializeOwned>(
    query: Query,
    connection: &mut PgConnection,
) -> Result<T, Fault> {
    parse(&document(&query.fetch_one(connection).await?, 0)?)
}

/// Returns the JSON document of the first row, if there is any.
pub(super) async fn optional<T: DeserializeOwned>(
    query: Query,
    connection: &mut PgConnection,
) -> Result<Option<T>, Fault> {
    let Some(row) = query.fetch_optional(connection).await? else { return Ok(None) };
    Ok(Some(parse(&document(&row, 0)?)?))
}

/// Parses a document that this program wrote.
pub(super) fn parse<T: DeserializeOwned>(json: &str) -> Result<T, Fault> {
    Ok(serde_json::from_str(json)?)
}

/// Returns a value as JSON text, to stand in a column as it is or within a row.
pub(super) fn json<T: Serialize + ?Sized>(value: &T) -> Result<String, Fault> {
    Ok(serde_json::to_string(value)?)
}

/// Returns a value as JSON text that is an argument: rows, or the document of a column.
pub(super) fn sent<T: Serialize + ?Sized>(value: &T) -> Result<String, Fault> {
    json(value).map(text::kept_json)
}

/// Returns a column.
pub(super) fn get<'r, T>(row: &'r PgRow, column: usize) -> Result<T, Fault>
where
    T: sqlx::Decode<'r, Postgres> + sqlx::Type<Postgres>,
{
    Ok(row.try_get(column)?)
}

/// Returns a time as its column keeps it.
pub(super) fn micros(time: DateTime<Utc>) -> i64 {
    time.timestamp_micros()
}

/// Reads a time from its column.
pub(super) fn time(micros: i64) -> DateTime<Utc> {
    DateTime::from_timestamp_micros(micros).unwrap_or_default()
}

/// Returns a count as its column keeps it.
pub(super) fn integer(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

/// Reads a count from its column.
pub(super) fn count(column: i64) -> u64 {
    u64::try_from(column).unwrap_or(0)
}

/// Tells that stored data is not what this program writes.
pub(super) fn refused(error: &dyn std::fmt::Display) -> Fault {
    Fault::Outcome(StoreError::Refused(error.to_string()))
}

/// The columns of a [`TurnRow`] of `turn t`, as one JSON object.
macro_rules! turn_json {
    () => {
        "json_build_object('id',t.id,'turn_id',t.turn_id,'session_id',t.session_id,\
         'tenant',t.tenant,'subject',t.subject,'persona_id',t.persona_id,'n',t.n,'kind',t.kind,\
         'status',t.status,'attempts',t.attempts,'panics',t.panics,'deaths',t.deaths,\
         'suspect',t.suspect,'replay',t.replay,'event_id',t.event_id,\
         'end_seq',t.end_seq,'reason',t.reason,'waiting_since',t.waiting_since,\
         'not_before',t.not_before,'cancel_requested',t.cancel_requested,\
         'worked_ms',t.worked_ms,'epoch',t.epoch,'created_at',t.created_at,'trace',t.trace)"
    };
}

/// A row of `turn`.
#[derive(Debug, Deserialize)]
pub(super) struct TurnRow {
    pub(super) id: i64,
    pub(super) turn_id: TurnId,
    pub(super) session_id: SessionId,
    pub(super) tenant: TenantId,
    pub(super) subject: String,
    pub(super) persona_id: Option<String>,
    pub(super) n: u64,
    kind: TurnKind,
    pub(super) status: TurnStatus,
    attempts: u32,
    panics: u32,
    deaths: u32,
    pub(super) suspect: bool,
    pub(super) replay: u32,
    pub(super) event_id: EventId,
    pub(super) end_seq: Option<u64>,
    reason: Option<String>,
    pub(super) waiting_since: Option<i64>,
    pub(super) not_before: Option<i64>,
    pub(super) cancel_requested: bool,
    worked_ms: u64,
    pub(super) epoch: u64,
    created_at: i64,
    trace: String,
}

impl TurnRow {
    pub(super) const fn tries(&self) -> Tries {
        Tries { attempts: self.attempts, panics: self.panics, deaths: self.deaths }
    }

    /// Returns whether its owner of that epoch still runs it.
    pub(super) fn runs(&self, epoch: u64) -> bool {
        self.status == TurnStatus::Running && self.epoch == epoch
    }

    /// Returns what decides whether it may be claimed.
    pub(super) fn candidate(&self, leased: bool) -> Candidate {
        Candidate {
            status: self.status,
            not_before: self.not_before.map(time),
            suspect: self.suspect,
            leased,
        }
    }

    /// Returns it as the port knows it.
    pub(super) fn turn(&self) -> Result<Turn, Fault> {
        Ok(Turn {
            turn_id: self.turn_id,
            session_id: self.session_id,
            tenant: self.tenant.clone(),
            n: self.n,
            kind: self.kind,
            status: self.status,
            tries: self.tries(),
            replay: self.replay,
            event_id: self.event_id,
            reason: self.reason.clone(),
            waiting_since: self.waiting_since.map(time),
            cancel_requested: self.cancel_requested,
            worked_ms: self.worked_ms,
            created_at: time(self.created_at),
            trace: parse(&self.trace)?,
        })
    }
}

/// The columns of a [`StepRow`] of `turn_step p` of `turn t`, as one JSON object.
macro_rules! step_json {
    () => {
        "json_build_object('id',p.id,'effect_id',p.effect_id,'turn_id',t.turn_id,\
         'session_id',t.session_id,'tenant',t.tenant,'step',p.step,'place',p.place,\
         'kind',p.kind,'status',p.status,'effect',p.effect,'name',p.name,'call_id',p.call_id,\
         'input_hash',p.input_hash,'arguments',p.arguments,'result',p.result,'epoch',p.epoch,\
         'start_seq',p.start_seq,'trace',p.trace)"
    };
}

/// A row of `turn_step`.
#[derive(Debug, Deserialize)]
pub(super) struct StepRow {
    pub(super) id: i64,
    effect_id: EffectId,
    turn_id: TurnId,
    session_id: SessionId,
    tenant: TenantId,
    step: u32,
    place: u32,
    kind: StepKind,
    pub(super) status: StepStatus,
    pub(super) effect: Effect,
    name: String,
    call_id: String,
    input_hash: String,
    arguments: String,
    result: String,
    pub(super) epoch: u64,
    pub(super) start_seq: Option<u64>,
    trace: String,
}

impl StepRow {
    /// Returns it as the port knows it.
    pub(super) fn step(&self) -> Result<Step, Fault> {
        Ok(Step {
            effect_id: self.effect_id,
            turn_id: self.turn_id,
            session_id: self.session_id,
            tenant: self.tenant.clone(),
            step: self.step,
            index: self.place,
            kind: self.kind,
            status: self.status,
            effect: self.effect,
            name: self.name.clone(),
            call_id: self.call_id.clone(),
            input_hash: self.input_hash.clone(),
            arguments: parse(&self.arguments)?,
            result: parse(&self.result)?,
            epoch: self.epoch,
            trace: parse::<TraceContext>(&self.trace)?,
        })
    }
}

pub(super) use {step_json, turn_json};
