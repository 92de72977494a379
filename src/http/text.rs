//! The text that a reader has been shown, and what a new piece adds to it. Pure.

use soma_contract::{
    TurnId,
    port::live::{Snapshot, TextPosition},
};

/// What has been shown of the step that is being computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Shown {
    at: Option<Place>,
    ended: Option<(TurnId, u64)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Place {
    turn_id: TurnId,
    epoch: u64,
    step: u32,
    bytes: u64,
}

/// What a piece means to the reader.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Piece {
    /// This follows what was shown.
    Follows {
        /// Where.
        at: TextPosition,
        /// The new part.
        text: String,
    },
    /// It was shown, or belongs to what is over.
    Known,
    /// Something before it was missed: look at the snapshot.
    Gap,
}

impl Shown {
    /// Takes a piece.
    pub(super) fn take(&mut self, at: TextPosition, text: &str) -> Piece {
        if self.is_over(at) {
            return Piece::Known;
        }
        let shown = match self.at {
            Some(place) if place.is_of(at) => place.bytes,
            _ if at.offset == 0 => 0,
            _ => return Piece::Gap,
        };
        let end = at.offset.saturating_add(length(text));
        if at.offset > shown {
            return Piece::Gap;
        }
        if end <= shown && shown > 0 {
            return Piece::Known;
        }
        let skip = usize::try_from(shown.saturating_sub(at.offset)).unwrap_or(usize::MAX);
        let Some(fresh) = text.get(skip..) else {
            return Piece::Gap;
        };
        let fresh = fresh.to_owned();
        self.set(at, end);
        Piece::Follows { at: TextPosition { offset: shown, ..at }, text: fresh }
    }

    /// Takes a snapshot; returns whether it shows more than what was shown.
    pub(super) fn take_snapshot(&mut self, snapshot: &Snapshot) -> bool {
        let bytes = length(&snapshot.text);
        let is_news = !self.is_over(snapshot.at)
            && bytes > 0
            && self.at.is_none_or(|place| !place.is_of(snapshot.at) || place.bytes < bytes);
        if is_news {
            self.set(snapshot.at, bytes);
        }
        is_news
    }

    /// Takes the news that a step is computed anew; returns whether anything shown is void.
    pub(super) fn reset(&mut self, at: TextPosition) -> bool {
        let is_void = !self.is_over(at)
            && self.at.is_some_and(|place| place.turn_id == at.turn_id && place.bytes > 0);
        if !self.is_over(at) {
            self.set(at, 0);
        }
        is_void
    }

    /// Takes the news that a turn has ended: what is still on its way of it is void.
    pub(super) fn end(&mut self, turn_id: TurnId) {
        let epoch = self.at.filter(|place| place.turn_id == turn_id).map_or(0, |place| place.epoch);
        self.ended = Some((turn_id, epoch));
        self.at = self.at.filter(|place| place.turn_id != turn_id);
    }

    /// Pieces of an earlier epoch or step, or of the turn that ended last, come too late.
    fn is_over(&self, at: TextPosition) -> bool {
        let is_ended =
            self.ended.is_some_and(|(turn_id, epoch)| turn_id == at.turn_id && at.epoch <= epoch);
        let is_passed = self.at.is_some_and(|place| {
            place.turn_id == at.turn_id && (at.epoch, at.step) < (place.epoch, place.step)
        });
        is_ended || is_passed
    }

    fn set(&mut self, at: TextPosition, bytes: u64) {
        let TextPosition { turn_id, epoch, step, .. } = at;
        self.at = Some(Place { turn_id, epoch, step, bytes });
    }
}

impl Place {
    fn is_of(&self, at: TextPosition) -> bool {
        (self.turn_id, self.epoch, self.step) == (at.turn_id, at.epoch, at.step)
    }
}

fn length(text: &str) -> u64 {
    u64::try_from(text.len()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    fn at(epoch: u64, step: u32, offset: u64) -> TextPosition {
        TextPosition { turn_id: TurnId(Uuid::from_u128(1)), epoch, step, offset }
    }

    fn take(shown: &mut Shown, at: TextPosition, text: &str) -> Option<String> {
        match shown.take(at, text) {
            Piece::Follows { text, .. } => Some(text),
            Piece::Known | Piece::Gap => None,
        }
    }

    #[test]
    fn pieces_are_shown_once_and_in_order() {
        let mut shown = Shown::default();
        assert_eq!(take(&mut shown, at(1, 0, 0), "Hel").as_deref(), Some("Hel"));
        assert_eq!(take(&mut shown, at(1, 0, 0), "Hel"), None);
        assert_eq!(take(&mut shown, at(1, 0, 2), "llo").as_deref(), Some("lo"));
        assert_eq!(shown.take(at(1, 0, 9), "!"), Piece::Gap);
    }

    #[test]
    fn who_joins_late_shows_the_snapshot_and_what_follows() {
        let mut shown = Shown::default();
        assert_eq!(shown.take(at(1, 0, 5), " world"), Piece::Gap);
        let snapshot = Snapshot { at: at(1, 0, 0), text: "Hello wor".to_owned() };
        assert!(shown.take_snapshot(&snapshot));
        assert!(!shown.take_snapshot(&snapshot));
        assert_eq!(take(&mut shown, at(1, 0, 5), " world").as_deref(), Some("ld"));
    }

    #[test]
    fn another_step_or_run_begins_anew_and_older_ones_are_void() {
        let mut shown = Shown::default();
        take(&mut shown, at(1, 0, 0), "one");
        assert_eq!(take(&mut shown, at(1, 1, 0), "two").as_deref(), Some("two"));
        assert_eq!(shown.take(at(1, 0, 3), "late"), Piece::Known);
        assert!(shown.reset(at(2, 1, 0)));
        assert_eq!(shown.take(at(1, 1, 3), "late"), Piece::Known);
        assert_eq!(take(&mut shown, at(2, 1, 0), "zwei").as_deref(), Some("zwei"));
    }

    #[test]
    fn nothing_of_an_ended_turn_is_shown_until_it_is_replayed() {
        let mut shown = Shown::default();
        take(&mut shown, at(3, 0, 0), "done");
        shown.end(at(3, 0, 0).turn_id);
        assert_eq!(shown.take(at(3, 0, 4), "late"), Piece::Known);
        assert!(!shown.take_snapshot(&Snapshot { at: at(3, 0, 0), text: "done".to_owned() }));
        assert_eq!(take(&mut shown, at(4, 1, 0), "again").as_deref(), Some("again"));
    }
}
