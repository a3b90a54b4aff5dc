//! What goes through a partition's Raft group: commands, and the replies to their proposers.
//!
//! A command's head begins with version and kind; the body of an append is the record batch itself, never copied.
//! Later kinds (leases, schedules, routing) are further commands of the same group. Integers are big-endian.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use jangada_replication::Command;
use jangada_types::{Offset, ProducerEpoch, Sequence};

use super::condition::Conditions;

const VERSION: u8 = 1;
const KIND_APPEND: u8 = 1;
const KIND_ADVANCE_LOG_START: u8 = 2;
/// An append with conditions behind its head. One without keeps the kind that all versions read.
const KIND_CONDITIONAL_APPEND: u8 = 3;
/// Version, kind, and two integers of 64 bits.
const HEAD_LEN: usize = 18;
const ADVANCE_LEN: usize = 26;

/// A partition's command, decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PartitionCommand {
    /// Append the batch in the body.
    Append {
        /// The leader's clock when it proposed, milliseconds since the Unix epoch.
        now_ms: i64,
        /// How long the leader remembers silent producers, milliseconds.
        expiration_ms: i64,
        /// What must hold for it.
        conditions: Conditions,
    },
    /// Drop the records below an offset.
    AdvanceLogStart {
        /// The log start that the leader counted from; another one refuses the command.
        from: Offset,
        /// The new log start.
        to: Offset,
        /// Bytes of the batches between the two.
        dropped_bytes: u64,
    },
}

impl PartitionCommand {
    /// As it goes into the log; `body` is the batch of an append.
    pub fn encode(self, body: Bytes) -> Command {
        match self {
            Self::Append {
                now_ms,
                expiration_ms,
                conditions,
            } if !conditions.is_none() => {
                let mut head = BytesMut::with_capacity(2 * HEAD_LEN + 16);
                head.put_u8(VERSION);
                head.put_u8(KIND_CONDITIONAL_APPEND);
                head.put_i64(now_ms);
                head.put_i64(expiration_ms);
                conditions.encode(&mut head);
                Command::new(&head, body)
            }
            Self::Append {
                now_ms, expiration_ms, ..
            } => {
                let mut head = [0; HEAD_LEN];
                let mut out = &mut head[..];
                out.put_u8(VERSION);
                out.put_u8(KIND_APPEND);
                out.put_i64(now_ms);
                out.put_i64(expiration_ms);
                Command::new(&head, body)
            }
            Self::AdvanceLogStart {
                from,
                to,
                dropped_bytes,
            } => {
                let mut head = [0; ADVANCE_LEN];
                let mut out = &mut head[..];
                out.put_u8(VERSION);
                out.put_u8(KIND_ADVANCE_LOG_START);
                out.put_i64(from.get());
                out.put_i64(to.get());
                out.put_u64(dropped_bytes);
                Command::new(&head, body)
            }
        }
    }

    /// The reverse. `None`: written by a later version, or damaged; a replica that skipped it would part from the
    /// others.
    pub fn decode(command: &Command) -> Option<Self> {
        let mut head = command.head();
        if head.try_get_u8().ok()? != VERSION {
            return None;
        }
        match head.try_get_u8().ok()? {
            KIND_APPEND => Some(Self::Append {
                now_ms: head.try_get_i64().ok()?,
                expiration_ms: head.try_get_i64().ok()?,
                conditions: Conditions::default(),
            }),
            KIND_CONDITIONAL_APPEND => Some(Self::Append {
                now_ms: head.try_get_i64().ok()?,
                expiration_ms: head.try_get_i64().ok()?,
                conditions: Conditions::decode(&mut head)?,
            }),
            KIND_ADVANCE_LOG_START => Some(Self::AdvanceLogStart {
                from: Offset(head.try_get_i64().ok()?),
                to: Offset(head.try_get_i64().ok()?),
                dropped_bytes: head.try_get_u64().ok()?,
            }),
            _ => None,
        }
    }
}

/// What applying a command came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PartitionReply {
    /// The batch has these offsets; `duplicate`: it had them before.
    Appended {
        base_offset: Offset,
        last_offset: Offset,
        duplicate: bool,
    },
    /// The batch was appended, longer ago than offsets are remembered.
    TooOld,
    /// A batch of the producer is missing before this one.
    OutOfOrder { expected: Sequence },
    /// A newer epoch of the producer has written.
    Fenced { current: ProducerEpoch },
    /// The partition does not know the producer.
    UnknownProducer,
    /// The batch would not begin at the offset that it expects.
    EndOffsetDiffers { expected: Offset, actual: Offset },
    /// The last offset of the batch's key is not the one that it expects.
    KeyOffsetDiffers { expected: Offset, actual: Offset },
    /// The entry came into the log in another term than the one in which its key was looked up; nothing changed.
    LeaderChanged,
    /// The log starts here now.
    LogStart(Offset),
    /// The log start has moved since the leader looked; nothing changed.
    LogStartMoved(Offset),
}

impl PartitionReply {
    pub fn encode(self) -> Bytes {
        let mut out = BytesMut::with_capacity(18);
        match self {
            Self::Appended {
                base_offset,
                last_offset,
                duplicate,
            } => {
                out.put_u8(1);
                out.put_u8(u8::from(duplicate));
                out.put_i64(base_offset.get());
                out.put_i64(last_offset.get());
            }
            Self::TooOld => out.put_u8(2),
            Self::OutOfOrder { expected } => {
                out.put_u8(3);
                out.put_i32(expected.get());
            }
            Self::Fenced { current } => {
                out.put_u8(4);
                out.put_i16(current.get());
            }
            Self::UnknownProducer => out.put_u8(5),
            Self::LogStart(offset) => {
                out.put_u8(6);
                out.put_i64(offset.get());
            }
            Self::LogStartMoved(offset) => {
                out.put_u8(7);
                out.put_i64(offset.get());
            }
            Self::EndOffsetDiffers { expected, actual } => {
                out.put_u8(8);
                out.put_i64(expected.get());
                out.put_i64(actual.get());
            }
            Self::KeyOffsetDiffers { expected, actual } => {
                out.put_u8(9);
                out.put_i64(expected.get());
                out.put_i64(actual.get());
            }
            Self::LeaderChanged => out.put_u8(10),
        }
        out.freeze()
    }

    /// The reverse; a reply never leaves the process.
    pub fn decode(mut bytes: &[u8]) -> Option<Self> {
        Some(match bytes.try_get_u8().ok()? {
            1 => {
                let duplicate = bytes.try_get_u8().ok()? != 0;
                let (base_offset, last_offset) = (Offset(bytes.try_get_i64().ok()?), Offset(bytes.try_get_i64().ok()?));
                Self::Appended {
                    base_offset,
                    last_offset,
                    duplicate,
                }
            }
            2 => Self::TooOld,
            3 => Self::OutOfOrder {
                expected: Sequence(bytes.try_get_i32().ok()?),
            },
            4 => Self::Fenced {
                current: ProducerEpoch(bytes.try_get_i16().ok()?),
            },
            5 => Self::UnknownProducer,
            6 => Self::LogStart(Offset(bytes.try_get_i64().ok()?)),
            7 => Self::LogStartMoved(Offset(bytes.try_get_i64().ok()?)),
            8 => Self::EndOffsetDiffers {
                expected: Offset(bytes.try_get_i64().ok()?),
                actual: Offset(bytes.try_get_i64().ok()?),
            },
            9 => Self::KeyOffsetDiffers {
                expected: Offset(bytes.try_get_i64().ok()?),
                actual: Offset(bytes.try_get_i64().ok()?),
            },
            10 => Self::LeaderChanged,
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::condition::KeyFinding;
    use super::*;

    fn append(conditions: Conditions) -> PartitionCommand {
        PartitionCommand::Append {
            now_ms: 1,
            expiration_ms: 2,
            conditions,
        }
    }

    fn conditions(end_offset: Option<i64>, key: Option<(i64, i64, u64)>) -> Conditions {
        Conditions {
            end_offset: end_offset.map(Offset),
            key: key.map(|(expected, found, term)| KeyFinding {
                expected: Offset(expected),
                found: Offset(found),
                term,
            }),
        }
    }

    #[test]
    fn commands_and_replies_come_back() {
        let commands = [
            append(Conditions::default()),
            append(conditions(Some(7), None)),
            append(conditions(None, Some((-1, 5, 9)))),
            append(conditions(Some(0), Some((3, -1, u64::MAX)))),
            PartitionCommand::AdvanceLogStart {
                from: Offset(1),
                to: Offset(9),
                dropped_bytes: 77,
            },
        ];
        for command in commands {
            assert_eq!(
                PartitionCommand::decode(&command.encode(Bytes::from_static(b"x"))),
                Some(command)
            );
        }
        assert_eq!(PartitionCommand::decode(&Command::new(&[2, 1], Bytes::new())), None);
        let replies = [
            PartitionReply::Appended {
                base_offset: Offset(1),
                last_offset: Offset(2),
                duplicate: true,
            },
            PartitionReply::TooOld,
            PartitionReply::OutOfOrder { expected: Sequence(3) },
            PartitionReply::Fenced {
                current: ProducerEpoch(4),
            },
            PartitionReply::UnknownProducer,
            PartitionReply::EndOffsetDiffers {
                expected: Offset(1),
                actual: Offset(2),
            },
            PartitionReply::KeyOffsetDiffers {
                expected: Offset(3),
                actual: Offset(-1),
            },
            PartitionReply::LeaderChanged,
            PartitionReply::LogStart(Offset(5)),
            PartitionReply::LogStartMoved(Offset(6)),
        ];
        for reply in replies {
            assert_eq!(PartitionReply::decode(&reply.encode()), Some(reply));
        }
    }

    #[test]
    fn golden_heads() {
        let head = |command: PartitionCommand| command.encode(Bytes::new()).head().to_vec();
        let plain = [1, 1, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 2];
        assert_eq!(head(append(Conditions::default())), plain);
        let times = [0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 2];
        let both = [
            &[1, 3][..],
            &times,
            &[3],
            &[0, 0, 0, 0, 0, 0, 0, 7],
            &[0xff; 8],
            &[0, 0, 0, 0, 0, 0, 0, 4],
        ]
        .concat();
        let both = [&both[..], &[0, 0, 0, 0, 0, 0, 0, 9]].concat();
        assert_eq!(head(append(conditions(Some(7), Some((-1, 4, 9))))), both);
        let end = [&[1, 3][..], &times, &[1], &[0, 0, 0, 0, 0, 0, 0, 7]].concat();
        assert_eq!(head(append(conditions(Some(7), None))), end);
        let unknown = [&[1, 3][..], &times, &[4]].concat();
        assert_eq!(PartitionCommand::decode(&Command::new(&unknown, Bytes::new())), None);
    }
}
