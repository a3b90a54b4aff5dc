//! Conditional appends: a batch that is appended only if the partition's end offset, or the last offset of the batch's
//! key, is what its producer expects.
//!
//! The end offset is part of every replica's state, so that condition is judged when the entry is applied. The last
//! offset of a key is not: a replica that began with a snapshot does not know the keys of what was purged before. So the
//! leader looks it up, when nothing with that key is under way any more, and writes what it found into the command, with its
//! term. Applied in that term, what it found is true: every earlier entry with the key was applied when it looked, and no
//! other leader comes between. In another term the entry is refused. So each replica judges alike, from nothing but the
//! command and its state.

use bytes::{Buf, BufMut};
use jangada_types::planted::{self, Bug};
use jangada_types::{CodecError, Offset};

/// No record has the key.
pub const NO_OFFSET: Offset = Offset(-1);

const WHAT: &str = "the conditions of a partition command";
const HAS_END: u8 = 1;
const HAS_KEY: u8 = 2;

/// What a producer expects, as its request says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Expectation {
    /// The offset that the batch's first record gets.
    pub end_offset: Option<Offset>,
    /// The last offset of the batch's key, or [`NO_OFFSET`].
    pub key_offset: Option<Offset>,
}

impl Expectation {
    /// Nothing is expected.
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }
}

/// The last offset of the batch's key, judged as far as only the leader can.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyFinding {
    /// As the producer expects it.
    pub expected: Offset,
    /// As the leader found it.
    pub found: Offset,
    /// The term in which it looked.
    pub term: u64,
}

/// What an append command carries of its conditions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Conditions {
    /// The offset that the batch's first record must get.
    pub end_offset: Option<Offset>,
    /// What the batch's key must have.
    pub key: Option<KeyFinding>,
}

/// A condition of a batch that does not hold. The batch is not appended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConditionFailed {
    /// The batch would not begin at the offset that it expects.
    EndOffsetDiffers {
        /// The offset that it expects.
        expected: Offset,
        /// The log's end.
        actual: Offset,
    },
    /// The last offset of the batch's key is not the one that it expects.
    KeyOffsetDiffers {
        /// The offset that it expects.
        expected: Offset,
        /// The key's last offset, or [`NO_OFFSET`].
        actual: Offset,
    },
    /// The entry came into the log in another term than the one in which its key was looked up.
    LeaderChanged,
}

impl Conditions {
    /// There are none.
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }

    /// Judges a batch that is next in the log and in its producer's sequence.
    ///
    /// # Errors
    /// The first condition that does not hold.
    pub fn judge(&self, term: u64, next_offset: Offset, log_start: Offset) -> Result<(), ConditionFailed> {
        if let Some(expected) = self.end_offset
            && expected != next_offset
        {
            return Err(ConditionFailed::EndOffsetDiffers {
                expected,
                actual: next_offset,
            });
        }
        let Some(KeyFinding {
            expected,
            found,
            term: looked,
        }) = self.key
        else {
            return Ok(());
        };
        if looked != term && !planted::is(Bug::ConditionOfOldTerm) {
            return Err(ConditionFailed::LeaderChanged);
        }
        // The log start may have moved since the leader looked.
        let actual = if found < log_start { NO_OFFSET } else { found };
        if expected == actual {
            Ok(())
        } else {
            Err(ConditionFailed::KeyOffsetDiffers { expected, actual })
        }
    }

    /// `flags u8`, then what they name: `expected end i64`, `expected i64 | found i64 | term u64` of the key.
    pub fn encode(&self, out: &mut impl BufMut) {
        let flag = |present, flag| if present { flag } else { 0 };
        out.put_u8(flag(self.end_offset.is_some(), HAS_END) | flag(self.key.is_some(), HAS_KEY));
        if let Some(expected) = self.end_offset {
            out.put_i64(expected.get());
        }
        if let Some(key) = self.key {
            out.put_i64(key.expected.get());
            out.put_i64(key.found.get());
            out.put_u64(key.term);
        }
    }

    /// The reverse of [`Conditions::encode`].
    ///
    /// # Errors
    /// A later build wrote them, or they are cut off.
    pub fn decode(input: &mut &[u8]) -> Result<Self, CodecError> {
        let length = input.len();
        let cut_off = move |required| CodecError::Truncated {
            what: WHAT,
            length,
            required,
        };
        let flags = input.try_get_u8().map_err(|_| cut_off(1))?;
        if flags & !(HAS_END | HAS_KEY) != 0 {
            return Err(CodecError::UnknownFields { what: WHAT });
        }
        let (has_end, has_key) = (flags & HAS_END != 0, flags & HAS_KEY != 0);
        let short = |_| cut_off(1 + 8 * usize::from(has_end) + 24 * usize::from(has_key));
        let mut conditions = Self::default();
        if has_end {
            conditions.end_offset = Some(Offset(input.try_get_i64().map_err(short)?));
        }
        if has_key {
            conditions.key = Some(KeyFinding {
                expected: Offset(input.try_get_i64().map_err(short)?),
                found: Offset(input.try_get_i64().map_err(short)?),
                term: input.try_get_u64().map_err(short)?,
            });
        }
        Ok(conditions)
    }
}
