//! Backoff and log lines for `accept` calls that fail because the process or the system lacks a resource, file descriptors as a
//! rule. The connection stays in the kernel's queue, so without a pause the accept loop would spin. The first failure is logged at
//! once, further ones at an interval, and the first success after them.

use std::io;
use std::time::Duration;

use tokio::time::Instant;

/// The pause after a first failure. It doubles with each further one, up to `BACKOFF_MAX`.
const BACKOFF_MIN: Duration = Duration::from_millis(50);
const BACKOFF_MAX: Duration = Duration::from_secs(1);
/// The least time between two log lines while accepts keep failing.
const LOG_INTERVAL: Duration = Duration::from_secs(10);

/// The accept failures of one listener; `None` while accepts succeed.
#[derive(Default)]
pub(super) struct AcceptFailures(Option<Failing>);

struct Failing {
    since: Instant,
    logged_at: Instant,
    count: u64,
    backoff: Duration,
}

impl AcceptFailures {
    /// Records a failed accept, and returns how long to wait before the next attempt.
    pub fn failed(&mut self, listener: &str, error: &io::Error) -> Duration {
        let now = Instant::now();
        let Some(failing) = &mut self.0 else {
            tracing::error!(
                listener,
                %error,
                "connections cannot be accepted; trying again. If there are too many open files, raise the limit (LimitNOFILE)"
            );
            self.0 = Some(Failing {
                since: now,
                logged_at: now,
                count: 1,
                backoff: BACKOFF_MIN,
            });
            return BACKOFF_MIN;
        };
        failing.count += 1;
        failing.backoff = (failing.backoff * 2).min(BACKOFF_MAX);
        if now - failing.logged_at >= LOG_INTERVAL {
            failing.logged_at = now;
            let (count, seconds) = (failing.count, (now - failing.since).as_secs());
            tracing::error!(listener, %error, count, seconds, "connections still cannot be accepted");
        }
        failing.backoff
    }

    /// Records a successful accept, which ends a series of failures.
    pub fn succeeded(&mut self, listener: &str) {
        if let Some(failing) = self.0.take() {
            let (count, seconds) = (failing.count, failing.since.elapsed().as_secs());
            tracing::info!(listener, count, seconds, "connections are accepted again");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_backoff_doubles_and_starts_again_after_a_success() {
        let mut failures = AcceptFailures::default();
        let error = io::Error::from(io::ErrorKind::Other);
        let mut backoff = || failures.failed("public", &error).as_millis();
        let first: Vec<u128> = (0..7).map(|_| backoff()).collect();
        assert_eq!(first, [50, 100, 200, 400, 800, 1000, 1000]);
        failures.succeeded("public");
        assert_eq!(failures.failed("public", &error).as_millis(), 50);
    }
}
