//! Server-sent events, as far as chat completions use them: lines that begin with `data:`.
//!
//! An own splitter, because it has to bound a line and to be lenient where servers are: a missing
//! space, `\r\n`, no blank line between events or none behind the last one.

/// A line is longer than anything a server has to say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct TooLong;

/// Cuts bytes, however they arrive, into lines.
#[derive(Debug, Default)]
pub(super) struct Lines {
    /// Bytes that no line has used up yet.
    pending: Vec<u8>,
    /// How many of them are known to hold no line break.
    searched: usize,
    /// How many of them are used up.
    used: usize,
}

impl Lines {
    /// Adds bytes. To be followed by [`Self::next`] until it has none.
    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.pending.drain(..self.used);
        self.searched -= self.used;
        self.used = 0;
        self.pending.extend_from_slice(bytes);
    }

    /// Returns what the next whole `data:` line says, without the space around it.
    pub(super) fn next(&mut self, max_bytes: usize) -> Result<Option<String>, TooLong> {
        while let Some(line) = self.line() {
            if let Some(data) = data(line) {
                return if data.len() > max_bytes { Err(TooLong) } else { Ok(Some(data)) };
            }
        }
        if self.pending.len() - self.used > max_bytes { Err(TooLong) } else { Ok(None) }
    }

    /// Returns the rest, once no more bytes will come: a line whose end was never sent.
    pub(super) fn last(&mut self) -> Option<String> {
        let rest = self.pending.get(self.used..).and_then(data);
        self.used = self.pending.len();
        self.searched = self.used;
        rest
    }

    fn line(&mut self) -> Option<&[u8]> {
        let ahead = self.pending.get(self.searched..)?;
        let Some(length) = ahead.iter().position(|byte| matches!(byte, b'\n' | b'\r')) else {
            self.searched = self.pending.len();
            return None;
        };
        let (start, end) = (self.used, self.searched + length);
        self.used = end + 1;
        self.searched = self.used;
        self.pending.get(start..end)
    }
}

fn data(line: &[u8]) -> Option<String> {
    let data = line.strip_prefix(b"data:")?.trim_ascii();
    (!data.is_empty()).then(|| String::from_utf8_lossy(data).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(lines: &mut Lines, bytes: &[u8]) -> Vec<String> {
        lines.push(bytes);
        std::iter::from_fn(|| lines.next(20).unwrap()).collect()
    }

    #[test]
    fn lines_are_found_whatever_their_ends_and_spaces() {
        let mut lines = Lines::default();
        let bytes = b": comment\r\nevent: x\r\ndata: a\r\n\r\ndata:b\ndata:\ndata:  c d \n\nda";
        assert_eq!(all(&mut lines, bytes), ["a", "b", "c d"]);
        assert_eq!(all(&mut lines, b"ta: e"), Vec::<String>::new());
        assert_eq!(lines.last(), Some("e".to_owned()));
        assert_eq!(lines.last(), None);
    }

    #[test]
    fn a_line_is_bounded_before_and_after_its_end_is_known() {
        let mut lines = Lines::default();
        lines.push(&[b'x'; 21]);
        assert_eq!(lines.next(20), Err(TooLong));
        let mut lines = Lines::default();
        lines.push(b"data: 0123456789012345678901\n");
        assert_eq!(lines.next(20), Err(TooLong));
    }
}
