//! What a stream that cannot take anything back has said. Pure.

use soma_contract::port::live::TextPosition;

/// The pieces that were sent, against the text as it stands.
///
/// A step may be computed anew after pieces of it were sent. As long as the new text begins with
/// what was sent, the reader need not know; where it does not, the whole answer follows at the end.
#[derive(Debug, Default)]
pub(super) struct Said {
    /// What was sent of the present step.
    sent: String,
    /// The present step's text.
    text: String,
    place: Option<(u64, u32)>,
    anything: bool,
}

impl Said {
    /// Takes the next piece of text; returns what is to be sent.
    pub(super) fn piece(&mut self, at: TextPosition, text: &str) -> Option<String> {
        let begins = self.go_to(at);
        self.text.push_str(text);
        self.news(begins)
    }

    /// Takes the text so far; returns what is to be sent.
    pub(super) fn snapshot(&mut self, at: TextPosition, text: &str) -> Option<String> {
        let begins = self.go_to(at);
        text.clone_into(&mut self.text);
        self.news(begins)
    }

    /// Takes the news that the step is computed anew.
    pub(super) fn void(&mut self, at: TextPosition) {
        self.go_to(at);
        self.text.clear();
    }

    /// Takes the whole answer; returns what of it has not been said.
    pub(super) fn end(&mut self, answer: &str) -> Option<String> {
        let rest = match answer.strip_prefix(self.sent.as_str()) {
            Some(rest) => rest.to_owned(),
            None => format!("\n\n{answer}"),
        };
        (!rest.is_empty()).then_some(rest)
    }

    /// Goes to the step of a piece; returns whether its text is to be set apart from what was said.
    fn go_to(&mut self, at: TextPosition) -> bool {
        let place = (at.epoch, at.step);
        if self.place == Some(place) {
            return false;
        }
        let is_next_step = self.place.is_some_and(|(_, step)| step != at.step);
        self.place = Some(place);
        self.text.clear();
        if is_next_step {
            self.sent.clear();
        }
        is_next_step && self.anything
    }

    fn news(&mut self, set_apart: bool) -> Option<String> {
        let fresh = self.text.strip_prefix(self.sent.as_str()).filter(|fresh| !fresh.is_empty())?;
        let fresh = fresh.to_owned();
        self.sent.push_str(&fresh);
        self.anything = true;
        Some(if set_apart { format!("\n\n{fresh}") } else { fresh })
    }
}

#[cfg(test)]
mod tests {
    use soma_contract::TurnId;
    use uuid::Uuid;

    use super::*;

    fn at(epoch: u64, step: u32) -> TextPosition {
        TextPosition { turn_id: TurnId(Uuid::nil()), epoch, step, offset: 0 }
    }

    #[test]
    fn pieces_are_sent_as_they_come_and_the_end_adds_nothing() {
        let mut said = Said::default();
        assert_eq!(said.piece(at(1, 0), "Hel").as_deref(), Some("Hel"));
        assert_eq!(said.piece(at(1, 0), "lo").as_deref(), Some("lo"));
        assert_eq!(said.end("Hello"), None);
    }

    #[test]
    fn a_step_that_is_computed_anew_goes_on_where_it_agrees() {
        let mut said = Said::default();
        said.piece(at(1, 0), "Hello wor");
        said.void(at(2, 0));
        assert_eq!(said.piece(at(2, 0), "Hello "), None);
        assert_eq!(said.piece(at(2, 0), "world").as_deref(), Some("ld"));
        assert_eq!(said.end("Hello world!").as_deref(), Some("!"));
    }

    #[test]
    fn a_text_that_turned_out_otherwise_follows_whole() {
        let mut said = Said::default();
        said.piece(at(1, 0), "Good");
        said.void(at(2, 0));
        assert_eq!(said.piece(at(2, 0), "Bad"), None);
        assert_eq!(said.end("Bad luck").as_deref(), Some("\n\nBad luck"));
    }

    #[test]
    fn the_next_step_is_set_apart() {
        let mut said = Said::default();
        said.piece(at(1, 0), "Let me look.");
        assert_eq!(said.piece(at(1, 2), "It is 7.").as_deref(), Some("\n\nIt is 7."));
        assert_eq!(said.end("It is 7."), None);
    }

    #[test]
    fn without_pieces_the_answer_comes_whole() {
        assert_eq!(Said::default().end("all").as_deref(), Some("all"));
        let mut late = Said::default();
        assert_eq!(late.snapshot(at(1, 0), "so far").as_deref(), Some("so far"));
    }
}
