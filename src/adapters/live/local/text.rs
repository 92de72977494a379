//! The text so far: what pieces that may come late, twice or from a fenced owner add up to.

use soma_contract::port::live::{LiveEvent, Snapshot, TextPosition};

/// Brings the text up to date with one event.
///
/// Epochs belong to the session and only grow, so (epoch, step) tells which text is newer. A text
/// is whole or absent: one whose beginning or middle was missed is forgotten.
pub(in crate::adapters::live) fn follow(text: &mut Option<Snapshot>, event: &LiveEvent) {
    match event {
        LiveEvent::Delta { at, text: piece } => add(text, *at, piece),
        LiveEvent::Reset { at } => {
            if text.as_ref().is_none_or(|known| age(&known.at) <= age(at)) {
                *text = Some(begin(*at, ""));
            }
        }
        LiveEvent::Appended { .. } | LiveEvent::Notice { .. } => {}
    }
}

fn add(text: &mut Option<Snapshot>, at: TextPosition, piece: &str) {
    match text {
        Some(known) if age(&at) < age(&known.at) => {} // From an owner that was fenced since.
        Some(known) if same_step(&known.at, &at) && known.text.len() as u64 == at.offset => {
            known.text.push_str(piece);
        }
        _ => *text = (at.offset == 0).then(|| begin(at, piece)),
    }
}

fn begin(at: TextPosition, piece: &str) -> Snapshot {
    Snapshot { at: TextPosition { offset: 0, ..at }, text: piece.to_owned() }
}

fn same_step(one: &TextPosition, other: &TextPosition) -> bool {
    one.turn_id == other.turn_id && age(one) == age(other)
}

const fn age(at: &TextPosition) -> (u64, u32) {
    (at.epoch, at.step)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use soma_contract::{SessionId, TurnId};
    use uuid::Uuid;

    use super::*;

    fn at(epoch: u64, step: u32, offset: u64) -> TextPosition {
        let turn_id = TurnId::of(SessionId(Uuid::from_u128(1)), 1);
        TextPosition { turn_id, epoch, step, offset }
    }

    fn after(pieces: &[(u64, u32, u64, &str)]) -> Option<String> {
        let mut text = None;
        for &(epoch, step, offset, piece) in pieces {
            let text_at = at(epoch, step, offset);
            follow(&mut text, &LiveEvent::Delta { at: text_at, text: piece.to_owned() });
        }
        text.map(|snapshot| snapshot.text)
    }

    #[test]
    fn pieces_of_one_step_follow_each_other() {
        assert_eq!(after(&[(1, 0, 0, "äb"), (1, 0, 3, "c")]), Some("äbc".to_owned()));
    }

    #[test]
    fn a_newer_step_or_epoch_replaces_and_an_older_one_is_ignored() {
        assert_eq!(after(&[(1, 0, 0, "a"), (1, 1, 0, "b")]), Some("b".to_owned()));
        assert_eq!(after(&[(2, 0, 0, "a"), (1, 3, 0, "b")]), Some("a".to_owned()));
    }

    #[test]
    fn a_text_with_a_gap_is_forgotten() {
        assert_eq!(after(&[(1, 0, 4, "late")]), None);
        assert_eq!(after(&[(1, 0, 0, "a"), (1, 0, 9, "b")]), None);
    }

    #[test]
    fn a_reset_forgets_the_text_unless_it_comes_from_the_past() {
        let mut text = Some(begin(at(2, 0, 0), "text"));
        follow(&mut text, &LiveEvent::Reset { at: at(1, 0, 0) });
        assert_eq!(text.as_ref().unwrap().text, "text");
        follow(&mut text, &LiveEvent::Reset { at: at(2, 0, 0) });
        assert_eq!(text.unwrap().text, "");
    }

    proptest! {
        #[test]
        fn any_cut_of_a_text_adds_up_to_it(pieces in prop::collection::vec(".{0,8}", 0..20)) {
            let mut text = None;
            let mut whole = String::new();
            for piece in pieces {
                let offset = whole.len() as u64;
                follow(&mut text, &LiveEvent::Delta { at: at(1, 0, offset), text: piece.clone() });
                whole.push_str(&piece);
            }
            prop_assert_eq!(text.map(|known| known.text).unwrap_or_default(), whole);
        }
    }
}
