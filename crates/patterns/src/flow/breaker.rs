//! A circuit breaker: what fails again and again is left alone for a while.

use std::time::Duration;

use tokio::time::Instant;

/// When a breaker opens, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BreakerConfig {
    /// Failures in a row that open it, at least 1. Default: 5.
    pub failures: u32,
    /// How long it stays open; then one call probes. Default: 5 s.
    pub open_for: Duration,
}

impl Default for BreakerConfig {
    fn default() -> Self {
        Self {
            failures: 5,
            open_for: Duration::from_secs(5),
        }
    }
}

/// Whether a call may begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// It may. Its outcome is to be [told](Breaker::record).
    Go,
    /// It may not; ask again after this time.
    Wait(Duration),
}

/// A circuit breaker (Nygard 2007). Pure: it is told the time.
///
/// ```text
///           failures in a row                open_for is over
/// Closed ───────────────────────► Open ─────────────────────────► Probing: one call
///    ▲                              ▲                                │      │
///    └── it succeeds ───────────────┼────────────────────────────────┘      │
///                                   └────────────────────────── it fails ───┘
/// ```
#[derive(Clone, Debug)]
pub struct Breaker {
    config: BreakerConfig,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Closed {
        failures: u32,
    },
    Open {
        until: Instant,
    },
    /// One call is under way, since so long.
    Probing {
        since: Instant,
    },
}

impl Breaker {
    /// A closed breaker.
    pub fn new(config: BreakerConfig) -> Self {
        Self {
            config,
            state: State::Closed { failures: 0 },
        }
    }

    /// Whether a call may begin. One whose outcome is never told, as it was dropped, holds the probe for no longer than `open_for`.
    pub fn admit(&mut self, now: Instant) -> Admission {
        let until = match self.state {
            State::Closed { .. } => return Admission::Go,
            State::Open { until } => until,
            State::Probing { since } => since + self.config.open_for,
        };
        match until.checked_duration_since(now).filter(|left| !left.is_zero()) {
            Some(left) => Admission::Wait(left),
            None => {
                self.state = State::Probing { since: now };
                Admission::Go
            }
        }
    }

    /// Tells the outcome of a call that was let through. Calls that began before it opened change nothing while it is open.
    pub fn record(&mut self, now: Instant, is_success: bool) {
        self.state = match (self.state, is_success) {
            (State::Open { until }, _) => State::Open { until },
            (_, true) => State::Closed { failures: 0 },
            (State::Closed { failures }, false) if failures + 1 < self.config.failures => {
                State::Closed { failures: failures + 1 }
            }
            (_, false) => State::Open {
                until: now + self.config.open_for,
            },
        };
    }

    /// Whether calls wait.
    pub fn is_open(&self) -> bool {
        !matches!(self.state, State::Closed { .. })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_opens_probes_and_closes() {
        let start = Instant::now();
        let after = |seconds| start + Duration::from_secs(seconds);
        let mut breaker = Breaker::new(BreakerConfig::default());
        for _ in 0..4 {
            breaker.record(start, false);
        }
        breaker.record(start, true);
        for _ in 0..4 {
            breaker.record(start, false);
        }
        assert_eq!(breaker.admit(start), Admission::Go, "never five in a row");
        breaker.record(start, false);
        assert_eq!(breaker.admit(after(2)), Admission::Wait(Duration::from_secs(3)));
        breaker.record(after(2), true);
        assert!(breaker.is_open(), "one that began before says nothing");
        assert_eq!(breaker.admit(after(5)), Admission::Go);
        assert_eq!(
            breaker.admit(after(5)),
            Admission::Wait(Duration::from_secs(5)),
            "one probes"
        );
        breaker.record(after(6), false);
        assert_eq!(breaker.admit(after(6)), Admission::Wait(Duration::from_secs(5)));
        assert_eq!(breaker.admit(after(11)), Admission::Go);
        breaker.record(after(12), true);
        assert!(!breaker.is_open());
    }

    #[test]
    fn it_opens_only_by_failures_in_a_row_and_none_is_left_over_when_it_has_closed() {
        let start = Instant::now();
        let config = BreakerConfig {
            failures: 2,
            open_for: Duration::from_secs(1),
        };
        let mut breaker = Breaker::new(config);
        for _ in 0..10 {
            breaker.record(start, false);
            breaker.record(start, true);
        }
        assert!(!breaker.is_open());
        breaker.record(start, false);
        breaker.record(start, false);
        let later = start + Duration::from_secs(1);
        assert_eq!(breaker.admit(later), Admission::Go);
        breaker.record(later, true);
        breaker.record(later, false);
        assert!(!breaker.is_open(), "it takes two again");
    }

    #[test]
    fn a_probe_that_is_never_told_of_is_followed_by_another() {
        let start = Instant::now();
        let mut breaker = Breaker::new(BreakerConfig {
            failures: 1,
            open_for: Duration::from_secs(1),
        });
        breaker.record(start, false);
        assert_eq!(breaker.admit(start + Duration::from_secs(1)), Admission::Go);
        assert_eq!(breaker.admit(start + Duration::from_secs(2)), Admission::Go);
    }
}
