//! A host's wall clock: the simulation's time, off by as much as a test says.

use std::sync::atomic::{AtomicI64, Ordering};

use jangada_env::WallClock;
use tokio::time::Instant;

/// When every simulation begins: 2026-01-01T00:00:00Z, milliseconds since the Unix epoch.
const BEGIN_MS: i64 = 1_767_225_600_000;

/// The wall clock of one host.
#[derive(Debug)]
pub struct HostClock {
    began: Instant,
    off_ms: AtomicI64,
}

impl HostClock {
    pub(crate) fn new(began: Instant) -> Self {
        Self {
            began,
            off_ms: AtomicI64::new(0),
        }
    }

    /// Puts it ahead of the others by so many milliseconds, or behind them.
    pub fn set_off(&self, ms: i64) {
        self.off_ms.store(ms, Ordering::Relaxed);
    }
}

impl WallClock for HostClock {
    fn now_ms(&self) -> i64 {
        let passed = i64::try_from(self.began.elapsed().as_millis()).expect("no simulation is that long");
        BEGIN_MS + passed + self.off_ms.load(Ordering::Relaxed)
    }
}
