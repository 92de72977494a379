//! The readers of each session, and the text of the step that it computes.

use std::{
    collections::{HashMap, hash_map::Entry},
    sync::{Mutex, MutexGuard, PoisonError},
};

use soma_contract::{
    SessionId,
    port::live::{LiveEvent, Snapshot},
};
use tokio::sync::broadcast;

use super::text;

/// The most events that a reader may be behind.
pub(super) const EVENTS_KEPT: usize = 256;

/// All sessions that have readers or a text.
#[derive(Debug, Default)]
pub(super) struct Rooms(Mutex<HashMap<SessionId, Room>>);

#[derive(Debug, Default)]
struct Room {
    /// The way to the readers, while there are any: it costs a buffer of [`EVENTS_KEPT`].
    readers: Option<broadcast::Sender<LiveEvent>>,
    /// The text so far.
    text: Option<Snapshot>,
}

impl Rooms {
    /// Keeps the text and tells the readers, as one step: whoever enters and then takes the
    /// snapshot misses nothing.
    pub(super) fn publish(&self, session_id: SessionId, event: LiveEvent) {
        let mut rooms = self.lock();
        let keeps = matches!(event, LiveEvent::Delta { .. } | LiveEvent::Reset { .. });
        match rooms.entry(session_id) {
            Entry::Occupied(mut room) => {
                room.get_mut().publish(event);
                if room.get().is_empty() {
                    room.remove();
                }
            }
            Entry::Vacant(place) if keeps => {
                let mut room = Room::default();
                room.publish(event);
                if !room.is_empty() {
                    place.insert(room);
                }
            }
            Entry::Vacant(_) => {}
        }
    }

    /// Adds a reader.
    pub(super) fn enter(&self, session_id: SessionId) -> broadcast::Receiver<LiveEvent> {
        self.lock()
            .entry(session_id)
            .or_default()
            .readers
            .get_or_insert_with(|| broadcast::Sender::new(EVENTS_KEPT))
            .subscribe()
    }

    /// Frees what no reader needs any more.
    pub(super) fn leave(&self, session_id: SessionId) {
        self.change(session_id, |room| {
            room.readers.take_if(|readers| readers.receiver_count() == 0);
        });
    }

    /// Returns the text so far.
    pub(super) fn snapshot(&self, session_id: SessionId) -> Option<Snapshot> {
        self.lock().get(&session_id).and_then(|room| room.text.clone())
    }

    /// Forgets the text so far.
    pub(super) fn clear(&self, session_id: SessionId) {
        self.change(session_id, |room| room.text = None);
    }

    /// Returns how many sessions take memory.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.lock().len()
    }

    fn change(&self, session_id: SessionId, change: impl FnOnce(&mut Room)) {
        if let Entry::Occupied(mut room) = self.lock().entry(session_id) {
            change(room.get_mut());
            if room.get().is_empty() {
                room.remove();
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<SessionId, Room>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Room {
    fn publish(&mut self, event: LiveEvent) {
        text::follow(&mut self.text, &event);
        if let Some(readers) = &self.readers {
            readers.send(event).ok(); // The last reader may just have gone.
        }
    }

    const fn is_empty(&self) -> bool {
        self.readers.is_none() && self.text.is_none()
    }
}
