//! Sample values of every kind of command and reply, for tests: golden cases from one seed, property cases from many.
//!
//! Golden files have the values of a seed: the numbers drawn for a type never change.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::ids::{
    BrokerId, ExchangeId, GroupId, Incarnation, LeaderEpoch, Offset, PartitionIndex, ProducerEpoch, ProducerId,
    QueueId, ReplicaId, TopicId,
};
use crate::reason::Reason;
use crate::rejection::Rejection;

/// Numbers that follow from one seed (the generator is SplitMix64).
#[derive(Clone, Debug)]
pub struct Seeds(u64);

impl Seeds {
    /// The numbers of `seed`.
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number, of any size.
    pub fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// The next number below `end`, which is above 0.
    pub fn below(&mut self, end: u64) -> u64 {
        self.draw() % end
    }

    /// A number that is mostly small, since small ones are encoded in few bytes and name existing things; sometimes
    /// any.
    fn number(&mut self) -> u64 {
        match self.below(8) {
            0 => 0,
            1 => self.below(100_000),
            2 => self.draw(),
            _ => 1 + self.below(5),
        }
    }
}

/// A type that tests can have values of.
pub trait Sample {
    /// A value made from numbers of `seeds`.
    fn sample(seeds: &mut Seeds) -> Self;
}

macro_rules! numbers {
    ($($ty:ident($inner:ty)),*) => {$(
        impl Sample for $ty {
            fn sample(seeds: &mut Seeds) -> Self {
                // Truncated to the type.
                Self::from(seeds.number() as $inner)
            }
        }
    )*};
}

numbers! {
    u32(u32), u64(u64), i64(i64), BrokerId(u32), Incarnation(u32), PartitionIndex(u32), LeaderEpoch(u32), GroupId(u64),
    ProducerId(i64), ProducerEpoch(i16), Offset(i64)
}

impl Sample for bool {
    fn sample(seeds: &mut Seeds) -> Self {
        seeds.below(2) == 1
    }
}

impl Sample for TopicId {
    fn sample(seeds: &mut Seeds) -> Self {
        Self::from_u128(seeds.number().into())
    }
}

impl Sample for QueueId {
    fn sample(seeds: &mut Seeds) -> Self {
        Self(u128::from(seeds.draw()))
    }
}

impl Sample for ExchangeId {
    fn sample(seeds: &mut Seeds) -> Self {
        Self(u128::from(seeds.draw()))
    }
}

impl Sample for ReplicaId {
    fn sample(seeds: &mut Seeds) -> Self {
        Self::new(Sample::sample(seeds), Sample::sample(seeds))
    }
}

impl Sample for String {
    fn sample(seeds: &mut Seeds) -> Self {
        const LETTERS: [char; 8] = ['a', 'b', 'c', '.', '1', '_', 'é', '\u{1f6f6}'];
        let letter = |seeds: &mut Seeds| LETTERS[seeds.below(8) as usize];
        (0..seeds.below(6)).map(|_| letter(seeds)).collect()
    }
}

impl Sample for Arc<str> {
    fn sample(seeds: &mut Seeds) -> Self {
        String::sample(seeds).into()
    }
}

impl<T: Sample> Sample for Option<T> {
    fn sample(seeds: &mut Seeds) -> Self {
        bool::sample(seeds).then(|| T::sample(seeds))
    }
}

impl<T: Sample> Sample for Vec<T> {
    fn sample(seeds: &mut Seeds) -> Self {
        (0..seeds.below(4)).map(|_| T::sample(seeds)).collect()
    }
}

impl<K: Sample + Ord, V: Sample> Sample for BTreeMap<K, V> {
    fn sample(seeds: &mut Seeds) -> Self {
        Vec::<(K, V)>::sample(seeds).into_iter().collect()
    }
}

impl<A: Sample, B: Sample> Sample for (A, B) {
    fn sample(seeds: &mut Seeds) -> Self {
        (A::sample(seeds), B::sample(seeds))
    }
}

impl Sample for Rejection {
    fn sample(seeds: &mut Seeds) -> Self {
        let mut rejection = Self::new(Reason::InvalidRequest, String::sample(seeds));
        rejection.metadata = Sample::sample(seeds);
        rejection
    }
}

impl<T: Sample> Sample for Arc<[T]> {
    fn sample(seeds: &mut Seeds) -> Self {
        Vec::sample(seeds).into()
    }
}
