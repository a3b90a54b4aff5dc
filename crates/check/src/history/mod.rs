//! A history: what clients called and were answered, in the order in which it happened, small enough for a million operations.

pub mod log;
pub mod operation;

mod append;
mod text;

use std::collections::{BTreeMap, HashMap};

use crate::call::Isolation;
use crate::names::{NameId, Names, OperationId, PartitionId, ValueId};
use crate::note::{Dump, Fault, PartitionSettings, QueueSettings};

pub use self::append::Moment;
use self::log::{Conflict, Log, Run};
use self::operation::{Operation, Read};

/// A group assigned partitions to a process, or a process has left.
#[derive(Clone, Debug)]
pub struct Rebalance {
    /// The index of the event.
    pub index: u64,
    /// When it was noted.
    pub time_ns: u64,
    /// Whose partitions they are.
    pub process: u32,
    /// The group and the member's epoch; none: the process has left.
    pub member: Option<(NameId, i64)>,
    /// What it has from now on.
    pub partitions: Vec<PartitionId>,
}

/// All that one reader found in a partition when all was over.
#[derive(Clone, Debug)]
pub struct FinalRead {
    /// The index of the last event of it.
    pub index: u64,
    /// When that was.
    pub time_ns: u64,
    /// The partition that was read.
    pub partition: PartitionId,
    /// The replica whose own log it is; none: a client read it.
    pub replica: Option<NameId>,
    /// Which records it shows.
    pub isolation: Isolation,
    /// The first offset that may be there.
    pub log_start: i64,
    /// The offset behind the last record.
    pub end: i64,
    /// The last stable offset.
    pub stable: i64,
    /// The next offset that it would read.
    pub next: i64,
    /// All parts of it came.
    pub complete: bool,
    /// What was read.
    pub runs: Vec<Run>,
}

/// A queue's contents when all was over.
#[derive(Clone, Debug)]
pub struct QueueDump {
    /// The index of the last event of it.
    pub index: u64,
    /// All parts of it, as one.
    pub dump: Dump,
}

/// What clients called and were answered.
#[derive(Clone, Debug, Default)]
pub struct History {
    partitions: Names<PartitionId>,
    values: Names<ValueId>,
    names: Names<NameId>,
    logs: Vec<Log>,
    operations: Vec<Operation>,
    runs: Vec<Run>,
    conflicts: Vec<Conflict>,
    rebalances: Vec<Rebalance>,
    finals: Vec<FinalRead>,
    final_of: HashMap<(PartitionId, Option<NameId>, Isolation), usize>,
    dumps: Vec<QueueDump>,
    partition_settings: BTreeMap<PartitionId, PartitionSettings>,
    queue_settings: BTreeMap<NameId, QueueSettings>,
    faults: Vec<(u64, Fault)>,
    /// The operation of each process that is not answered yet, when it has just one.
    open: HashMap<u32, Vec<OperationId>>,
    next_index: u64,
    last_ns: u64,
}

impl History {
    /// The operations by when they were called.
    pub fn operations(&self) -> &[Operation] {
        &self.operations
    }

    /// One operation by its number.
    pub fn operation(&self, id: OperationId) -> &Operation {
        &self.operations[id.at()]
    }

    /// The operations with their numbers.
    pub fn numbered(&self) -> impl Iterator<Item = (OperationId, &Operation)> {
        (0..).map(OperationId).zip(&self.operations)
    }

    /// The final reads.
    pub fn finals(&self) -> &[FinalRead] {
        &self.finals
    }

    /// The final contents of queues.
    pub fn dumps(&self) -> &[QueueDump] {
        &self.dumps
    }

    /// The assignments of groups.
    pub fn rebalances(&self) -> &[Rebalance] {
        &self.rebalances
    }

    /// The steps of faults, with the index of their event.
    pub fn faults(&self) -> &[(u64, Fault)] {
        &self.faults
    }

    /// The names of partitions.
    pub fn partition_name(&self, id: PartitionId) -> &str {
        self.partitions.text(id)
    }

    /// The text of a value.
    pub fn value(&self, id: ValueId) -> &str {
        self.values.text(id)
    }

    /// The text of a key, group, queue, transaction or lease.
    pub fn name(&self, id: NameId) -> &str {
        self.names.text(id)
    }

    pub(crate) fn partition_ids(&self) -> impl Iterator<Item = PartitionId> + use<> {
        (0..u32::try_from(self.partitions.len()).expect("it was numbered so")).map(PartitionId)
    }

    pub(crate) fn find_value(&self, text: &str) -> Option<ValueId> {
        self.values.find(text)
    }

    pub(crate) fn find_name(&self, text: &str) -> Option<NameId> {
        self.names.find(text)
    }

    pub(crate) fn log(&self, id: PartitionId) -> &Log {
        &self.logs[id.at()]
    }

    pub(crate) fn runs(&self, read: &Read) -> &[Run] {
        &self.runs[read.first_run as usize..][..read.runs as usize]
    }

    pub(crate) fn conflicts(&self) -> &[Conflict] {
        &self.conflicts
    }

    pub(crate) fn partition_settings(&self, id: PartitionId) -> Option<&PartitionSettings> {
        self.partition_settings.get(&id)
    }

    pub(crate) fn queue_settings(&self, id: NameId) -> Option<&QueueSettings> {
        self.queue_settings.get(&id)
    }

    pub(crate) fn all_queue_settings(&self) -> impl Iterator<Item = (NameId, &QueueSettings)> {
        self.queue_settings.iter().map(|(queue, settings)| (*queue, settings))
    }
}
