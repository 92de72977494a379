//! The rows, as far as the port's own types do not say everything.

use std::collections::BTreeSet;

use chrono::{DateTime, Utc};

use crate::{
    ids::{Owner, TenantId, TurnId},
    memory::MemoryWrite,
    port::{
        bus::OutboxRow,
        store::{DeadLetter, Page, Session, StoreError, StoreResult},
    },
    topic::Group,
    turn::{Step, Turn},
};

/// A row of `session`.
#[derive(Debug, Clone)]
pub(super) struct SessionRow {
    /// `unfinished` is computed when it is read.
    pub(super) session: Session,
    /// Bumped by each claim.
    pub(super) epoch: u64,
    /// Who runs a turn of it.
    pub(super) owner: Option<Owner>,
    /// The turn that runs.
    pub(super) running: Option<TurnId>,
    /// Since when no turn before the lowest one stands in its way.
    pub(super) free_since: DateTime<Utc>,
    /// Whether it was deleted.
    pub(super) deleted: bool,
}

/// A row of `turn`.
#[derive(Debug, Clone)]
pub(super) struct TurnRow {
    /// What the port shows.
    pub(super) turn: Turn,
    /// Who wrote the message.
    pub(super) subject: String,
    /// The persona of the message.
    pub(super) persona_id: Option<String>,
    /// Not claimable before.
    pub(super) not_before: Option<DateTime<Utc>>,
    /// Since when it is queued, or not to wait any longer.
    pub(super) ready_at: DateTime<Utc>,
    /// Whether the process died while it ran.
    pub(super) suspect: bool,
    /// The epoch under which it runs, or under which its owner has ended it.
    pub(super) epoch: Option<u64>,
    /// Work of earlier claims.
    pub(super) worked_before: u64,
    /// When it ended.
    pub(super) ended_at: Option<DateTime<Utc>>,
}

/// A row of `turn_step`.
#[derive(Debug, Clone)]
pub(super) struct StepRow {
    /// What the port shows.
    pub(super) step: Step,
    /// Who runs it.
    pub(super) owner: Option<Owner>,
    /// The order of journaling.
    pub(super) place: u64,
}

/// A row of `message_outbox`.
#[derive(Debug, Clone)]
pub(super) struct OutboxEntry {
    /// What the port shows.
    pub(super) row: OutboxRow,
    /// Whose it is.
    pub(super) tenant: Option<TenantId>,
    /// The groups of a local bus that have it.
    pub(super) acknowledged: BTreeSet<Group>,
}

/// A row of `memory_write_outbox`.
#[derive(Debug, Clone)]
pub(super) struct WriteRow {
    /// The write, with its version.
    pub(super) write: MemoryWrite,
    /// Deliveries tried so far.
    pub(super) attempts: u32,
    /// Not to be delivered before.
    pub(super) not_before: DateTime<Utc>,
    /// When it was written.
    pub(super) created_at: DateTime<Utc>,
}

/// A row of `memory_replica`; a tombstone where its write is a delete.
#[derive(Debug, Clone)]
pub(super) struct ReplicaRow {
    /// The newest write.
    pub(super) write: MemoryWrite,
    /// When it was applied.
    pub(super) applied_at: DateTime<Utc>,
}

/// A row of `dlq_messages`.
#[derive(Debug, Clone)]
pub(super) struct LetterRow {
    /// What the port shows.
    pub(super) letter: DeadLetter,
    /// What a replay puts back.
    pub(super) source: Source,
}

/// What a replay of a dead letter puts back.
#[derive(Debug, Clone)]
pub(super) enum Source {
    /// The turn is queued.
    Turn(TurnId),
    /// The memory write waits.
    Write(MemoryWrite),
    /// The outbox row waits.
    Row(OutboxEntry),
    /// Nothing: a foreign record.
    Buried,
}

/// A used idempotency key.
#[derive(Debug, Clone)]
pub(super) struct KeyRow<T> {
    /// The hash of the body.
    pub(super) body_hash: String,
    /// The answer.
    pub(super) answer: T,
    /// When it was used first.
    pub(super) created_at: DateTime<Utc>,
}

/// Cuts a page from rows that begin where it begins.
pub(super) fn page<T>(mut rows: Vec<T>, limit: u32, cursor_of: impl Fn(&T) -> String) -> Page<T> {
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let more = rows.len() > limit;
    rows.truncate(limit);
    let next_cursor = rows.last().filter(|_| more).map(cursor_of);
    Page { items: rows, next_cursor }
}

/// Reads a cursor.
pub(super) fn parse<T: std::str::FromStr>(cursor: Option<&str>) -> StoreResult<Option<T>> {
    let bad = |text: &str| StoreError::Refused(format!("`{text}` is not a cursor"));
    cursor.map(|text| text.parse().map_err(|_malformed| bad(text))).transpose()
}
