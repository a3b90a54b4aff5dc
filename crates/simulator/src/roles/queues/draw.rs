//! Draws from chance.

use std::ops::Range;
use std::time::Duration;

use jangada_env::Random;
use rand::RngExt as _;

/// A number of a range.
pub(crate) fn number(random: &Random, range: Range<u64>) -> u64 {
    random.clone().random_range(range)
}

/// Whether it falls into so many of a hundred.
pub(crate) fn percent(random: &Random, percent: u64) -> bool {
    number(random, 0..100) < percent
}

/// So many milliseconds, of a range.
pub(crate) fn millis(random: &Random, range: Range<u64>) -> Duration {
    Duration::from_millis(number(random, range))
}

/// One of these.
pub(crate) fn one_of<T: Clone>(random: &Random, of: &[T]) -> T {
    let at = number(random, 0..of.len() as u64) as usize;
    of[at].clone()
}
