//! What happens to a queue's schedules. The crate of the partition's log embeds it as the head of a command of its own; the body is the
//! batch of an occurrence that is fired.

use bytes::{Buf, BufMut, Bytes};

use crate::ids::SlotId;
use crate::schedule::{CatchUp, Timing};
use crate::state::{ScheduleKey, get_bytes, get_string, put_bytes};
use crate::varint::{get_varint, put_varint};

const VERSION: u8 = 1;

/// A change of a schedule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ScheduleCommand {
    /// Puts a schedule, in place of one of the same name.
    Put(PutSchedule),
    /// Deletes a schedule.
    Delete {
        /// The queue's slot, and the name.
        key: ScheduleKey,
    },
    /// An occurrence is fired, or left out.
    Fire(Fire),
}

/// A schedule that is put. [`check_schedule`](crate::schedule::check_schedule) has said that it is valid, and when it begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PutSchedule {
    /// The queue's slot, and the name.
    pub key: ScheduleKey,
    /// When it has its occurrences.
    pub timing: Timing,
    /// None is after this time, milliseconds since the Unix epoch; 0: it has no end.
    pub until_ms: u64,
    /// What becomes of those that were missed.
    pub catch_up: CatchUp,
    /// What its messages are made of.
    pub template: Bytes,
    /// The first occurrence, milliseconds since the Unix epoch.
    pub next_ms: u64,
}

/// An occurrence of a schedule. As a [`QueueOps`](crate::QueueOps) it has no effect in an entry of another term than that in which it was
/// decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fire {
    /// The term in which it was decided.
    pub term: u64,
    /// The queue's slot, and the name.
    pub key: ScheduleKey,
    /// The version of the schedule.
    pub version: u64,
    /// The number of the occurrence.
    pub occurrence: u64,
    /// The occurrence, milliseconds since the Unix epoch.
    pub at_ms: u64,
    /// The one after it; 0: there is none, and the schedule is gone.
    pub next_ms: u64,
    /// A message is appended with it. Else it is left out, and the command has no body.
    pub appends: bool,
}

/// Why a command about a schedule has no effect. Nothing is to be appended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScheduleRefused {
    /// The entry is of another term than the one in which it was decided.
    LeaderChanged,
    /// There is no slot with the number, or no longer.
    UnknownSlot,
    /// The partition has as many schedules as it may.
    TooMany,
    /// There is no schedule of the name.
    UnknownSchedule,
    /// It is not the schedule's next occurrence, or the schedule is another one now.
    NotNext,
}

fn put_key(out: &mut impl BufMut, (slot, name): &ScheduleKey) {
    put_varint(out, u64::from(slot.get()));
    put_bytes(out, name.as_bytes());
}

fn get_key(input: &mut &[u8]) -> Option<ScheduleKey> {
    let slot = SlotId(u32::try_from(get_varint(input)?).ok()?);
    Some((slot, get_string(input)?))
}

impl ScheduleCommand {
    /// The queue's slot, and the name of the schedule.
    pub fn key(&self) -> &ScheduleKey {
        match self {
            Self::Put(put) => &put.key,
            Self::Delete { key } => key,
            Self::Fire(fire) => &fire.key,
        }
    }

    /// `version u8 | kind u8`, then the fields in their order. Numbers are LEB128; texts and bytes have their length before them.
    pub fn encode(&self, out: &mut impl BufMut) {
        out.put_u8(VERSION);
        match self {
            Self::Put(put) => {
                out.put_u8(1);
                put_key(out, &put.key);
                put.timing.encode(out);
                put_varint(out, put.until_ms);
                out.put_u8(put.catch_up as u8);
                put_bytes(out, &put.template);
                put_varint(out, put.next_ms);
            }
            Self::Delete { key } => {
                out.put_u8(2);
                put_key(out, key);
            }
            Self::Fire(fire) => {
                out.put_u8(3);
                put_varint(out, fire.term);
                put_key(out, &fire.key);
                for number in [fire.version, fire.occurrence, fire.at_ms, fire.next_ms] {
                    put_varint(out, number);
                }
                out.put_u8(u8::from(fire.appends));
            }
        }
    }

    /// The reverse of [`ScheduleCommand::encode`]. None: a later build wrote it, or it is damaged.
    pub fn decode(input: &mut &[u8]) -> Option<Self> {
        if input.try_get_u8().ok()? != VERSION {
            return None;
        }
        Some(match input.try_get_u8().ok()? {
            1 => Self::Put(PutSchedule {
                key: get_key(input)?,
                timing: Timing::read(input)?,
                until_ms: get_varint(input)?,
                catch_up: CatchUp::read(input)?,
                template: Bytes::copy_from_slice(get_bytes(input)?),
                next_ms: get_varint(input)?,
            }),
            2 => Self::Delete { key: get_key(input)? },
            3 => Self::Fire(Fire {
                term: get_varint(input)?,
                key: get_key(input)?,
                version: get_varint(input)?,
                occurrence: get_varint(input)?,
                at_ms: get_varint(input)?,
                next_ms: get_varint(input)?,
                appends: match input.try_get_u8().ok()? {
                    0 => false,
                    1 => true,
                    _ => return None,
                },
            }),
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_format_is_pinned() {
        let key = || (SlotId(3), "tick".to_owned());
        let put = |timing| {
            ScheduleCommand::Put(PutSchedule {
                key: key(),
                timing,
                until_ms: 300,
                catch_up: CatchUp::One,
                template: Bytes::from_static(b"t"),
                next_ms: 200,
            })
        };
        let cron = Timing::Cron {
            expression: "* * * * *".to_owned(),
            zone: "UTC".to_owned(),
        };
        let every = Timing::Every {
            every_ms: 1_000,
            anchor_ms: 5,
        };
        let fire = Fire {
            term: 9,
            key: key(),
            version: 8,
            occurrence: 7,
            at_ms: 200,
            next_ms: 0,
            appends: true,
        };
        let cases: [(ScheduleCommand, &[u8]); 4] = [
            (
                put(cron),
                b"\x01\x01\x03\x04tick\x01\x09* * * * *\x03UTC\xac\x02\x02\x01t\xc8\x01",
            ),
            (
                put(every),
                b"\x01\x01\x03\x04tick\x02\xe8\x07\x05\xac\x02\x02\x01t\xc8\x01",
            ),
            (ScheduleCommand::Delete { key: key() }, b"\x01\x02\x03\x04tick"),
            (
                ScheduleCommand::Fire(fire),
                b"\x01\x03\x09\x03\x04tick\x08\x07\xc8\x01\x00\x01",
            ),
        ];
        for (command, golden) in cases {
            let mut bytes = Vec::new();
            command.encode(&mut bytes);
            assert_eq!(bytes, golden);
            assert_eq!(ScheduleCommand::decode(&mut &bytes[..]), Some(command));
            for length in 0..bytes.len() {
                assert_eq!(ScheduleCommand::decode(&mut &bytes[..length]), None, "{length} bytes");
            }
        }
    }
}
