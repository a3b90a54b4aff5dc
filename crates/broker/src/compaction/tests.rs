//! Passes over a partition in a broker that is alone.

use std::sync::Arc;

use bytes::Bytes;
use jangada_log::tables::cleaned::Cleaned;
use jangada_storage::Store;
use jangada_types::batch::{BatchIter, decode_records};
use jangada_types::topic_config::CleanupPolicy;
use jangada_types::{BatchBuilder, Codec, Offset, Reason, TopicConfig};

use super::dirt::Dirt;
use super::pass::Pacer;
use super::*;
use crate::partition::{Reading, compacting};
use crate::partition::testing::{Broker, GROUP, Options, append};

const MAX: usize = 1 << 20;

fn compacted() -> TopicConfig {
    TopicConfig {
        cleanup_policy: CleanupPolicy::Compact,
        ..TopicConfig::default()
    }
}

fn batch(records: &[(&str, Option<&str>)]) -> Bytes {
    let mut builder = BatchBuilder::new(Codec::Lz4);
    for (key, value) in records {
        let value = value.map(str::as_bytes);
        builder.append(1, Some(key.as_bytes()), value, []).expect("small");
    }
    builder.build()
}

/// What compacts the partition of a broker that is alone.
struct Alone<'a> {
    broker: &'a Broker,
    partition: Arc<Partition>,
    dirt: Dirt,
    settings: CompactionSettings,
    status: Arc<CompactionStatus>,
}

impl Alone<'_> {
    /// One pass over all that may be cleaned. Where it has ended.
    async fn clean(&mut self) -> Offset {
        let cleaner = Cleaner {
            shared: self.broker.shared.clone(),
            random: Random::seeded(7),
            settings: self.settings.clone(),
            status: self.status.clone(),
        };
        let looked = cleaner
            .look(&self.partition, &mut self.dirt)
            .await
            .expect("it can be read");
        let pacer = Pacer::new(&self.settings, &self.broker.shared);
        let tally = cleaner.clean(&self.partition, &looked, &mut self.dirt, pacer).await;
        tally.expect("it has ended");
        let last = self.dirt.cleaned().and_then(Cleaned::last);
        last.expect("it was told").0
    }

    /// Keys and values of all records, with their offsets.
    async fn records(&self) -> Vec<(i64, String, Option<String>)> {
        let mut found = Vec::new();
        let mut at = self.partition.view.log_start();
        while at < self.partition.view.high_watermark() {
            let fetched = self.partition.read(at, 300, Reading::default()).await.expect("it leads");
            assert!(fetched.next_offset > at, "a reader goes on");
            at = fetched.next_offset;
            for item in BatchIter::new(fetched.batches) {
                for record in decode_records(&item.expect("whole").1, MAX).expect("it can be read") {
                    let text = |bytes: Bytes| String::from_utf8(bytes.to_vec()).expect("text");
                    found.push((
                        record.offset.get(),
                        text(record.key.expect("each has one")),
                        record.value.map(text),
                    ));
                }
            }
        }
        found
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_each_key_the_last_record_stays_and_readers_go_over_what_is_gone() {
    let broker = Broker::start(Options::default());
    let mut partition = broker.lead(compacted()).await;
    for nth in 0..3_000 {
        let value = nth.to_string();
        let key = format!("k{}", nth % 5);
        append(&partition, batch(&[(&key, Some(&value)), ("hot", Some(&value))]))
            .await
            .expect("written");
    }
    append(&partition, batch(&[("k0", None)])).await.expect("written");
    // A state is saved when the replica is closed.
    partition = broker.lead(compacted()).await;
    append(&partition, batch(&[("last", Some("1"))]))
        .await
        .expect("written");
    let mut alone = Alone {
        broker: &broker,
        partition,
        dirt: Dirt::default(),
        settings: CompactionSettings::default(),
        status: Arc::default(),
    };
    let before = alone.records().await;
    assert_eq!(before.len(), 6_002);
    assert_eq!(alone.clean().await, Offset(6_001));
    let last_of = |key: &str| {
        before
            .iter()
            .rev()
            .find(|(_, of, _)| of == key)
            .expect("it is there")
            .clone()
    };
    let mut expected: Vec<_> = ["k0", "k1", "k2", "k3", "k4", "hot", "last"].map(last_of).to_vec();
    expected.sort();
    assert_eq!(alone.records().await, expected);
    // A second pass has nothing to do, and the rows are as good after a restart.
    assert_eq!(alone.clean().await, Offset(6_001));
    let rows = compacting::rows_behind(&*broker.store, GROUP, Offset(0)).expect("readable");
    assert!(rows.len() <= 8, "{} rows", rows.len());
    assert_eq!(broker.store.damage().of(GROUP), None);
    alone.partition = broker.lead(compacted()).await;
    assert_eq!(alone.records().await, expected);
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_record_without_a_key_is_refused_and_named() {
    let broker = Broker::start(Options::default());
    let partition = broker.lead(compacted()).await;
    let mut builder = BatchBuilder::new(Codec::Zstd);
    builder.append(1, Some(b"k"), None, []).expect("small");
    builder.append(1, None, Some(b"v"), []).expect("small");
    let Err(error) = append(&partition, builder.build()).await else {
        panic!("it was taken");
    };
    assert_eq!(error.reason, Reason::KeyRequired);
    assert!(error.message.contains("record 1 of the batch has no key"), "{error}");
    broker.stop().await;
}
