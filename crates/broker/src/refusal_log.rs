//! Log lines about requests that are refused for lack of a resource, and about batches with acks `none` that were acknowledged on
//! admission and then not appended. For each reason the first event is logged at once, further ones by their number at an
//! interval, and the end of the series. Clients learn of refusals from their answers, operators only from the log; of lost batches
//! with acks `none` not even clients learn.

use std::collections::BTreeMap;
use std::time::Duration;

use jangada_types::Reason;
use parking_lot::Mutex;
use tokio::time::Instant;

/// The least time between two log lines about the same reason.
const LOG_INTERVAL: Duration = Duration::from_secs(10);
/// A series ends after this long without an event. Clients of a broker with a full disk retry each second.
const OVER_AFTER: Duration = Duration::from_secs(5);

/// The current series of refused requests and lost batches.
#[derive(Default)]
pub(crate) struct RefusalLog {
    series: Mutex<BTreeMap<(Event, &'static str), Series>>,
}

/// The kind of event that a series counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    /// A request was refused.
    Refused,
    /// A batch was acknowledged on admission, and then not appended.
    Lost,
}

/// Events of one kind and reason that follow each other within `OVER_AFTER`.
struct Series {
    since: Instant,
    last: Instant,
    logged_at: Instant,
    count: u64,
}

/// A line to be logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Line {
    Begins,
    GoesOn { count: u64, elapsed: Duration },
    IsOver { count: u64, elapsed: Duration },
}

impl RefusalLog {
    /// Records that a request was refused.
    pub fn refused(&self, reason: Reason) {
        if is_lack(reason)
            && let Some(line) = self.count(Event::Refused, reason.as_str(), Instant::now())
        {
            line.write(Event::Refused, reason.as_str());
        }
    }

    /// Records that a batch with acks `none` was acknowledged and then not appended, or that the outcome is unknown.
    pub fn lost(&self, reason: Reason) {
        if let Some(line) = self.count(Event::Lost, reason.as_str(), Instant::now()) {
            line.write(Event::Lost, reason.as_str());
        }
    }

    /// Logs the end of each series that is over. Must be called at intervals.
    pub fn log_ended(&self) {
        for ((event, reason), line) in self.take_ended(Instant::now()) {
            line.write(event, reason);
        }
    }

    fn count(&self, event: Event, reason: &'static str, now: Instant) -> Option<Line> {
        let mut all = self.series.lock();
        let Some(series) = all.get_mut(&(event, reason)) else {
            let series = Series {
                since: now,
                last: now,
                logged_at: now,
                count: 1,
            };
            all.insert((event, reason), series);
            return Some(Line::Begins);
        };
        series.count += 1;
        series.last = now;
        if now < series.logged_at + LOG_INTERVAL {
            return None;
        }
        series.logged_at = now;
        Some(Line::GoesOn {
            count: series.count,
            elapsed: now - series.since,
        })
    }

    fn take_ended(&self, now: Instant) -> Vec<((Event, &'static str), Line)> {
        let mut ended = Vec::new();
        self.series.lock().retain(|key, series| {
            let is_over = now >= series.last + OVER_AFTER;
            if is_over {
                let line = Line::IsOver {
                    count: series.count,
                    elapsed: series.last - series.since,
                };
                ended.push((*key, line));
            }
            !is_over
        });
        ended
    }
}

impl Line {
    fn write(self, event: Event, reason: &'static str) {
        let (begins, goes_on, is_over) = match event {
            Event::Refused => (
                "requests are refused",
                "requests are still refused",
                "requests are no longer refused",
            ),
            Event::Lost => (
                "batches with acks none, which were acknowledged, were not appended or may not have been",
                "more batches with acks none were not appended or may not have been",
                "batches with acks none are appended again",
            ),
        };
        match self {
            Self::Begins => tracing::warn!(reason, "{begins}"),
            Self::GoesOn { count, elapsed } => {
                tracing::warn!(reason, count, seconds = elapsed.as_secs(), "{goes_on}");
            }
            Self::IsOver { count, elapsed } => {
                tracing::info!(reason, count, seconds = elapsed.as_secs(), "{is_over}");
            }
        }
    }
}

/// Whether a request with this reason is refused for lack of a resource: memory, disk, slots, or a quorum.
fn is_lack(reason: Reason) -> bool {
    matches!(
        reason,
        Reason::DiskFull
            | Reason::StoreFenced
            | Reason::PartitionBusy
            | Reason::BrokerBusy
            | Reason::TooManyStreams
            | Reason::TooManyGroups
            | Reason::TooManyReplicas
            | Reason::GroupFull
            | Reason::QuorumTimeout
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_are_logged_at_once_then_at_an_interval_and_when_they_are_over() {
        let log = RefusalLog::default();
        let begin = Instant::now();
        let at = |seconds| begin + Duration::from_secs(seconds);
        assert_eq!(log.count(Event::Refused, "DISK_FULL", at(0)), Some(Line::Begins));
        let logged: Vec<u64> = (1..=25)
            .filter(|s| log.count(Event::Refused, "DISK_FULL", at(*s)).is_some())
            .collect();
        assert_eq!(logged, [10, 20]);
        assert_eq!(log.take_ended(at(29)), []);
        let over = Line::IsOver {
            count: 26,
            elapsed: Duration::from_secs(25),
        };
        assert_eq!(log.take_ended(at(30)), [((Event::Refused, "DISK_FULL"), over)]);
        assert_eq!(log.take_ended(at(31)), []);
    }
}
