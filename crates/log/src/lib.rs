//! A partition's log as a pure state machine: no clock, no I/O, no randomness, no threads.
//!
//! A partition is a Raft group whose log is its data. Its replicas fold [`PartitionCommand`]s into the same
//! [`PartitionState`]: a few numbers and the producer table. The records stay in the log.
//!
//! ```text
//!   batch -> checked by the leader -> PartitionCommand -> the partition's log -> PartitionState::apply -> PartitionReply
//!                                                                                      |
//!                                                                                      +-> a row of the offset index
//! ```
//!
//! What work queues do with the records is state of the same group: [`PartitionState`] has the slots of the crate `queue`, and its
//! commands go through the same log. A partition without queues has none of their bytes.
//!
//! Map of the crate:
//! - [`state`]: the replicated state, the fold, and the state as bytes.
//! - [`command`]: what is replicated, and its encoding. [`reply`]: what its proposer is told.
//! - `producers`: the idempotent producers, which batch of theirs is next, and which transactions of theirs are open.
//! - [`transactions`]: what is replicated of transactions.
//! - [`condition`]: what a batch may expect of the log.
//! - [`compaction`]: what is left of a log of which only the last record of each key is wanted.
//! - [`tables`]: rows of the partition beside its state: their declarations and encodings.
//! - [`leader`]: what the replica that leads decides beside what is replicated.
//! - [`question`]: whether a batch was appended before.

mod check;
pub mod command;
pub mod compaction;
pub mod condition;
pub mod leader;
mod producers;
pub mod question;
pub mod reply;
pub mod state;
pub mod tables;
pub mod transactions;

pub use command::{IdFinding, PartitionCommand, PartitionCommandKind};
pub use condition::{ConditionFailed, Conditions, Expectation, KeyFinding, NO_OFFSET};
pub use leader::Leader;
pub use reply::{PartitionReply, Refusal};
pub use state::PartitionState;
pub use tables::{IndexEntry, TABLES};
pub use transactions::{AbortedTransaction, Marker, OpenTransaction, ProducerState};
