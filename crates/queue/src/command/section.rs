//! The sections of a [`QueueOps`](crate::QueueOps): what becomes of messages, decided by the leader.
//!
//! A section has no feature level of its own: it goes into a log only in a `QueueOps`, and that command has one. A section that was
//! added later declares it, and nobody proposes it before all brokers have that level.

use jangada_types::frame::malformed;
use jangada_types::{CodecError, ProducerEpoch, ProducerId};

use crate::ids::{AttemptId, QueueId, SessionId, SlotId};
use crate::runs::Runs;
use crate::state::{DeadReason, DoneCause, KeepsOrder, SlotKind};

jangada_types::replicated! {
    /// What becomes of messages of one slot. Each message is judged when the section is applied: what is not as the leader saw it is
    /// left as it is, and the reply names it.
    pub enum Section, SectionKind, "queue section" {
        /// Adds a slot. Its number is in the reply.
        Open = 1 {
            /// The queue that it is a part of.
            #[prost(bytes = "vec", tag = "1")]
            queue: QueueId as Vec<u8>,
            /// What it is for its log.
            #[prost(uint32, tag = "2")]
            slot_kind: SlotKind as u32,
            /// Whether messages keep their place when they are appended again.
            #[prost(uint32, tag = "3")]
            order: KeepsOrder as u32,
            /// The first offset that is the queue's. Below the log's start or beyond its end: there.
            #[prost(uint64, tag = "4")]
            start: u64,
        },
        /// Removes a slot, and all that it knows.
        Close = 2 {
            /// The slot's number.
            #[prost(uint32, tag = "1")]
            slot: SlotId as u32,
        },
        /// Begins anew at another offset: forgets what is done, leased, waiting and dead.
        Seek = 3 {
            /// The slot's number.
            #[prost(uint32, tag = "1")]
            slot: SlotId as u32,
            /// The offset. Below the log's start or beyond its end: there.
            #[prost(uint64, tag = "2")]
            to: u64,
        },
        /// All below an offset is done, whatever it was.
        Purge = 4 {
            /// The slot's number.
            #[prost(uint32, tag = "1")]
            slot: SlotId as u32,
            /// The first offset that stays, at most the partition's end.
            #[prost(uint64, tag = "2")]
            to: u64,
        },
        /// Leases messages that are free, waiting, or leased: a lease of before has run out then, which is a failure.
        Grant = 5 {
            /// The slot's number.
            #[prost(uint32, tag = "1")]
            slot: SlotId as u32,
            /// Who gets them.
            #[prost(uint64, tag = "2")]
            session: SessionId as u64,
            /// The receive that they are for.
            #[prost(uint64, tag = "3")]
            attempt: AttemptId as u64,
            /// How long for, milliseconds from the command's time on.
            #[prost(uint64, tag = "4")]
            duration_ms: u64,
            /// The offsets of the messages.
            #[prost(uint64, repeated, tag = "5")]
            messages: Runs as Vec<u64>,
            /// The hash of the key of each, where the queue keeps an order by key; else empty.
            #[prost(fixed64, repeated, tag = "6")]
            keys: Vec<u64>,
            /// The lane of each, where one is above 0; else empty.
            #[prost(uint32, repeated, tag = "7")]
            lanes: Vec<u32>,
        },
        /// Nothing becomes of these messages any more. By an acknowledgement: they are leased. By expiry: they are
        /// free, wait, or their lease has run out. By cancellation, length or routing: they are free or wait. By a purge: they are dead.
        Done = 6 {
            /// The slot's number.
            #[prost(uint32, tag = "1")]
            slot: SlotId as u32,
            /// By what they are done.
            #[prost(uint32, tag = "2")]
            cause: DoneCause as u32,
            /// The offsets of the messages that are done.
            #[prost(uint64, repeated, tag = "3")]
            messages: Runs as Vec<u64>,
        },
        /// Leased messages that failed wait, and go out again later.
        Retry = 7 {
            /// The slot's number.
            #[prost(uint32, tag = "1")]
            slot: SlotId as u32,
            /// The offsets of the messages that wait.
            #[prost(uint64, repeated, tag = "2")]
            messages: Runs as Vec<u64>,
            /// How long each waits, milliseconds from the command's time on.
            #[prost(uint64, repeated, tag = "3")]
            delays_ms: Vec<u64>,
            /// 1: it counts as a failure. 0: it does not.
            #[prost(uint32, tag = "4")]
            failed: u32,
        },
        /// Leased messages are given back, and go out again at once.
        Release = 8 {
            /// The slot's number.
            #[prost(uint32, tag = "1")]
            slot: SlotId as u32,
            /// The offsets of the messages that are given back.
            #[prost(uint64, repeated, tag = "2")]
            messages: Runs as Vec<u64>,
            /// 1: nobody saw them, and their delivery does not count.
            #[prost(uint32, tag = "3")]
            unseen: u32,
        },
        /// The lease of messages lasts longer, or shorter.
        Extend = 9 {
            /// The slot's number.
            #[prost(uint32, tag = "1")]
            slot: SlotId as u32,
            /// The offsets of the messages whose lease changes.
            #[prost(uint64, repeated, tag = "2")]
            messages: Runs as Vec<u64>,
            /// How long it lasts, milliseconds from the command's time on.
            #[prost(uint64, tag = "3")]
            duration_ms: u64,
        },
        /// Messages that are free, leased or waiting do not go out any more, and are kept.
        Dead = 10 {
            /// The slot's number.
            #[prost(uint32, tag = "1")]
            slot: SlotId as u32,
            /// Why they are dead.
            #[prost(uint32, tag = "2")]
            reason: DeadReason as u32,
            /// The offsets of the messages that are dead.
            #[prost(uint64, repeated, tag = "3")]
            messages: Runs as Vec<u64>,
            /// 1: by a failure, which counts.
            #[prost(uint32, tag = "4")]
            failed: u32,
            /// The hash of the key of each, for those that are free; empty: none has one.
            #[prost(fixed64, repeated, tag = "5")]
            keys: Vec<u64>,
            /// The lane of each, for those that are free; empty: all are in lane 0.
            #[prost(uint32, repeated, tag = "6")]
            lanes: Vec<u32>,
        },
        /// Dead messages go to another topic, by an idempotent producer: with this id and from this sequence on. One batch at a
        /// time; what is on its way already goes with the new sequence.
        Moving = 11 {
            /// The slot's number.
            #[prost(uint32, tag = "1")]
            slot: SlotId as u32,
            /// The offsets of the messages that go to the other topic.
            #[prost(uint64, repeated, tag = "2")]
            messages: Runs as Vec<u64>,
            /// The producer's id.
            #[prost(int64, tag = "3")]
            producer: i64,
            /// The sequence of the first.
            #[prost(uint32, tag = "4")]
            sequence: u32,
        },
        /// The messages on their way to another topic are there, or were definitely refused.
        Moved = 12 {
            /// The slot's number.
            #[prost(uint32, tag = "1")]
            slot: SlotId as u32,
            /// 1: they are there, and done. 0: they stay dead here.
            #[prost(uint32, tag = "2")]
            arrived: u32,
        },
        /// Dead messages go out again, as if they had never been out.
        Redrive = 13 {
            /// The slot's number.
            #[prost(uint32, tag = "1")]
            slot: SlotId as u32,
            /// The offsets of the messages that go out again.
            #[prost(uint64, repeated, tag = "2")]
            messages: Runs as Vec<u64>,
        },
        /// What is free below an offset is not for this slot: it is done.
        Floor = 14 {
            /// The slot's number.
            #[prost(uint32, tag = "1")]
            slot: SlotId as u32,
            /// The first offset that the slot has still to look at, at most the partition's end.
            #[prost(uint64, tag = "2")]
            to: u64,
        },
        /// Leased messages are acknowledged in a transaction: they are done when it is committed, and given back when it is aborted. Until
        /// then nothing else becomes of them. Those that it has acknowledged already are taken, too.
        Stage = 15 since 8 {
            /// The slot's number.
            #[prost(uint32, tag = "1")]
            slot: SlotId as u32,
            /// Whose transaction it is.
            #[prost(int64, tag = "2")]
            producer: ProducerId as i64,
            /// The epoch that its producer has in it.
            #[prost(int32, tag = "3")]
            epoch: ProducerEpoch as i32,
            /// Which transaction of its transactional id it is.
            #[prost(uint64, tag = "4")]
            seq: u64,
            /// The offsets of the messages that are acknowledged.
            #[prost(uint64, repeated, tag = "5")]
            messages: Runs as Vec<u64>,
        },
    }
}

impl Section {
    /// The slot that it is about; none: a new one.
    pub fn slot(&self) -> Option<SlotId> {
        match self {
            Self::Open { .. } => None,
            Self::Close { slot }
            | Self::Seek { slot, .. }
            | Self::Purge { slot, .. }
            | Self::Grant { slot, .. }
            | Self::Done { slot, .. }
            | Self::Retry { slot, .. }
            | Self::Release { slot, .. }
            | Self::Extend { slot, .. }
            | Self::Dead { slot, .. }
            | Self::Moving { slot, .. }
            | Self::Moved { slot, .. }
            | Self::Redrive { slot, .. }
            | Self::Floor { slot, .. }
            | Self::Stage { slot, .. } => Some(*slot),
        }
    }

    /// The messages that it names one by one.
    pub fn messages(&self) -> Option<&Runs> {
        match self {
            Self::Grant { messages, .. }
            | Self::Done { messages, .. }
            | Self::Retry { messages, .. }
            | Self::Release { messages, .. }
            | Self::Extend { messages, .. }
            | Self::Dead { messages, .. }
            | Self::Moving { messages, .. }
            | Self::Redrive { messages, .. }
            | Self::Stage { messages, .. } => Some(messages),
            Self::Open { .. }
            | Self::Close { .. }
            | Self::Seek { .. }
            | Self::Purge { .. }
            | Self::Moved { .. }
            | Self::Floor { .. } => None,
        }
    }

    /// Whether its lists belong together, as apply relies on.
    ///
    /// # Errors
    /// No build writes it.
    pub(crate) fn check(&self) -> Result<(), CodecError> {
        let whole = |name, given: usize, count: u64, may_be_empty: bool| {
            if given as u64 == count || (may_be_empty && given == 0) {
                return Ok(());
            }
            let detail = format!("{given} {name} for {count} messages");
            Err(malformed("queue section", detail))
        };
        match self {
            Self::Grant {
                messages, keys, lanes, ..
            }
            | Self::Dead {
                messages, keys, lanes, ..
            } => {
                whole("keys", keys.len(), messages.len(), true)?;
                whole("lanes", lanes.len(), messages.len(), true)?;
                let highest = lanes.iter().copied().max().unwrap_or(0);
                if highest >= u32::from(crate::limits::LANES) {
                    return Err(malformed(
                        "queue section",
                        format!("lane {highest} is above the highest"),
                    ));
                }
                Ok(())
            }
            Self::Retry {
                messages, delays_ms, ..
            } => whole("delays", delays_ms.len(), messages.len(), false),
            _ => Ok(()),
        }
    }
}
