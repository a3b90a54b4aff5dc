//! The driver's timers. A timer that is no longer wanted still fires; its handler checks first.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::time::Duration;

use tokio::time::Instant;

use super::super::stream::LinkId;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Timer {
    /// The lane may make another attempt.
    Retry(u64),
    /// The time of the lane's oldest batch may be over.
    Deadline(u64),
    /// The link may have been silent for too long.
    Silence(LinkId),
    /// Metadata may be asked for again.
    Refresh,
}

pub(super) struct Timers {
    linger: Duration,
    /// Batches linger equally long, so these are in order, but for what senders on different threads may swap.
    lingering: VecDeque<(Instant, u64)>,
    others: BinaryHeap<Reverse<(Instant, Timer)>>,
}

impl Timers {
    pub fn new(linger: Duration) -> Self {
        Self {
            linger,
            lingering: VecDeque::new(),
            others: BinaryHeap::new(),
        }
    }

    pub fn set(&mut self, at: Instant, timer: Timer) {
        self.others.push(Reverse((at, timer)));
    }

    /// A batch of the lane was opened at this time.
    pub fn linger(&mut self, opened: Instant, lane: u64) {
        self.lingering.push_back((opened + self.linger, lane));
    }

    pub fn is_lingering(&self) -> bool {
        !self.lingering.is_empty()
    }

    /// The time at which the earliest timer fires.
    pub fn next(&self) -> Option<Instant> {
        let other = self.others.peek().map(|Reverse((at, _))| *at);
        let lingering = self.lingering.front().map(|(at, _)| *at);
        other.into_iter().chain(lingering).min()
    }

    /// A lane whose batch has lingered long enough.
    pub fn lingered(&mut self, now: Instant) -> Option<u64> {
        self.lingering.pop_front_if(|(at, _)| *at <= now).map(|(_, lane)| lane)
    }

    /// A timer whose time has come.
    pub fn fired(&mut self, now: Instant) -> Option<Timer> {
        if self.others.peek().is_some_and(|Reverse((at, _))| *at <= now) {
            self.others.pop().map(|Reverse((_, timer))| timer)
        } else {
            None
        }
    }
}
