//! What the tests of the three workers share.

use std::sync::Arc;

use soma_contract::{
    Clock, EventId, Ids, Owner, SessionId,
    testing::{FakeClock, FakeMemory, FakeStore, LogBus, SeqIds, sample},
};
use soma_runtime::Io;
use uuid::Uuid;

use crate::{MemoryMetrics, MemoryPorts};

/// A small world of fakes.
pub(crate) struct World {
    pub(crate) clock: Arc<FakeClock>,
    pub(crate) ids: SeqIds,
    pub(crate) store: Arc<FakeStore>,
    pub(crate) bus: Arc<LogBus>,
    pub(crate) memory: Arc<FakeMemory>,
}

impl World {
    /// A store whose rows go to a bus with a log.
    pub(crate) fn new() -> Self {
        let clock = Arc::new(FakeClock::default());
        let shared: Arc<dyn Clock> = Arc::clone(&clock) as _;
        Self {
            store: Arc::new(FakeStore::with_remote_bus(shared)),
            bus: Arc::new(LogBus::new()),
            memory: Arc::new(FakeMemory::new()),
            ids: SeqIds::default(),
            clock,
        }
    }

    pub(crate) fn ports(&self) -> MemoryPorts {
        MemoryPorts {
            store: Arc::clone(&self.store) as _,
            bus: Arc::clone(&self.bus) as _,
            memory: Arc::clone(&self.memory) as _,
            clock: Arc::clone(&self.clock) as _,
            owner: Owner("me".to_owned()),
            io: Io::current().unwrap(),
        }
    }

    /// Accepts a message, which leaves a row of `conversation.inbound`.
    pub(crate) async fn accept(&self, session: SessionId, text: &str) -> EventId {
        use soma_contract::port::store::Transcript;
        let event_id = EventId(self.ids.draw());
        let message = sample::message(session, event_id, text);
        self.store.accept(vec![message]).await.remove(0).unwrap();
        event_id
    }
}

pub(crate) fn session(number: u128) -> SessionId {
    SessionId(Uuid::from_u128(number))
}

pub(crate) fn metrics() -> MemoryMetrics {
    MemoryMetrics::new(&prometheus::Registry::new()).unwrap()
}
