//! Passes over a partition in a broker that is alone.

use std::sync::Arc;

use bytes::Bytes;
use jangada_log::compaction::{Tally, Writes};
use jangada_log::tables::cleaned::Cleaned;
use jangada_log::{IndexEntry, PartitionCommand, PartitionState};
use jangada_replication::saved_index;
use jangada_storage::{Durability, Op, StateKind, Store};
use jangada_types::batch::{BatchIter, decode_records};
use jangada_types::topic_config::CleanupPolicy;
use jangada_types::{BatchBuilder, Codec, LeaderEpoch, Offset, Reason, TopicConfig};

use jangada_env::Random;

use super::dirt::{Dirt, Looked};
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

impl<'a> Alone<'a> {
    fn new(broker: &'a Broker, partition: Arc<Partition>) -> Self {
        Self {
            broker,
            dirt: Dirt::new(&partition.hosted),
            partition,
            settings: CompactionSettings::default(),
            status: Arc::default(),
        }
    }

    fn cleaner(&self) -> Cleaner {
        Cleaner {
            shared: self.broker.shared.clone(),
            random: Random::seeded(7),
            settings: self.settings.clone(),
            status: self.status.clone(),
        }
    }

    /// Waits until something is written, which is a moment after it can be seen.
    async fn until(&self, what: &str, is_there: impl Fn() -> bool) {
        let waited = Instant::now();
        while !is_there() {
            assert!(waited.elapsed() < Duration::from_secs(10), "not written: {what}");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    async fn until_rows(&self) {
        let view = &self.partition.view;
        let (start, end) = (view.log_start(), view.high_watermark());
        let is_there = || start >= end || !self.rows(end.get() - 1).is_empty();
        self.until("the row of the newest batch", is_there).await;
    }

    async fn look(&mut self) -> Looked {
        self.until_rows().await;
        let looked = self.cleaner().look(&self.partition, &mut self.dirt).await;
        looked.expect("it can be read")
    }

    /// One pass over what a look has found, if it ends.
    async fn pass(&mut self, looked: &Looked) -> Option<Tally> {
        let pacer = Pacer::new(&self.settings, &self.broker.shared);
        let cleaner = self.cleaner();
        cleaner.clean(&self.partition, looked, &mut self.dirt, pacer).await
    }

    /// One pass over all that may be cleaned. Where it has ended.
    async fn clean(&mut self) -> Offset {
        let looked = self.look().await;
        self.pass(&looked).await.expect("it has ended");
        let last = self.dirt.cleaned().and_then(Cleaned::last);
        last.expect("it was told").0
    }

    /// Closes the partition, which saves its state, and opens it again, as another one.
    async fn reopen(&mut self, config: TopicConfig) {
        self.until_rows().await;
        let newest = self.partition.view.high_watermark().get() - 1;
        let last = self.rows(newest).last().map_or(0, |row| row.raft_index);
        let saved = || saved_index(&*self.broker.store, GROUP).expect("readable").unwrap_or(0);
        // Closing leaves a save that is under way alone, which may be of an earlier state.
        for _ in 0..20 {
            self.partition = self.broker.lead(config.clone()).await;
            if saved() >= last {
                break;
            }
        }
        self.until("the state", || saved() >= last).await;
        self.dirt = Dirt::new(&self.partition.hosted);
    }

    fn rows(&self, from: i64) -> Vec<IndexEntry> {
        compacting::rows_behind(&*self.broker.store, GROUP, Offset(from), 1_000).expect("readable")
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
    let partition = broker.lead(compacted()).await;
    let mut alone = Alone::new(&broker, partition);
    for nth in 0..3_000 {
        let value = nth.to_string();
        let key = format!("k{}", nth % 5);
        append(&alone.partition, batch(&[(&key, Some(&value)), ("hot", Some(&value))]))
            .await
            .expect("written");
    }
    append(&alone.partition, batch(&[("k0", None)])).await.expect("written");
    alone.reopen(compacted()).await;
    append(&alone.partition, batch(&[("last", Some("1"))]))
        .await
        .expect("written");
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
    let rows = compacting::rows_behind(&*broker.store, GROUP, Offset(0), 100).expect("readable");
    assert!(rows.len() <= 8, "{} rows", rows.len());
    assert_eq!(broker.store.damage().of(GROUP), None);
    alone.partition = broker.lead(compacted()).await;
    assert_eq!(alone.records().await, expected);
    broker.stop().await;
}

/// A partition with updates of three keys, each in a batch of its own, and one batch behind them; its state is saved.
async fn updated(broker: &Broker, config: TopicConfig) -> Alone<'_> {
    let partition = broker.lead(config.clone()).await;
    for nth in 0..60 {
        let (key, value) = (format!("k{}", nth % 3), nth.to_string());
        append(&partition, batch(&[(&key, Some(&value))]))
            .await
            .expect("written");
    }
    let mut alone = Alone::new(broker, partition);
    alone.reopen(config).await;
    let last = append(&alone.partition, batch(&[("last", None)])).await;
    last.expect("written");
    alone
}

/// A partition that is moved away and comes back has the same id and none of the data: what was known of the one before says nothing of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_known_of_a_replica_is_not_taken_for_one_that_was_opened_since() {
    let broker = Broker::start(Options::default());
    let mut alone = updated(&broker, compacted()).await;
    assert_eq!(alone.clean().await, Offset(60));
    let (hosted, status) = (alone.partition.hosted.clone(), alone.status.clone());
    assert_eq!(status.since_before(&hosted, i64::MAX), Some(Offset(60)));
    let again = broker.lead(compacted()).await.hosted.clone();
    assert_eq!(again.group.replica(), hosted.group.replica());
    assert!(alone.dirt.is_of(&hosted) && !alone.dirt.is_of(&again));
    assert_eq!(status.since_before(&again, i64::MAX), None, "nobody has looked at it");
    assert!(!status.waits_below(&again, Offset(i64::MAX)));
    status.looked(&again, None);
    assert_eq!(status.since_before(&again, i64::MAX), Some(Offset(0)));
    broker.stop().await;
}

/// The log has an entry in the place of another, or the row is wrong: nothing is written that would make it worse, others have their turn.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_row_that_does_not_fit_its_entry_stops_the_pass_and_is_told_as_damage() {
    let broker = Broker::start(Options::default());
    let mut alone = updated(&broker, compacted()).await;
    let mut row = alone.rows(30)[0];
    row.epoch = LeaderEpoch(row.epoch.get() + 1);
    broker
        .store
        .write(GROUP, vec![Op::Row(row.put())], Durability::Lazy, None);
    let entries = || broker.store.read_log(GROUP, 0..u64::MAX, usize::MAX).expect("readable");
    let before = entries();
    let looked = alone.look().await;
    assert!(!alone.dirt.rests());
    assert_eq!(alone.pass(&looked).await, None);
    assert!(alone.dirt.rests(), "it is not tried again at once");
    assert_eq!(entries(), before);
    let damage = broker.store.damage().of(GROUP).expect("it is told");
    assert!(damage.contains("offsets 30 to 30"), "{damage}");
    let rests: Vec<_> = (0..12).map(|_| alone.dirt.failed()).collect();
    assert!(rests.is_sorted() && rests[0] > Duration::from_secs(2) && rests[11] == Duration::from_secs(300));
    broker.stop().await;
}

/// A pass that crashed leaves rows that have taken over others where the next one learns keys. If its map is full right there, it still
/// goes on to the end of what it has learned.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_piece_that_ends_inside_a_row_that_has_taken_over_others_has_that_row() {
    let broker = Broker::start(Options::default());
    let mut alone = updated(&broker, compacted()).await;
    alone.clean().await;
    let merged = alone.rows(0)[0];
    assert_eq!((merged.first_offset(), merged.base_offset), (Offset(0), Offset(57)));
    let piece = compacting::read_piece(&*broker.store, GROUP, Offset(0), Offset(57), MAX);
    let piece = piece.expect("readable").expect("it is there");
    assert_eq!((piece.rows.len(), piece.next), (1, Offset(58)));
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pass_stops_once_the_topic_is_not_compacted_any_more() {
    let broker = Broker::start(Options::default());
    let mut alone = updated(&broker, compacted()).await;
    let before = alone.records().await;
    let looked = alone.look().await;
    alone.partition.set_config(TopicConfig::default().into()).await;
    assert_eq!(alone.pass(&looked).await, None);
    assert_eq!(alone.records().await, before);
    assert_eq!(alone.dirt.cleaned().and_then(Cleaned::last), None);
    broker.stop().await;
}

/// An index that begins in the middle of a pass which knows of none would read values that go behind it, and not their deletions.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pass_writes_nothing_once_the_index_of_keys_was_switched() {
    let broker = Broker::start(Options::default());
    let mut alone = updated(&broker, compacted()).await;
    let looked = alone.look().await;
    let with_index = TopicConfig {
        key_index: true,
        ..compacted()
    };
    alone.partition.set_config(with_index.into()).await;
    assert!(alone.partition.rewrite(Writes::default(), false).await.is_err());
    assert!(alone.partition.rewrite(Writes::default(), true).await.is_ok());
    let before = alone.records().await;
    assert_eq!(alone.pass(&looked).await, None);
    assert_eq!(alone.records().await, before);
    broker.stop().await;
}

/// Other replicas let tombstones go for what this one says: a crash must not take it back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_a_pass_has_ended_is_told_when_it_is_on_the_disk() {
    let broker = Broker::start(Options::default());
    let mut alone = updated(&broker, compacted()).await;
    broker.store.hold_syncs();
    let cleaned = tokio::time::timeout(Duration::from_millis(300), alone.clean()).await;
    assert!(cleaned.is_err(), "it waits for the disk");
    assert_eq!(alone.dirt.cleaned().and_then(Cleaned::last), None);
    broker.store.release_syncs();
    assert_eq!(alone.clean().await, Offset(60));
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pass_waits_while_the_disk_is_nearly_full() {
    let broker = Broker::start(Options::default());
    let mut pacer = Pacer::new(&CompactionSettings::default(), &broker.shared);
    broker.store.set_disk_low(Some((49, 100)));
    let waited = tokio::time::timeout(Duration::from_millis(200), pacer.pace(0)).await;
    assert!(waited.is_err(), "less than half of the reserve is free");
    broker.store.set_disk_low(Some((50, 100)));
    let went_on = tokio::time::timeout(TIMEOUT, pacer.pace(0)).await;
    went_on.expect("what is compacted gives room back");
    broker.stop().await;
}

/// What the last pass has counted is partly behind the log start.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bytes_that_are_gone_with_the_log_start_do_not_count_as_taken() {
    let broker = Broker::start(Options::default());
    let config = TopicConfig {
        cleanup_policy: CleanupPolicy::CompactAndDelete,
        ..TopicConfig::default()
    };
    let mut alone = updated(&broker, config.clone()).await;
    alone.clean().await;
    let gone: u64 = 57 * u64::from(alone.rows(58)[0].size_bytes);
    let all = alone.dirt.gone_bytes();
    alone.partition.set_gone_bytes(all);
    let left: u64 = alone.rows(0).iter().map(|row| u64::from(row.size_bytes)).sum();
    assert_eq!(alone.partition.stored_bytes(), left, "what people are shown");
    assert!(all > gone / 2, "{all} of about {gone}");
    alone.partition.trim(Some(Offset(58))).await.expect("it leads");
    alone.dirt = Dirt::new(&alone.partition.hosted);
    let looked = alone.look().await;
    assert_eq!((looked.dirty_from, alone.dirt.gone_bytes()), (Offset(60), 0));
    let left: u64 = alone.rows(58)[..2].iter().map(|row| u64::from(row.size_bytes)).sum();
    assert_eq!(looked.survey.clean_bytes, left);
    broker.stop().await;
}

/// The horizon moves behind each pass, and that alone is no work.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_horizon_makes_a_pass_due_where_something_waits_for_it() {
    let broker = Broker::start(Options::default());
    let mut alone = updated(&broker, compacted()).await;
    let advance = async |partition: &Arc<Partition>, upto| {
        let command = PartitionCommand::AdvanceHorizon {
            upto: Offset(upto),
            now_ms: 0,
        };
        let proposed = partition.hosted.group.propose::<PartitionState>(command, TIMEOUT).await;
        proposed.expect("it leads");
    };
    alone.clean().await;
    advance(&alone.partition, 60).await;
    let survey = alone.look().await.survey;
    assert!(!survey.horizon_moved && survey.dirty_bytes == 0, "{survey:?}");
    assert!(!alone.status.waits_below(&alone.partition.hosted, Offset(60)));
    // The tombstone behind them is cleaned with the next pass, and waits.
    append(&alone.partition, batch(&[("other", Some("1"))]))
        .await
        .expect("written");
    alone.reopen(compacted()).await;
    append(&alone.partition, batch(&[("other", Some("2"))]))
        .await
        .expect("written");
    assert_eq!(alone.clean().await, Offset(62));
    assert!(alone.status.waits_below(&alone.partition.hosted, Offset(61)));
    assert!(!alone.look().await.survey.horizon_moved, "it is not below the horizon");
    advance(&alone.partition, 61).await;
    let looked = alone.look().await;
    assert!(looked.survey.horizon_moved);
    alone.pass(&looked).await.expect("it ends");
    assert!(!alone.records().await.iter().any(|(_, _, value)| value.is_none()));
    assert!(!alone.look().await.survey.horizon_moved);
    broker.stop().await;
}

/// A time that a record may have bounds nothing where nothing is left alone for its age.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_record_of_the_farthest_future_does_not_end_compaction() {
    let broker = Broker::start(Options::default());
    let config = TopicConfig {
        timestamp_after_max_ms: u64::MAX >> 1,
        ..compacted()
    };
    let partition = broker.lead(config.clone()).await;
    for at_ms in [i64::MAX, 1, 1] {
        let mut builder = BatchBuilder::new(Codec::None);
        builder.append(at_ms, Some(b"k"), None, []).expect("small");
        append(&partition, builder.build()).await.expect("written");
    }
    let mut alone = Alone::new(&broker, partition);
    alone.reopen(config).await;
    append(&alone.partition, batch(&[("last", None)]))
        .await
        .expect("written");
    assert_eq!(alone.clean().await, Offset(3));
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
