//! The progress of a response that is being sent.

use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

/// A response that is being sent: how many of its bytes are in memory, and when one of them was last sent.
pub(crate) struct Sending {
    unsent: AtomicUsize,
    moved_at: Mutex<Instant>,
}

impl Sending {
    pub(super) fn new() -> Self {
        Self {
            unsent: AtomicUsize::new(0),
            moved_at: Mutex::new(Instant::now()),
        }
    }

    /// Adds bytes that are to be sent.
    pub fn add(&self, bytes: usize) {
        self.unsent.fetch_add(bytes, SeqCst);
    }

    /// Removes bytes that were sent or given up.
    pub fn sent(&self, bytes: usize) {
        self.unsent.fetch_sub(bytes, SeqCst);
        self.moves();
    }

    /// Records that the response makes progress.
    pub fn moves(&self) {
        *self.moved_at.lock() = Instant::now();
    }

    /// For how long no byte has been sent while some are unsent.
    pub(super) fn stalled_for(&self, now: Instant) -> Duration {
        if self.unsent.load(SeqCst) == 0 {
            return Duration::ZERO;
        }
        now.saturating_duration_since(*self.moved_at.lock())
    }
}
