//! Transactional ids at the broker that coordinates them, and what brokers ask each other to make and end transactions.

use std::collections::BTreeSet;
use std::sync::Arc;

use jangada_coordinator::TopicPartition;
use jangada_transactions::{Delivery, Producer, Target, TransactionState};
use jangada_types::{BrokerId, GroupId, PartitionIndex, ProducerId};

use crate::api::resolve::PartitionRef;

/// Begins a life of a producer, or goes on with one. Answered with the producer.
#[derive(Debug)]
pub(crate) struct InitTransactions {
    pub id: Arc<str>,
    /// 0: as the settings say.
    pub timeout_ms: u32,
    /// The producer of the life that is to go on.
    pub holder: Option<Producer>,
}

/// Ends a transaction.
#[derive(Debug)]
pub(crate) struct EndTransaction {
    pub id: Arc<str>,
    pub producer: Producer,
    pub commit: bool,
    /// Answer as soon as it is decided.
    pub early: bool,
}

/// A transaction is decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TransactionEnded {
    /// The producer of the next one.
    pub next: Producer,
    /// All partitions and groups know it.
    pub is_visible: bool,
}

/// Asks for the state of a transactional id.
#[derive(Debug)]
pub(crate) struct DescribeTransaction {
    pub id: Arc<str>,
}

/// Aborts the open transaction of an id. Answered with whether there was one.
#[derive(Debug)]
pub(crate) struct AbortTransaction {
    pub id: Arc<str>,
}

/// The state of a transactional id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TransactionDescription {
    pub id: Arc<str>,
    pub state: TransactionState,
    pub producer: Producer,
    pub timeout_ms: u32,
    /// When the open transaction began, milliseconds since the Unix epoch; 0: none is open.
    pub started_ms: u64,
    /// Of a listing none.
    pub partitions: Vec<TopicPartition>,
    pub groups: Vec<Arc<str>>,
    /// The producer of the last transaction that ended, and whether it was committed.
    pub last: Option<(Producer, bool)>,
    pub coordinator: BrokerId,
}

/// Asks for the transactional ids of the shards that one broker leads.
#[derive(Debug)]
pub(crate) struct ListTransactions;

/// Transactional ids of some shards.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct TransactionList {
    /// Ordered by their ids.
    pub transactions: Vec<TransactionDescription>,
    /// The shards whose ids are not known.
    pub missing_shards: BTreeSet<PartitionIndex>,
}

/// Asks what a partition remembers of its producers.
#[derive(Debug)]
pub(crate) struct DescribeProducers {
    pub partition: PartitionRef,
}

/// Makes partitions and groups parts of the open transaction of a producer. Answered with the transaction's number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct JoinTransaction {
    pub id: Arc<str>,
    pub producer: Producer,
    /// By their Raft groups.
    pub partitions: Vec<GroupId>,
    pub groups: Vec<Arc<str>>,
    /// Make them so; otherwise they must be it already.
    pub adds: bool,
    /// A version of the metadata that has the partitions.
    pub metadata_version: u64,
}

/// Writes the ends of transactions where the broker leads that answers. Answered with what became of each, in their order.
#[derive(Debug)]
pub(crate) struct EndTransactions(pub Vec<TransactionEnd>);

/// The fate of each end that was to be written.
pub(crate) type EndDeliveries = Vec<Delivery>;

/// The end of a transaction, for one of its partitions or groups.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TransactionEnd {
    pub target: Target,
    /// The producer as the end leaves it.
    pub producer: Producer,
    pub seq: u64,
    pub commit: bool,
    /// The term of the coordinator.
    pub coordinator_epoch: i32,
}

/// Asks who has a producer id, of the shards that one broker leads.
#[derive(Debug)]
pub(crate) struct FindProducer {
    pub producer: ProducerId,
    pub seq: u64,
    /// A partition with an open transaction of this producer and number.
    pub partition: GroupId,
}

/// What the shards of one broker say of a transaction.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ProducerFound {
    /// The transaction is open or being ended, and has the partition.
    pub is_open: bool,
    /// The shards that have answered.
    pub shards: BTreeSet<PartitionIndex>,
}
