//! The breaker of a slot: while most messages fail, it hands out one a second, so that a dead downstream makes no flood of dead letters.
//!
//! It is volatile: a new leader begins closed, and trips again on what it sees.

use std::collections::VecDeque;

use jangada_machine::Now;

use crate::limits::{
    BREAKER_OUTCOMES_LEAST, BREAKER_OUTCOMES_MAX, BREAKER_PROBE_MS, BREAKER_SUCCESSES, BREAKER_WAITING,
    BREAKER_WINDOW_MS,
};

/// Why a breaker has tripped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TripCause {
    /// More than half of the latest outcomes were failures.
    Failures,
    /// So many messages wait for a retry that more must not fail.
    Waiting,
}

/// A breaker that has tripped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tripped {
    /// Why it has.
    pub cause: TripCause,
    /// Since when, milliseconds since the Unix epoch.
    pub since_ms: u64,
    /// Messages that were acknowledged since the last failure.
    pub successes: u32,
}

/// What became of the latest messages.
#[derive(Debug, Default)]
pub(super) struct Breaker {
    /// When each was known, on the monotonic clock, and whether it failed.
    outcomes: VecDeque<(u64, bool)>,
    failures: usize,
    tripped: Option<Tripped>,
    /// When the next message may go out, on the monotonic clock.
    probe_at_ms: u64,
}

impl Breaker {
    pub(super) fn tripped(&self) -> Option<Tripped> {
        self.tripped
    }

    /// A message was acknowledged, or failed, while so many wait.
    pub(super) fn outcome(&mut self, has_failed: bool, waiting: u64, now: Now) {
        if let Some(tripped) = &mut self.tripped {
            tripped.successes = if has_failed { 0 } else { tripped.successes + 1 };
            if tripped.successes >= BREAKER_SUCCESSES {
                *self = Self::default();
            }
            return;
        }
        self.outcomes.push_back((now.monotonic_ms, has_failed));
        self.failures += usize::from(has_failed);
        let oldest = now.monotonic_ms.saturating_sub(BREAKER_WINDOW_MS);
        while let Some((at, failed)) = self.outcomes.front().copied()
            && (at < oldest || self.outcomes.len() > BREAKER_OUTCOMES_MAX)
        {
            self.outcomes.pop_front();
            self.failures -= usize::from(failed);
        }
        let most_fail = self.outcomes.len() >= BREAKER_OUTCOMES_LEAST && self.failures * 2 > self.outcomes.len();
        let cause = match has_failed {
            true if waiting >= BREAKER_WAITING => TripCause::Waiting,
            true if most_fail => TripCause::Failures,
            _ => return,
        };
        self.tripped = Some(Tripped {
            cause,
            since_ms: now.wall_ms,
            successes: 0,
        });
        self.probe_at_ms = now.monotonic_ms + BREAKER_PROBE_MS;
    }

    /// How many messages may go out now.
    pub(super) fn allowed(&self, monotonic_ms: u64) -> u32 {
        match self.tripped {
            None => u32::MAX,
            Some(_) => u32::from(self.probe_at_ms <= monotonic_ms),
        }
    }

    /// So many messages go out.
    pub(super) fn sent(&mut self, messages: u32, monotonic_ms: u64) {
        if messages > 0 && self.tripped.is_some() {
            self.probe_at_ms = monotonic_ms + BREAKER_PROBE_MS;
        }
    }

    /// When the next message may go out, if not now.
    pub(super) fn next_ms(&self) -> Option<u64> {
        self.tripped.map(|_| self.probe_at_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(monotonic_ms: u64) -> Now {
        Now {
            monotonic_ms,
            wall_ms: 1_000_000 + monotonic_ms,
            steady_since_ms: 0,
        }
    }

    #[test]
    fn it_trips_when_most_fail_and_closes_after_successes_in_a_row() {
        let mut breaker = Breaker::default();
        for outcome in 0..200 {
            breaker.outcome(outcome % 2 == 1, 0, at(outcome));
        }
        assert_eq!(
            (breaker.tripped(), breaker.allowed(200)),
            (None, u32::MAX),
            "half is not most"
        );
        breaker.outcome(true, 0, at(200));
        let tripped = breaker.tripped().expect("101 of 201");
        assert_eq!((tripped.cause, tripped.since_ms), (TripCause::Failures, 1_000_200));
        assert_eq!((breaker.allowed(1_199), breaker.allowed(1_200)), (0, 1));
        breaker.sent(1, 1_200);
        assert_eq!((breaker.allowed(2_199), breaker.next_ms()), (0, Some(2_200)));
        for _ in 0..BREAKER_SUCCESSES - 1 {
            breaker.outcome(false, 0, at(3_000));
        }
        breaker.outcome(true, 0, at(3_000));
        assert!(breaker.tripped().is_some(), "one of the probes failed");
        for _ in 0..BREAKER_SUCCESSES {
            breaker.outcome(false, 0, at(4_000));
        }
        assert_eq!((breaker.tripped(), breaker.next_ms()), (None, None));
    }

    #[test]
    fn failures_of_long_ago_do_not_count() {
        let mut breaker = Breaker::default();
        for outcome in 0..BREAKER_OUTCOMES_LEAST as u64 - 1 {
            breaker.outcome(true, 0, at(outcome));
        }
        breaker.outcome(true, 0, at(BREAKER_WINDOW_MS + 1_000));
        assert_eq!(breaker.tripped(), None);
        breaker.outcome(true, BREAKER_WAITING, at(BREAKER_WINDOW_MS + 1_000));
        assert_eq!(breaker.tripped().map(|tripped| tripped.cause), Some(TripCause::Waiting));
    }
}
