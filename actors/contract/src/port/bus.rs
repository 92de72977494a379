//! The bus: how work is spread, how other processes are woken, how outside systems read and write.

use std::{collections::BTreeMap, fmt, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use chrono::{DateTime, Utc};
use uuid::Uuid;

use crate::{
    ids::SessionId,
    kind::{Classified, Kind},
    topic::{Group, Topic},
};

/// A record to be written: a row of `message_outbox`.
#[derive(Debug, Clone, PartialEq)]
pub struct OutboxRow {
    /// Orders the rows of a session within a topic.
    pub id: i64,
    /// Where it goes.
    pub topic: Topic,
    /// The record's key: the session.
    pub session_id: SessionId,
    /// `tenant_id`, `session_id`, `persona_id`, `event_type`, `event_id`, `schema`, `n`, `seq`
    /// and the trace, as far as they apply.
    pub headers: BTreeMap<String, String>,
    /// UTF-8 JSON.
    pub payload: Bytes,
    /// When the row was written.
    pub created_at: DateTime<Utc>,
}

/// What became of a row that was handed to the bus.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Delivery {
    /// The bus has it durably: the row may go.
    Delivered,
    /// The row itself is the record and goes when every group has acknowledged it.
    InPlace,
    /// The bus will never take it (too large, malformed): a dead letter.
    Refused(String),
    /// It may or may not have it; stop this session's rows and load them again.
    Failed(String),
}

/// A record that was read.
#[derive(Debug, Clone, PartialEq)]
pub struct Record {
    /// Where it came from.
    pub topic: Topic,
    /// Where the bus keeps it, for the acknowledgement.
    pub position: Position,
    /// Its key, if it is one of ours.
    pub session_id: Option<SessionId>,
    /// Its headers, those that are UTF-8.
    pub headers: BTreeMap<String, String>,
    /// Anything at all: foreign writers owe us nothing.
    pub payload: Bytes,
}

impl Record {
    /// Returns the `event_id` header, if it is one.
    pub fn event_id(&self) -> Option<Uuid> {
        self.headers.get("event_id").and_then(|text| text.parse().ok())
    }
}

/// Where a bus keeps a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Position {
    /// The outbox row with this id is the record.
    Row(i64),
    /// A partition and an offset.
    Offset {
        /// The partition.
        partition: i32,
        /// The offset.
        offset: i64,
    },
}

/// Why the bus did not do what it was asked for; always passing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the bus is unavailable: {0}")]
pub struct BusError(
    /// What the vendor said.
    pub String,
);

impl Classified for BusError {
    fn kind(&self) -> Kind {
        Kind::Retry
    }
}

/// Writes records and hands out readers.
#[async_trait]
pub trait Bus: Send + Sync + fmt::Debug {
    /// Hands rows over in their order and tells what became of each, in the same order.
    ///
    /// At least once; first occurrences per session and topic in order.
    async fn publish(&self, rows: &[OutboxRow]) -> Vec<Delivery>;

    /// Joins a group; a new group starts at the earliest record.
    fn subscribe(&self, group: Group) -> Box<dyn Consumer>;

    /// Asks for news, for the health report.
    ///
    /// # Errors
    ///
    /// The bus does not answer.
    async fn ping(&self) -> Result<(), BusError>;
}

/// Reads the records of one group.
#[async_trait]
pub trait Consumer: Send + fmt::Debug {
    /// Returns at most `max` records, or none after `wait`. A record is returned again after a
    /// restart until it is acknowledged. Cancel-safe.
    ///
    /// # Errors
    ///
    /// The bus does not answer.
    async fn receive(&mut self, max: usize, wait: Duration) -> Result<Vec<Record>, BusError>;

    /// Acknowledges records whose effect is committed.
    ///
    /// # Errors
    ///
    /// The bus does not answer; the records will be read again.
    async fn acknowledge(&mut self, records: &[Record]) -> Result<(), BusError>;
}
