//! Requests to a leader, and its answers.

use std::sync::Arc;

use jangada_types::{GroupId, ProducerId};

use crate::command::Command;
use crate::producer::Producer;

/// A process takes a transactional id, and fences whoever had it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct InitRequest {
    /// The transactional id.
    pub id: Arc<str>,
    /// How long a transaction may be open, milliseconds; 0: the default.
    pub timeout_ms: u32,
    /// The producer that the process has, when it asks for another epoch (KIP-360). None: it has none.
    pub holder: Option<Producer>,
    /// A producer id that nobody had, where one is needed.
    pub fresh: Option<ProducerId>,
}

/// Partitions and groups are to be part of the open transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JoinRequest {
    /// The transactional id.
    pub id: Arc<str>,
    /// The producer that writes.
    pub producer: Producer,
    /// The partitions, by their Raft groups.
    pub partitions: Vec<GroupId>,
    /// The names of the groups that offsets are staged in.
    pub groups: Vec<Arc<str>>,
    /// Who asks, and for what.
    pub kind: JoinKind,
    /// A version of the cluster's metadata that has the partitions.
    pub metadata_version: u64,
}

/// Who asks for partitions and groups to be part of a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JoinKind {
    /// The broker that has the first batch or offset adds them (KIP-890). The epoch names the transaction.
    Implicit,
    /// The client adds them, before it writes (before KIP-890).
    Explicit,
    /// The broker that has the first batch or offset checks that the client has added them.
    Check,
}

/// The producer ends its transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndRequest {
    /// The transactional id.
    pub id: Arc<str>,
    /// The producer that wrote it.
    pub producer: Producer,
    /// Whether it is committed.
    pub commit: bool,
    /// Whether the producer takes a new epoch with the answer (KIP-890). Without, a request that comes late may end the next transaction.
    pub bumps: bool,
    /// A producer id that nobody had, where one is needed.
    pub fresh: Option<ProducerId>,
}

/// The successful answer to a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The request is to come again with a producer id that nobody had: the epochs of the present one are used up, or there is none.
    NeedsProducerId,
    /// The process has the id.
    Initialized {
        /// The producer by which it writes.
        producer: Producer,
    },
    /// The partitions and groups are part of the transaction.
    Joined {
        /// The number of the transaction.
        seq: u64,
    },
    /// It is decided, for good, how the transaction ends.
    Ended {
        /// The producer by which the next transaction is written.
        next: Producer,
        /// The number of the transaction.
        seq: u64,
        /// Whether all its markers are written.
        is_complete: bool,
    },
    /// The acknowledgments are taken.
    Acknowledged,
}

/// The host's next action for a request.
pub type Step = jangada_machine::Step<Command, Pending, Answer>;

/// A request whose command is under way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pending {
    pub(super) request: Request,
    pub(super) attempts: u32,
    /// The answer when the command takes effect. None: the request is decided again.
    pub(super) answer: Option<Answer>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Request {
    Init(InitRequest),
    Join(JoinRequest),
    /// The second: the transaction that it was decided for first. A later one is never ended by it.
    End(EndRequest, Option<u64>),
    Abort(Arc<str>),
    Acknowledge,
}
