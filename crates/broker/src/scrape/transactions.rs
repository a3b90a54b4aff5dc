//! The open transactions of the partitions and of the coordinator's shards that this broker leads, at a scrape.

use std::fmt::Error;
use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;

use crate::groups::{CoordinatorReplica, TransactionCounts};
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
    /// Of shards that are led here, with the index of each.
    shards: Vec<(String, TransactionCounts)>,
}

impl TransactionSample {
    pub fn take(partitions: &[Arc<Partition>], shards: &[Arc<CoordinatorReplica>], now_ms: i64) -> Self {
        let shards = shards.iter().filter_map(|shard| {
            let index = shard.hosted.name.index?;
            Some((index.to_string(), shard.count_transactions()?))
        });
        let mut sample = Self {
            now_ms,
            shards: shards.collect(),
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
        to.gauge("partition_last_stable_lag_records", help, self.lag)?;
        let of_shards = |value: &dyn Fn(&TransactionCounts) -> u64| {
            let shards = self.shards.iter();
            let series = shards.map(|(index, counts)| ([("shard", index.as_str())], value(counts)));
            series.collect::<Vec<_>>()
        };
        let help = "Transactional ids of the coordinator's shards led here";
        to.gauges("transactional_ids", help, of_shards(&|counts| counts.ids))?;
        let help = "Open transactions of these";
        to.gauges("transactions_open", help, of_shards(&|counts| counts.open))?;
        let help = "Ends of decided transactions that are still to be written, one for each partition and group";
        to.gauges(
            "transaction_ends_waiting",
            help,
            of_shards(&|counts| counts.waiting_ends),
        )?;
        let help = "For how long the oldest open transaction of these is open; 0 without any";
        let ages = self.shards.iter().map(|(index, counts)| {
            let since_ms = counts
                .since_ms
                .map(|since_ms| i64::try_from(since_ms).unwrap_or(i64::MAX));
            let age_ms = since_ms.map_or(0, |since_ms| self.now_ms.saturating_sub(since_ms).max(0));
            ([("shard", index.as_str())], age_ms as f64 / 1e3)
        });
        to.gauges("transactions_oldest_seconds", help, ages)
    }
}
