//! The lag of consumer groups for scrapes. `groups::lag` computes it in the background, and only while scrapes come. A report that
//! is too old is no longer shown.

use std::fmt::Error;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::topics::OTHERS;
use super::writer::Writer;

/// The lag is no longer computed after this time without a scrape.
const WANTED_FOR: Duration = Duration::from_secs(600);
/// A report is shown for this many intervals, and at least for `KEPT_MIN`.
const KEPT_INTERVALS: u32 = 3;
const KEPT_MIN: Duration = Duration::from_secs(30);

/// The lag of the groups whose shards this broker leads, computed once.
#[derive(Clone, Debug, Default)]
pub(crate) struct LagReport {
    /// Group, topic, and lag in records over all partitions with a committed offset.
    pub series: Vec<(Arc<str>, Arc<str>, u64)>,
    /// The sum of the lags that have no series of their own.
    pub others: u64,
    /// The number of pairs of group and topic that have no series of their own.
    pub left_out: u64,
    /// The number of pairs of group and topic for which the high watermark of some partition is not known.
    pub unknown: u64,
}

/// Hands the last report from `groups::lag` to scrapes, and tells `groups::lag` whether scrapes come.
pub(crate) struct LagBoard {
    kept_for: Duration,
    report: Mutex<Option<(Instant, Arc<LagReport>)>>,
    scraped_at: Mutex<Option<Instant>>,
    scraped: Notify,
}

impl LagBoard {
    pub fn new(interval: Duration) -> Self {
        Self {
            kept_for: KEPT_MIN.max(interval * KEPT_INTERVALS),
            report: Mutex::default(),
            scraped_at: Mutex::default(),
            scraped: Notify::new(),
        }
    }

    /// Waits until a scrape came within `WANTED_FOR`.
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

    /// The last report for a scrape, which is noted.
    pub(super) fn sample(&self, now: Instant) -> LagSample {
        let was_wanted = self.is_wanted(now);
        *self.scraped_at.lock() = Some(now);
        // The woken task checks the time of the scrape again.
        if !was_wanted {
            self.scraped.notify_one();
        }
        let report = self.report.lock().clone();
        let fresh = report.filter(|(at, _)| now - *at < self.kept_for);
        LagSample(fresh.map(|(_, report)| report))
    }
}

/// The last report; `None` if there is none, or if it is too old.
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
        // A scrape wakes the task that waits.
        tokio::join!(board.wanted(), async { board.sample(now) });
        assert!(board.is_wanted(now) && !board.is_wanted(now + WANTED_FOR));
    }
}
