//! The delays between attempts: each longer than the one before, and none quite like another's.

use std::time::Duration;

use jangada_client::Env;

/// Delays that double from `first` to `most`, with full jitter ("Exponential Backoff And Jitter", AWS Architecture Blog, 2015): what fails
/// at the same time does not come back at the same time.
///
/// ```
/// use std::time::Duration;
/// use jangada_patterns::Backoff;
///
/// let backoff = Backoff { first: Duration::from_millis(100), most: Duration::from_secs(10) };
/// assert!(backoff.longest(3) == Duration::from_millis(800) && backoff.longest(30) == Duration::from_secs(10));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    /// The longest delay after the first failure. Default: 100 ms.
    pub first: Duration,
    /// The longest delay after any number of failures. Default: 30 s.
    pub most: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self {
            first: Duration::from_millis(100),
            most: Duration::from_secs(30),
        }
    }
}

impl Backoff {
    /// The longest delay after so many failures before the last one; 0: after the first.
    pub fn longest(&self, failures_before: u32) -> Duration {
        let doubled = self.first.saturating_mul(1_u32 << failures_before.min(20));
        doubled.min(self.most)
    }

    /// A delay after so many failures before the last one: half of the longest, and up to all of it by chance.
    pub fn delay(&self, failures_before: u32, env: &Env) -> Duration {
        let longest = self.longest(failures_before);
        let share = (env.random.number() >> 40) as f64 / (1_u64 << 24) as f64;
        longest.mul_f64(0.5 + share / 2.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_and_stay_between_half_and_all() {
        let backoff = Backoff::default();
        for failures in [0, 1, 5, 8, 40, u32::MAX] {
            let longest = backoff.longest(failures);
            assert!(longest <= backoff.most);
            for _ in 0..100 {
                let delay = backoff.delay(failures, &Env::system());
                assert!(delay >= longest / 2 && delay <= longest, "{delay:?} of {longest:?}");
            }
        }
        assert_eq!(backoff.longest(1), backoff.first * 2);
        assert_eq!(backoff.longest(u32::MAX), backoff.most);
    }
}
