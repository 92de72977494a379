//! Rows as JSON documents. A driver call costs far more than SQLite's own work, so a statement
//! returns all its rows as one JSON array, and takes its input rows as one.
//!
//! Parameters are written `$1`, not `?1`: the driver counts by number over all statements of one
//! query, and takes a number that a statement does not use for a nameless parameter; `$1` is a name.
//! Limits are written `LIMIT $1 + 0`: SQLite plans by the value of a limit that is just a parameter,
//! hence compiles the statement anew for each call.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Deserializer, Serialize, de::DeserializeOwned};
use serde_json::Value;
use soma_contract::{
    EffectId, EventId, SessionId, TenantId, TurnId,
    decide::Candidate,
    event::TraceContext,
    port::store::StoreError,
    tool::Effect,
    turn::{Step, StepKind, StepStatus, Tries, Turn, TurnKind, TurnStatus},
};
use sqlx::{Row, SqliteConnection, sqlite::SqliteRow};
use uuid::Uuid;

use super::fault::Fault;

/// A query with JSON or plain arguments, on its way.
pub(super) type Query = sqlx::query::Query<'static, sqlx::Sqlite, sqlx::sqlite::SqliteArguments>;

/// Returns the first column of every row of every statement of the query.
pub(super) async fn documents(
    query: Query,
    connection: &mut SqliteConnection,
) -> Result<Vec<String>, Fault> {
    let rows = query.fetch_all(connection).await?;
    rows.iter().map(|row| Ok(row.try_get::<String, _>(0)?)).collect()
}

/// Returns the one JSON array that the query gives.
pub(super) async fn array<T: DeserializeOwned>(
    query: Query,
    connection: &mut SqliteConnection,
) -> Result<Vec<T>, Fault> {
    let rows = documents(query, connection).await?;
    rows.first().map_or_else(|| Ok(Vec::new()), |json| parse(json))
}

/// Parses a document that this program wrote.
pub(super) fn parse<T: DeserializeOwned>(json: &str) -> Result<T, Fault> {
    Ok(serde_json::from_str(json)?)
}

/// Returns a value as JSON text.
pub(super) fn json<T: Serialize + ?Sized>(value: &T) -> Result<String, Fault> {
    Ok(serde_json::to_string(value)?)
}

/// Returns a column.
pub(super) fn get<'r, T>(row: &'r SqliteRow, column: usize) -> Result<T, Fault>
where
    T: sqlx::Decode<'r, sqlx::Sqlite> + sqlx::Type<sqlx::Sqlite>,
{
    Ok(row.try_get(column)?)
}

/// Returns an id as SQL's `unhex` reads it.
pub(super) fn hex(id: Uuid) -> String {
    id.simple().to_string()
}

/// Returns an id as the column keeps it.
pub(super) fn blob(id: Uuid) -> Vec<u8> {
    id.as_bytes().to_vec()
}

/// Reads an id from its column.
pub(super) fn id(blob: &[u8]) -> Result<Uuid, Fault> {
    Uuid::from_slice(blob).map_err(|error| refused(&error))
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

/// Returns the name that serde gives a plain enum's value.
pub(super) fn name<T: Serialize>(value: T) -> Result<String, Fault> {
    match serde_json::to_value(value)? {
        Value::String(name) => Ok(name),
        other => Err(refused(&other)),
    }
}

/// A truth value as SQLite keeps it.
pub(super) fn flag<'de, D: Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
    u8::deserialize(deserializer).map(|bit| bit != 0)
}

/// The columns of a [`TurnRow`] of `turn t`, as one JSON object.
macro_rules! turn_json {
    () => {
        "json_object('id',t.id,'turn_id',hex(t.turn_id),'session_id',hex(t.session_id),\
         'tenant',t.tenant,'subject',t.subject,'persona_id',t.persona_id,'n',t.n,'kind',t.kind,\
         'status',t.status,'attempts',t.attempts,'panics',t.panics,'deaths',t.deaths,\
         'suspect',t.suspect,'replay',t.replay,'event_id',hex(t.event_id),\
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
    #[serde(deserialize_with = "flag")]
    pub(super) suspect: bool,
    pub(super) replay: u32,
    pub(super) event_id: EventId,
    pub(super) end_seq: Option<u64>,
    reason: Option<String>,
    pub(super) waiting_since: Option<i64>,
    pub(super) not_before: Option<i64>,
    #[serde(deserialize_with = "flag")]
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
        "json_object('id',p.id,'effect_id',hex(p.effect_id),'turn_id',hex(t.turn_id),\
         'session_id',hex(t.session_id),'tenant',t.tenant,'step',p.step,'place',p.place,\
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
