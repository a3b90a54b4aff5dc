//! Consumer groups as a pure state machine: no clock, no I/O, no randomness, no threads.
//!
//! A coordinator shard is a Raft group that holds many consumer groups. Its replicas fold [`Command`]s into the same
//! [`Image`]; its leader also has a [`Leader`], which answers members and decides what is proposed.
//!
//! ```text
//!   heartbeat, commit, tick -> Leader (sessions, assignors, patterns) -> Command -> the shard's log
//!                                 ^                                                      |
//!                                 +--- resume <- Reply <- Image::apply (judges again) <--+
//! ```
//!
//! The protocol is KIP-848's: the leader computes a target for the whole group, members go towards it one heartbeat at
//! a time, and a partition goes to its new owner only when the old one has acknowledged giving it up. Heartbeats are
//! not replicated, only what they change.
//!
//! Map of the crate:
//! - [`image`]: the replicated state and its lookups. [`partitions`]: sets of partitions.
//! - [`command`]: the input of the fold, with its encoding. [`reply`]: its output. [`offset_commit`], [`removal`]: parts of
//!   commands. `wire`: the messages that these and the image are made of.
//! - `apply`: the fold, one file per subject. `rules`: the checks that leader and apply share.
//! - [`snapshot`]: the state as bytes. `machine`: the state as `replication` runs it.
//! - `event`: events that people may ask about later.
//! - [`leader`]: sessions, deadlines, batching of changes, and the answers to members.
//! - [`assignor`]: divides partitions among members. [`pattern`], [`topics`]: the topics that a subscription means.
//! - [`transaction`]: offsets that are part of a transaction.
//! - [`limits`]: every bound. `size`: the size of the state.

mod apply;
pub mod assignor;
pub mod command;
mod error;
mod event;
pub mod image;
pub mod leader;
pub mod limits;
mod machine;
pub mod offset_commit;
pub mod partitions;
pub mod pattern;
pub mod removal;
pub mod reply;
mod rules;
mod size;
pub mod snapshot;
pub mod topics;
pub mod transaction;
mod wire;

pub use assignor::Assignor;
pub use command::{Command, CommandKind};
pub use error::RestoreError;
pub use event::Event;
pub use image::{
    Epoch, Group, GroupState, Holding, Image, Member, MemberSpec, MemberState, SubscribedTopic, Subscription,
};
pub use jangada_types::{CodecError, Rejection};
pub use leader::{
    Answer, CommitRequest, Config, EndStagedRequest, HeartbeatRequest, HeartbeatResponse, Leader, Now, Pending,
    StageRequest, Step, Surroundings,
};
pub use offset_commit::OffsetCommit;
pub use partitions::{PartitionSet, TopicPartition};
pub use removal::RemovalCause;
pub use reply::Reply;
pub use rules::require_stable;
pub use size::Size;
pub use topics::TopicTable;
pub use transaction::{Committed, PendingOffsets, TransactionRef};
