//! The open transactions of the partitions that this broker leads, at a scrape.

use std::fmt::Error;
use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;

use crate::metrics::Writer;
use crate::partition::Partition;

/// What is open here, over all partitions that are led here.
#[derive(Debug, Default)]
pub(super) struct TransactionSample {
    /// A transaction counts in each partition that it has written to.
    open: u64,
    /// Since when the oldest of them is open, milliseconds since the Unix epoch.
    since_ms: Option<i64>,
    /// The largest distance from the last stable offset to the high watermark.
    lag: i64,
    now_ms: i64,
}

impl TransactionSample {
    pub fn take(partitions: &[Arc<Partition>], now_ms: i64) -> Self {
        let mut sample = Self {
            now_ms,
            ..Self::default()
        };
        for partition in partitions {
            if !partition.view.has_transactions() || !partition.hosted.is_ready() {
                continue;
            }
            let (open, since_ms) = partition.view.open_transactions();
            if open == 0 {
                continue;
            }
            let ends = partition.view.ends();
            sample.open += open;
            sample.since_ms = sample.since_ms.into_iter().chain([since_ms]).min();
            sample.lag = sample.lag.max(ends.high_watermark.get() - ends.last_stable.get());
        }
        sample
    }
}

impl Collector for TransactionSample {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> Result<(), Error> {
        let mut to = Writer(encoder);
        let help = "Open transactions in partitions led here; one that has written to several counts in each";
        to.gauge("partition_open_transactions", help, self.open)?;
        let help = "For how long the oldest of them is open; 0 without any";
        let age_ms = self.since_ms.map_or(0, |since_ms| (self.now_ms - since_ms).max(0));
        to.gauge("partition_oldest_transaction_seconds", help, age_ms as f64 / 1e3)?;
        let help = "Records behind the earliest open transaction that readers of committed records wait for, in the partition with most";
        to.gauge("partition_last_stable_lag_records", help, self.lag)
    }
}
