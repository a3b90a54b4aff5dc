//! The id and epoch that a producer writes under.

use jangada_types::{ProducerEpoch, ProducerId, Sequence};

/// A producer id with an epoch, in the order in which the producer was given them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    /// Grows with each one that the producer is given.
    pub generation: u64,
    pub id: ProducerId,
    pub epoch: ProducerEpoch,
}

/// The producer's fields in a batch header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stamp {
    pub id: ProducerId,
    pub epoch: ProducerEpoch,
    pub sequence: Sequence,
}

impl Stamp {
    /// The stamp of a producer that is not idempotent.
    pub const NONE: Self = Self {
        id: ProducerId::NONE,
        epoch: ProducerEpoch::NONE,
        sequence: Sequence::NONE,
    };
}
