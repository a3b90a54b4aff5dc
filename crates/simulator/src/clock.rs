//! The simulation's time, and the wall clocks of its hosts, which may be wrong.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use jangada_env::WallClock;
use parking_lot::Mutex;

/// When every simulation begins: 2026-01-01T00:00:00Z, milliseconds since the Unix epoch.
const BEGIN_MS: i64 = 1_767_225_600_000;
/// Parts of a whole in which a drift is given.
const MILLION: i64 = 1_000_000;

/// The simulation's time since its begin, in whole milliseconds. The driver moves it.
#[derive(Debug, Default)]
pub(crate) struct Time(AtomicU64);

impl Time {
    pub fn now(&self) -> Duration {
        Duration::from_millis(self.0.load(Ordering::Relaxed))
    }

    pub fn set(&self, now: Duration) {
        let now = u64::try_from(now.as_millis()).expect("no simulation is that long");
        self.0.store(now, Ordering::Relaxed);
    }
}

/// How a wall clock goes.
#[derive(Default)]
struct Going {
    off_ms: i64,
    parts_per_million: i64,
    /// When the drift was set, and how far off the clock had drifted by then, microseconds.
    since: Duration,
    drifted_us: i64,
}

impl Going {
    fn drifted_us(&self, now: Duration) -> i64 {
        let passed_us = i64::try_from((now - self.since).as_micros()).expect("no simulation is that long");
        self.drifted_us + passed_us * self.parts_per_million / MILLION
    }
}

/// The wall clock of one host.
pub struct HostClock {
    time: Arc<Time>,
    going: Mutex<Going>,
}

impl HostClock {
    pub(crate) fn new(time: Arc<Time>) -> Self {
        Self {
            time,
            going: Mutex::default(),
        }
    }

    /// Puts it ahead of the others by so many milliseconds, or behind them. What it has drifted stays.
    pub fn set_off(&self, ms: i64) {
        self.going.lock().off_ms = ms;
    }

    /// From now on it gains so many microseconds in a second, or loses them.
    pub fn drift(&self, parts_per_million: i64) {
        let now = self.time.now();
        let mut going = self.going.lock();
        *going = Going {
            off_ms: going.off_ms,
            parts_per_million,
            since: now,
            drifted_us: going.drifted_us(now),
        };
    }
}

impl WallClock for HostClock {
    fn now_ms(&self) -> i64 {
        let now = self.time.now();
        let passed = i64::try_from(now.as_millis()).expect("no simulation is that long");
        let going = self.going.lock();
        BEGIN_MS + passed + going.off_ms + going.drifted_us(now) / 1000
    }
}

impl fmt::Debug for HostClock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HostClock").finish_non_exhaustive()
    }
}
