//! The schedules of a partition's queues: replicated, so that each occurrence is fired once, over any change of the leader.
//!
//! A schedule is not a message: no retention and no purge of its queue takes it.

use bytes::{Buf, BufMut, Bytes};

use crate::ids::SlotId;
use crate::schedule::{CatchUp, Timing};
use crate::varint::{get_varint, put_varint};

/// A schedule is named within its queue.
pub type ScheduleKey = (SlotId, String);

/// A schedule, and how far it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Schedule {
    /// Tells it from those of before under the same name: the Raft index of the entry that put it, and one.
    pub version: u64,
    /// The number of its next occurrence, from 0 on.
    pub occurrence: u64,
    /// When that is, milliseconds since the Unix epoch.
    pub next_ms: u64,
    /// How many messages it has sent.
    pub fired: u64,
    /// The occurrence of the last of them, milliseconds since the Unix epoch; 0: it has sent none.
    pub last_ms: u64,
    /// When it has its occurrences.
    pub timing: Timing,
    /// None is after this time, milliseconds since the Unix epoch; 0: it has no end.
    pub until_ms: u64,
    /// What becomes of those that were missed.
    pub catch_up: CatchUp,
    /// What its messages are made of; the host reads it.
    pub template: Bytes,
}

pub(crate) fn put_bytes(out: &mut impl BufMut, bytes: &[u8]) {
    put_varint(out, bytes.len() as u64);
    out.put_slice(bytes);
}

pub(crate) fn get_bytes<'a>(input: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = usize::try_from(get_varint(input)?).ok()?;
    let (bytes, rest) = input.split_at_checked(length)?;
    *input = rest;
    Some(bytes)
}

pub(crate) fn get_string(input: &mut &[u8]) -> Option<String> {
    let bytes = get_bytes(input)?;
    std::str::from_utf8(bytes).ok().map(str::to_owned)
}

impl Timing {
    /// `1 | expression | zone` or `2 | every | anchor`.
    pub(crate) fn encode(&self, out: &mut impl BufMut) {
        match self {
            Self::Cron { expression, zone } => {
                out.put_u8(1);
                put_bytes(out, expression.as_bytes());
                put_bytes(out, zone.as_bytes());
            }
            Self::Every { every_ms, anchor_ms } => {
                out.put_u8(2);
                put_varint(out, *every_ms);
                put_varint(out, *anchor_ms);
            }
        }
    }

    pub(crate) fn read(input: &mut &[u8]) -> Option<Self> {
        Some(match input.try_get_u8().ok()? {
            1 => Self::Cron {
                expression: get_string(input)?,
                zone: get_string(input)?,
            },
            2 => Self::Every {
                every_ms: get_varint(input)?,
                anchor_ms: get_varint(input)?,
            },
            _ => return None,
        })
    }
}

impl CatchUp {
    pub(crate) fn read(input: &mut &[u8]) -> Option<Self> {
        Some(match input.try_get_u8().ok()? {
            1 => Self::Skip,
            2 => Self::One,
            3 => Self::All,
            _ => return None,
        })
    }
}

impl Schedule {
    pub(super) fn encode(&self, out: &mut impl BufMut) {
        for number in [self.version, self.occurrence, self.next_ms, self.fired, self.last_ms] {
            put_varint(out, number);
        }
        self.timing.encode(out);
        put_varint(out, self.until_ms);
        out.put_u8(self.catch_up as u8);
        put_bytes(out, &self.template);
    }

    pub(super) fn read(input: &mut &[u8]) -> Option<Self> {
        Some(Self {
            version: get_varint(input)?,
            occurrence: get_varint(input)?,
            next_ms: get_varint(input)?,
            fired: get_varint(input)?,
            last_ms: get_varint(input)?,
            timing: Timing::read(input)?,
            until_ms: get_varint(input)?,
            catch_up: CatchUp::read(input)?,
            template: Bytes::copy_from_slice(get_bytes(input)?),
        })
    }
}
