//! Between the fetchers and the consumer: what was fetched, in the order in which it came.
//!
//! The fetchers never wait here, so that a connection is always drained and nobody else's answers get stuck behind records that
//! no one takes. What bounds the inbox is each fetcher's credit, which comes back when its data is handed out.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::sync::Notify;

use crate::error::ClientError;

/// What a fetcher delivers.
pub(crate) enum Fetched {
    Batches {
        batches: Bytes,
        first_offset: i64,
        next_offset: i64,
        high_watermark: i64,
    },
    /// The offset asked for was not there; reading goes on here.
    Moved {
        to: i64,
    },
    Failed(ClientError),
}

/// A partition's reading from one offset on: a seek ends it and begins another. What is left of an ended one is dropped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Life(pub u64);

#[derive(Default)]
pub(crate) struct Inbox {
    fetched: Mutex<VecDeque<(Life, Fetched)>>,
    arrived: Notify,
}

impl Inbox {
    fn lock(&self) -> MutexGuard<'_, VecDeque<(Life, Fetched)>> {
        self.fetched.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn put(&self, life: Life, fetched: Fetched) {
        self.lock().push_back((life, fetched));
        self.arrived.notify_one();
    }

    /// The oldest; waits for one. Nothing is lost when the call is dropped.
    pub async fn take(&self) -> (Life, Fetched) {
        loop {
            if let Some(fetched) = self.lock().pop_front() {
                return fetched;
            }
            self.arrived.notified().await;
        }
    }

    /// Drops what does not pass.
    pub fn retain(&self, keep: impl Fn(Life) -> bool) {
        self.lock().retain(|(life, _)| keep(*life));
    }
}

/// What a fetcher and the consumer both see of a partition.
pub(crate) struct Window {
    /// How much may be under way or in the inbox, bytes.
    size_bytes: AtomicI64,
    /// How much is in the inbox.
    held_bytes: AtomicI64,
    pub high_watermark: AtomicI64,
    /// Credit came back, or there is more of it.
    released: Notify,
}

impl Window {
    pub fn new(size_bytes: usize) -> Self {
        Self {
            size_bytes: AtomicI64::new(as_i64(size_bytes)),
            held_bytes: AtomicI64::new(0),
            high_watermark: AtomicI64::new(-1),
            released: Notify::new(),
        }
    }

    pub fn size_bytes(&self) -> i64 {
        self.size_bytes.load(Ordering::Relaxed)
    }

    /// Other partitions came or went. One that shrinks grants nothing until enough is taken out.
    pub fn resize(&self, size_bytes: usize) {
        let before = self.size_bytes.swap(as_i64(size_bytes), Ordering::Relaxed);
        if before != as_i64(size_bytes) {
            self.released.notify_one();
        }
    }

    /// The fetcher puts so many bytes into the inbox.
    pub fn hold(&self, bytes: i64) {
        self.held_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// The consumer took them out.
    pub fn release(&self, bytes: i64) {
        let before = self.held_bytes.fetch_sub(bytes, Ordering::Relaxed);
        assert!(before >= bytes, "only what is held is released");
        self.released.notify_one();
    }

    pub fn held_bytes(&self) -> i64 {
        self.held_bytes.load(Ordering::Relaxed)
    }

    /// Returns when the consumer took something out since the last call, or the size changed.
    pub async fn released(&self) {
        self.released.notified().await;
    }
}

fn as_i64(bytes: usize) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}
