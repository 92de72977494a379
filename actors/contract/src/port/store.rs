//! The store: the truth. One trait per capability; [`Store`] is all of them.
//!
//! Every method is one transaction, durable when it returns. Methods that take an epoch are fenced:
//! they change nothing and return [`StoreError::Fenced`] when somebody else has taken over.

use std::{fmt, time::Duration};

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use uuid::Uuid;

use crate::{
    access::{ApiKey, StoredKey},
    event::{Event, TraceContext},
    ids::{EffectId, EventId, Owner, SessionId, TenantId, TurnId},
    kind::{Classified, Kind},
    memory::{Memory, MemoryQuery, MemoryWrite, Recalled},
    message::{AcceptError, Accepted, NewMessage},
    model::{ModelAnswer, Usage},
    persona::Persona,
    port::{
        bus::{OutboxRow, Record},
        memory::Receipt,
    },
    tool::ToolOutcome,
    topic::Group,
    turn::{Step, Turn, TurnStatus},
};

/// Why the store did not do what it was asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// Nothing was changed; the same call may succeed later.
    #[error("the store is unavailable: {0}")]
    Unavailable(String),
    /// A commit was sent and not answered. Repeating the call is safe for every method.
    #[error("the outcome of the commit is unknown: {0}")]
    OutcomeUnknown(String),
    /// Somebody else has taken over (an epoch has passed) or the row is not in the state that the
    /// call is conditional on: stop at once.
    #[error("fenced: another owner has taken over")]
    Fenced,
    /// There is no such row, or it belongs to another tenant.
    #[error("no such row")]
    NotFound,
    /// The store refused the data itself.
    #[error("the store refused the data: {0}")]
    Refused(String),
}

impl Classified for StoreError {
    fn kind(&self) -> Kind {
        match self {
            Self::Unavailable(_) | Self::OutcomeUnknown(_) => Kind::Retry,
            Self::Fenced | Self::NotFound => Kind::Caller,
            Self::Refused(_) => Kind::Bug,
        }
    }
}

/// What a store method returns.
pub type StoreResult<T> = Result<T, StoreError>;

/// A session as it is listed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Session {
    /// Its id.
    pub session_id: SessionId,
    /// Its tenant.
    pub tenant: TenantId,
    /// Who began it.
    pub subject: String,
    /// The persona of its newest message.
    pub persona_id: Option<String>,
    /// When its first message was accepted.
    pub created_at: DateTime<Utc>,
    /// When its newest durable event was written.
    pub updated_at: DateTime<Utc>,
    /// The newest message number.
    pub last_n: u64,
    /// The newest place in its log.
    pub last_seq: u64,
    /// Turns that have not ended.
    pub unfinished: u64,
}

/// A page of a list.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Page<T> {
    /// The rows.
    pub items: Vec<T>,
    /// Where the next page begins; `None` on the last one.
    pub next_cursor: Option<String>,
}

/// What became of a message.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MessageStatus {
    /// The user's event.
    pub event_id: EventId,
    /// The session.
    pub session_id: SessionId,
    /// Its number.
    pub n: u64,
    /// The turn that answers it.
    pub turn: Turn,
    /// Unfinished turns of the session before it; 0 when it is its turn.
    pub place: u64,
    /// The number of steps journaled so far.
    pub steps: u32,
    /// The newest terminal event, once it has ended; `None` while a replay of it has not.
    pub terminal: Option<Event>,
}

/// Messages, sessions and their logs.
#[async_trait]
pub trait Transcript: Send + Sync {
    /// Accepts messages together, one answer each in their order. A message that had been accepted
    /// before (same idempotency key and body, or same event id) answers the stored one.
    async fn accept(&self, batch: Vec<NewMessage>) -> Vec<Result<Accepted, AcceptError>>;

    /// Returns a session.
    ///
    /// # Errors
    ///
    /// `NotFound` also for deleted sessions.
    async fn session(&self, tenant: &TenantId, session_id: SessionId) -> StoreResult<Session>;

    /// Lists sessions, newest activity first. `cursor` comes from the page before.
    ///
    /// # Errors
    ///
    /// The store is unavailable, or the cursor is `Refused`.
    async fn sessions(
        &self,
        tenant: &TenantId,
        cursor: Option<&str>,
        limit: u32,
    ) -> StoreResult<Page<Session>>;

    /// Returns durable events with `seq > after`, oldest first.
    ///
    /// # Errors
    ///
    /// `NotFound` for sessions that do not exist or are deleted.
    async fn events(
        &self,
        tenant: &TenantId,
        session_id: SessionId,
        after: u64,
        limit: u32,
    ) -> StoreResult<Vec<Event>>;

    /// Returns the newest `limit` user messages and `assistant.final` events of messages before
    /// number `before_n`, for a prompt: oldest first, in the order (n, seq), so that each message
    /// is followed by its answer even where several had queued, or one was replayed.
    ///
    /// # Errors
    ///
    /// The store is unavailable.
    async fn history(
        &self,
        session_id: SessionId,
        before_n: u64,
        limit: u32,
    ) -> StoreResult<Vec<Event>>;

    /// Returns what became of a message. Of a deleted session only the messages that the deletion
    /// itself ended are known, so that those who wait for them learn it.
    ///
    /// # Errors
    ///
    /// `NotFound`.
    async fn message(&self, tenant: &TenantId, event_id: EventId) -> StoreResult<MessageStatus>;

    /// Deletes a session: every event, step, upload, dead letter and unsent outbox row of it goes
    /// (but `memory.wal`), unfinished turns end with [`crate::compose::cancelled`], the id takes no
    /// message ever again. If asked, a delete is written for each of its memories, undelivered ones
    /// included; also when asked for a session that was deleted before. Repeatable.
    ///
    /// # Errors
    ///
    /// `NotFound` for sessions that never existed.
    async fn delete_session(
        &self,
        tenant: &TenantId,
        session_id: SessionId,
        forget_memories: bool,
    ) -> StoreResult<()>;
}

/// A turn that the caller now owns.
#[derive(Debug, Clone, PartialEq)]
pub struct ClaimedTurn {
    /// The turn, `running`, with this attempt counted.
    pub turn: Turn,
    /// Fences every write of this run.
    pub epoch: u64,
    /// The user's event that it answers.
    pub event: Event,
    /// The journal so far, in (step, index) order.
    pub journal: Vec<Step>,
}

/// What the owner of a turn learns when it tells that it goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Beat {
    /// Somebody asked to cancel the turn.
    pub cancel_requested: bool,
}

/// A model step that is to be journaled, with the tool calls that follow from it.
#[derive(Debug, Clone, PartialEq)]
pub struct JournalEntry {
    /// The model's answer as a settled step; `None` for turns of kind `tool`.
    pub answer: Option<Step>,
    /// The tool calls as `requested` steps; malformed ones come settled with their error.
    pub calls: Vec<Step>,
    /// Milliseconds of work of this claim so far (a total, not what came since the last entry). The
    /// turn's `worked_ms` is that of its earlier claims plus the newest such total.
    pub worked_ms: u64,
}

/// How a turn ends.
#[derive(Debug, Clone, PartialEq)]
pub struct Ending {
    /// `Done`, `Failed` or `Cancelled`, agreeing with the event's type.
    pub status: TurnStatus,
    /// The one terminal event; the store sets its `seq`.
    pub event: Event,
    /// Why, for `GET /v1/messages/{event_id}`.
    pub reason: Option<String>,
    /// Memory writes that the turn caused.
    pub memory: Vec<MemoryWrite>,
    /// Tokens used by the whole turn, added to the tenant's day.
    pub usage: Usage,
    /// For failures: what goes to the dead letters.
    pub dead_letter: Option<NewDeadLetter>,
}

/// What is known after a durable event was appended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Appended {
    /// The newest place in the session's log.
    pub seq: u64,
    /// Whether the session has a turn that may be claimed now.
    pub more: bool,
}

/// How a cancel request went.
#[derive(Debug, Clone, PartialEq)]
pub enum CancelOutcome {
    /// Turns that had not begun and have now ended, with their terminal events.
    Ended(Vec<Event>),
    /// The turn runs; its owner has been flagged and will end it.
    Flagged(TurnId),
    /// Both: several were asked for.
    Both(Vec<Event>, TurnId),
    /// There was nothing to cancel.
    Nothing,
}

/// Which turns a cancel request means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CancelScope {
    /// The lowest unfinished turn at this instant.
    Lowest,
    /// The turn that answers this event.
    Of(EventId),
    /// Every unfinished turn.
    All,
}

/// Why a claimed turn is laid down without an end.
#[derive(Debug, Clone, PartialEq)]
pub enum LayDown {
    /// The owner drains or lost its executor: queued at once, the attempt is given back.
    Drained,
    /// It waits for something out of reach; the attempt is given back.
    Waiting {
        /// For what, in words for a person.
        reason: String,
        /// Not claimable for this long.
        delay: Duration,
    },
    /// It panicked; the attempt is spent and the panic counted.
    Panicked {
        /// The panic's message and place.
        reason: String,
    },
}

/// Who runs which turn.
#[async_trait]
pub trait Turns: Send + Sync {
    /// Takes what a process that died left behind, as its successor: for an embedded store at
    /// start, bumps every epoch and queues every running turn, marking it as a suspect, as it does
    /// any other unfinished turn one of whose steps had started; `started` steps are settled by
    /// their effect class. A store shared by replicas does nothing here.
    ///
    /// # Errors
    ///
    /// The store is unavailable.
    async fn inherit(&self, owner: &Owner) -> StoreResult<Inherited>;

    /// Claims the lowest unfinished turn of this session if it may be claimed now: no turn of the
    /// session under a live lease (a replayed turn waits for the higher one that runs), `not_before`
    /// past, and no other suspect running if it is one. Counts the attempt. On a local bus a claim
    /// that succeeds also acknowledges the session's `conversation.inbound` records.
    ///
    /// # Errors
    ///
    /// The store is unavailable.
    async fn claim(&self, owner: &Owner, session_id: SessionId)
    -> StoreResult<Option<ClaimedTurn>>;

    /// Returns sessions with a claimable turn that has been so for `idle_for`, longest first. It has
    /// been so since the latest of: accepted or replayed, laid down, `not_before` past, the turn
    /// before it laid down or over.
    ///
    /// # Errors
    ///
    /// The store is unavailable.
    async fn claimable(&self, idle_for: Duration, limit: u32) -> StoreResult<Vec<SessionId>>;

    /// Renews the session's lease (only a shared store writes) and reads the cancel flag.
    ///
    /// # Errors
    ///
    /// `Fenced`.
    async fn beat(&self, turn_id: TurnId, epoch: u64) -> StoreResult<Beat>;

    /// Journals a model's answer with the calls that follow, their outbox rows, and clears the
    /// counts of tries: this is progress. Repeatable.
    ///
    /// # Errors
    ///
    /// `Fenced`.
    async fn journal(&self, turn_id: TurnId, epoch: u64, entry: JournalEntry) -> StoreResult<()>;

    /// Returns the turn's journal, in (step, index) order.
    ///
    /// # Errors
    ///
    /// The store is unavailable.
    async fn steps(&self, turn_id: TurnId) -> StoreResult<Vec<Step>>;

    /// Ends the turn, conditional on `running` and the epoch. Steps still `requested` are withdrawn.
    /// A repetition under the epoch that ended it answers the `seq` that was stored; a turn that was
    /// laid down or inherited since, and then ended otherwise, is `Fenced`.
    ///
    /// # Errors
    ///
    /// `Fenced`; `Refused` if status, type and id ([`EventId::terminal`]) of the event disagree.
    async fn end(&self, turn_id: TurnId, epoch: u64, ending: Ending) -> StoreResult<Appended>;

    /// Lays the turn down without an end and frees the session's lease.
    ///
    /// # Errors
    ///
    /// `Fenced`.
    async fn lay_down(&self, turn_id: TurnId, epoch: u64, why: LayDown) -> StoreResult<()>;

    /// Lays down (as [`LayDown::Drained`]) every turn that this owner holds and that is not among
    /// `alive`; returns their sessions.
    ///
    /// # Errors
    ///
    /// The store is unavailable.
    async fn lay_down_orphans(
        &self,
        owner: &Owner,
        alive: &[TurnId],
    ) -> StoreResult<Vec<SessionId>>;

    /// Cancels. A turn that does not run ends here, with [`crate::compose::cancelled`], in the order
    /// of `n`; a running one is flagged. Steps still `requested` are withdrawn in both. A message
    /// whose turn is over leaves nothing to cancel.
    ///
    /// # Errors
    ///
    /// `NotFound` for sessions and events that do not exist.
    async fn cancel(
        &self,
        tenant: &TenantId,
        session_id: SessionId,
        scope: CancelScope,
    ) -> StoreResult<CancelOutcome>;

    /// Returns how many turns are unfinished and not waiting for a person: in all, and of the
    /// tenants with the most.
    ///
    /// # Errors
    ///
    /// The store is unavailable.
    async fn backlog(&self) -> StoreResult<Backlog>;

    /// Returns the tokens that the tenant has used today (UTC).
    ///
    /// # Errors
    ///
    /// The store is unavailable.
    async fn tokens_today(&self, tenant: &TenantId) -> StoreResult<u64>;
}

/// What was left behind.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Inherited {
    /// Turns that had been running.
    pub turns: u64,
    /// Steps that had been started and may run again.
    pub steps_again: u64,
    /// `once` steps that had been started and are now unknown.
    pub steps_unknown: u64,
}

/// Work that waits.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Backlog {
    /// Unfinished turns in all.
    pub total: u64,
    /// Unfinished turns by tenant.
    pub tenants: Vec<(TenantId, u64)>,
    /// The age of the oldest queued turn, in milliseconds.
    pub oldest_ms: u64,
}

/// A tool step that the caller now owns.
#[derive(Debug, Clone, PartialEq)]
pub struct ClaimedStep {
    /// The step, `started`; its `epoch` fences the settling.
    pub step: Step,
    /// Who asked, for the policy.
    pub subject: String,
    /// The persona that acts.
    pub persona_id: Option<String>,
    /// The `seq` of its `tool.start` event: of the first claim, where this one is a repetition.
    pub seq: u64,
}

/// Who runs which tool step.
#[async_trait]
pub trait Steps: Send + Sync {
    /// Claims at most `limit` steps that are `requested` or whose executor's lease has run out and
    /// whose effect allows it, in the order of journaling; only those that
    /// [`crate::decide::may_start`]. Bumps their epochs and appends their `tool.start` events, one
    /// per step however often it is claimed. A lost `once` step becomes `unknown` here, with its
    /// `tool.result` event. On a local bus this also acknowledges the steps' `tool.requests` records.
    ///
    /// # Errors
    ///
    /// The store is unavailable.
    async fn claim_steps(&self, owner: &Owner, limit: u32) -> StoreResult<Vec<ClaimedStep>>;

    /// Renews the lease of a step (only a shared store writes); `cancel_requested` tells whether
    /// its turn has ended or is to be cancelled.
    ///
    /// # Errors
    ///
    /// `Fenced`.
    async fn beat_step(&self, effect_id: EffectId, epoch: u64) -> StoreResult<Beat>;

    /// Settles a step with its outcome, its `tool.result` event and the memory writes that it
    /// caused, while the turn is unfinished.
    ///
    /// # Errors
    ///
    /// `Fenced`.
    async fn settle(
        &self,
        effect_id: EffectId,
        epoch: u64,
        outcome: ToolOutcome,
        memory: Vec<MemoryWrite>,
    ) -> StoreResult<Appended>;

    /// Puts a claimed step back as `requested`, with a new `tool.requests` record: it has not been
    /// begun, or may be begun again.
    ///
    /// # Errors
    ///
    /// `Fenced`.
    async fn unclaim(&self, effect_id: EffectId, epoch: u64) -> StoreResult<()>;

    /// Treats steps that this owner holds and that are not among `alive` as lost, each by
    /// [`crate::decide::after_loss`]: requested again with a new `tool.requests` record, or settled,
    /// with a `tool.result` event while the turn is unfinished. Returns how many.
    ///
    /// # Errors
    ///
    /// The store is unavailable.
    async fn lose_orphans(&self, owner: &Owner, alive: &[EffectId]) -> StoreResult<u64>;
}

/// How far a shard owner may go: the epochs fence deletes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Shards {
    /// The shards held now, each with its epoch. Embedded: shard 0 alone, epoch 0.
    pub held: Vec<(u16, u64)>,
}

/// The outbox between store and bus.
#[async_trait]
pub trait Outbox: Send + Sync {
    /// Renews this owner's lease for the service, gives up and takes over shards so that they are
    /// spread over the live owners.
    ///
    /// # Errors
    ///
    /// The store is unavailable.
    async fn hold_shards(&self, service: &str, owner: &Owner) -> StoreResult<Shards>;

    /// Returns the first rows of these shards, in id order.
    ///
    /// # Errors
    ///
    /// The store is unavailable.
    async fn outbox(&self, shards: &Shards, limit: u32) -> StoreResult<Vec<OutboxRow>>;

    /// Removes rows that the bus has, fenced by the shards' epochs; returns how many.
    ///
    /// # Errors
    ///
    /// The store is unavailable.
    async fn delivered(&self, shards: &Shards, ids: &[i64]) -> StoreResult<u64>;

    /// Moves a row that the bus refused for good to the dead letters.
    ///
    /// # Errors
    ///
    /// The store is unavailable.
    async fn refused(&self, shards: &Shards, id: i64, reason: &str) -> StoreResult<()>;

    /// Reads the records of a group from the outbox itself: the local bus. At most `limit` that
    /// are not among `skip`, in id order.
    ///
    /// # Errors
    ///
    /// The store is unavailable.
    async fn records(&self, group: Group, skip: &[i64], limit: u32) -> StoreResult<Vec<Record>>;

    /// Acknowledges records of the local bus; a row goes when every group has.
    ///
    /// # Errors
    ///
    /// The store is unavailable.
    async fn acknowledge(&self, group: Group, rows: &[i64]) -> StoreResult<()>;

    /// Puts a record that cannot become work to the dead letters, once per (group, event id).
    ///
    /// # Errors
    ///
    /// The store is unavailable.
    async fn bury(&self, group: Group, letter: NewDeadLetter) -> StoreResult<()>;
}

/// A memory write that waits to be delivered.
#[derive(Debug, Clone, PartialEq)]
pub struct PendingWrite {
    /// The row.
    pub id: i64,
    /// The write, with its version.
    pub write: MemoryWrite,
    /// Deliveries tried so far.
    pub attempts: u32,
}

/// Memory writes on their way, and the replica that search, export and admin read.
#[async_trait]
pub trait Memories: Send + Sync {
    /// Stores writes that wait to be delivered; a repetition of an event is a no-op. Returns the
    /// versions in the writes' order, from 1 for each (tenant, memory): an id that another tenant
    /// uses is a new memory here.
    ///
    /// # Errors
    ///
    /// The store is unavailable.
    async fn write_memories(&self, writes: Vec<MemoryWrite>) -> StoreResult<Vec<u64>>;

    /// Returns writes that may be delivered now, in order, of each memory only the earliest.
    ///
    /// # Errors
    ///
    /// The store is unavailable.
    async fn pending_writes(&self, shards: &Shards, limit: u32) -> StoreResult<Vec<PendingWrite>>;

    /// Settles delivered writes: replica rows, `memory.wal` outbox rows, and the writes go.
    ///
    /// # Errors
    ///
    /// The store is unavailable.
    async fn settle_writes(
        &self,
        shards: &Shards,
        delivered: Vec<(i64, Receipt)>,
    ) -> StoreResult<()>;

    /// Leaves a write for later.
    ///
    /// # Errors
    ///
    /// The store is unavailable.
    async fn postpone_write(
        &self,
        shards: &Shards,
        id: i64,
        error: &str,
        delay: Duration,
    ) -> StoreResult<()>;

    /// Moves a write that was refused for good to the dead letters.
    ///
    /// # Errors
    ///
    /// The store is unavailable.
    async fn refuse_write(&self, shards: &Shards, id: i64, reason: &str) -> StoreResult<()>;

    /// Applies a foreign write to the replica: the higher version wins; version 0 is inserted if
    /// its event is new. Returns whether anything changed.
    ///
    /// # Errors
    ///
    /// The store is unavailable.
    async fn replicate(&self, write: MemoryWrite, receipt: Receipt) -> StoreResult<bool>;

    /// Searches the replica and the tenant's undelivered writes together, each memory once in its
    /// newest version. What has any of the words matches ([`crate::decide::match_score`] or better);
    /// among equals the newest comes first.
    ///
    /// # Errors
    ///
    /// The store is unavailable.
    async fn search_memories(
        &self,
        tenant: &TenantId,
        query: &MemoryQuery,
    ) -> StoreResult<Vec<Recalled>>;

    /// Searches only the tenant's undelivered writes.
    ///
    /// # Errors
    ///
    /// The store is unavailable.
    async fn search_pending(
        &self,
        tenant: &TenantId,
        query: &MemoryQuery,
    ) -> StoreResult<Vec<Recalled>>;

    /// Returns one memory, undelivered writes included.
    ///
    /// # Errors
    ///
    /// `NotFound` also for deleted ones.
    async fn memory(&self, tenant: &TenantId, memory_id: Uuid) -> StoreResult<Memory>;

    /// Pages over a tenant's memories in the replica in id order, for the export; without
    /// tombstones and undelivered writes.
    ///
    /// # Errors
    ///
    /// The store is unavailable.
    async fn export_memories(
        &self,
        tenant: &TenantId,
        cursor: Option<&str>,
        limit: u32,
    ) -> StoreResult<Page<Memory>>;
}

/// What goes to the dead letters.
#[derive(Debug, Clone, PartialEq)]
pub struct NewDeadLetter {
    /// The tenant, if known.
    pub tenant: Option<TenantId>,
    /// Where it came from: a topic's name, or `memory_write_outbox`.
    pub topic: String,
    /// The turn that failed, if it is one.
    pub turn_id: Option<TurnId>,
    /// The record's or row's event id, if it has one.
    pub event_id: Option<EventId>,
    /// The bytes, as text where they are UTF-8, else base64 in `{"base64": …}`.
    pub event: Value,
    /// Why.
    pub error: String,
    /// Attempts made.
    pub attempts: u32,
    /// Where its trace ends.
    pub trace: TraceContext,
}

/// A row of `dlq_messages`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DeadLetter {
    /// The row.
    pub id: i64,
    /// The tenant, if known.
    pub tenant: Option<TenantId>,
    /// Where it came from.
    pub topic: String,
    /// The turn that failed, if it is one.
    pub turn_id: Option<TurnId>,
    /// The content.
    pub event: Value,
    /// Why.
    pub error: String,
    /// Attempts made.
    pub attempts: u32,
    /// When it was buried.
    pub created_at: DateTime<Utc>,
    /// When it was last replayed, if it was.
    pub replayed_at: Option<DateTime<Utc>>,
    /// Where its trace ends.
    pub trace: TraceContext,
}

/// What replaying a dead letter did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Replayed {
    /// The failed turn is queued again, its journal kept.
    Turn(SessionId),
    /// The memory write or record waits again.
    Requeued,
    /// It had been replayed and has not ended since: nothing was done.
    Already,
}

/// An upload.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attachment {
    /// Its id.
    pub id: Uuid,
    /// Its tenant.
    pub tenant: TenantId,
    /// The session that it was uploaded to, if any.
    pub session_id: Option<SessionId>,
    /// The name that the client gave.
    pub filename: String,
    /// Its media type.
    pub mime: String,
    /// Its size in bytes.
    pub size: u64,
    /// SHA-256 of its content, as hexadecimal digits.
    pub sha256: String,
    /// When it was uploaded.
    pub created_at: DateTime<Utc>,
}

/// How long things are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    /// Idempotency keys.
    pub idempotency: Duration,
    /// Dead letters.
    pub dead_letters: Duration,
    /// Which foreign records were dealt with; longer than topics keep them.
    pub inbox: Duration,
    /// Steps of ended turns; those of a turn that left a dead letter stay for as long as that, since
    /// a replay goes on after them.
    pub done_steps: Duration,
    /// Tombstones of memories.
    pub memory_tombstones: Duration,
}

/// Depths for the metrics.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Depths {
    /// Rows of `message_outbox`.
    pub outbox: u64,
    /// The age of the oldest of them, in milliseconds.
    pub outbox_oldest_ms: u64,
    /// Rows of `memory_write_outbox`.
    pub memory_writes: u64,
    /// The age of the oldest of them, in milliseconds.
    pub memory_writes_oldest_ms: u64,
    /// Rows of `dlq_messages` that were not replayed.
    pub dead_letters: u64,
    /// The age of the oldest open snapshot that holds back clean-up, in milliseconds.
    pub oldest_snapshot_ms: u64,
}

/// Everything that operators and clients keep besides conversations.
#[async_trait]
pub trait Registry: Send + Sync {
    /// Lists dead letters, newest first; `tenant: None` is every tenant.
    ///
    /// # Errors
    ///
    /// The store is unavailable.
    async fn dead_letters(
        &self,
        tenant: Option<&TenantId>,
        cursor: Option<&str>,
        limit: u32,
    ) -> StoreResult<Page<DeadLetter>>;

    /// Returns one dead letter.
    ///
    /// # Errors
    ///
    /// `NotFound`.
    async fn dead_letter(&self, tenant: Option<&TenantId>, id: i64) -> StoreResult<DeadLetter>;

    /// Replays a dead letter; twice before it ends is a no-op. A turn is queued with fresh tries, its
    /// journal kept and `replay` counted; a memory write waits again with the version that it had; a
    /// refused outbox row waits again. `Already` also for what has ended well since.
    ///
    /// # Errors
    ///
    /// `NotFound`; `Refused` where a record can never become work.
    async fn replay(&self, tenant: Option<&TenantId>, id: i64) -> StoreResult<Replayed>;

    /// Drops a dead letter for good.
    ///
    /// # Errors
    ///
    /// `NotFound`.
    async fn drop_dead_letter(&self, tenant: Option<&TenantId>, id: i64) -> StoreResult<()>;

    /// Keeps a new key.
    ///
    /// # Errors
    ///
    /// The store is unavailable.
    async fn add_key(&self, key: StoredKey) -> StoreResult<()>;

    /// Returns the key of that id, revoked or not.
    ///
    /// # Errors
    ///
    /// `NotFound`.
    async fn key(&self, key_id: &str) -> StoreResult<StoredKey>;

    /// Lists a tenant's keys, newest first; `None` is every tenant.
    ///
    /// # Errors
    ///
    /// The store is unavailable.
    async fn keys(&self, tenant: Option<&TenantId>) -> StoreResult<Vec<ApiKey>>;

    /// Revokes a key. Repeatable.
    ///
    /// # Errors
    ///
    /// `NotFound`.
    async fn revoke_key(&self, tenant: Option<&TenantId>, key_id: &str) -> StoreResult<()>;

    /// Notes that a key was used.
    ///
    /// # Errors
    ///
    /// The store is unavailable.
    async fn touch_key(&self, key_id: &str) -> StoreResult<()>;

    /// Lists a tenant's personas by id.
    ///
    /// # Errors
    ///
    /// The store is unavailable.
    async fn personas(&self, tenant: &TenantId) -> StoreResult<Vec<Persona>>;

    /// Returns a persona.
    ///
    /// # Errors
    ///
    /// `NotFound`.
    async fn persona(&self, tenant: &TenantId, persona_id: &str) -> StoreResult<Persona>;

    /// Adds or replaces a persona.
    ///
    /// # Errors
    ///
    /// The store is unavailable.
    async fn put_persona(&self, tenant: &TenantId, persona: Persona) -> StoreResult<()>;

    /// Keeps an upload.
    ///
    /// # Errors
    ///
    /// The store is unavailable.
    async fn add_attachment(&self, attachment: Attachment, content: Vec<u8>) -> StoreResult<()>;

    /// Returns an upload with its content.
    ///
    /// # Errors
    ///
    /// `NotFound`.
    async fn attachment(&self, tenant: &TenantId, id: Uuid) -> StoreResult<(Attachment, Vec<u8>)>;

    /// Returns the stored answer of an idempotent write that is not a message, if its key was used;
    /// `Refused` when it was used with another body.
    ///
    /// # Errors
    ///
    /// The store is unavailable.
    async fn recorded_answer(
        &self,
        tenant: &TenantId,
        idempotency: &crate::message::Idempotency,
    ) -> StoreResult<Option<RecordedAnswer>>;

    /// Keeps the answer of an idempotent write that is not a message; the first one stays.
    ///
    /// # Errors
    ///
    /// The store is unavailable.
    async fn record_answer(
        &self,
        tenant: &TenantId,
        idempotency: &crate::message::Idempotency,
        answer: RecordedAnswer,
    ) -> StoreResult<()>;

    /// Removes a bounded number of rows that are older than they are kept; returns how many.
    ///
    /// # Errors
    ///
    /// The store is unavailable.
    async fn retire(&self, retention: &Retention) -> StoreResult<u64>;

    /// Returns the depths for the metrics.
    ///
    /// # Errors
    ///
    /// The store is unavailable.
    async fn depths(&self) -> StoreResult<Depths>;

    /// Asks for news, for the health report.
    ///
    /// # Errors
    ///
    /// The store does not answer.
    async fn ping(&self) -> StoreResult<()>;
}

/// The answer to an idempotent write.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordedAnswer {
    /// The HTTP status.
    pub status: u16,
    /// The body.
    pub body: String,
}

/// The whole store.
pub trait Store: Transcript + Turns + Steps + Outbox + Memories + Registry + fmt::Debug {}

impl<T: Transcript + Turns + Steps + Outbox + Memories + Registry + fmt::Debug> Store for T {}

/// Returns the answer kept in a settled model step.
///
/// # Errors
///
/// The step is of another kind or its result was written by a newer version.
pub fn answer_of(step: &Step) -> StoreResult<ModelAnswer> {
    serde_json::from_value(step.result.clone())
        .map_err(|error| StoreError::Refused(error.to_string()))
}
