//! A token bucket: so many a second, and so many at once after a quiet time.

use std::time::Duration;

use tokio::time::Instant;

/// A token bucket (Turner 1986). Pure: it is told the time.
///
/// ```
/// use jangada_patterns::flow::TokenBucket;
/// use tokio::time::Instant;
///
/// let start = Instant::now();
/// let mut bucket = TokenBucket::new(10.0, 2, start);
/// assert!(bucket.take(start).is_ok() && bucket.take(start).is_ok());
/// let wait = bucket.take(start).expect_err("the burst is used up");
/// assert!(bucket.take(start + wait).is_ok());
/// ```
#[derive(Clone, Debug)]
pub struct TokenBucket {
    per_second: f64,
    burst: f64,
    tokens: f64,
    filled_at: Instant,
}

impl TokenBucket {
    /// A full bucket: so many a second on average, and `burst` at once, at least 1.
    pub fn new(per_second: f64, burst: u32, now: Instant) -> Self {
        let burst = f64::from(burst.max(1));
        Self {
            per_second: per_second.max(f64::MIN_POSITIVE),
            burst,
            tokens: burst,
            filled_at: now,
        }
    }

    /// Takes a token; or says for how long there will be none.
    ///
    /// # Errors
    /// The time to wait, at most a day.
    pub fn take(&mut self, now: Instant) -> Result<(), Duration> {
        let since = now.saturating_duration_since(self.filled_at).as_secs_f64();
        self.tokens = (self.tokens + since * self.per_second).min(self.burst);
        self.filled_at = self.filled_at.max(now);
        if self.tokens >= 1.0 {
            self.tokens -= 1.0;
            return Ok(());
        }
        let seconds = ((1.0 - self.tokens) / self.per_second).min(86_400.0);
        // A hair more, so that rounding does not make the caller ask twice.
        Err(Duration::from_secs_f64(seconds) + Duration::from_micros(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// In any stretch of time no more are let through than the burst and the rate allow, and not less when all is asked for.
        #[test]
        fn the_rate_holds_over_any_stretch(pauses in proptest::collection::vec(0_u64..50, 1..300)) {
            let start = Instant::now();
            let (mut now, mut taken) = (start, Vec::new());
            let mut bucket = TokenBucket::new(100.0, 5, start);
            // What it is full of first, or it would have no room for more.
            for pause in std::iter::once(0).chain(pauses) {
                now += Duration::from_millis(pause);
                while bucket.take(now).is_ok() {
                    taken.push(now);
                }
            }
            for (index, from) in taken.iter().enumerate() {
                for (more, to) in taken[index..].iter().enumerate() {
                    let allowed = 5.0 + to.duration_since(*from).as_secs_f64() * 100.0 + 1e-6;
                    prop_assert!((more + 1) as f64 <= allowed, "{} in {:?}", more + 1, to.duration_since(*from));
                }
            }
        }
    }

    proptest! {
        /// Whoever asks for all gets all: the burst, and the rate from then on.
        #[test]
        fn no_token_is_lost_to_whoever_takes_all(pauses in proptest::collection::vec(0_u64..40, 1..300)) {
            let start = Instant::now();
            let (mut now, mut taken) = (start, 0_u64);
            let mut bucket = TokenBucket::new(100.0, 5, start);
            // What it is full of first, or it would have no room for more.
            for pause in std::iter::once(0).chain(pauses) {
                now += Duration::from_millis(pause);
                while bucket.take(now).is_ok() {
                    taken += 1;
                }
            }
            let came = now.duration_since(start).as_millis() as u64 / 10;
            prop_assert!((4 + came..=5 + came).contains(&taken), "{} and not {}", taken, 5 + came);
        }
    }

    #[test]
    fn a_quiet_time_saves_up_no_more_than_the_burst() {
        let start = Instant::now();
        let mut bucket = TokenBucket::new(100.0, 5, start);
        let later = start + Duration::from_secs(60);
        let taken = (0..100).take_while(|_| bucket.take(later).is_ok());
        assert_eq!(taken.count(), 5);
        bucket.take(start).expect_err("a clock that goes back fills nothing");
    }

    #[test]
    fn a_wait_is_long_enough_and_no_longer() {
        let start = Instant::now();
        let mut bucket = TokenBucket::new(4.0, 1, start);
        bucket.take(start).expect("it is full");
        let wait = bucket.take(start).expect_err("it is empty");
        assert!(
            wait > Duration::from_millis(249) && wait < Duration::from_millis(251),
            "{wait:?}"
        );
        bucket.take(start + wait).expect("one has come");
    }
}
