//! Draws operations from a seed.

use std::{collections::BTreeMap, time::Duration};

use rand::{Rng, SeedableRng, rngs::StdRng, seq::IndexedRandom};
use uuid::Uuid;

use super::world::World;
use crate::{
    ids::{EventId, Ids, SessionId, TenantId, TurnId},
    memory::MemoryWrite,
    message::NewMessage,
    port::store::{CancelScope, LayDown},
    testing::{SeqIds, sample},
    tool::{Effect, ToolStatus},
    topic::Group,
};

/// One call or two, in names that both stores know: claims and steps by the order in which they
/// were claimed.
#[derive(Debug, Clone)]
pub(super) enum Operation {
    Accept(Vec<NewMessage>),
    Claim(SessionId),
    Beat { claim: usize },
    Journal { claim: usize, step: u32, calls: Vec<Effect>, worked_ms: u64 },
    End { claim: usize, how: How, memory: Vec<MemoryWrite> },
    LayDown { claim: usize, why: LayDown },
    LayDownOrphans { alive: Vec<usize> },
    Cancel(TenantId, SessionId, CancelScope),
    Delete { tenant: TenantId, session_id: SessionId, forget: bool },
    Crash,
    ClaimSteps(u32),
    BeatStep { step: usize },
    Settle { step: usize, status: ToolStatus, memory: Vec<MemoryWrite> },
    Unclaim { step: usize },
    LoseOrphans { alive: Vec<usize> },
    Remember(Vec<MemoryWrite>),
    Deliver(Vec<Fate>),
    Replicate(Box<MemoryWrite>),
    Replay { letter: usize },
    DropLetter { letter: usize },
    Acknowledge(Group, usize),
    Pass(Duration),
}

/// How a turn ends.
#[derive(Debug, Clone, Copy)]
pub(super) enum How {
    Done,
    Failed,
    Cancelled,
}

/// What becomes of a write that waits.
#[derive(Debug, Clone, Copy)]
pub(super) enum Fate {
    Taken,
    Postponed,
    Refused,
}

/// Everything that was named so far.
#[derive(Debug, Default)]
pub(super) struct Names {
    pub(super) tenants: Vec<TenantId>,
    pub(super) sessions: Vec<SessionId>,
    pub(super) messages: Vec<EventId>,
    pub(super) memories: Vec<Uuid>,
}

#[derive(Debug)]
pub(super) struct Draw {
    rng: StdRng,
    ids: SeqIds,
    claims: Vec<TurnId>,
    steps: usize,
    journaled: BTreeMap<TurnId, u32>,
    pub(super) names: Names,
}

impl Draw {
    pub(super) fn new(seed: u64) -> Self {
        let ids = SeqIds::in_space(7);
        let names = Names {
            tenants: vec![TenantId::public(), sample::tenant("other")],
            sessions: (0..6).map(|_| SessionId(ids.draw())).collect(),
            messages: Vec::new(),
            memories: (0..4).map(|_| ids.draw()).collect(),
        };
        let rng = StdRng::seed_from_u64(seed);
        Self { rng, ids, claims: Vec::new(), steps: 0, journaled: BTreeMap::new(), names }
    }

    /// Learns what may be named from now on.
    pub(super) fn learn(&mut self, world: &World) {
        self.claims = world.claims.iter().map(|claimed| claimed.turn.turn_id).collect();
        self.steps = world.steps.len();
    }

    pub(super) fn operation(&mut self) -> Operation {
        match self.rng.random_range(0..100) {
            0..16 => Operation::Accept(self.batch()),
            16..32 => Operation::Claim(self.session()),
            32..60 if !self.claims.is_empty() => self.of_turn(),
            60..66 => Operation::ClaimSteps(self.rng.random_range(1..4)),
            66..78 if self.steps > 0 => self.of_step(),
            78..89 => self.of_memory(),
            _ => self.of_operator(),
        }
    }

    fn of_turn(&mut self) -> Operation {
        let claim = self.recent(self.claims.len());
        match self.rng.random_range(0..20) {
            0..9 => self.journal(claim),
            9..14 => {
                let how = *[How::Done, How::Done, How::Failed, How::Failed, How::Cancelled]
                    .choose(&mut self.rng)
                    .unwrap();
                Operation::End { claim, how, memory: self.writes(1) }
            }
            14..18 => Operation::LayDown { claim, why: self.why() },
            18 => Operation::LayDownOrphans { alive: self.some_of(self.claims.len()) },
            _ => Operation::Beat { claim },
        }
    }

    fn journal(&mut self, claim: usize) -> Operation {
        let next = self.journaled.entry(self.claims[claim]).or_default();
        if *next == 0 || self.rng.random_ratio(4, 5) {
            *next += 2;
        }
        let step = *next - 2;
        let count = self.rng.random_range(0..3);
        let effects = [Effect::Pure, Effect::Idempotent, Effect::Once];
        let calls = (0..count).map(|_| *effects.choose(&mut self.rng).unwrap()).collect();
        let worked_ms = u64::from(step) * 10;
        Operation::Journal { claim, step, calls, worked_ms }
    }

    fn why(&mut self) -> LayDown {
        let reason = "because".to_owned();
        match self.rng.random_range(0..3) {
            0 => LayDown::Drained,
            1 => LayDown::Panicked { reason },
            _ => LayDown::Waiting { reason, delay: self.seconds() },
        }
    }

    fn of_step(&mut self) -> Operation {
        let step = self.recent(self.steps);
        match self.rng.random_range(0..12) {
            0..7 => {
                let statuses = [ToolStatus::Success, ToolStatus::Error, ToolStatus::Unknown];
                let status = *statuses.choose(&mut self.rng).unwrap();
                Operation::Settle { step, status, memory: self.writes(1) }
            }
            7..9 => Operation::Unclaim { step },
            9..11 => Operation::BeatStep { step },
            _ => Operation::LoseOrphans { alive: self.some_of(self.steps) },
        }
    }

    fn of_memory(&mut self) -> Operation {
        match self.rng.random_range(0..10) {
            0..4 => Operation::Remember(self.writes(3)),
            4..8 => {
                let fates = [Fate::Taken, Fate::Taken, Fate::Taken, Fate::Postponed, Fate::Refused];
                let fates = (0..8).map(|_| *fates.choose(&mut self.rng).unwrap());
                Operation::Deliver(fates.collect())
            }
            _ => {
                let mut write = self.write();
                write.memory.version = self.rng.random_range(0..6);
                Operation::Replicate(Box::new(write))
            }
        }
    }

    fn of_operator(&mut self) -> Operation {
        match self.rng.random_range(0..20) {
            0..4 => Operation::Pass(self.seconds()),
            4..9 => Operation::Cancel(self.tenant(), self.session(), self.scope()),
            9 => Operation::Delete {
                tenant: self.tenant(),
                session_id: self.session(),
                forget: self.rng.random(),
            },
            10..12 => Operation::Crash,
            12..17 => Operation::Replay { letter: self.rng.random_range(0..6) },
            17 => Operation::DropLetter { letter: self.rng.random_range(0..6) },
            _ => {
                let groups =
                    [Group::ConversationWorker, Group::ToolExecutor, Group::MemoryReplicator];
                let group = *groups.choose(&mut self.rng).unwrap();
                Operation::Acknowledge(group, self.rng.random_range(1..5))
            }
        }
    }

    fn batch(&mut self) -> Vec<NewMessage> {
        let size = self.rng.random_range(1..4);
        (0..size).map(|_| self.message()).collect()
    }

    fn message(&mut self) -> NewMessage {
        let session_id = self.session();
        let again = self.names.messages.choose(&mut self.rng).copied();
        let event_id = again.filter(|_| self.rng.random_ratio(1, 12)).unwrap_or_else(|| {
            let event_id = EventId(self.ids.draw());
            self.names.messages.push(event_id);
            event_id
        });
        let mut message = sample::message(session_id, event_id, "hello");
        message.tenant = self.owner_of(session_id);
        if self.rng.random_ratio(1, 10) {
            message.tenant = self.tenant();
        }
        if self.rng.random_ratio(1, 5) {
            let key = self.rng.random_range(0..4).to_string();
            let body = self.rng.random_range(0..2).to_string();
            message = sample::keyed(message, &key, &body);
        }
        message
    }

    fn writes(&mut self, most: usize) -> Vec<MemoryWrite> {
        let count = self.rng.random_range(0..=most);
        let mut writes: Vec<MemoryWrite> = (0..count).map(|_| self.write()).collect();
        if self.rng.random_ratio(1, 6) {
            writes.extend(writes.first().cloned());
        }
        writes
    }

    fn write(&mut self) -> MemoryWrite {
        let memory_id = *self.names.memories.choose(&mut self.rng).unwrap();
        let event_id = EventId(self.ids.draw());
        let mut write = if self.rng.random_ratio(1, 4) {
            sample::delete(memory_id, event_id)
        } else {
            sample::put(memory_id, event_id, "tea")
        };
        if self.rng.random_ratio(1, 3) {
            let session_id = self.session();
            write.memory.session_id = Some(session_id);
            write.memory.tenant = self.owner_of(session_id);
        } else {
            write.memory.tenant = self.tenant();
        }
        write
    }

    fn scope(&mut self) -> CancelScope {
        let event_id = self.names.messages.choose(&mut self.rng).copied();
        match (self.rng.random_range(0..3), event_id) {
            (0, _) => CancelScope::All,
            (1, Some(event_id)) => CancelScope::Of(event_id),
            _ => CancelScope::Lowest,
        }
    }

    fn session(&mut self) -> SessionId {
        *self.names.sessions.choose(&mut self.rng).unwrap()
    }

    fn tenant(&mut self) -> TenantId {
        self.names.tenants.choose(&mut self.rng).unwrap().clone()
    }

    /// The tenant that mostly writes to this session.
    fn owner_of(&self, session_id: SessionId) -> TenantId {
        let place = self.names.sessions.iter().position(|known| *known == session_id).unwrap();
        self.names.tenants[usize::from(place % 3 == 2)].clone()
    }

    fn seconds(&mut self) -> Duration {
        Duration::from_secs(self.rng.random_range(0..8))
    }

    /// Draws one of so many, mostly of the last ones.
    fn recent(&mut self, count: usize) -> usize {
        let from = if self.rng.random_ratio(4, 5) { count.saturating_sub(4) } else { 0 };
        self.rng.random_range(from..count)
    }

    fn some_of(&mut self, count: usize) -> Vec<usize> {
        (0..count).filter(|_| self.rng.random()).collect()
    }
}
