//! The lag of consumer groups as scrapes show it. It is found out beside scrapes (`groups::lag`), while somebody
//! scrapes; what was not renewed for long is not shown any more.

use std::fmt::Error;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::OTHERS;
use super::writer::Writer;

/// After this time without a scrape nobody wants to know.
const WANTED_FOR: Duration = Duration::from_secs(600);
/// A report is too old after so many intervals, and this at least.
const KEPT_INTERVALS: u32 = 3;
const KEPT_AT_LEAST: Duration = Duration::from_secs(30);

/// What one look found, of the groups whose shards this broker leads.
#[derive(Clone, Debug, Default)]
pub(crate) struct LagReport {
    /// By group and topic: records that are there and not committed, over all partitions with a committed offset.
    pub series: Vec<(Arc<str>, Arc<str>, u64)>,
    /// The sum of those that have no series of their own.
    pub others: u64,
    /// How many these are.
    pub left_out: u64,
    /// Groups and topics of which the end of some partition is not known.
    pub unknown: u64,
}

/// Where the last report is, and whether the next one is wanted.
pub(crate) struct LagBoard {
    kept_for: Duration,
    report: Mutex<Option<(Instant, Arc<LagReport>)>>,
    scraped_at: Mutex<Option<Instant>>,
    scraped: Notify,
}

impl LagBoard {
    pub fn new(interval: Duration) -> Self {
        Self {
            kept_for: KEPT_AT_LEAST.max(interval * KEPT_INTERVALS),
            report: Mutex::default(),
            scraped_at: Mutex::default(),
            scraped: Notify::new(),
        }
    }

    /// Returns when somebody wants to know.
    pub async fn wanted(&self) {
        loop {
            let scraped = self.scraped.notified();
            if self.is_wanted(Instant::now()) {
                return;
            }
            scraped.await;
        }
    }

    fn is_wanted(&self, now: Instant) -> bool {
        self.scraped_at.lock().is_some_and(|at| now - at < WANTED_FOR)
    }

    pub fn publish(&self, report: LagReport, now: Instant) {
        *self.report.lock() = Some((now, Arc::new(report)));
    }

    /// For a scrape.
    pub(super) fn sample(&self, now: Instant) -> LagSample {
        let was_wanted = self.is_wanted(now);
        *self.scraped_at.lock() = Some(now);
        // Whoever wakes looks at the time again.
        if !was_wanted {
            self.scraped.notify_one();
        }
        let report = self.report.lock().clone();
        let fresh = report.filter(|(at, _)| now - *at < self.kept_for);
        LagSample(fresh.map(|(_, report)| report))
    }
}

/// None: nothing is known, or what was is too old.
#[derive(Debug)]
pub(super) struct LagSample(Option<Arc<LagReport>>);

impl Collector for LagSample {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> Result<(), Error> {
        let mut to = Writer(encoder);
        let report = self.0.as_deref();
        let series = report.into_iter().flat_map(|report| &report.series);
        let series = series.map(|(group, topic, lag)| ([("group", &**group), ("topic", &**topic)], *lag));
        let others = report.filter(|report| report.left_out > 0);
        let others = others.map(|report| ([("group", OTHERS), ("topic", OTHERS)], report.others));
        to.gauges(
            "group_lag_records",
            "Records that are there and that a group has not committed, over the partitions of a topic with a committed offset",
            series.chain(others),
        )?;
        to.known_gauge(
            "group_lag_left_out",
            "Groups and topics whose lag has no series of its own",
            report.map(|report| report.left_out),
        )?;
        to.known_gauge(
            "group_lag_unknown",
            "Groups and topics whose lag is not known, as the leader of a partition does not answer",
            report.map(|report| report.unknown),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_that_is_not_renewed_is_not_shown_for_ever() {
        let board = LagBoard::new(Duration::from_secs(20));
        let now = Instant::now();
        assert!(board.sample(now).0.is_none());
        board.publish(LagReport::default(), now);
        assert!(board.sample(now + Duration::from_secs(59)).0.is_some());
        assert!(board.sample(now + Duration::from_secs(60)).0.is_none());
    }

    #[tokio::test]
    async fn nothing_is_wanted_before_the_first_scrape_and_long_after_the_last() {
        let board = LagBoard::new(Duration::from_secs(10));
        let now = Instant::now();
        assert!(!board.is_wanted(now));
        // A scrape wakes who waits.
        tokio::join!(board.wanted(), async { board.sample(now) });
        assert!(board.is_wanted(now) && !board.is_wanted(now + WANTED_FOR));
    }
}
