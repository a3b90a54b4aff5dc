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

/// From which life of which partition it comes: after a seek, what is left of the life before is dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Source {
    pub slot: usize,
    pub generation: u64,
}

#[derive(Default)]
pub(crate) struct Inbox {
    fetched: Mutex<VecDeque<(Source, Fetched)>>,
    arrived: Notify,
}

impl Inbox {
    fn lock(&self) -> MutexGuard<'_, VecDeque<(Source, Fetched)>> {
        self.fetched.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn put(&self, source: Source, fetched: Fetched) {
        self.lock().push_back((source, fetched));
        self.arrived.notify_one();
    }

    /// The oldest; waits for one. Nothing is lost when the call is dropped.
    pub async fn take(&self) -> (Source, Fetched) {
        loop {
            if let Some(fetched) = self.lock().pop_front() {
                return fetched;
            }
            self.arrived.notified().await;
        }
    }

    /// Drops what does not pass.
    pub fn retain(&self, keep: impl Fn(Source) -> bool) {
        self.lock().retain(|(source, _)| keep(*source));
    }
}

/// What a fetcher and the consumer both see of a partition.
pub(crate) struct Window {
    /// How much may be under way or in the inbox, bytes.
    size_bytes: i64,
    /// How much is in the inbox.
    held_bytes: AtomicI64,
    pub high_watermark: AtomicI64,
    /// Credit came back.
    released: Notify,
}

impl Window {
    pub fn new(size_bytes: usize) -> Self {
        let size_bytes = i64::try_from(size_bytes).unwrap_or(i64::MAX);
        Self {
            size_bytes,
            held_bytes: AtomicI64::new(0),
            high_watermark: AtomicI64::new(-1),
            released: Notify::new(),
        }
    }

    pub fn size_bytes(&self) -> i64 {
        self.size_bytes
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

    /// Returns when the consumer took something out since the last call.
    pub async fn released(&self) {
        self.released.notified().await;
    }
}
