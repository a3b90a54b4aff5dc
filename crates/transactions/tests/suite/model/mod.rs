//! All that takes part in transactions, on a virtual clock: the real state machines of a shard, of partitions with their replicas and of
//! consumer groups, and a model of what is around them: brokers between them, leaders that change, and the processes of clients.

pub mod broker;
pub mod checker;
pub mod groups;
pub mod host;
pub mod partition;
pub mod process;
pub mod replica;
pub mod shard;
pub mod trouble;
pub mod world;

/// A bug that is planted at a seam, around the state machines or in the model of brokers, to see that the checker finds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bug {
    /// A partition ends whatever transaction of the producer is open.
    MarkerWithoutSeq,
    /// A partition forgets a silent producer also while its transaction is open.
    EvictOpenProducer,
    /// Readers of committed records read up to the high watermark.
    LsoFromHighWatermark,
    /// Of two commits of offsets the one that was staged later counts.
    PendingOrderedByStaging,
    /// The end of a transaction is answered before it is applied.
    PrepareAnsweredBeforeCommit,
    /// A partition that the broker does not know counts as deleted.
    UnknownPartitionDone,
    /// The end of a transaction that has ended in the other direction is answered as if it had ended in this one.
    EndRetryOtherDirection,
    /// A partition's index of aborted transactions does not outlive its leader.
    AbortedRowsInMemory,
    /// A group does not remember which transactions have ended in it.
    LateStaging,
    /// A new leader sends no markers of what was decided before it.
    MarkersNotSentAgain,
    /// The next transaction begins while markers of the last are being written.
    CompleteWithoutMarkers,
    /// Readers are shown the high watermark of one moment and the open transactions of another.
    LsoApartFromHighWatermark,
    /// A partition's leader waits for the answer to a join that was lost, and does not ask again.
    JoinNotAskedAgain,
    /// A leader tells readers of aborted transactions of which compaction has taken the marker.
    AbortedRowsOutliveMarkers,
}

impl Bug {
    pub const ALL: [Self; 14] = [
        Self::MarkerWithoutSeq,
        Self::EvictOpenProducer,
        Self::LsoFromHighWatermark,
        Self::PendingOrderedByStaging,
        Self::PrepareAnsweredBeforeCommit,
        Self::UnknownPartitionDone,
        Self::EndRetryOtherDirection,
        Self::AbortedRowsInMemory,
        Self::LateStaging,
        Self::MarkersNotSentAgain,
        Self::CompleteWithoutMarkers,
        Self::LsoApartFromHighWatermark,
        Self::JoinNotAskedAgain,
        Self::AbortedRowsOutliveMarkers,
    ];
}
