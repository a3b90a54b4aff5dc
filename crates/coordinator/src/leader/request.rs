//! Requests of members and tools to a leader, and its answers.

use std::sync::Arc;

use jangada_types::{Reason, Rejection};

use crate::assignor::Assignor;
use crate::command::Command;
use crate::image::{Epoch, Subscription};
use crate::offset_commit::OffsetCommit;
use crate::partitions::PartitionSet;
use crate::transaction::TransactionRef;

/// The epoch of a heartbeat that joins.
pub const JOIN_EPOCH: i64 = 0;

/// The epoch of a heartbeat that leaves.
pub const LEAVE_EPOCH: i64 = -1;

/// The epoch of a heartbeat by which a static member leaves and keeps its place until its session ends.
pub const STATIC_LEAVE_EPOCH: i64 = -2;

/// A member's sign of life, with what has changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HeartbeatRequest {
    /// The group's name.
    pub group: Arc<str>,
    /// The member's id, which it chose when it started; each run has another one.
    pub member: Arc<str>,
    /// The epoch of the last answer; 0 to join, -1 to leave, -2 to leave for a while.
    pub epoch: i64,
    /// The assignment version of the last answer; 0 when there was none.
    pub assignment_version: u64,
    /// All partitions that the member owns, once it has done what the answer with this `assignment_version` asked for:
    /// it has stopped reading all others. None: unchanged. Only this acknowledges giving up partitions, and only those
    /// that the member was told to give up: a partition that it was given is its own from the answer on, even before it
    /// begins to read it.
    pub owned: Option<PartitionSet>,
    /// The instance id of a static member.
    pub instance_id: Option<Arc<str>>,
    /// The client id that the member gave itself.
    pub client_id: Arc<str>,
    /// Address that the member connected from, as the broker sees it.
    pub client_host: Arc<str>,
    /// The member's failure domain; None: unchanged, or unknown.
    pub rack: Option<Arc<str>>,
    /// How long the member may be silent, milliseconds; 0: unchanged, or the default.
    pub session_timeout_ms: u32,
    /// How long the member may take to give up partitions, milliseconds; 0: unchanged, or the default.
    pub rebalance_timeout_ms: u32,
    /// The topics that the member wants to read; None: unchanged.
    pub subscription: Option<Subscription>,
    /// The assignor that the member prefers; None: unchanged, or no preference.
    pub assignor: Option<Assignor>,
}

/// The answer to a heartbeat: what the member is to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeartbeatResponse {
    /// The member's epoch, for its next heartbeat and its commits.
    pub epoch: Epoch,
    /// Time until the next heartbeat, milliseconds.
    pub heartbeat_interval_ms: u32,
    /// The version of the assignment. The next heartbeat carries it, whether or not this answer has an assignment.
    pub assignment_version: u64,
    /// All partitions that the member may own; it gives up the others that it owns, and then acknowledges by `owned`.
    /// None: the member has the newest assignment.
    pub assignment: Option<PartitionSet>,
}

/// A request to commit offsets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommitRequest {
    /// The group's name.
    pub group: Arc<str>,
    /// The member and its epoch; none for a commit from outside, while the group has no members.
    pub member: Option<(Arc<str>, i64)>,
    /// The offsets; at least one, each partition once. All are written or none.
    pub offsets: Vec<OffsetCommit>,
}

/// A request to stage offsets that are part of a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StageRequest {
    /// The group, who commits, and the offsets: judged as those of a commit.
    pub commit: CommitRequest,
    /// The transaction, which the group has joined at the coordinator of its transactional id.
    pub transaction: TransactionRef,
}

/// A request to end a transaction in a group, of the coordinator of the transactional id. It may be sent any number of times.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndStagedRequest {
    /// The group's name. It need not exist any more.
    pub group: Arc<str>,
    /// The transaction, with the epoch that its end has given to the producer.
    pub transaction: TransactionRef,
    /// Whether the transaction was committed; otherwise it was aborted.
    pub is_commit: bool,
}

/// The successful answer to a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The answer to a heartbeat.
    Heartbeat(HeartbeatResponse),
    /// The member has left.
    Left,
    /// The offsets are committed: all of them are in the log.
    Committed,
    /// The offsets are staged: all of them are in the log, and wait for the end of their transaction.
    Staged,
    /// The transaction has ended in the group.
    Ended,
    /// The groups or offsets are deleted.
    Deleted {
        /// Number of groups or offsets that are gone.
        count: u32,
    },
}

/// The host's next action for a request.
pub type Step = jangada_machine::Step<Command, Pending, Answer>;

/// A request whose command is under way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pending {
    pub(super) request: Request,
    pub(super) attempts: u32,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Request {
    Heartbeat(Box<HeartbeatRequest>),
    Leave(Box<HeartbeatRequest>),
    Commit(CommitRequest),
    Stage(StageRequest),
    EndStaged(EndStagedRequest),
    DeleteGroup(Arc<str>),
    DeleteOffsets(Arc<str>, PartitionSet),
}

/// Whether deciding again may have another outcome.
pub(super) fn is_retryable(rejection: &Rejection) -> bool {
    rejection.reason == Reason::GroupChanged
}
