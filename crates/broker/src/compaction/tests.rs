//! Passes over a partition in a broker that is alone.

use std::sync::Arc;

use bytes::Bytes;
use jangada_log::tables::cleaned::Cleaned;
use jangada_storage::{Durability, Op, StateKind, Store};
use jangada_types::batch::{BatchIter, decode_records};
use jangada_types::topic_config::CleanupPolicy;
use jangada_types::{BatchBuilder, Codec, Offset, Reason, TopicConfig};

use jangada_env::Random;

use super::dirt::Dirt;
use super::pass::Pacer;
use super::*;
use crate::partition::testing::{Broker, GROUP, Options, TIMEOUT, append};
use crate::partition::{Expectation, Reading, compacting};
use crate::quota::Caller;
use crate::settings::CompactionSettings;

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
            let fetched = self.partition.read(at, 300, Reading::AS_IT_IS).await.expect("it leads");
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pass_waits_while_the_disk_is_behind() {
    let broker = Broker::start(Options::default());
    let partition = broker.lead(compacted()).await;
    let mut pacer = Pacer::new(&CompactionSettings::default(), &broker.shared);
    pacer.pace(0).await;
    broker.store.hold_syncs();
    let row = Op::PutState {
        kind: StateKind::NODE,
        suffix: None,
        value: vec![7; broker.shared.queue_bytes_max / 2 + 1].into(),
    };
    broker.store.write(GroupId::NODE, vec![row], Durability::Synced, None);
    let waited = tokio::time::timeout(Duration::from_millis(200), pacer.pace(0)).await;
    assert!(waited.is_err(), "what waits for the disk is more than half of what may");
    broker.store.release_syncs();
    let went_on = tokio::time::timeout(TIMEOUT, pacer.pace(0)).await;
    went_on.expect("the disk has it");
    drop(partition);
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn batches_that_were_refused_go_and_those_that_were_not_stay() {
    let broker = Broker::start(Options::default());
    let partition = broker.lead(TopicConfig::default()).await;
    let value = "x".repeat(10_000);
    let large = || {
        let mut builder = BatchBuilder::new(Codec::None);
        builder.append(1, None, Some(value.as_bytes()), []).expect("it fits");
        builder.build()
    };
    let expected = Expectation {
        end_offset: Some(Offset(0)),
        ..Expectation::default()
    };
    // Both are on their way before either is judged.
    broker.store.hold_syncs();
    let mut admitted = Vec::new();
    for _ in 0..2 {
        let room = partition.room(&Caller::alone(), large().len()).expect("there is room");
        admitted.push(
            partition
                .admit(large(), expected, room)
                .await
                .expect("it may come true"),
        );
    }
    broker.store.release_syncs();
    let mut outcomes = Vec::new();
    for one in admitted {
        outcomes.push(partition.acknowledged(one, TIMEOUT).await.is_ok());
    }
    assert_eq!(outcomes, [true, false], "the second one came too late");
    let bodies = || {
        let entries = broker.store.read_log(GROUP, 0..u64::MAX, usize::MAX).expect("readable");
        let large = entries.iter().filter(|entry| entry.body.len() > value.len());
        large.map(|entry| entry.index).collect::<Vec<_>>()
    };
    let before = bodies();
    assert_eq!(before.len(), 2);
    let settings = CompactionSettings::default();
    let cleaner = Cleaner {
        shared: broker.shared.clone(),
        random: Random::seeded(7),
        settings: settings.clone(),
        status: Arc::default(),
    };
    let noted = tokio::time::timeout(TIMEOUT, broker.shared.spent.notified());
    noted.await.expect("it is told");
    cleaner
        .empty_spent(&partition, &mut Pacer::new(&settings, &broker.shared))
        .await;
    assert_eq!(bodies(), before[..1]);
    // What is left is applied again, and says the same.
    let partition = broker.lead(TopicConfig::default()).await;
    assert_eq!(partition.view.high_watermark(), Offset(1));
    let fetched = partition
        .read(Offset(0), MAX, Reading::AS_IT_IS)
        .await
        .expect("it leads");
    assert!(fetched.batches.len() > value.len() && fetched.next_offset == Offset(1));
    broker.stop().await;
}
