//! The time as the shards' leaders take it, and until when the timers' task sleeps.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use jangada_coordinator::Now;
use tokio::sync::Notify;

use crate::clock_guard::ClockGuard;

/// Both clocks.
pub(crate) struct Clock {
    guard: Arc<ClockGuard>,
}

impl Clock {
    pub fn new(guard: Arc<ClockGuard>) -> Self {
        Self { guard }
    }

    pub fn now(&self) -> Now {
        Now {
            // First: a clock that is not steady is so since it was asked.
            monotonic_ms: self.guard.monotonic_ms(),
            wall_ms: u64::try_from(self.guard.now_ms()).unwrap_or(0),
            steady_since_ms: self.guard.steady_since_ms(),
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

    /// When a shard that is looked at now wants to be looked at again.
    pub fn note(&self, deadline: Option<u64>) {
        if let Some(deadline) = deadline {
            self.at_ms.fetch_min(deadline, Ordering::AcqRel);
        }
    }

    /// A shard wants to be looked at by then, which wakes the task if it would sleep longer.
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
