//! The replicated state: the transactional ids of a shard, each with its producer and its transaction.
//!
//! It is changed by [`Image::apply`](crate::Image::apply) and [`Image::restore`](crate::Image::restore) only.
//!
//! Invariants:
//! - A transaction's decision (`Prepare*`) never changes, and the next transaction begins only when it is complete.
//! - `seq` grows by one with each transaction, and never goes back.
//! - The producer is fenced forward only: its epoch grows, or another id takes its place.
//! - There are participants only while a transaction is open or being ended.
//!
//! A clone costs a reference count for each id; a command then copies the row that it touches.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use jangada_types::GroupId;

use crate::outcome::Outcome;
use crate::producer::Producer;
use crate::size;

/// The state of a shard at one position of its log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Image {
    /// Log index of the last command applied.
    pub(crate) version: u64,
    pub(crate) ids: BTreeMap<Arc<str>, Arc<TransactionalId>>,
    /// Derived: the size of all rows together.
    pub(crate) bytes: u64,
}

/// A transactional id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TransactionalId {
    /// The producer that may write and end transactions now.
    pub producer: Producer,
    /// The producer before it, if the process that had it is given the present one when it asks. None: another process took the id, so
    /// whoever had the last producer is fenced.
    pub previous: Option<Producer>,
    /// Number of the present or last transaction, from 1 on; 0: there was none.
    pub seq: u64,
    /// How long a transaction may be open, milliseconds.
    pub timeout_ms: u32,
    /// How far the present or last transaction is.
    pub state: TransactionState,
    /// The time at which the present or last transaction began, milliseconds since the Unix epoch on the leader's clock.
    pub started_ms: u64,
    /// The time of the last change that was not an addition to an open transaction, on the same clock. It only grows.
    pub touched_ms: u64,
    /// The newest version of the cluster's metadata by which a partition was added to the transaction. A partition that a version from
    /// there on does not have was deleted.
    pub metadata_version: u64,
    /// The partitions of the transaction, by their Raft groups, which are never used again.
    pub partitions: BTreeSet<GroupId>,
    /// The consumer groups for which the transaction has staged offsets.
    pub groups: BTreeSet<Arc<str>>,
    /// The last transaction that was decided.
    pub last: Option<Ended>,
}

/// A transaction that was decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ended {
    /// The producer that wrote it.
    pub producer: Producer,
    /// Its number. A transaction without participants has that of the one before it.
    pub seq: u64,
    /// How it ended.
    pub outcome: Outcome,
}

/// How far a transaction is, in Kafka's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TransactionState {
    /// The id was initialized, and no transaction has begun since.
    Empty,
    /// A transaction is open.
    Ongoing,
    /// It is decided that it commits, and its markers are being written.
    PrepareCommit,
    /// It is decided that it aborts, and its markers are being written.
    PrepareAbort,
    /// It is committed, and all markers are written.
    CompleteCommit,
    /// It is aborted, and all markers are written.
    CompleteAbort,
}

impl TransactionState {
    /// All states, in the order of a transaction.
    pub const ALL: [Self; 6] = [
        Self::Empty,
        Self::Ongoing,
        Self::PrepareCommit,
        Self::PrepareAbort,
        Self::CompleteCommit,
        Self::CompleteAbort,
    ];

    /// The state of a transaction that is decided and whose markers are being written.
    pub(crate) const fn prepare(commit: bool) -> Self {
        if commit {
            Self::PrepareCommit
        } else {
            Self::PrepareAbort
        }
    }

    /// The state of a transaction that has ended.
    pub(crate) const fn complete(commit: bool) -> Self {
        if commit {
            Self::CompleteCommit
        } else {
            Self::CompleteAbort
        }
    }

    /// Whether markers are being written.
    pub const fn is_prepare(self) -> bool {
        matches!(self, Self::PrepareCommit | Self::PrepareAbort)
    }

    /// Whether no transaction is open or being ended, so that the next one may begin.
    pub const fn is_idle(self) -> bool {
        matches!(self, Self::Empty | Self::CompleteCommit | Self::CompleteAbort)
    }

    /// The state's name, as Kafka shows it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Empty => "Empty",
            Self::Ongoing => "Ongoing",
            Self::PrepareCommit => "PrepareCommit",
            Self::PrepareAbort => "PrepareAbort",
            Self::CompleteCommit => "CompleteCommit",
            Self::CompleteAbort => "CompleteAbort",
        }
    }
}

impl TransactionalId {
    pub(crate) fn new(producer: Producer, timeout_ms: u32, at_ms: u64) -> Self {
        Self {
            producer,
            previous: None,
            seq: 0,
            timeout_ms,
            state: TransactionState::Empty,
            started_ms: 0,
            touched_ms: at_ms,
            metadata_version: 0,
            partitions: BTreeSet::new(),
            groups: BTreeSet::new(),
            last: None,
        }
    }

    /// The producer that the markers of the decided transaction carry: the one that fences who wrote it, of the same id. Without a bump
    /// (before KIP-890) it is the writer's own.
    pub fn marker(&self) -> Producer {
        match self.last {
            // The epochs were used up, and another id took the place.
            Some(last) if last.producer.id != self.producer.id => Producer {
                epoch: Producer::RETIRING_EPOCH,
                ..last.producer
            },
            _ => self.producer,
        }
    }

    /// Whether all markers of this transaction are written.
    pub fn is_complete(&self, seq: u64) -> bool {
        self.seq > seq || self.state.is_idle()
    }

    /// Stamps a change. The stamp goes forward even when this leader's clock is behind the last leader's: an expiry that was decided from
    /// the earlier stamp must not delete what has changed since.
    pub(crate) fn touch(&mut self, at_ms: u64) {
        self.touched_ms = at_ms.max(self.touched_ms.saturating_add(1));
    }
}

impl Image {
    /// The state of an empty log.
    pub fn new() -> Self {
        Self::default()
    }

    /// Log index of the last command applied; 0 for none.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// Whether nothing was ever written here, or all is gone again.
    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }

    /// Upper bound of the state's size in a snapshot, bytes.
    pub fn size(&self) -> u64 {
        self.bytes
    }

    /// All transactional ids, ascending.
    pub fn ids(&self) -> impl ExactSizeIterator<Item = (&Arc<str>, &TransactionalId)> {
        self.ids.iter().map(|(id, row)| (id, &**row))
    }

    /// The transactional id of this name.
    pub fn id(&self, id: &str) -> Option<&TransactionalId> {
        self.ids.get(id).map(|row| &**row)
    }

    /// A shared handle on the id as it is now, for a reader that must not hold up the shard.
    pub fn shared_id(&self, id: &str) -> Option<Arc<TransactionalId>> {
        self.ids.get(id).cloned()
    }

    /// The size of one row; 0 if there is none.
    pub(crate) fn bytes_of(&self, id: &str) -> u64 {
        self.id(id).map_or(0, |row| size::row(id, row))
    }
}
