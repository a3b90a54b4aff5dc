//! Chance, in the words that roles need.

use std::ops::Range;
use std::time::Duration;

use jangada_env::Random;
use rand::RngExt as _;

/// A source of chance of one task or team. Clones draw from the same source.
#[derive(Clone, Debug)]
pub struct Chance(Random);

impl Chance {
    /// A source of its own, seeded by another one.
    pub fn of(random: &Random) -> Self {
        Self(random.fork())
    }

    /// A number of the range, which is not empty.
    pub fn between(&self, range: Range<u64>) -> u64 {
        self.0.clone().random_range(range)
    }

    /// A number of the range, which is not empty.
    pub fn count(&self, range: Range<u32>) -> u32 {
        self.0.clone().random_range(range)
    }

    /// A place in something that has so many, at least one.
    pub fn index(&self, count: usize) -> usize {
        self.0.clone().random_range(0..count)
    }

    /// True once in so many times.
    pub fn one_in(&self, times: u64) -> bool {
        self.between(0..times) == 0
    }

    /// A length of time, milliseconds.
    pub fn ms(&self, range: Range<u64>) -> Duration {
        Duration::from_millis(self.between(range))
    }

    /// One of these, of which there is at least one.
    pub fn one_of<T: Copy>(&self, of: &[T]) -> T {
        of[self.index(of.len())]
    }
}
