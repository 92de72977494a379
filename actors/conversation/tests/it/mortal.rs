//! A process that dies: from some call of the store on, nothing that it does reaches the store.

use std::{
    future::{Future, pending},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use soma_contract::{
    EffectId, Event, EventId, Owner, SessionId, TenantId, TurnId,
    access::{ApiKey, StoredKey},
    memory::{Memory, MemoryQuery, MemoryWrite, Recalled},
    message::{AcceptError, Accepted, Idempotency, NewMessage},
    persona::Persona,
    port::{
        bus::{OutboxRow, Record},
        memory::Receipt,
        store::{
            Appended, Attachment, Backlog, Beat, CancelOutcome, CancelScope, ClaimedStep,
            ClaimedTurn, DeadLetter, Depths, Ending, Inherited, JournalEntry, LayDown, Memories,
            MessageStatus, NewDeadLetter, Outbox, Page, PendingWrite, RecordedAnswer, Registry,
            Replayed, Retention, Session, Shards, Steps, StoreResult, Transcript, Turns,
        },
    },
    testing::FakeStore,
    tool::ToolOutcome,
    topic::Group,
    turn::Step,
};
use uuid::Uuid;

/// When a process dies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Death {
    /// Before its call of that number (from 0) is made.
    Before(usize),
    /// When its call of that number is made, and not answered.
    After(usize),
}

/// The store as one process sees it.
#[derive(Debug)]
pub(crate) struct Mortal {
    store: Arc<FakeStore>,
    death: Option<Death>,
    calls: AtomicUsize,
    made: Mutex<Vec<&'static str>>,
}

impl Mortal {
    pub(crate) const fn new(store: Arc<FakeStore>, death: Option<Death>) -> Self {
        Self { store, death, calls: AtomicUsize::new(0), made: Mutex::new(Vec::new()) }
    }

    /// Returns the calls that were made.
    pub(crate) fn made(&self) -> Vec<&'static str> {
        self.made.lock().unwrap().clone()
    }

    async fn live<T>(&self, name: &'static str, call: impl Future<Output = T> + Send) -> T {
        // Only what a turn does counts; polls come when they come.
        if matches!(name, "claimable" | "lay_down_orphans") && !self.is_dead() {
            return call.await;
        }
        let number = self.calls.fetch_add(1, Ordering::SeqCst);
        match self.death {
            Some(Death::Before(last)) if number >= last => pending().await,
            Some(Death::After(last)) if number > last => pending().await,
            Some(Death::After(last)) if number == last => {
                self.made.lock().unwrap().push(name);
                call.await;
                pending().await
            }
            _ => {
                self.made.lock().unwrap().push(name);
                call.await
            }
        }
    }

    fn is_dead(&self) -> bool {
        let calls = self.calls.load(Ordering::SeqCst);
        match self.death {
            Some(Death::Before(last) | Death::After(last)) => calls > last,
            None => false,
        }
    }
}

macro_rules! mortal {
    ($port:ident $($method:ident($($name:ident: $kind:ty),*) -> $result:ty;)*) => {
        #[async_trait::async_trait]
        impl $port for Mortal {
            $(async fn $method(&self, $($name: $kind),*) -> $result {
                self.live(stringify!($method), self.store.$method($($name),*)).await
            })*
        }
    };
}

mortal! { Transcript
    accept(batch: Vec<NewMessage>) -> Vec<Result<Accepted, AcceptError>>;
    session(tenant: &TenantId, session_id: SessionId) -> StoreResult<Session>;
    sessions(tenant: &TenantId, cursor: Option<&str>, limit: u32) -> StoreResult<Page<Session>>;
    events(tenant: &TenantId, session_id: SessionId, after: u64, limit: u32) -> StoreResult<Vec<Event>>;
    history(session_id: SessionId, before_n: u64, limit: u32) -> StoreResult<Vec<Event>>;
    message(tenant: &TenantId, event_id: EventId) -> StoreResult<MessageStatus>;
    delete_session(tenant: &TenantId, session_id: SessionId, forget_memories: bool) -> StoreResult<()>;
}

mortal! { Turns
    inherit(owner: &Owner) -> StoreResult<Inherited>;
    claim(owner: &Owner, session_id: SessionId) -> StoreResult<Option<ClaimedTurn>>;
    claimable(idle_for: Duration, limit: u32) -> StoreResult<Vec<SessionId>>;
    beat(turn_id: TurnId, epoch: u64) -> StoreResult<Beat>;
    journal(turn_id: TurnId, epoch: u64, entry: JournalEntry) -> StoreResult<()>;
    steps(turn_id: TurnId) -> StoreResult<Vec<Step>>;
    end(turn_id: TurnId, epoch: u64, ending: Ending) -> StoreResult<Appended>;
    lay_down(turn_id: TurnId, epoch: u64, why: LayDown) -> StoreResult<()>;
    lay_down_orphans(owner: &Owner, alive: &[TurnId]) -> StoreResult<Vec<SessionId>>;
    cancel(tenant: &TenantId, session_id: SessionId, scope: CancelScope) -> StoreResult<CancelOutcome>;
    backlog() -> StoreResult<Backlog>;
    tokens_today(tenant: &TenantId) -> StoreResult<u64>;
}

mortal! { Steps
    claim_steps(owner: &Owner, limit: u32) -> StoreResult<Vec<ClaimedStep>>;
    beat_step(effect_id: EffectId, epoch: u64) -> StoreResult<Beat>;
    settle(effect_id: EffectId, epoch: u64, outcome: ToolOutcome, memory: Vec<MemoryWrite>) -> StoreResult<Appended>;
    unclaim(effect_id: EffectId, epoch: u64) -> StoreResult<()>;
    lose_orphans(owner: &Owner, alive: &[EffectId]) -> StoreResult<u64>;
}

mortal! { Outbox
    hold_shards(service: &str, owner: &Owner) -> StoreResult<Shards>;
    outbox(shards: &Shards, limit: u32) -> StoreResult<Vec<OutboxRow>>;
    delivered(shards: &Shards, ids: &[i64]) -> StoreResult<u64>;
    refused(shards: &Shards, id: i64, reason: &str) -> StoreResult<()>;
    records(group: Group, skip: &[i64], limit: u32) -> StoreResult<Vec<Record>>;
    acknowledge(group: Group, rows: &[i64]) -> StoreResult<()>;
    bury(group: Group, letter: NewDeadLetter) -> StoreResult<()>;
}

mortal! { Memories
    write_memories(writes: Vec<MemoryWrite>) -> StoreResult<Vec<u64>>;
    pending_writes(shards: &Shards, limit: u32) -> StoreResult<Vec<PendingWrite>>;
    settle_writes(shards: &Shards, delivered: Vec<(i64, Receipt)>) -> StoreResult<()>;
    postpone_write(shards: &Shards, id: i64, error: &str, delay: Duration) -> StoreResult<()>;
    refuse_write(shards: &Shards, id: i64, reason: &str) -> StoreResult<()>;
    replicate(write: MemoryWrite, receipt: Receipt) -> StoreResult<bool>;
    search_memories(tenant: &TenantId, query: &MemoryQuery) -> StoreResult<Vec<Recalled>>;
    search_pending(tenant: &TenantId, query: &MemoryQuery) -> StoreResult<Vec<Recalled>>;
    memory(tenant: &TenantId, memory_id: Uuid) -> StoreResult<Memory>;
    export_memories(tenant: &TenantId, cursor: Option<&str>, limit: u32) -> StoreResult<Page<Memory>>;
}

mortal! { Registry
    dead_letters(tenant: Option<&TenantId>, cursor: Option<&str>, limit: u32) -> StoreResult<Page<DeadLetter>>;
    dead_letter(tenant: Option<&TenantId>, id: i64) -> StoreResult<DeadLetter>;
    replay(tenant: Option<&TenantId>, id: i64) -> StoreResult<Replayed>;
    drop_dead_letter(tenant: Option<&TenantId>, id: i64) -> StoreResult<()>;
    add_key(key: StoredKey) -> StoreResult<()>;
    key(key_id: &str) -> StoreResult<StoredKey>;
    keys(tenant: Option<&TenantId>) -> StoreResult<Vec<ApiKey>>;
    revoke_key(tenant: Option<&TenantId>, key_id: &str) -> StoreResult<()>;
    touch_key(key_id: &str) -> StoreResult<()>;
    personas(tenant: &TenantId) -> StoreResult<Vec<Persona>>;
    persona(tenant: &TenantId, persona_id: &str) -> StoreResult<Persona>;
    put_persona(tenant: &TenantId, persona: Persona) -> StoreResult<()>;
    add_attachment(attachment: Attachment, content: Vec<u8>) -> StoreResult<()>;
    attachment(tenant: &TenantId, id: Uuid) -> StoreResult<(Attachment, Vec<u8>)>;
    recorded_answer(tenant: &TenantId, idempotency: &Idempotency) -> StoreResult<Option<RecordedAnswer>>;
    record_answer(tenant: &TenantId, idempotency: &Idempotency, answer: RecordedAnswer) -> StoreResult<()>;
    retire(retention: &Retention) -> StoreResult<u64>;
    depths() -> StoreResult<Depths>;
    ping() -> StoreResult<()>;
}
