//! The time as the shards' leaders take it, and until when the timers' task sleeps.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use jangada_coordinator::Now;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::seams::WallClock;

/// Both clocks.
pub(crate) struct Clock {
    wall: Arc<dyn WallClock>,
    origin: Instant,
}

impl Clock {
    pub fn new(wall: Arc<dyn WallClock>) -> Self {
        Self {
            wall,
            origin: Instant::now(),
        }
    }

    pub fn now(&self) -> Now {
        Now {
            monotonic_ms: u64::try_from(self.origin.elapsed().as_millis()).unwrap_or(u64::MAX),
            wall_ms: u64::try_from(self.wall.now_ms()).unwrap_or(0),
        }
    }
}

/// The earliest deadline of all shards, for the one task that serves them.
pub(crate) struct Alarm {
    at_ms: AtomicU64,
    earlier: Notify,
}

impl Alarm {
    pub fn new() -> Self {
        Self {
            at_ms: AtomicU64::new(u64::MAX),
            earlier: Notify::new(),
        }
    }

    /// A shard wants to be looked at by then.
    pub fn set(&self, deadline: Option<u64>) {
        let Some(deadline) = deadline else { return };
        if deadline < self.at_ms.fetch_min(deadline, Ordering::AcqRel) {
            self.earlier.notify_one();
        }
    }

    /// To be called before all shards are looked at.
    pub fn clear(&self) {
        self.at_ms.store(u64::MAX, Ordering::Release);
    }

    /// The earliest deadline since.
    pub fn at_ms(&self) -> u64 {
        self.at_ms.load(Ordering::Acquire)
    }

    /// Returns when an earlier deadline was set.
    pub async fn earlier(&self) {
        self.earlier.notified().await;
    }
}
