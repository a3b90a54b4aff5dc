//! Work queues over a partition's log as a pure state machine: no clock, no I/O, no randomness, no threads.
//!
//! A queue is state beside a partition's log, in the partition's own Raft group: a slot in each of its partitions. Its messages are
//! the log's records. Which of them are done, who has which, and what is dead is replicated; who waits for messages and which timer is
//! next is known to the leader alone.
//!
//! ```text
//!   consumers -> the leader's engine -> QueueOps -> the partition's log -> Slots::apply -> OpsReply -> the engine -> consumers
//!   producers -> append with Marks  ----------------^        |
//!                                                            +-> rows of MARKS and IDS
//! ```
//!
//! # How a partition embeds it
//!
//! The machine of a partition is `PartitionState` of the crate `log`, which has [`Slots`] as a field and depends on this crate, not
//! the other way round. A queue's commands and the appends go into one entry in three places (an append with marks gets its offset
//! and writes rows by it; a carry appends and marks done; a schedule appends and moves on), and it is the log that gives offsets, so
//! it calls down: [`Slots::apply`], [`Slots::appended`], [`Slots::judge_carry`] and [`Slots::carry`], [`Slots::cut_off`]; and of
//! transactions [`Slots::sent_in`] and [`Slots::end_transaction`]. This crate
//! knows no batch and no producer, only offsets ([`Context`]). A third crate over both would have to take the commands' kinds, the
//! snapshot and the retention away from `log` to no gain. A partition without queues has no bytes of them in its state.
//!
//! Map of the crate:
//! - [`state`]: the replicated state: slots, what is done, what is held, as bytes, and its invariants.
//! - [`command`]: what is replicated. [`reply`]: what its proposer is told. [`runs`]: how messages are named in it.
//! - `apply`: the fold.
//! - [`engine`]: the leader's side: consumers, timers, order, and what to propose.
//! - [`dedup`]: which messages were sent before.
//! - [`schedule`]: messages that are sent again and again.
//! - [`tables`]: the rows that come from the log.
//! - [`limits`]: every bound. [`ids`]: newtypes.

mod apply;
pub mod command;
pub mod dedup;
pub mod engine;
pub mod ids;
pub mod limits;
pub mod reply;
pub mod runs;
pub mod schedule;
pub mod state;
pub mod tables;
mod varint;

pub use command::{
    Carry, CarryRefused, Fire, IdWindow, Mark, Marks, PackedMarks, PutSchedule, QueueOps, ScheduleCommand,
    ScheduleRefused, Section, SectionKind, SlotSet,
};
pub use engine::{Engine, Input, Output, Policy};
pub use ids::{AttemptId, CallId, LeaseId, QueueId, SessionId, SlotId, TransactionId};
pub use reply::{OpsReply, SectionRefused, SectionReply};
pub use runs::{Run, Runs};
pub use state::{
    Context, DeadReason, DoneCause, EndTransaction, EndedMessage, EndedTransaction, Held, HeldState, KeepsOrder,
    MessageState, OpenTransaction, Schedule, ScheduleKey, Slot, SlotKind, Slots, Transactions, UndecidedTransaction,
};
