//! The schedule of requests.

use std::thread;
use std::time::{Duration, Instant};

/// The granularity of tokio's timer; the thread sleeps for the rest.
const COARSE: Duration = Duration::from_millis(2);

/// A steady rate, or as fast as possible.
pub struct Schedule {
    start: Instant,
    /// The time between two requests. None: as fast as possible.
    interval: Option<Duration>,
}

impl Schedule {
    /// A schedule of `rate` requests a second from now on, at least 0.001; 0: as fast as possible.
    pub fn start(rate: f64) -> Schedule {
        Schedule {
            start: Instant::now(),
            interval: (rate > 0.0).then(|| Duration::from_secs_f64(1.0 / rate)),
        }
    }

    /// The time at which request `i` is due.
    pub fn due(&self, i: u64) -> Instant {
        match self.interval {
            Some(interval) => {
                self.start
                    + Duration::from_nanos(u64::try_from(interval.as_nanos() * u128::from(i)).unwrap_or(u64::MAX))
            }
            None => Instant::now(),
        }
    }

    /// Waits until request `i` is due; returns that time, which may have passed. Only for the main thread: it may block
    /// it for a moment.
    pub async fn wait(&self, i: u64) -> Instant {
        let due = self.due(i);
        if self.interval.is_none() {
            return due;
        }
        let left = due.saturating_duration_since(Instant::now());
        if left > COARSE {
            tokio::time::sleep(left - COARSE).await;
        }
        thread::sleep(due.saturating_duration_since(Instant::now()));
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn due_times_do_not_depend_on_what_happens() {
        let schedule = Schedule::start(1000.0);
        assert_eq!(schedule.due(1500) - schedule.due(0), Duration::from_millis(1500));
    }
}
