//! Says in the log that requests are refused for want of something, and for how long: at once, then at an interval with their
//! number, and when it is over. Each refusal is answered to its client; an operator sees only the log. So are batches that were
//! answered on admission (acks none) and then not appended: of those nobody else hears.

use std::collections::BTreeMap;
use std::time::Duration;

use jangada_types::Reason;
use parking_lot::Mutex;
use tokio::time::Instant;

/// Between two lines about the same reason.
const TELL_EVERY: Duration = Duration::from_secs(10);
/// Without a refusal for so long it is over: clients of a full disk try again each second.
const OVER_AFTER: Duration = Duration::from_secs(5);

/// What is refused now, by reason.
#[derive(Default)]
pub(crate) struct RefusalLog {
    reasons: Mutex<BTreeMap<(What, &'static str), Refused>>,
}

/// What it is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum What {
    Refused,
    /// Answered before, and then not appended.
    Lost,
}

struct Refused {
    since: Instant,
    last: Instant,
    told: Instant,
    count: u64,
}

/// What the log is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Line {
    Begins,
    GoesOn { count: u64, elapsed: Duration },
    IsOver { count: u64, elapsed: Duration },
}

impl RefusalLog {
    /// A request was refused.
    pub fn refused(&self, reason: Reason) {
        if lacks(reason)
            && let Some(line) = self.count(What::Refused, reason.as_str(), Instant::now())
        {
            line.write(What::Refused, reason.as_str());
        }
    }

    /// A batch that was answered on admission was not appended, or nobody knows whether it was.
    pub fn lost(&self, reason: Reason) {
        if let Some(line) = self.count(What::Lost, reason.as_str(), Instant::now()) {
            line.write(What::Lost, reason.as_str());
        }
    }

    /// Notices what is over. To be called now and then.
    pub fn look(&self) {
        for ((what, reason), line) in self.over(Instant::now()) {
            line.write(what, reason);
        }
    }

    fn count(&self, what: What, reason: &'static str, now: Instant) -> Option<Line> {
        let mut reasons = self.reasons.lock();
        let Some(refused) = reasons.get_mut(&(what, reason)) else {
            let refused = Refused {
                since: now,
                last: now,
                told: now,
                count: 1,
            };
            reasons.insert((what, reason), refused);
            return Some(Line::Begins);
        };
        refused.count += 1;
        refused.last = now;
        if now < refused.told + TELL_EVERY {
            return None;
        }
        refused.told = now;
        Some(Line::GoesOn {
            count: refused.count,
            elapsed: now - refused.since,
        })
    }

    fn over(&self, now: Instant) -> Vec<((What, &'static str), Line)> {
        let mut over = Vec::new();
        self.reasons.lock().retain(|of, refused| {
            let is_over = now >= refused.last + OVER_AFTER;
            if is_over {
                let line = Line::IsOver {
                    count: refused.count,
                    elapsed: refused.last - refused.since,
                };
                over.push((*of, line));
            }
            !is_over
        });
        over
    }
}

impl Line {
    fn write(self, what: What, reason: &'static str) {
        let (begins, goes_on, is_over) = match what {
            What::Refused => (
                "requests are refused",
                "requests are still refused",
                "requests are no longer refused",
            ),
            What::Lost => (
                "batches with acks none, which were answered, were not appended or may not have been",
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

/// Reasons by which a broker refuses what it would take if it had more of something.
fn lacks(reason: Reason) -> bool {
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
    fn refusals_are_told_at_once_then_at_an_interval_and_when_they_are_over() {
        let log = RefusalLog::default();
        let begin = Instant::now();
        let at = |seconds| begin + Duration::from_secs(seconds);
        assert_eq!(log.count(What::Refused, "DISK_FULL", at(0)), Some(Line::Begins));
        let told: Vec<u64> = (1..=25)
            .filter(|s| log.count(What::Refused, "DISK_FULL", at(*s)).is_some())
            .collect();
        assert_eq!(told, [10, 20]);
        assert_eq!(log.over(at(29)), []);
        let over = Line::IsOver {
            count: 26,
            elapsed: Duration::from_secs(25),
        };
        assert_eq!(log.over(at(30)), [((What::Refused, "DISK_FULL"), over)]);
        assert_eq!(log.over(at(31)), []);
    }
}
