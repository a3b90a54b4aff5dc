//! A model of all that takes part in transactions, on a virtual clock: a shard with its leaders, partitions, consumer groups, brokers
//! between them, and the processes of clients.

pub mod broker;
pub mod checker;
pub mod groups;
pub mod host;
pub mod partition;
pub mod process;
pub mod shard;
pub mod trouble;
pub mod world;

/// A bug that is planted at a seam of the model, to see that the checker finds it.
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
}

impl Bug {
    pub const ALL: [Self; 11] = [
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
    ];
}
