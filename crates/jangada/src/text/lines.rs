//! Cuts a stream of bytes into lines.
//!
//! A line is exactly the bytes between newlines, or between other delimiters. Nothing is trimmed, nothing decoded. Lines share the
//! buffer that the input was read into.

use std::io::BufRead as _;

use bytes::{Bytes, BytesMut};

/// A line that is longer than allowed.
#[derive(Debug, PartialEq, Eq)]
pub struct LineTooLong {
    /// The number of the line, from 1 on.
    pub line: u64,
    /// Bytes that are allowed.
    pub limit: usize,
}

/// The splitter. Feed [`buffer`](Self::buffer), take lines until there is none, feed again; at the end of the input
/// [`finish`](Self::finish).
pub struct LineSplitter {
    buffer: BytesMut,
    /// The bytes between two lines; not empty.
    delimiter: Vec<u8>,
    /// Number of bytes at the front of the buffer in which no delimiter ends.
    scanned: usize,
    limit: usize,
    /// Number of lines taken so far.
    taken: u64,
}

impl LineSplitter {
    /// A splitter for lines of at most `limit` bytes that end with the delimiter, which is not empty.
    pub fn new(limit: usize, delimiter: &[u8]) -> LineSplitter {
        assert!(!delimiter.is_empty(), "an empty delimiter is everywhere");
        LineSplitter {
            buffer: BytesMut::new(),
            delimiter: delimiter.to_vec(),
            scanned: 0,
            limit,
            taken: 0,
        }
    }

    /// The buffer, to which input is appended.
    pub fn buffer(&mut self) -> &mut BytesMut {
        &mut self.buffer
    }

    /// The number of the line that was taken last, from 1 on.
    pub fn line_number(&self) -> u64 {
        self.taken
    }

    /// The next whole line, without its delimiter.
    pub fn next_line(&mut self) -> Result<Option<Bytes>, LineTooLong> {
        let last = self.delimiter[self.delimiter.len() - 1];
        loop {
            let mut rest = &self.buffer[self.scanned..];
            // The standard library searches bytes with the instructions of the CPU; reading from a slice does not fail.
            let skipped = rest.skip_until(last).expect("a slice can always be read");
            self.scanned += skipped;
            let read = &self.buffer[..self.scanned];
            if skipped > 0 && read.ends_with(&self.delimiter) {
                return self.take_line().map(Some);
            }
            if skipped == 0 || read.last() != Some(&last) {
                // The last bytes may be the beginning of a delimiter.
                self.check((self.scanned + 1).saturating_sub(self.delimiter.len()))?;
                return Ok(None);
            }
        }
    }

    /// Takes the line whose delimiter ends where the scan ended.
    fn take_line(&mut self) -> Result<Bytes, LineTooLong> {
        let end = self.scanned;
        let length = end - self.delimiter.len();
        self.check(length)?;
        self.scanned = 0;
        self.taken += 1;
        let mut line = self.buffer.split_to(end);
        line.truncate(length);
        Ok(line.freeze())
    }

    /// The rest after the last delimiter, if there is any.
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
        pieces(input, piece, b"\n")
    }

    fn pieces(input: &[u8], piece: usize, delimiter: &[u8]) -> Vec<Vec<u8>> {
        let mut splitter = LineSplitter::new(100, delimiter);
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
    fn another_delimiter_may_have_several_bytes() {
        for (input, delimiter, expected) in [
            ("a\0b\0", "\0", ["a", "b"]),
            ("a;b\n", ";", ["a", "b\n"]),
            ("a::b::", "::", ["a", "b"]),
            ("a:b:::c", "::", ["a:b", ":c"]),
            ("aaa", "aa", ["", "a"]),
            ("ab-aab-x", "aab-", ["ab-", "x"]),
        ] {
            let expected = expected.map(|line| line.as_bytes().to_vec());
            for piece in 1..=input.len() {
                let found = pieces(input.as_bytes(), piece, delimiter.as_bytes());
                assert_eq!(found, expected, "{input:?} in pieces of {piece}");
            }
        }
        let mut splitter = LineSplitter::new(3, b"::");
        splitter.buffer().extend_from_slice(b"abc:");
        assert_eq!(splitter.next_line(), Ok(None), "it may be the delimiter");
        splitter.buffer().extend_from_slice(b"x");
        assert_eq!(splitter.next_line(), Err(LineTooLong { line: 1, limit: 3 }));
    }

    #[test]
    fn a_line_that_is_too_long_is_named_before_all_of_it_is_read() {
        let mut splitter = LineSplitter::new(3, b"\n");
        splitter.buffer().extend_from_slice(b"abc\nabcd");
        assert_eq!(splitter.next_line(), Ok(Some(Bytes::from_static(b"abc"))));
        assert_eq!(splitter.next_line(), Err(LineTooLong { line: 2, limit: 3 }));
        let mut whole = LineSplitter::new(3, b"\n");
        whole.buffer().extend_from_slice(b"abcd\n");
        assert_eq!(whole.next_line(), Err(LineTooLong { line: 1, limit: 3 }));
    }

    #[test]
    fn a_line_as_long_as_allowed_passes_in_pieces() {
        let mut splitter = LineSplitter::new(3, b"\n");
        splitter.buffer().extend_from_slice(b"abc");
        assert_eq!(splitter.next_line(), Ok(None));
        splitter.buffer().extend_from_slice(b"\n");
        assert_eq!(splitter.next_line(), Ok(Some(Bytes::from_static(b"abc"))));
        assert_eq!(splitter.next_line(), Ok(None));
        assert_eq!(splitter.finish(), None);
    }
}
