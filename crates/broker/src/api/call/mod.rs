//! What one broker can do for a client of another one: the calls that are passed on, and their answers, in plain structs. The same list
//! says what the first broker may ask and what the second one carries out (`carry_out`).
//!
//! - [`records`]: appends, reads, and offsets of a partition.
//! - [`groups`]: consumer groups.
//! - [`queues`]: messages of queues. [`exchange_logs`]: messages that are published to an exchange with a log.
//! - [`admin`]: what only the leader of a partition can do to it.
//! - [`queue_admin`]: what is done to all messages of a queue in a partition, and how many it has there.
//! - [`schedules`]: schedules of queues.
//! - [`transactions`]: transactional ids, and what brokers ask each other to make and end transactions.
//! - [`cluster`]: what brokers ask each other by themselves, and what is gathered from all of them.

pub(crate) mod admin;
pub(crate) mod cluster;
pub(crate) mod exchange_logs;
pub(crate) mod groups;
pub(crate) mod queue_admin;
pub(crate) mod queues;
pub(crate) mod records;
pub(crate) mod schedules;
pub(crate) mod transactions;

use jangada_coordinator::HeartbeatResponse;
use jangada_log::ProducerState;
use jangada_transactions::Producer;
use jangada_types::{BrokerId, Offset, PartitionIndex};

use self::admin::{NewLeader, TransferLeader, TrimPartition};
use self::cluster::{
    Damage, DescribeDamage, DescribePartitions, GroupList, KnowsLeaders, KnowsVersion, ListBrokers, ListGroups,
    PartitionState,
};
use self::exchange_logs::AppendToLog;
use self::groups::{
    Commit, DeleteGroup, DeleteOffsets, DescribeGroup, GroupDescription, Heartbeat, PartitionOffset, ReadOffsets,
};
use self::queue_admin::{
    AskUnused, CountQueue, DeadDone, DeadFound, ListDead, PurgeDead, PurgeQueue, QueueDepth, RedriveDead, SeekQueue,
};
use self::queues::{
    AppendLetters, CancelMessages, Cancelled, PeekMessages, PeekedMessages, ReceiveMessages, Received, SendMessages,
    SendOutcomes, SettleMessages, SettleOutcomes,
};
use self::records::{AppendBatch, AwaitBytes, FindOffset, FoundOffset, Produced, ReadBatches};
use self::schedules::{DeleteSchedule, PartitionSchedules, PutSchedule, SchedulesHere};
use self::transactions::{
    AbortTransaction, DescribeProducers, DescribeTransaction, EndDeliveries, EndTransaction, EndTransactions,
    FindProducer, InitTransactions, JoinTransaction, ListTransactions, ProducerFound, TransactionDescription,
    TransactionEnded, TransactionList,
};
use super::operation::Operation;
use crate::partition::Fetched;
use crate::queues::ScheduleIsPut;

/// A call that another broker can carry out.
pub(crate) trait Passable: Send {
    /// What the call is answered.
    type Answer: Send;

    /// The operation that the call is a part of.
    const OPERATION: Operation;

    /// The call among all others.
    fn into_call(self) -> Call;

    /// The answer among all others; none if it is the answer to something else.
    fn answer_in(answer: Answer) -> Option<Self::Answer>;
}

macro_rules! passable {
    ($($variant:ident($request:ty) => $answer:ty, of $operation:ident;)*) => {
        /// One of the calls that are passed on.
        #[derive(Debug)]
        pub(crate) enum Call {
            $(
                #[doc = concat!("Asks for [`Answer::", stringify!($variant), "`].")]
                $variant($request),
            )*
        }

        /// The answer to the [`Call`] of the same name.
        pub(crate) enum Answer {
            $(
                #[doc = concat!("Answers [`Call::", stringify!($variant), "`].")]
                $variant($answer),
            )*
        }

        impl Call {
            /// The operation that the call is a part of.
            pub fn operation(&self) -> Operation {
                match self {
                    $(Self::$variant(_) => Operation::$operation,)*
                }
            }
        }

        $(impl Passable for $request {
            type Answer = $answer;

            const OPERATION: Operation = Operation::$operation;

            fn into_call(self) -> Call {
                Call::$variant(self)
            }

            fn answer_in(answer: Answer) -> Option<$answer> {
                match answer {
                    Answer::$variant(answer) => Some(answer),
                    _ => None,
                }
            }
        })*
    };
}

passable! {
    Append(AppendBatch) => Produced, of Produce;
    Read(ReadBatches) => Fetched, of Fetch;
    Await(AwaitBytes) => (), of Fetch;
    FindOffset(FindOffset) => FoundOffset, of ListOffsets;
    Heartbeat(Heartbeat) => Option<HeartbeatResponse>, of Heartbeat;
    Commit(Commit) => (), of CommitOffsets;
    ReadOffsets(ReadOffsets) => Vec<PartitionOffset>, of FetchOffsets;
    DescribeGroup(DescribeGroup) => GroupDescription, of DescribeGroup;
    DeleteGroup(DeleteGroup) => u32, of DeleteGroup;
    DeleteOffsets(DeleteOffsets) => u32, of DeleteOffsets;
    SendMessages(SendMessages) => SendOutcomes, of Send;
    AppendLetters(AppendLetters) => Produced, of Send;
    AppendToLog(AppendToLog) => SendOutcomes, of Send;
    ReceiveMessages(ReceiveMessages) => Received, of Receive;
    SettleMessages(SettleMessages) => SettleOutcomes, of Settle;
    CancelMessages(CancelMessages) => Cancelled, of Cancel;
    PeekMessages(PeekMessages) => PeekedMessages, of Peek;
    TrimPartition(TrimPartition) => Offset, of TrimPartition;
    TransferLeader(TransferLeader) => NewLeader, of TransferLeader;
    PurgeQueue(PurgeQueue) => (), of PurgeQueue;
    SeekQueue(SeekQueue) => u64, of SeekQueue;
    ListDead(ListDead) => DeadFound, of ListDead;
    RedriveDead(RedriveDead) => DeadDone, of RedriveDead;
    PurgeDead(PurgeDead) => DeadDone, of PurgeDead;
    PutSchedule(PutSchedule) => ScheduleIsPut, of PutSchedule;
    DeleteSchedule(DeleteSchedule) => (), of DeleteSchedule;
    InitTransactions(InitTransactions) => Producer, of InitTransactions;
    EndTransaction(EndTransaction) => TransactionEnded, of EndTransaction;
    DescribeTransaction(DescribeTransaction) => TransactionDescription, of DescribeTransaction;
    AbortTransaction(AbortTransaction) => bool, of AbortTransaction;
    DescribeProducers(DescribeProducers) => Vec<ProducerState>, of DescribeProducers;
    // What a broker asks by itself.
    ListTransactions(ListTransactions) => TransactionList, of ListTransactions;
    JoinTransaction(JoinTransaction) => u64, of Produce;
    EndTransactions(EndTransactions) => EndDeliveries, of EndTransaction;
    FindProducer(FindProducer) => ProducerFound, of DescribeProducers;
    SchedulesHere(SchedulesHere) => Vec<PartitionSchedules>, of ListSchedules;
    CountQueue(CountQueue) => Vec<(PartitionIndex, QueueDepth)>, of DescribeQueue;
    AskUnused(AskUnused) => Vec<(PartitionIndex, bool)>, of DeleteQueue;
    DescribePartitions(DescribePartitions) => Vec<PartitionState>, of DescribePartitions;
    DescribeDamage(DescribeDamage) => Damage, of DescribeCluster;
    ListGroups(ListGroups) => GroupList, of ListGroups;
    KnowsLeaders(KnowsLeaders) => bool, of GetMetadata;
    KnowsVersion(KnowsVersion) => Vec<BrokerId>, of GetMetadata;
    ListBrokers(ListBrokers) => Vec<BrokerId>, of GetMetadata;
}
