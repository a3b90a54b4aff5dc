//! The queue between the fetchers and the consumer: responses in the order in which they came.
//!
//! The fetchers never wait here, so that a connection is always drained, and responses to other calls never get stuck behind
//! records that the application does not take. The inbox is bounded by each fetcher's credit, which is given back when its data is
//! handed out.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use jangada_proto::v1;
use tokio::sync::Notify;

use crate::error::ClientError;

/// An item that a fetcher delivers.
pub(crate) enum Fetched {
    Batches {
        batches: Bytes,
        first_offset: i64,
        next_offset: i64,
        high_watermark: i64,
        /// The aborted transactions among the batches.
        aborted: Vec<v1::AbortedTransaction>,
        /// Compaction has taken batches from among these.
        compacted: bool,
    },
    /// The offset asked for was not there; reading goes on at `to`.
    Moved {
        to: i64,
    },
    Failed(ClientError),
}

/// Identifies one reading of a partition, from one offset on: a seek ends it and begins another. Items of an ended one
/// are dropped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct FetchSession(pub u64);

#[derive(Default)]
pub(crate) struct Inbox {
    fetched: Mutex<VecDeque<(FetchSession, Fetched)>>,
    arrived: Notify,
}

impl Inbox {
    fn lock(&self) -> MutexGuard<'_, VecDeque<(FetchSession, Fetched)>> {
        self.fetched.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn put(&self, session: FetchSession, fetched: Fetched) {
        self.lock().push_back((session, fetched));
        self.arrived.notify_one();
    }

    /// Takes the oldest item; waits for one. Nothing is lost when the call is dropped.
    pub async fn take(&self) -> (FetchSession, Fetched) {
        loop {
            if let Some(fetched) = self.lock().pop_front() {
                return fetched;
            }
            self.arrived.notified().await;
        }
    }

    /// Drops the items of the fetch sessions that `keep` rejects.
    pub fn retain(&self, keep: impl Fn(FetchSession) -> bool) {
        self.lock().retain(|(session, _)| keep(*session));
    }
}

/// The credit of a partition, seen by its fetcher and by the consumer.
pub(crate) struct Window {
    /// Bytes that may be under way or in the inbox.
    size_bytes: AtomicI64,
    /// Bytes that are in the inbox.
    held_bytes: AtomicI64,
    pub high_watermark: AtomicI64,
    /// Notified when credit came back, or when the size changed.
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

    /// Changes the size after other partitions came or went. A window that shrinks grants nothing until enough is taken
    /// out.
    pub fn resize(&self, size_bytes: usize) {
        let before = self.size_bytes.swap(as_i64(size_bytes), Ordering::Relaxed);
        if before != as_i64(size_bytes) {
            self.released.notify_one();
        }
    }

    /// Counts bytes that the fetcher puts into the inbox.
    pub fn hold(&self, bytes: i64) {
        self.held_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Counts bytes that the consumer took out.
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
