//! Counters of the store, for metrics. Written with relaxed atomics by the threads of the store, read by anyone.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// Buckets of a latency histogram: bucket *i* counts what took at most 2^i µs, the last one all that took longer.
pub const LATENCY_BUCKETS: usize = 26;

/// How long something took, in buckets that double.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LatencyHistogram {
    /// Count per bucket, not cumulative.
    pub buckets: [u64; LATENCY_BUCKETS],
    /// Sum of all, microseconds.
    pub sum_us: u64,
}

impl LatencyHistogram {
    /// Upper bound of a bucket in microseconds; the last one has none.
    pub fn bound_us(bucket: usize) -> Option<u64> {
        (bucket + 1 < LATENCY_BUCKETS).then(|| 1 << bucket)
    }

    /// How many were counted.
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }
}

/// Counters since the start, and gauges.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StoreStatistics {
    /// Write batches given to RocksDB.
    pub commits: u64,
    /// Syncs of the WAL.
    pub syncs: u64,
    /// Calls of `write` that were carried out.
    pub writes: u64,
    /// Log entries written.
    pub entries: u64,
    /// Bytes of the write batches.
    pub bytes_written: u64,
    /// Entries read from RocksDB, not from memory.
    pub entries_read: u64,
    /// Bytes of these.
    pub bytes_read: u64,
    /// Bytes of rows that a scrub has read and found sound.
    pub scrubbed_bytes: u64,
    /// Bytes that wait for the writer or are in its hands.
    pub queue_bytes: u64,
    /// Bytes of log entries kept in memory.
    pub tail_bytes: u64,
    /// Groups that are open now.
    pub open_groups: u64,
    /// Free bytes of the file system, as last seen.
    pub disk_free_bytes: u64,
    /// All bytes of the file system, likewise.
    pub disk_total_bytes: u64,
    /// Time to write a batch to the memtable and the WAL's buffer.
    pub write_latency: LatencyHistogram,
    /// Time to sync the WAL.
    pub sync_latency: LatencyHistogram,
    /// Time that a finished sync waited for the mark of the one before.
    pub mark_latency: LatencyHistogram,
}

/// A histogram that is being filled: two relaxed additions for each observation, no lock and no allocation.
#[derive(Debug, Default)]
pub struct Latency {
    buckets: [AtomicU64; LATENCY_BUCKETS],
    sum_us: AtomicU64,
}

impl Latency {
    /// Counts something that took so long.
    pub fn record(&self, took: Duration) {
        let us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        // Smallest i with us <= 2^i.
        let exponent = (u64::BITS - us.saturating_sub(1).leading_zeros()) as usize;
        let bucket = exponent.min(LATENCY_BUCKETS - 1);
        self.buckets[bucket].fetch_add(1, Relaxed);
        self.sum_us.fetch_add(us, Relaxed);
    }

    /// What was counted so far. Observations that come meanwhile may be in the sum and not in their bucket, or the other way
    /// round.
    pub fn read(&self) -> LatencyHistogram {
        LatencyHistogram {
            buckets: std::array::from_fn(|i| self.buckets[i].load(Relaxed)),
            sum_us: self.sum_us.load(Relaxed),
        }
    }
}

/// Counters that are being filled.
#[derive(Default)]
pub(crate) struct Counters {
    pub(crate) commits: AtomicU64,
    pub(crate) syncs: AtomicU64,
    pub(crate) writes: AtomicU64,
    pub(crate) entries: AtomicU64,
    pub(crate) bytes_written: AtomicU64,
    pub(crate) entries_read: AtomicU64,
    pub(crate) bytes_read: AtomicU64,
    pub(crate) scrubbed_bytes: AtomicU64,
    pub(crate) write_latency: Latency,
    pub(crate) sync_latency: Latency,
    pub(crate) mark_latency: Latency,
}

impl Counters {
    pub(crate) fn add(counter: &AtomicU64, n: usize) {
        counter.fetch_add(n as u64, Relaxed);
    }

    /// The counters; the gauges are left at zero.
    pub(crate) fn read(&self) -> StoreStatistics {
        StoreStatistics {
            commits: self.commits.load(Relaxed),
            syncs: self.syncs.load(Relaxed),
            writes: self.writes.load(Relaxed),
            entries: self.entries.load(Relaxed),
            bytes_written: self.bytes_written.load(Relaxed),
            entries_read: self.entries_read.load(Relaxed),
            bytes_read: self.bytes_read.load(Relaxed),
            scrubbed_bytes: self.scrubbed_bytes.load(Relaxed),
            queue_bytes: 0,
            tail_bytes: 0,
            open_groups: 0,
            disk_free_bytes: 0,
            disk_total_bytes: 0,
            write_latency: self.write_latency.read(),
            sync_latency: self.sync_latency.read(),
            mark_latency: self.mark_latency.read(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_latency_lands_in_the_bucket_that_bounds_it() {
        for (us, bucket) in [
            (0, 0),
            (1, 0),
            (2, 1),
            (3, 2),
            (4, 2),
            (5, 3),
            (1 << 22, 22),
            (1 << 24, 24),
            (1 << 40, 25),
        ] {
            let latency = Latency::default();
            latency.record(Duration::from_micros(us));
            let histogram = latency.read();
            assert_eq!(histogram.buckets[bucket], 1, "{us} µs");
            assert_eq!(histogram.count(), 1);
            assert!(LatencyHistogram::bound_us(bucket).is_none_or(|bound| us <= bound));
        }
    }
}
