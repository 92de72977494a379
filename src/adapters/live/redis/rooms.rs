//! The readers of this process, by session.

use std::{
    collections::{HashMap, hash_map::Entry},
    sync::{Mutex, MutexGuard, PoisonError},
};

use soma_contract::{SessionId, port::live::LiveEvent};
use tokio::sync::broadcast;

/// The most events that a reader may be behind.
const EVENTS_KEPT: usize = 256;

/// What a reader is told.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Said {
    /// What happened.
    Event(LiveEvent),
    /// Something could not be told.
    Missed,
}

/// All sessions that have readers here.
#[derive(Debug, Default)]
pub(super) struct Rooms(Mutex<HashMap<SessionId, broadcast::Sender<Said>>>);

impl Rooms {
    /// Adds a reader; says whether it is the first of its session.
    pub(super) fn enter(&self, session_id: SessionId) -> (broadcast::Receiver<Said>, bool) {
        match self.lock().entry(session_id) {
            Entry::Occupied(room) => (room.get().subscribe(), false),
            Entry::Vacant(place) => {
                let room = place.insert(broadcast::Sender::new(EVENTS_KEPT));
                (room.subscribe(), true)
            }
        }
    }

    /// Frees a session that has no readers any more; says whether it had none left.
    pub(super) fn leave(&self, session_id: SessionId) -> bool {
        let mut rooms = self.lock();
        let is_empty = rooms.get(&session_id).is_some_and(|room| room.receiver_count() == 0);
        if is_empty {
            rooms.remove(&session_id);
        }
        is_empty
    }

    /// Tells the readers of one session.
    pub(super) fn say(&self, session_id: SessionId, said: Said) {
        if let Some(room) = self.lock().get(&session_id) {
            room.send(said).ok(); // The last reader may just have gone.
        }
    }

    /// Tells all readers.
    pub(super) fn say_to_all(&self, said: &Said) {
        for room in self.lock().values() {
            room.send(said.clone()).ok();
        }
    }

    /// Ends all: every reader hears, after what was said before, that there is no more.
    pub(super) fn close(&self) {
        self.lock().clear();
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<SessionId, broadcast::Sender<Said>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    #[test]
    fn a_room_is_free_when_its_last_reader_has_left() {
        let (rooms, session_id) = (Rooms::default(), SessionId(Uuid::from_u128(1)));
        let (first, is_first) = rooms.enter(session_id);
        let (second, is_second_first) = rooms.enter(session_id);
        assert!(is_first && !is_second_first);
        drop(first);
        assert!(!rooms.leave(session_id));
        drop(second);
        assert!(rooms.leave(session_id));
        assert!(!rooms.leave(session_id));
    }

    #[test]
    fn a_reader_of_a_closed_room_hears_what_was_said_and_then_that_it_is_closed() {
        let (rooms, session_id) = (Rooms::default(), SessionId(Uuid::from_u128(1)));
        let (mut reader, _) = rooms.enter(session_id);
        rooms.say_to_all(&Said::Missed);
        rooms.close();
        assert_eq!(reader.try_recv(), Ok(Said::Missed));
        assert_eq!(reader.try_recv(), Err(broadcast::error::TryRecvError::Closed));
    }
}
