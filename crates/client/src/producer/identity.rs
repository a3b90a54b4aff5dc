//! Under which id and epoch a producer writes.

use jangada_types::{ProducerEpoch, ProducerId, Sequence};

/// A producer id with an epoch, in the order in which the producer was given them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    /// Grows with each one that the producer is given.
    pub generation: u64,
    pub id: ProducerId,
    pub epoch: ProducerEpoch,
}

/// What a batch's header says of its producer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stamp {
    pub id: ProducerId,
    pub epoch: ProducerEpoch,
    pub sequence: Sequence,
}

impl Stamp {
    /// Of a producer that is not idempotent.
    pub const NONE: Self = Self {
        id: ProducerId::NONE,
        epoch: ProducerEpoch::NONE,
        sequence: Sequence::NONE,
    };
}
