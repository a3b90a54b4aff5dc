//! Accepts that fail because the process or the system is out of something, descriptors as a rule. The connection stays in the
//! kernel's queue, so the next try comes after a pause, or the loop would spin; and whoever runs the broker is told at once, at an
//! interval while it lasts, and when it is over.

use std::io;
use std::time::Duration;

use tokio::time::Instant;

/// Before the next accept: at first, and at most.
const PAUSE_MIN: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(1);
/// Between two lines of the log.
const TELL_EVERY: Duration = Duration::from_secs(10);

/// See the module text. One per listener.
#[derive(Default)]
pub(super) struct AcceptFailures(Option<Failing>);

struct Failing {
    since: Instant,
    told_at: Instant,
    count: u64,
    pause: Duration,
}

impl AcceptFailures {
    /// One more. How long to wait before the next try.
    pub fn again(&mut self, listener: &str, error: &io::Error) -> Duration {
        let now = Instant::now();
        let Some(failing) = &mut self.0 else {
            tracing::error!(
                listener,
                %error,
                "connections can't be accepted; trying again. Out of open files: see the limit of open files (LimitNOFILE)"
            );
            self.0 = Some(Failing {
                since: now,
                told_at: now,
                count: 1,
                pause: PAUSE_MIN,
            });
            return PAUSE_MIN;
        };
        failing.count += 1;
        failing.pause = (failing.pause * 2).min(PAUSE_MAX);
        if now - failing.told_at >= TELL_EVERY {
            failing.told_at = now;
            let (count, seconds) = (failing.count, (now - failing.since).as_secs());
            tracing::error!(listener, %error, count, seconds, "connections still can't be accepted");
        }
        failing.pause
    }

    /// A connection was accepted.
    pub fn are_over(&mut self, listener: &str) {
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
    fn pauses_grow_and_begin_anew_after_a_connection() {
        let mut failures = AcceptFailures::default();
        let error = io::Error::from(io::ErrorKind::Other);
        let mut pauses = || failures.again("public", &error).as_millis();
        let first: Vec<u128> = (0..7).map(|_| pauses()).collect();
        assert_eq!(first, [50, 100, 200, 400, 800, 1000, 1000]);
        failures.are_over("public");
        assert_eq!(failures.again("public", &error).as_millis(), 50);
    }
}
