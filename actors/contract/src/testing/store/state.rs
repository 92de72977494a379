//! All rows, and what several capabilities do with them.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use chrono::{DateTime, NaiveDate, Utc};
use uuid::Uuid;

use super::rows::{
    KeyRow, LetterRow, OutboxEntry, ReplicaRow, SessionRow, StepRow, TurnRow, WriteRow,
};
use crate::{
    access::StoredKey,
    compose::{self, Outgoing, StepPlace},
    decide::{self, Candidate, KeyScope, TakenId},
    event::Event,
    ids::{EffectId, EventId, SessionId, TenantId, TurnId},
    message::Accepted,
    persona::Persona,
    port::{
        bus::OutboxRow,
        store::{Attachment, RecordedAnswer, StoreError, StoreResult},
    },
    topic::{Group, Topic},
    turn::TurnStatus,
};

/// Everything that a store keeps.
#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) bus_is_local: bool,
    pub(super) last_id: i64,
    pub(super) sessions: BTreeMap<SessionId, SessionRow>,
    pub(super) logs: BTreeMap<SessionId, Vec<Event>>,
    pub(super) taken: HashMap<EventId, TakenId>,
    pub(super) keys: HashMap<KeyScope, KeyRow<Accepted>>,
    pub(super) turns: BTreeMap<(SessionId, u64), TurnRow>,
    pub(super) steps: BTreeMap<(TurnId, u32, u32), StepRow>,
    pub(super) tokens: HashMap<(TenantId, NaiveDate), u64>,
    pub(super) outbox: BTreeMap<i64, OutboxEntry>,
    pub(super) writes: BTreeMap<i64, WriteRow>,
    pub(super) replica: BTreeMap<(TenantId, Uuid), ReplicaRow>,
    pub(super) versions: HashMap<(TenantId, Uuid), u64>,
    pub(super) remembered: HashMap<(TenantId, EventId), u64>,
    pub(super) letters: BTreeMap<i64, LetterRow>,
    pub(super) buried: HashSet<(Group, EventId)>,
    pub(super) api_keys: BTreeMap<String, StoredKey>,
    pub(super) personas: BTreeMap<(TenantId, String), Persona>,
    pub(super) attachments: BTreeMap<Uuid, (Attachment, Vec<u8>)>,
    pub(super) answers: HashMap<KeyScope, KeyRow<RecordedAnswer>>,
}

impl State {
    /// Builds an empty state.
    pub(super) fn new(bus_is_local: bool) -> Self {
        Self { bus_is_local, ..Self::default() }
    }

    /// Draws the id of a row.
    pub(super) const fn draw(&mut self) -> i64 {
        self.last_id += 1;
        self.last_id
    }

    /// Returns a session of this tenant that was not deleted.
    pub(super) fn alive(
        &self,
        tenant: &TenantId,
        session_id: SessionId,
    ) -> StoreResult<&SessionRow> {
        self.sessions
            .get(&session_id)
            .filter(|row| row.session.tenant == *tenant && !row.deleted)
            .ok_or(StoreError::NotFound)
    }

    /// Returns the turns of a session, by number.
    pub(super) fn turns_of(&self, session_id: SessionId) -> impl Iterator<Item = &TurnRow> {
        self.turns.range((session_id, 0)..=(session_id, u64::MAX)).map(|(_, row)| row)
    }

    /// Returns a turn.
    pub(super) fn turn(&self, turn_id: TurnId) -> Option<&TurnRow> {
        self.turns.values().find(|row| row.turn.turn_id == turn_id)
    }

    /// Returns a turn to change it.
    pub(super) fn turn_mut(&mut self, turn_id: TurnId) -> Option<&mut TurnRow> {
        self.turns.values_mut().find(|row| row.turn.turn_id == turn_id)
    }

    /// Returns the turn that runs under this epoch.
    pub(super) fn fenced(&mut self, turn_id: TurnId, epoch: u64) -> StoreResult<&mut TurnRow> {
        self.turn_mut(turn_id)
            .filter(|row| row.turn.status == TurnStatus::Running && row.epoch == Some(epoch))
            .ok_or(StoreError::Fenced)
    }

    /// Returns a step.
    pub(super) fn step_mut(&mut self, effect_id: EffectId) -> Option<&mut StepRow> {
        self.steps.values_mut().find(|row| row.step.effect_id == effect_id)
    }

    /// Returns the lowest unfinished turn of the session, if it may be claimed now.
    pub(super) fn claimable_turn(
        &self,
        session_id: SessionId,
        now: DateTime<Utc>,
    ) -> Option<&TurnRow> {
        let session = self.sessions.get(&session_id).filter(|session| !session.deleted)?;
        let leased = session.running.is_some();
        let lowest = self.turns_of(session_id).find(|row| !row.turn.status.is_over())?;
        let candidate = Candidate {
            status: lowest.turn.status,
            not_before: lowest.not_before,
            suspect: lowest.suspect,
            leased,
        };
        // A replayed turn may be the lowest while a higher one runs.
        let free = !leased && decide::may_claim(&candidate, now, self.suspect_runs());
        free.then_some(lowest)
    }

    fn suspect_runs(&self) -> bool {
        self.turns.values().any(|row| row.suspect && row.turn.status == TurnStatus::Running)
    }

    /// Frees the session for its next turn.
    pub(super) fn release(&mut self, session_id: SessionId, now: DateTime<Utc>) {
        if let Some(session) = self.sessions.get_mut(&session_id) {
            session.owner = None;
            session.running = None;
            session.free_since = now;
        }
    }

    /// Appends a durable event to its session's log, unless it is there; returns its place.
    pub(super) fn append(&mut self, now: DateTime<Utc>, mut event: Event) -> u64 {
        let Some(row) = self.sessions.get_mut(&event.session_id) else { return 0 };
        let log = self.logs.entry(event.session_id).or_default();
        if let Some(stored) = log.iter().find(|stored| stored.event_id == event.event_id) {
            return stored.seq.unwrap_or(0);
        }
        row.session.last_seq += 1;
        row.session.updated_at = now;
        event.seq = Some(row.session.last_seq);
        let tenant = row.session.tenant.clone();
        let record = compose::event_record(Topic::ConversationOutbound, &tenant, &event);
        let seq = row.session.last_seq;
        self.taken
            .entry(event.event_id)
            .or_insert_with(|| TakenId { tenant: tenant.clone(), accepted: None });
        log.push(event);
        self.send(now, &tenant, record);
        seq
    }

    /// Adds an outbox row, unless nobody would read it.
    pub(super) fn send(&mut self, now: DateTime<Utc>, tenant: &TenantId, record: Outgoing) {
        if !decide::keeps_row(record.topic, self.bus_is_local) {
            return;
        }
        let id = self.draw();
        let Outgoing { topic, session_id, headers, payload } = record;
        let row = OutboxRow { id, topic, session_id, headers, payload, created_at: now };
        let tenant = Some(tenant.clone());
        self.outbox.insert(id, OutboxEntry { row, tenant, acknowledged: BTreeSet::new() });
    }

    /// Acknowledges rows of a local bus; a row goes when every group has.
    pub(super) fn acknowledge_where(&mut self, group: Group, chosen: impl Fn(&OutboxRow) -> bool) {
        self.outbox.retain(|_, entry| {
            if entry.row.topic != group.topic() || !chosen(&entry.row) {
                return true;
            }
            entry.acknowledged.insert(group);
            !entry.row.topic.groups().iter().all(|group| entry.acknowledged.contains(group))
        });
    }

    /// Returns what the events of a turn's steps tell of their place.
    pub(super) fn place_of(row: &TurnRow) -> StepPlace<'_> {
        StepPlace { n: row.turn.n, persona_id: row.persona_id.as_deref() }
    }

    /// Returns the newest terminal event of a message's turn, once it has ended.
    pub(super) fn terminal_of(&self, event_id: EventId) -> Option<Event> {
        let row = self.turns.values().find(|row| row.turn.event_id == event_id)?;
        if !row.turn.status.is_over() {
            return None;
        }
        let log = self.logs.get(&row.turn.session_id)?;
        let mut ends = log.iter().filter(|event| {
            event.turn_id == Some(row.turn.turn_id) && event.event_type.is_terminal()
        });
        ends.next_back().cloned()
    }
}
