//! The fence: after one failed write or sync nothing is acknowledged any more.
//!
//! A failed fsync cannot be retried: the kernel may have dropped the pages and report success the next time. What is on
//! disk is known again only after a restart has read it.

use std::sync::{Arc, OnceLock};

/// Called once, with the reason.
pub type OnFence = Box<dyn Fn(&str) + Send + Sync>;

/// Whether the store still writes.
pub(crate) struct Fence {
    reason: OnceLock<Arc<str>>,
    on_fence: OnFence,
}

impl Fence {
    pub(crate) fn new(on_fence: OnFence) -> Self {
        Self {
            reason: OnceLock::new(),
            on_fence,
        }
    }

    /// Why nothing is written any more, if so.
    pub(crate) fn reason(&self) -> Option<&Arc<str>> {
        self.reason.get()
    }

    /// Stops writing for good. Only the first reason counts.
    pub(crate) fn trip(&self, reason: &str) -> Arc<str> {
        let mut first = false;
        let kept = self.reason.get_or_init(|| {
            first = true;
            reason.into()
        });
        if first {
            tracing::error!(reason, "the store stopped writing");
            (self.on_fence)(reason);
        }
        kept.clone()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

    use super::*;

    #[test]
    fn only_the_first_reason_counts_and_is_told_once() {
        let calls = Arc::new(AtomicU32::new(0));
        let counted = calls.clone();
        let fence = Fence::new(Box::new(move |reason| {
            assert_eq!(reason, "first");
            counted.fetch_add(1, Relaxed);
        }));
        assert!(fence.reason().is_none());
        assert_eq!(&*fence.trip("first"), "first");
        assert_eq!(&*fence.trip("second"), "first");
        assert_eq!(calls.load(Relaxed), 1);
    }
}
