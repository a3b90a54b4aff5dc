//! How many bytes a connection carries, as far as they follow from the seed.
//!
//! On a slow link bytes become time, so that their number must be the same in two runs. Heads of HTTP/2 answers are not: the `date`
//! header has the system's time, and the order of an error's details is a hash map's, and how many bytes they take depends on what they
//! say. So of HTTP/2 (RFC 9113, section 4.1) what frames of data carry is counted, and each other frame as if it were empty.

/// Bytes of a frame's head.
const HEAD_BYTES: usize = 9;
/// What a client sends first.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// The type of frames of data, and of those with which a server begins.
const DATA: u8 = 0;
const SETTINGS: u8 = 4;

/// What was seen of one direction of a connection.
#[derive(Default)]
pub(super) struct Meter {
    head: [u8; HEAD_BYTES],
    head_bytes: usize,
    /// Of the frame, or of the preface.
    left: usize,
    is_data: bool,
    has_begun: bool,
    /// It is not HTTP/2.
    is_other: bool,
}

impl Meter {
    /// What these bytes count as, which come next.
    pub fn count(&mut self, mut bytes: &[u8]) -> usize {
        let mut counted = 0;
        while !bytes.is_empty() {
            if self.is_other {
                return counted + bytes.len();
            }
            if self.left > 0 {
                let take = self.left.min(bytes.len());
                bytes = &bytes[take..];
                self.left -= take;
                counted += if self.is_data { take } else { 0 };
                continue;
            }
            let take = (HEAD_BYTES - self.head_bytes).min(bytes.len());
            self.head[self.head_bytes..self.head_bytes + take].copy_from_slice(&bytes[..take]);
            self.head_bytes += take;
            bytes = &bytes[take..];
            if self.head_bytes == HEAD_BYTES {
                self.head_bytes = 0;
                counted += HEAD_BYTES;
                self.begin();
            }
        }
        counted
    }

    /// A head is there.
    fn begin(&mut self) {
        let is_first = !std::mem::replace(&mut self.has_begun, true);
        if is_first && PREFACE.starts_with(&self.head) {
            (self.left, self.is_data) = (PREFACE.len() - HEAD_BYTES, false);
            return;
        }
        let [high, middle, low, kind, ..] = self.head;
        if is_first && kind != SETTINGS {
            self.is_other = true;
            return;
        }
        self.left = u32::from_be_bytes([0, high, middle, low]) as usize;
        self.is_data = kind == DATA;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, length: usize) -> Vec<u8> {
        let [_, high, middle, low] = u32::try_from(length).expect("it is short").to_be_bytes();
        let mut frame = vec![high, middle, low, kind, 0, 0, 0, 0, 1];
        frame.resize(HEAD_BYTES + length, 7);
        frame
    }

    #[test]
    fn only_data_counts_however_it_is_cut() {
        let frames = [frame(SETTINGS, 12), frame(1, 300), frame(DATA, 1000), frame(1, 5)].concat();
        let client = [PREFACE, &frames].concat();
        for (bytes, expected) in [(&frames, 1036), (&client, 1045)] {
            for piece in [1, 7, 9, 100, 5000] {
                let mut meter = Meter::default();
                let counted: usize = bytes.chunks(piece).map(|bytes| meter.count(bytes)).sum();
                assert_eq!(counted, expected, "pieces of {piece}");
            }
        }
    }

    #[test]
    fn of_something_else_all_counts() {
        let mut meter = Meter::default();
        assert_eq!(meter.count(b"GET / HTTP/1.1\r\n"), 16);
        assert_eq!(meter.count(b"\r\n"), 2);
    }
}
