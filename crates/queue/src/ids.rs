//! Newtypes for what a queue's state names.

use std::fmt;

use jangada_types::CodecError;
pub use jangada_types::QueueId;
use jangada_types::replicated::{Sample, Seeds, Wire};
use jangada_types::{ProducerEpoch, ProducerId};

macro_rules! number {
    ($(#[$meta:meta])* $name:ident($inner:ty)) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub $inner);

        impl $name {
            /// The plain number.
            pub const fn get(self) -> $inner {
                self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }

        impl Wire<$inner> for $name {
            fn to_form(&self) -> $inner {
                self.0
            }

            fn from_form(_: &'static str, form: $inner) -> Result<Self, CodecError> {
                Ok(Self(form))
            }
        }

        impl Sample for $name {
            fn sample(seeds: &mut Seeds) -> Self {
                Self(Sample::sample(seeds))
            }
        }
    };
}

number! {
    /// The number of a slot in its partition, from 1 on. A number is never used again: what a slot that was closed is told
    /// by a late command finds no slot.
    SlotId(u32)
}

number! {
    /// A consumer's session: it outlives the consumer's connection and a change of the leader. Chosen by the consumer.
    SessionId(u64)
}

number! {
    /// Names a receive that may be sent again because its answer was lost. 0: it will not be.
    AttemptId(u64)
}

number! {
    /// Names one call of a receive: a receive that is sent again is another call of the same attempt. Chosen at random by the broker that
    /// a client calls. 0: any call, or several.
    CallId(u64)
}

number! {
    /// Names one grant: the Raft index of the entry that granted, and the place of the grant in it. Never used again, so a
    /// token that was handed out with it fits no later lease of the same message.
    LeaseId(u64)
}

/// Bits of a lease's id that say the place in the command.
const PLACE_BITS: u32 = 16;

impl LeaseId {
    /// The id that no lease has.
    pub const NONE: Self = Self(0);

    /// The lease that the section at `place` of the entry at `index` grants.
    pub fn of(index: u64, place: usize) -> Self {
        let place = u16::try_from(place).expect("a command has fewer than 65,536 sections");
        assert!(index >> (u64::BITS - PLACE_BITS) == 0, "fewer than 2^48 entries");
        // The first entry of a log has index 0, and no lease has the id 0.
        Self(((index + 1) << PLACE_BITS) | u64::from(place))
    }
}

/// Names a transaction, as every message between brokers does: the coordinator counts `seq` for each transactional id, and it never goes
/// back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TransactionId {
    /// Whose it is.
    pub producer: ProducerId,
    /// The epoch that its producer has in it.
    pub epoch: ProducerEpoch,
    /// Which transaction of its transactional id it is.
    pub seq: u64,
}
