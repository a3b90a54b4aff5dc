//! All seams together.

use std::sync::Arc;

use crate::blocking::Blocking;
use crate::clock::{self, WallClock};
use crate::files::{Files, SystemFiles};
use crate::network::Network;
use crate::random::Random;

/// What one program, a broker or a client, takes from the world. Clones are the same world.
#[derive(Clone)]
pub struct Env {
    /// The wall clock.
    pub clock: Arc<dyn WallClock>,
    /// Random numbers and new ids.
    pub random: Random,
    /// Listening and connecting.
    pub network: Network,
    /// Small files, which are read and written as a whole.
    pub files: Arc<dyn Files>,
    /// Where work is done that blocks.
    pub blocking: Blocking,
}

impl Env {
    /// The system's. `JANGADA_CLOCK_OFFSET_FILE` puts the wall clock off, for tests.
    pub fn system() -> Self {
        Self {
            clock: clock::system(),
            random: Random::system(),
            network: Network::System,
            files: Arc::new(SystemFiles),
            blocking: Blocking::Threads,
        }
    }

    /// Whether time passes only while everybody waits. Who waits for it without sleeping, as one may for microseconds, would wait for
    /// ever.
    pub fn is_simulated(&self) -> bool {
        self.blocking == Blocking::Inline
    }
}

impl std::fmt::Debug for Env {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Env").finish_non_exhaustive()
    }
}
