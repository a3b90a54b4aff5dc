//! What members and tools ask of a leader, and what they are told.

use std::sync::Arc;

use jangada_types::{Reason, Rejection};

use crate::assignor::Assignor;
use crate::command::Command;
use crate::image::{Epoch, Subscription};
use crate::offset_commit::OffsetCommit;
use crate::partitions::PartitionSet;

/// The epoch of a heartbeat that joins.
pub const JOIN_EPOCH: i64 = 0;

/// The epoch of a heartbeat that leaves.
pub const LEAVE_EPOCH: i64 = -1;

/// The epoch of a heartbeat by which a static member leaves and keeps its place until its session ends.
pub const STATIC_LEAVE_EPOCH: i64 = -2;

/// A member says that it lives, and what is new.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HeartbeatRequest {
    /// The group's name.
    pub group: Arc<str>,
    /// The member's id, which it chose when it began; another one for each run.
    pub member: Arc<str>,
    /// The epoch of the last answer, or 0 to join, -1 to leave, -2 to leave for a while.
    pub epoch: i64,
    /// The assignment version of the last answer; 0 when there was none.
    pub assignment_version: u64,
    /// All that the member owns, once it has done what the answer with this `assignment_version` asked for: it has
    /// stopped with what is not in there. None: unchanged. Nothing is given up without it, and only what the member was
    /// told to give up: what it was given is its own from when it was answered, also before it begins with it.
    pub owned: Option<PartitionSet>,
    /// Set for a static member.
    pub instance_id: Option<Arc<str>>,
    /// The client's name for itself.
    pub client_id: Arc<str>,
    /// Where it connected from, as the broker sees it.
    pub client_host: Arc<str>,
    /// Failure domain; None: unchanged, or unknown.
    pub rack: Option<Arc<str>>,
    /// How long it may be silent, milliseconds; 0: unchanged, or the default.
    pub session_timeout_ms: u32,
    /// How long it may take to give up partitions, milliseconds; 0: unchanged, or the default.
    pub rebalance_timeout_ms: u32,
    /// What it wants to read; None: unchanged.
    pub subscription: Option<Subscription>,
    /// None: unchanged, or no preference.
    pub assignor: Option<Assignor>,
}

/// What a member is to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeartbeatResponse {
    /// The member's epoch, for its next heartbeat and its commits.
    pub epoch: Epoch,
    /// When to send the next heartbeat, milliseconds from now.
    pub heartbeat_interval_ms: u32,
    /// Names the assignment. The next heartbeat carries it, whether or not this answer has one.
    pub assignment_version: u64,
    /// What the member may own, in full; what it owns beyond that it gives up, and then says so by `owned`. None:
    /// the member has the newest.
    pub assignment: Option<PartitionSet>,
}

/// Offsets to commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommitRequest {
    /// The group's name.
    pub group: Arc<str>,
    /// The member and its epoch; none from outside, while the group has no members.
    pub member: Option<(Arc<str>, i64)>,
    /// At least one, each partition once. All are written or none.
    pub offsets: Vec<OffsetCommit>,
}

/// What a request came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Of a heartbeat.
    Heartbeat(HeartbeatResponse),
    /// Of a heartbeat that left.
    Left,
    /// Of a commit: all of it is in the log.
    Committed,
    /// Of a deletion.
    Deleted {
        /// Groups or offsets that are gone.
        count: u32,
    },
}

/// What the host does next for a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Answer. An error is definite: the request has had no effect that its sender need care for.
    Done(Result<Answer, Rejection>),
    /// Propose the command, wait until it is applied, and call [`Leader::resume`](crate::Leader::resume).
    Propose {
        /// For the shard's log.
        command: Command,
        /// For `resume`.
        pending: Pending,
    },
}

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
    DeleteGroup(Arc<str>),
    DeleteOffsets(Arc<str>, PartitionSet),
}

/// Whether deciding again may come to something else.
pub(super) fn is_retryable(rejection: &Rejection) -> bool {
    rejection.reason == Reason::GroupChanged
}
