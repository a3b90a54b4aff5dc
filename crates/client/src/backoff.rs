//! Delays between attempts: exponential with jitter, so that clients that lost the same leader do not come back in step.

use std::time::Duration;

use backon::{BackoffBuilder as _, ExponentialBackoff, ExponentialBuilder};
use jangada_env::Random;

/// The first delay. About a round trip and a leader's first work; doubled each time.
const DELAY_MIN: Duration = Duration::from_millis(20);

/// Before jitter, which adds up to as much again: no attempt waits longer than half a second.
const DELAY_MAX: Duration = Duration::from_millis(250);

/// The delays of one series of attempts. It has no end; the caller's deadline ends it.
#[derive(Debug)]
pub(crate) struct Backoff {
    delays: Option<ExponentialBackoff>,
    random: Random,
}

impl Backoff {
    pub fn new(random: &Random) -> Self {
        Self {
            delays: None,
            random: random.clone(),
        }
    }

    /// Whether the last attempt succeeded, or none was made.
    pub fn is_reset(&self) -> bool {
        self.delays.is_none()
    }

    /// After a success: the next series starts small again.
    pub fn reset(&mut self) {
        self.delays = None;
    }

    /// The delay before the next attempt; not less than the broker asked for.
    pub fn next(&mut self, asked: Option<Duration>) -> Duration {
        let delays = self.delays.get_or_insert_with(|| {
            ExponentialBuilder::new()
                .with_min_delay(DELAY_MIN)
                .with_max_delay(DELAY_MAX)
                .with_factor(2.0)
                .with_jitter()
                .with_jitter_seed(self.random.number())
                .without_max_times()
                .build()
        });
        let delay = delays.next().unwrap_or(DELAY_MAX);
        delay.max(asked.unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_grow_to_a_bound_and_start_over() {
        let mut backoff = Backoff::new(&Random::system());
        assert!(backoff.is_reset());
        let first = backoff.next(None);
        assert!(first >= DELAY_MIN && first <= 2 * DELAY_MIN);
        assert!(!backoff.is_reset());
        for _ in 0..20 {
            assert!(backoff.next(None) <= 2 * DELAY_MAX);
        }
        assert!(backoff.next(None) >= DELAY_MAX);
        backoff.reset();
        assert!(backoff.next(None) <= 2 * DELAY_MIN);
    }

    #[test]
    fn a_brokers_wish_is_honoured() {
        assert_eq!(
            Backoff::new(&Random::system()).next(Some(Duration::from_secs(3))),
            Duration::from_secs(3)
        );
    }
}
