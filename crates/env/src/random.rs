//! Chance: the system's generator, or one that is seeded, which gives the same numbers to whoever asks in the same order.

use std::convert::Infallible;
use std::fmt;
use std::sync::Arc;

use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _, TryRng};
use uuid::Uuid;

/// A source of random numbers, for `rand`'s methods too. Clones draw from the same source.
#[derive(Clone)]
pub struct Random(Source);

#[derive(Clone)]
enum Source {
    /// The generator of the thread.
    System,
    Seeded(Arc<Mutex<StdRng>>),
}

impl Random {
    /// The generator of each thread, which the system seeds.
    pub fn system() -> Self {
        Self(Source::System)
    }

    /// The same numbers for the same seed.
    pub fn seeded(seed: u64) -> Self {
        Self(Source::Seeded(Arc::new(Mutex::new(StdRng::seed_from_u64(seed)))))
    }

    /// A source of its own: what is drawn from it does not change what others draw. Seeded by this one if this one is.
    pub fn fork(&self) -> Self {
        match &self.0 {
            Source::System => self.clone(),
            Source::Seeded(_) => Self::seeded(self.number()),
        }
    }

    /// 64 random bits.
    pub fn number(&self) -> u64 {
        match &self.0 {
            Source::System => rand::rng().next_u64(),
            Source::Seeded(generator) => generator.lock().next_u64(),
        }
    }

    /// 128 bits that nobody had before (a random UUID, RFC 9562).
    pub fn new_id(&self) -> Uuid {
        let mut bytes = [0; 16];
        self.fill(&mut bytes);
        uuid::Builder::from_random_bytes(bytes).into_uuid()
    }

    fn fill(&self, bytes: &mut [u8]) {
        match &self.0 {
            Source::System => rand::rng().fill_bytes(bytes),
            Source::Seeded(generator) => generator.lock().fill_bytes(bytes),
        }
    }
}

impl TryRng for Random {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        Ok((self.number() >> 32) as u32)
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        Ok(self.number())
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Infallible> {
        self.fill(bytes);
        Ok(())
    }
}

/// Without the generator's state, which would tell what comes next.
impl fmt::Debug for Random {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Source::System => f.write_str("Random::System"),
            Source::Seeded(_) => f.write_str("Random::Seeded"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drawn(random: &Random) -> Vec<u64> {
        (0..4).map(|_| random.number()).collect()
    }

    #[test]
    fn a_seed_gives_the_same_numbers_again() {
        assert_eq!(drawn(&Random::seeded(7)), drawn(&Random::seeded(7)));
        assert_ne!(drawn(&Random::seeded(7)), drawn(&Random::seeded(8)));
        assert_eq!(Random::seeded(7).new_id(), Random::seeded(7).new_id());
    }

    #[test]
    fn clones_draw_from_one_source_and_a_fork_from_its_own() {
        let (one, other) = (Random::seeded(7), Random::seeded(7));
        let fork = one.fork();
        let _ = other.number();
        drawn(&fork);
        assert_eq!(drawn(&one), drawn(&other), "the fork took one number, and none later");
        let clone = one.clone();
        let first = one.number();
        assert_ne!(first, clone.number(), "a clone goes on where the other is");
    }

    #[test]
    fn ids_are_random_uuids() {
        for random in [Random::system(), Random::seeded(7)] {
            let (one, other) = (random.new_id(), random.new_id());
            assert_ne!(one, other);
            assert_eq!(one.get_version_num(), 4);
        }
    }
}
