//! The disk reserve: says early that space runs out, so that produce is refused while votes, deletions and compactions
//! still find room.
//!
//! A thread of its own looks every second. The condition comes back by itself, with some distance, so that it does not
//! flutter.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use crate::store::StoreCondition;

/// Free space of the store's file system, as last seen.
pub(crate) struct Reserve {
    bytes: u64,
    free: AtomicU64,
    total: AtomicU64,
    low: AtomicBool,
    stopped: Mutex<bool>,
    wake: Condvar,
}

impl Reserve {
    pub(crate) fn new(bytes: u64) -> Self {
        Self {
            bytes,
            free: AtomicU64::new(u64::MAX),
            total: AtomicU64::new(0),
            low: AtomicBool::new(false),
            stopped: Mutex::new(false),
            wake: Condvar::new(),
        }
    }

    /// Free bytes, as last seen.
    pub(crate) fn free(&self) -> u64 {
        self.free.load(Relaxed)
    }

    /// All bytes of the file system, as last seen; 0: it could not be looked at.
    pub(crate) fn total(&self) -> u64 {
        self.total.load(Relaxed)
    }

    /// `DiskLow` or nothing.
    pub(crate) fn condition(&self) -> Option<StoreCondition> {
        self.low.load(Relaxed).then(|| StoreCondition::DiskLow {
            free: self.free(),
            reserve: self.bytes,
        })
    }

    /// Looks at the file system.
    pub(crate) fn check(&self, directory: &Path) {
        match rustix::fs::statvfs(directory) {
            Ok(found) => {
                self.total.store(found.f_blocks.saturating_mul(found.f_frsize), Relaxed);
                self.judge(found.f_bavail.saturating_mul(found.f_frsize));
            }
            Err(error) => {
                tracing::warn!(%error, directory = %directory.display(), "cannot see the free space");
            }
        }
    }

    fn judge(&self, free: u64) {
        self.free.store(free, Relaxed);
        let was_low = self.low.load(Relaxed);
        let low = if was_low {
            free < self.bytes.saturating_add(self.bytes / 8)
        } else {
            free < self.bytes
        };
        if low != was_low {
            self.low.store(low, Relaxed);
            if low {
                tracing::warn!(free, reserve = self.bytes, "free space is below the reserve");
            } else {
                tracing::info!(free, reserve = self.bytes, "there is free space again");
            }
        }
    }

    /// The looking thread.
    pub(crate) fn run(&self, directory: &Path, interval: Duration) {
        let mut stopped = self.stopped.lock();
        while !*stopped {
            if self.wake.wait_for(&mut stopped, interval).timed_out() {
                self.check(directory);
            }
        }
    }

    /// Lets `run` return.
    pub(crate) fn stop(&self) {
        *self.stopped.lock() = true;
        self.wake.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn low_space_is_over_only_with_some_distance() {
        let reserve = Reserve::new(800);
        let mut seen = Vec::new();
        for free in [1000, 800, 799, 850, 899, 900, 850, 700] {
            reserve.judge(free);
            seen.push(reserve.condition().is_some());
        }
        assert_eq!(seen, [false, false, true, true, true, false, false, true]);
        assert_eq!(
            reserve.condition(),
            Some(StoreCondition::DiskLow {
                free: 700,
                reserve: 800
            })
        );
    }

    #[test]
    fn a_real_file_system_is_seen() {
        let directory = tempfile::tempdir().unwrap();
        let reserve = Reserve::new(u64::MAX);
        reserve.check(directory.path());
        assert!(reserve.condition().is_some());
    }
}
