//! What goes through a partition's Raft group: commands, and the replies to their proposers.
//!
//! A command's head begins with version and kind; the body of an append is the record batch itself, never copied.
//! Later kinds (leases, schedules, routing) are further commands of the same group. Integers are big-endian.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use jangada_replication::Command;
use jangada_types::{Offset, ProducerEpoch, Sequence};

const VERSION: u8 = 1;
const KIND_APPEND: u8 = 1;
const KIND_ADVANCE_LOG_START: u8 = 2;
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
            Self::Append { now_ms, expiration_ms } => {
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
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_and_replies_come_back() {
        let commands = [
            PartitionCommand::Append {
                now_ms: 5,
                expiration_ms: 6,
            },
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
            PartitionReply::LogStart(Offset(5)),
            PartitionReply::LogStartMoved(Offset(6)),
        ];
        for reply in replies {
            assert_eq!(PartitionReply::decode(&reply.encode()), Some(reply));
        }
    }

    #[test]
    fn golden_heads() {
        let append = PartitionCommand::Append {
            now_ms: 1,
            expiration_ms: 2,
        }
        .encode(Bytes::new());
        assert_eq!(append.head(), [1, 1, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 2]);
    }
}
