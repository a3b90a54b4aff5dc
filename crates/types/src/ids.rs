//! Newtypes for ids, offsets, epochs and sequences, so that two swapped integers do not compile.
//!
//! The inner value is public: an id has no invariant beyond its type. `NONE` values are those of Kafka's record
//! batch.

use std::fmt;
use std::ops::{Add, Sub};

macro_rules! number {
    ($(#[$meta:meta])* $name:ident($inner:ty)) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub $inner);

        impl $name {
            /// The plain number.
            pub const fn get(self) -> $inner {
                self.0
            }
        }

        impl From<$inner> for $name {
            fn from(value: $inner) -> Self {
                Self(value)
            }
        }

        impl From<$name> for $inner {
            fn from(value: $name) -> Self {
                value.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }
    };
}

number! {
    /// A broker's id, from 1 on; 0 means none in the public API.
    #[derive(Default)]
    BrokerId(u32)
}

number! {
    /// The incarnation of a broker: how often it came back with an empty disk, from 1 on. A replica that lost its log
    /// must not vote under its old identity, so the incarnation is part of it.
    #[derive(Default)]
    Incarnation(u32)
}

number! {
    /// The id of a replication group: the metadata group, a topic partition, or a coordinator partition. An id is never
    /// used again.
    #[derive(Default)]
    GroupId(u64)
}

impl GroupId {
    /// The group of the cluster's metadata.
    pub const METADATA: Self = Self(0);
    /// No group: the store keeps rows of the node itself under this id.
    pub const NODE: Self = Self(u64::MAX);
}

number! {
    /// The index of a partition in its topic, from 0 on.
    #[derive(Default)]
    PartitionIndex(u32)
}

number! {
    /// The id of an idempotent producer.
    ProducerId(i64)
}

impl ProducerId {
    /// The id in a batch without an idempotent producer.
    pub const NONE: Self = Self(-1);

    /// Whether this is the id of a producer.
    pub const fn is_some(self) -> bool {
        self.0 >= 0
    }
}

impl Default for ProducerId {
    fn default() -> Self {
        Self::NONE
    }
}

number! {
    /// The epoch of a producer id: a higher one fences the earlier users of the id.
    ProducerEpoch(i16)
}

impl ProducerEpoch {
    /// The epoch in a batch without an idempotent producer.
    pub const NONE: Self = Self(-1);
}

impl Default for ProducerEpoch {
    fn default() -> Self {
        Self::NONE
    }
}

number! {
    /// A record's number within its producer id, epoch and partition, from 0 on. After `i32::MAX` comes 0.
    Sequence(i32)
}

impl Sequence {
    /// The sequence in a batch without an idempotent producer.
    pub const NONE: Self = Self(-1);

    /// The sequence `n` records later.
    ///
    /// # Panics
    /// On [`Sequence::NONE`] and on a negative `n`.
    #[must_use]
    pub const fn advance(self, n: i32) -> Self {
        assert!(self.0 >= 0 && n >= 0, "only a real sequence moves, and only forward");
        // Both are below 2^31: the sum fits a u32, and clearing its top bit takes it modulo 2^31.
        Self(((self.0 as u32 + n as u32) & i32::MAX as u32) as i32)
    }
}

impl Default for Sequence {
    fn default() -> Self {
        Self::NONE
    }
}

number! {
    /// A record's position in its partition, from 0 on.
    #[derive(Default)]
    Offset(i64)
}

impl Offset {
    /// The first offset of every partition.
    pub const ZERO: Self = Self(0);
}

impl Add<i64> for Offset {
    type Output = Self;

    fn add(self, records: i64) -> Self {
        Self(self.0 + records)
    }
}

impl Sub for Offset {
    /// The number of records between two offsets.
    type Output = i64;

    fn sub(self, earlier: Self) -> i64 {
        self.0 - earlier.0
    }
}

number! {
    /// The epoch of a partition's leader: the Raft term, which a record batch holds as an `i32`.
    #[derive(Default)]
    LeaderEpoch(u32)
}

impl LeaderEpoch {
    /// The epoch of a Raft term. Terms beyond `i32::MAX`, which would take two thousand million elections, become
    /// `i32::MAX`.
    pub const fn from_term(term: u64) -> Self {
        if term > i32::MAX as u64 {
            Self(i32::MAX as u32)
        } else {
            Self(term as u32)
        }
    }

    /// The epoch as a record batch holds it.
    pub const fn as_i32(self) -> i32 {
        if self.0 > i32::MAX as u32 {
            i32::MAX
        } else {
            self.0 as i32
        }
    }
}

/// A broker in one of its incarnations: it votes and holds replicas under this id. Displays as `3.1`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ReplicaId {
    /// The broker's id.
    pub broker: BrokerId,
    /// The broker's incarnation.
    pub incarnation: Incarnation,
}

impl ReplicaId {
    /// The id of this incarnation of a broker.
    pub const fn new(broker: BrokerId, incarnation: Incarnation) -> Self {
        Self { broker, incarnation }
    }
}

/// A replica id packed into one number: the broker in the high half, the incarnation in the low one.
impl From<u64> for ReplicaId {
    fn from(packed: u64) -> Self {
        let half = |bits: u64| u32::try_from(bits & u64::from(u32::MAX)).expect("masked to 32 bits");
        Self::new(BrokerId(half(packed >> 32)), Incarnation(half(packed)))
    }
}

impl fmt::Display for ReplicaId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.broker, self.incarnation)
    }
}

/// A topic's id: a topic that was deleted and created again under its name has another one. Displays as a UUID.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TopicId(pub [u8; 16]);

impl TopicId {
    /// The 16 bytes that the public API carries; `None` at any other length.
    pub fn from_slice(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }

    /// The id with these bytes, the most significant byte first.
    pub const fn from_u128(value: u128) -> Self {
        Self(value.to_be_bytes())
    }

    /// The id as a number, the most significant byte first.
    pub const fn as_u128(self) -> u128 {
        u128::from_be_bytes(self.0)
    }

    /// The 16 bytes that the public API carries.
    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

impl From<[u8; 16]> for TopicId {
    fn from(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }
}

impl fmt::Display for TopicId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, byte) in self.0.iter().enumerate() {
            if matches!(i, 4 | 6 | 8 | 10) {
                f.write_str("-")?;
            }
            write!(f, "{byte:02x}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for TopicId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TopicId({self})")
    }
}

/// A queue's id: a queue that was deleted and created again under its name has another one. Displays as a UUID. The topic of a queue
/// with a log of its own has the same bytes as id.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct QueueId(pub u128);

impl QueueId {
    /// The 16 bytes that the public API carries; `None` at any other length.
    pub fn from_slice(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(u128::from_be_bytes).map(Self)
    }

    /// The 16 bytes that the public API carries, the most significant first.
    pub const fn to_bytes(self) -> [u8; 16] {
        self.0.to_be_bytes()
    }

    /// The id of the topic that a queue with a log of its own has for itself.
    pub const fn own_topic(self) -> TopicId {
        TopicId::from_u128(self.0)
    }
}

impl fmt::Display for QueueId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.own_topic(), f)
    }
}

impl fmt::Debug for QueueId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "QueueId({self})")
    }
}

/// An exchange's id: an exchange that was deleted and created again under its name has another one. Displays as a UUID.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ExchangeId(pub u128);

impl ExchangeId {
    /// The 16 bytes that the public API carries; `None` at any other length.
    pub fn from_slice(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(u128::from_be_bytes).map(Self)
    }

    /// The 16 bytes that the public API carries, the most significant first.
    pub const fn to_bytes(self) -> [u8; 16] {
        self.0.to_be_bytes()
    }

    /// The id of the topic that an exchange with a log has for itself.
    pub const fn own_topic(self) -> TopicId {
        TopicId::from_u128(self.0)
    }
}

impl fmt::Display for ExchangeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.own_topic(), f)
    }
}

impl fmt::Debug for ExchangeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ExchangeId({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sequence_wraps_to_zero_as_kafka_does() {
        assert_eq!(Sequence(0).advance(0), Sequence(0));
        assert_eq!(Sequence(5).advance(3), Sequence(8));
        assert_eq!(Sequence(i32::MAX).advance(1), Sequence(0));
        assert_eq!(Sequence(i32::MAX - 1).advance(5), Sequence(3));
        assert_eq!(Sequence(i32::MAX).advance(i32::MAX), Sequence(i32::MAX - 1));
    }

    #[test]
    #[should_panic(expected = "only a real sequence")]
    fn the_absent_sequence_does_not_advance() {
        let _ = Sequence::NONE.advance(1);
    }

    #[test]
    fn absent_producer_is_the_default() {
        assert_eq!(ProducerId::default(), ProducerId::NONE);
        assert_eq!(ProducerEpoch::default(), ProducerEpoch::NONE);
        assert_eq!(Sequence::default(), Sequence::NONE);
        assert!(!ProducerId::NONE.is_some());
        assert!(ProducerId(0).is_some());
    }

    #[test]
    fn topic_id_reads_as_a_uuid() {
        let id = TopicId::from_u128(0x0123_4567_89ab_cdef_fedc_ba98_7654_3210);
        assert_eq!(id.to_string(), "01234567-89ab-cdef-fedc-ba9876543210");
        assert_eq!(format!("{id:?}"), "TopicId(01234567-89ab-cdef-fedc-ba9876543210)");
        assert_eq!(TopicId::from_slice(id.as_bytes()), Some(id));
        assert_eq!(TopicId::from_u128(id.as_u128()), id);
        assert_eq!(TopicId::from_slice(&[0; 15]), None);
        assert_eq!(TopicId::from_slice(&[0; 17]), None);
    }

    #[test]
    fn a_queue_id_has_the_bytes_of_its_topic() {
        let id = QueueId(0x0123_4567_89ab_cdef_fedc_ba98_7654_3210);
        assert_eq!(id.to_string(), "01234567-89ab-cdef-fedc-ba9876543210");
        assert_eq!(&id.to_bytes(), id.own_topic().as_bytes());
        assert_eq!(QueueId::from_slice(&id.to_bytes()), Some(id));
        assert_eq!(QueueId::from_slice(&[0; 15]), None);
    }

    #[test]
    fn an_exchange_id_reads_as_a_uuid() {
        let id = ExchangeId(0x0123_4567_89ab_cdef_fedc_ba98_7654_3210);
        assert_eq!(format!("{id:?}"), "ExchangeId(01234567-89ab-cdef-fedc-ba9876543210)");
        assert_eq!(ExchangeId::from_slice(&id.to_bytes()), Some(id));
        assert_eq!(ExchangeId::from_slice(&[0; 17]), None);
    }

    #[test]
    fn leader_epoch_fits_the_batch_header() {
        assert_eq!(LeaderEpoch::from_term(7).as_i32(), 7);
        assert_eq!(LeaderEpoch::from_term(u64::MAX).as_i32(), i32::MAX);
        assert_eq!(LeaderEpoch(u32::MAX).as_i32(), i32::MAX);
    }

    #[test]
    fn replica_id_names_broker_and_life() {
        assert_eq!(ReplicaId::new(BrokerId(3), Incarnation(1)).to_string(), "3.1");
    }

    #[test]
    fn offsets_count_records() {
        assert_eq!(Offset(10) + 5, Offset(15));
        assert_eq!(Offset(15) - Offset(10), 5);
    }
}
