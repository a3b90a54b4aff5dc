//! Carry-forward: what holds up the start of a log is appended again at its end, and its old place is done, in one entry. So a message
//! that is stuck, or due in ten years, holds no disk.

use bytes::{Buf, BufMut};
use jangada_types::replicated::Wire;

use super::marks::Marks;
use crate::runs::Runs;
use crate::varint::{get_varint, put_varint};

const VERSION: u8 = 1;

/// The head of a carry; the batch of the records, as they were, is the command's body. Record `i` of the batch is the message that
/// `messages` names in place `i`.
///
/// A message that is leased keeps its lease, and its holder may go on to name it by the offset that it was handed out with.
///
/// As a [`QueueOps`](crate::QueueOps) it has no effect in an entry of another term than the one in which it was decided.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Carry {
    /// The term in which it was decided.
    pub term: u64,
    /// The messages that are appended again.
    pub messages: Runs,
    /// Their marks, one for each; none has any if it is empty.
    pub marks: Marks,
}

/// Why nothing is carried. Nothing changed, and the batch must not be appended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CarryRefused {
    /// The entry is of another term than the one in which it was decided.
    LeaderChanged,
    /// A slot is a view over the log, which must not have its records twice.
    GroupSlot,
    /// There is no slot, so nobody asks for the messages.
    NoSlot,
    /// A message is on its way to another topic, with a batch that names it by its offset; or it belongs to a transaction that is not
    /// over, or is acknowledged in one.
    Out {
        /// The offset of the message.
        offset: u64,
    },
    /// A message is not in the log.
    Unknown {
        /// The offset of the message.
        offset: u64,
    },
}

impl Carry {
    /// `version u8 | term | numbers of the runs, their count first | marks`.
    pub fn encode(&self, out: &mut impl BufMut) {
        out.put_u8(VERSION);
        put_varint(out, self.term);
        let runs = self.messages.to_form();
        put_varint(out, runs.len() as u64);
        runs.iter().for_each(|number| put_varint(out, *number));
        self.marks.encode(true, out);
    }

    /// The reverse of [`Carry::encode`]. None: a later build wrote it, or it is damaged.
    pub fn decode(input: &mut &[u8]) -> Option<Self> {
        if input.try_get_u8().ok()? != VERSION {
            return None;
        }
        let term = get_varint(input)?;
        let count = get_varint(input).filter(|count| *count <= input.len() as u64)?;
        let runs: Option<Vec<u64>> = (0..count).map(|_| get_varint(input)).collect();
        let messages = Runs::from_form("carry", runs?).ok()?;
        let marks = Marks::decode(input)?;
        let is_whole = marks.is_empty() || marks.0.len() as u64 == messages.len();
        is_whole.then_some(Self { term, messages, marks })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::Mark;

    #[test]
    fn the_format_is_pinned() {
        let carry = Carry {
            term: 300,
            messages: Runs::from_iter([5, 6, 9]),
            marks: Marks(vec![Mark::default(); 3]),
        };
        let mut bytes = Vec::new();
        carry.encode(&mut bytes);
        assert_eq!(bytes, b"\x01\xac\x02\x04\x05\x01\x02\x00\x01\x03\0\0\0");
        assert_eq!(Carry::decode(&mut &bytes[..]), Some(carry));
        for length in 0..bytes.len() {
            assert_eq!(Carry::decode(&mut &bytes[..length]), None, "{length} bytes");
        }
    }
}
