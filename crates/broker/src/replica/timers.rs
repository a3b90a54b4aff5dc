//! The timers of all leaders here: both clocks, the earliest deadline, and the one task that sleeps until then.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use jangada_machine::Now;
use tokio::sync::Notify;

use super::replicas::Replicas;
use crate::clock_guard::ClockGuard;

/// How long the task sleeps at most; changes of leaders wake it.
const IDLE_MS: u64 = 5_000;
/// Between two rounds at least.
const PAUSE_MS: u64 = 5;

/// The deadlines of all leaders of a broker.
pub(crate) struct Timers {
    clock: Arc<ClockGuard>,
    /// The earliest deadline of all leaders.
    at_ms: AtomicU64,
    earlier: Notify,
}

impl Timers {
    pub fn new(clock: Arc<ClockGuard>) -> Self {
        Self {
            clock,
            at_ms: AtomicU64::new(u64::MAX),
            earlier: Notify::new(),
        }
    }

    /// The time by both clocks.
    pub fn now(&self) -> Now {
        Now {
            // First: a clock that is not steady is so since it was asked.
            monotonic_ms: self.clock.monotonic_ms(),
            wall_ms: u64::try_from(self.clock.now_ms()).unwrap_or(0),
            steady_since_ms: self.clock.steady_since_ms(),
        }
    }

    /// A leader that ticks now wants to tick again by then. Does not wake the task: it is the one that asks.
    pub fn note(&self, deadline: Option<u64>) {
        if let Some(deadline) = deadline {
            self.at_ms.fetch_min(deadline, Ordering::AcqRel);
        }
    }

    /// A leader wants to tick by then, which wakes the task if it would sleep longer.
    pub fn set(&self, deadline: Option<u64>) {
        let Some(deadline) = deadline else { return };
        if deadline < self.at_ms.fetch_min(deadline, Ordering::AcqRel) {
            self.earlier.notify_one();
        }
    }

    /// All leaders are to tick at once.
    pub fn wake(&self) {
        self.set(Some(0));
    }

    /// Lets all leaders tick when something is due, for ever.
    pub async fn run(self: Arc<Self>, replicas: Arc<Replicas>) {
        let mut leaders = replicas.registry.leaders().watch();
        loop {
            leaders.borrow_and_update();
            // Before anybody ticks: what is set meanwhile counts for the next round.
            self.at_ms.store(u64::MAX, Ordering::Release);
            for front in replicas.timed() {
                front.tick();
            }
            let at_ms = self.at_ms.load(Ordering::Acquire);
            let pause = at_ms.saturating_sub(self.now().monotonic_ms).clamp(PAUSE_MS, IDLE_MS);
            tokio::select! {
                () = tokio::time::sleep(Duration::from_millis(pause)) => {}
                () = self.earlier.notified() => {}
                changed = leaders.changed() => if changed.is_err() { return },
            }
        }
    }
}
