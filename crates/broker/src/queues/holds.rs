//! Queues that are about to be deleted, as nobody uses them: while their leaders agree on it, nobody begins to.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use jangada_queue::QueueId;
use parking_lot::Mutex;
use tokio::time::Instant;

/// A hold ends after this time by itself: whoever took it may be gone. Longer than a command of the metadata is tried.
const HOLD_MAX: Duration = Duration::from_secs(10);

/// The queues of a desk that are about to be deleted.
#[derive(Default)]
pub(super) struct Holds {
    /// There are some, or were.
    is_any: AtomicBool,
    until: Mutex<BTreeMap<QueueId, Instant>>,
}

impl Holds {
    /// Nobody may begin to use the queue now. Costs one load of a flag where no queue ever was about to be deleted.
    pub fn is_held(&self, queue: QueueId) -> bool {
        self.is_any.load(Ordering::Acquire)
            && self
                .until
                .lock()
                .get(&queue)
                .is_some_and(|until| *until > Instant::now())
    }

    /// Holds a queue, or holds it for longer.
    pub fn hold(&self, queue: QueueId) {
        self.until.lock().insert(queue, Instant::now() + HOLD_MAX);
        self.is_any.store(true, Ordering::Release);
    }

    /// The queue stays.
    pub fn release(&self, queue: QueueId) {
        self.until.lock().remove(&queue);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_hold_ends_with_its_release_or_its_time() {
        let (holds, queue) = (Holds::default(), QueueId(7));
        assert!(!holds.is_held(queue));
        holds.hold(queue);
        assert!(holds.is_held(queue) && !holds.is_held(QueueId(8)));
        holds.release(queue);
        assert!(!holds.is_held(queue));
        holds.hold(queue);
        tokio::time::advance(HOLD_MAX).await;
        assert!(!holds.is_held(queue), "whoever held it is gone");
    }
}
