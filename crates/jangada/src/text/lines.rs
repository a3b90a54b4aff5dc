//! Cuts a stream of bytes into lines.
//!
//! A line is exactly the bytes between newlines. Nothing is trimmed, nothing decoded. Lines share the buffer that the
//! input was read into.

use std::io::BufRead as _;

use bytes::{Bytes, BytesMut};

/// A line that is longer than allowed.
#[derive(Debug, PartialEq, Eq)]
pub struct LineTooLong {
    /// Which line, from 1 on.
    pub line: u64,
    /// What is allowed, bytes.
    pub limit: usize,
}

/// The splitter. Feed [`buffer`](Self::buffer), take lines until there is none, feed again; at the end of the input
/// [`finish`](Self::finish).
pub struct LineSplitter {
    buffer: BytesMut,
    /// Bytes at the front of the buffer that have no newline.
    scanned: usize,
    limit: usize,
    /// Lines taken so far.
    taken: u64,
}

impl LineSplitter {
    /// Lines may have `limit` bytes.
    pub fn new(limit: usize) -> LineSplitter {
        LineSplitter {
            buffer: BytesMut::new(),
            scanned: 0,
            limit,
            taken: 0,
        }
    }

    /// Where the input goes, at its end.
    pub fn buffer(&mut self) -> &mut BytesMut {
        &mut self.buffer
    }

    /// Number of the line that was taken last, from 1 on.
    pub fn line_number(&self) -> u64 {
        self.taken
    }

    /// The next whole line, without its newline.
    pub fn next_line(&mut self) -> Result<Option<Bytes>, LineTooLong> {
        let mut rest = &self.buffer[self.scanned..];
        // The standard library searches bytes with the instructions of the CPU; reading from a slice does not fail.
        let skipped = rest.skip_until(b'\n').expect("a slice can always be read");
        let end = self.scanned + skipped;
        if end > 0 && self.buffer[end - 1] == b'\n' && skipped > 0 {
            self.check(end - 1)?;
            self.scanned = 0;
            self.taken += 1;
            let mut line = self.buffer.split_to(end);
            line.truncate(end - 1);
            return Ok(Some(line.freeze()));
        }
        self.scanned = end;
        self.check(end)?;
        Ok(None)
    }

    /// The rest after the last newline, if there is any.
    pub fn finish(&mut self) -> Option<Bytes> {
        self.scanned = 0;
        if self.buffer.is_empty() {
            return None;
        }
        self.taken += 1;
        Some(self.buffer.split().freeze())
    }

    fn check(&self, length: usize) -> Result<(), LineTooLong> {
        if length > self.limit {
            Err(LineTooLong {
                line: self.taken + 1,
                limit: self.limit,
            })
        } else {
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All lines of an input that arrives in pieces of this size.
    fn lines(input: &[u8], piece: usize) -> Vec<Vec<u8>> {
        let mut splitter = LineSplitter::new(100);
        let mut lines = Vec::new();
        for chunk in input.chunks(piece) {
            splitter.buffer().extend_from_slice(chunk);
            while let Some(line) = splitter.next_line().expect("no line is too long") {
                lines.push(line.to_vec());
            }
        }
        lines.extend(splitter.finish().map(|line| line.to_vec()));
        assert_eq!(splitter.line_number(), lines.len() as u64);
        lines
    }

    #[test]
    fn a_line_is_exactly_the_bytes_between_newlines() {
        let cases: [(&[u8], &[&[u8]]); 8] = [
            (b"", &[]),
            (b"\n", &[b""]),
            (b"a", &[b"a"]),
            (b"a\n", &[b"a"]),
            (b"a\nb", &[b"a", b"b"]),
            (b"\n\na\n\n", &[b"", b"", b"a", b""]),
            (b"a\r\nb\r", &[b"a\r", b"b\r"]),
            (b"\xff\xfe\x00\n\xc3\n", &[b"\xff\xfe\x00", b"\xc3"]),
        ];
        for (input, expected) in cases {
            for piece in 1..=input.len().max(1) {
                assert_eq!(lines(input, piece), expected, "{input:?} in pieces of {piece}");
            }
        }
    }

    #[test]
    fn a_line_that_is_too_long_is_named_before_all_of_it_is_read() {
        let mut splitter = LineSplitter::new(3);
        splitter.buffer().extend_from_slice(b"abc\nabcd");
        assert_eq!(splitter.next_line(), Ok(Some(Bytes::from_static(b"abc"))));
        assert_eq!(splitter.next_line(), Err(LineTooLong { line: 2, limit: 3 }));
        let mut whole = LineSplitter::new(3);
        whole.buffer().extend_from_slice(b"abcd\n");
        assert_eq!(whole.next_line(), Err(LineTooLong { line: 1, limit: 3 }));
    }

    #[test]
    fn a_line_as_long_as_allowed_passes_in_pieces() {
        let mut splitter = LineSplitter::new(3);
        splitter.buffer().extend_from_slice(b"abc");
        assert_eq!(splitter.next_line(), Ok(None));
        splitter.buffer().extend_from_slice(b"\n");
        assert_eq!(splitter.next_line(), Ok(Some(Bytes::from_static(b"abc"))));
        assert_eq!(splitter.next_line(), Ok(None));
        assert_eq!(splitter.finish(), None);
    }
}
