//! From bytes to pieces of an answer: pure, so that no cut of the bytes can matter.

use serde_json::Value;

use super::{
    chunk::Chunk,
    collect::Collected,
    fault::{Fault, shown},
    lines::{Lines, TooLong},
};

/// The most that an endpoint may say.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    /// Bytes of one event.
    pub(super) event_bytes: usize,
    /// Bytes of the whole answer.
    pub(super) answer_bytes: usize,
}

impl Default for Bounds {
    fn default() -> Self {
        Self { event_bytes: 1 << 20, answer_bytes: 1 << 20 }
    }
}

/// How far the answer is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Progress {
    /// More has to come.
    Open,
    /// The model has stopped; tokens may still be told.
    Finished,
    /// Nothing more will come or is wanted.
    Ended,
}

/// Reads one stream.
#[derive(Debug)]
pub(super) struct Decoder {
    bounds: Bounds,
    lines: Lines,
    collected: Collected,
    ended: bool,
}

impl Decoder {
    pub(super) fn new(bounds: Bounds) -> Self {
        Self { bounds, lines: Lines::default(), collected: Collected::default(), ended: false }
    }

    /// Adds bytes as they come. To be followed by [`Self::next`] until it has none.
    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.lines.push(bytes);
    }

    /// Returns the next piece of text that is whole.
    pub(super) fn next(&mut self) -> Result<Option<String>, Fault> {
        while !self.ended {
            let line = self.lines.next(self.bounds.event_bytes).map_err(|TooLong| {
                Fault::malformed(format!("an event of more than {} bytes", self.bounds.event_bytes))
            })?;
            let Some(line) = line else { return Ok(None) };
            if let Some(text) = self.event(&line)? {
                return Ok(Some(text));
            }
        }
        Ok(None)
    }

    /// Tells that no more bytes will come.
    pub(super) fn close(&mut self) -> Result<Option<String>, Fault> {
        let Some(line) = self.lines.last().filter(|_| !self.ended) else { return Ok(None) };
        match self.event(&line) {
            Ok(text) => Ok(text),
            Err(_half) if self.progress() != Progress::Open => Ok(None),
            Err(_half) => Err(Fault::broken("the stream broke off in the middle of an event")),
        }
    }

    /// Reads the answer of a server that does not stream.
    pub(super) fn whole(&mut self, body: &str) -> Result<Option<String>, Fault> {
        let text = self.event(body)?;
        self.ended = self.ended || self.collected.has_calls() || text.is_some();
        Ok(text)
    }

    pub(super) const fn progress(&self) -> Progress {
        match (self.ended, &self.collected.finish_reason) {
            (true, _) => Progress::Ended,
            (false, Some(_)) => Progress::Finished,
            (false, None) => Progress::Open,
        }
    }

    /// Returns what was put together.
    pub(super) fn into_collected(self) -> Collected {
        self.collected
    }

    fn event(&mut self, line: &str) -> Result<Option<String>, Fault> {
        if line == "[DONE]" {
            self.ended = true;
            return Ok(None);
        }
        let chunk: Chunk = serde_json::from_str(line)
            .map_err(|error| Fault::malformed(format!("{error} in `{}`", shown(line))))?;
        if let Some(error) = chunk.error.as_ref().filter(|error| **error != Value::Null) {
            return Err(Fault::told(error));
        }
        let text = self.collected.add(chunk);
        if self.collected.len() > self.bounds.answer_bytes {
            self.cut()?;
        }
        Ok(text)
    }

    /// Ends an answer that is too long: a text may be cut, calls may not.
    fn cut(&mut self) -> Result<(), Fault> {
        if self.collected.has_calls() {
            let bytes = self.bounds.answer_bytes;
            return Err(Fault::malformed(format!("tool calls of more than {bytes} bytes")));
        }
        self.collected.finish_reason = Some("length".to_owned());
        self.ended = true;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const STREAM: &str = concat!(
        "data: {\"model\":\"m\",\"choices\":[{\"index\":0,\"delta\":{\"role\":\"assistant\",",
        "\"content\":\"\"}}]}\n\n",
        "data: {\"choices\":[{\"delta\":{\"content\":\"Grüße, \"}}]}\n\n",
        ": keep-alive\r\n\r\n",
        "data:{\"choices\":[{\"delta\":{\"content\":\"世界 😀\"}}]}\r\n\r\n",
        "data: {\"choices\":[{\"delta\":{\"tool_calls\":[{\"index\":0,\"id\":\"a\",",
        "\"function\":{\"name\":\"echo\",\"arguments\":\"{\\\"te\"}}]}}]}\n\n",
        "data: {\"choices\":[{\"delta\":{\"tool_calls\":[{\"index\":0,",
        "\"function\":{\"arguments\":\"xt\\\":1}\"}}]}}]}\n\n",
        "data: {\"choices\":[{\"delta\":{},\"finish_reason\":\"tool_calls\"}]}\n\n",
        "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":3,\"completion_tokens\":4}}\n\n",
        "data: [DONE]\n\ndata: {\"choices\":[{\"delta\":{\"content\":\"never\"}}]}\n\n",
    );

    /// Reads a stream cut into pieces of these sizes, over and over.
    fn read(sizes: &[usize]) -> (Vec<String>, String) {
        let mut decoder = Decoder::new(Bounds::default());
        let (mut texts, mut rest) = (Vec::new(), STREAM.as_bytes());
        for size in sizes.iter().cycle() {
            let (piece, later) = rest.split_at((*size).min(rest.len()));
            rest = later;
            decoder.push(piece);
            while let Some(text) = decoder.next().unwrap() {
                texts.push(text);
            }
            if rest.is_empty() {
                break;
            }
        }
        assert_eq!(decoder.progress(), Progress::Ended);
        (texts, format!("{:?}", decoder.into_collected()))
    }

    #[test]
    fn a_stream_is_read_to_its_end_and_no_further() {
        let (texts, answer) = read(&[STREAM.len()]);
        assert_eq!(texts, ["Grüße, ", "世界 😀"]);
        assert!(answer.contains(r#"arguments: "{\"text\":1}""#), "{answer}");
        assert!(answer.contains("completion_tokens: Some(4)"), "{answer}");
    }

    proptest! {
        #[test]
        fn any_cut_of_the_bytes_gives_the_same_pieces(
            sizes in prop::collection::vec(1_usize..40, 1..60),
        ) {
            prop_assert_eq!(read(&sizes), read(&[STREAM.len()]));
        }

        #[test]
        fn no_bytes_at_all_make_it_panic(
            pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..50), 0..20),
        ) {
            let mut decoder = Decoder::new(Bounds { event_bytes: 30, answer_bytes: 30 });
            for piece in pieces {
                decoder.push(&piece);
                while let Ok(Some(_)) = decoder.next() {}
            }
            decoder.close().ok();
        }
    }

    #[test]
    fn an_answer_that_never_ends_is_cut() {
        let mut decoder = Decoder::new(Bounds { event_bytes: 1_000, answer_bytes: 10 });
        let piece = "data: {\"choices\":[{\"delta\":{\"content\":\"0123456\"}}]}\n\n";
        decoder.push(piece.repeat(3).as_bytes());
        while decoder.next().unwrap().is_some() {}
        assert_eq!(decoder.progress(), Progress::Ended);
        let collected = decoder.into_collected();
        assert_eq!(collected.finish_reason.as_deref(), Some("length"));
        assert_eq!(collected.text.len(), 14);
    }
}
