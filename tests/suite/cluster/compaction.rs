//! Compaction by key: of each key the last value stays, on every replica, whatever happens in between.
//!
//! 200,000 updates of 2,000 keys by default. `JANGADA_LONG=1` makes it 10,000,000 of 10,000.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::{Duration, Instant};

use bytes::Bytes;
use jangada_client::{BrokerId, Client, Delivery, NewTopic, Producer, ProducerConfig, ProducerRecord};
use jangada_proto::v1::RecordForm;
use jangada_types::batch::{BatchIter, decode_records};

use crate::harness::{Cluster, Options, Scrape, WAIT, consumer_from_start, eventually, is_long, raw};

const TOPIC: &str = "readings";

/// Of so many bytes of values, nothing is left but the last ones, within this time.
const CLEAN_TIMEOUT: Duration = Duration::from_secs(120);

/// A replica saves its state with each MiB of its log, and what lies behind it is left alone.
const UNSAVED_BYTES: u64 = 1 << 20;

/// Most records that wait for their answers.
const UNANSWERED: usize = 2_000;

/// More than any batch here unpacks to.
const UNPACKED_MAX: usize = 8 << 20;

/// Passes take their time: a process that is killed is in the middle of one.
const SLOW: &str = "[compaction]\nbytes_per_second = 1500000\n";

async fn create(cluster: &Cluster, config: &[(&str, &str)]) {
    let compact = [("cleanup.policy", "compact"), ("min.cleanable.dirty.ratio", "0.2")];
    let config = compact.iter().chain(config);
    cluster
        .create(NewTopic {
            config: config.map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
            ..NewTopic::new(TOPIC, 1, cluster.ids().len() as u32)
        })
        .await;
}

type Values = BTreeMap<Bytes, Bytes>;

/// Writes updates of keys, and knows the last value of each.
struct Updates {
    producer: Producer,
    unanswered: Vec<Delivery>,
    number: u64,
    value_bytes: usize,
    values: Values,
}

impl Updates {
    fn new(client: &Client, value_bytes: usize) -> Self {
        let config = ProducerConfig {
            delivery_timeout: 2 * WAIT,
            ..ProducerConfig::default()
        };
        Self {
            producer: client.producer(config).expect("the settings are valid"),
            unanswered: Vec::new(),
            number: 0,
            value_bytes,
            values: Values::new(),
        }
    }

    async fn send(&mut self, record: ProducerRecord) {
        self.unanswered.push(self.producer.send(record).await.expect("taken"));
        if self.unanswered.len() >= UNANSWERED {
            self.answered().await;
        }
    }

    async fn answered(&mut self) {
        for delivery in self.unanswered.drain(..) {
            delivery.await.expect("a quorum has it");
        }
    }

    /// So many updates of so many keys.
    async fn write(&mut self, updates: u64, keys: u64) {
        for _ in 0..updates {
            let key = Bytes::from(format!("key {}", self.number * 7_919 % keys));
            let mut value = format!("{} ", self.number);
            write!(value, "{:0>width$}", "", width = self.value_bytes).expect("it is text");
            let value = Bytes::from(value);
            self.values.insert(key.clone(), value.clone());
            self.send(ProducerRecord::new(TOPIC).with_key(key).with_value(value))
                .await;
            self.number += 1;
        }
        self.answered().await;
    }

    /// Deletes these keys.
    async fn delete(&mut self, keys: impl Iterator<Item = u64>) {
        for key in keys {
            let key = Bytes::from(format!("key {key}"));
            self.values.remove(&key);
            self.send(ProducerRecord::new(TOPIC).with_key(key)).await;
        }
        self.answered().await;
    }

    /// Bytes of the keys and their last values.
    fn live_bytes(&self) -> u64 {
        let rows = self.values.iter();
        rows.map(|(key, value)| (key.len() + value.len()) as u64).sum()
    }
}

/// What a reader has at the end who begins with the first record; and the keys whose deletion it has seen, and not a value after that.
async fn read(client: &Client) -> (Values, Vec<Bytes>) {
    let mut consumer = consumer_from_start(client, TOPIC).await;
    let ends = consumer.end_offsets().await.expect("the partition is led");
    let (mut values, mut deleted) = (Values::new(), BTreeMap::new());
    let mut before = -1;
    while !consumer.reached(&ends) {
        let records = tokio::time::timeout(WAIT, consumer.next_batch()).await;
        for record in records.expect("a reader goes on").expect("it is readable") {
            assert!(record.offset > before, "{} after {before}", record.offset);
            before = record.offset;
            let key = record.key.expect("each record has one");
            match record.value {
                Some(value) => {
                    deleted.remove(&key);
                    values.insert(key, value);
                }
                None => {
                    values.remove(&key);
                    deleted.insert(key, ());
                }
            }
        }
    }
    (values, deleted.into_keys().collect())
}

async fn lead(cluster: &Cluster, id: u32) {
    let admin = cluster.admin().await;
    eventually("the leadership moves", WAIT, || async {
        admin.transfer_leader(TOPIC, 0, BrokerId::from(id)).await.ok()
    })
    .await;
}

/// Each replica leads in its turn, and readers get the same values from each.
async fn all_replicas_have(cluster: &Cluster, values: &Values) {
    cluster.healthy().await;
    cluster.in_sync().await;
    for id in cluster.ids() {
        lead(cluster, id).await;
        let (read, _) = read(&cluster.client().await).await;
        assert_eq!(read.len(), values.len(), "keys on broker {id}");
        let other = read.iter().find(|(key, value)| values.get(*key) != Some(*value));
        assert_eq!(other, None, "on broker {id}");
    }
}

/// Bytes of the batches that are in the partition's log, as its leader gives them, and how many records they have.
async fn stored(cluster: &Cluster) -> (u64, usize) {
    let leader = cluster.leader(TOPIC, 0).await;
    let mut log = raw::log(&cluster.node(leader).addresses.public).await;
    let (mut offset, mut bytes, mut records) = (0, 0, 0);
    loop {
        let fetched = raw::fetch(&mut log, raw::partition(TOPIC, 0), offset, RecordForm::Raw).await;
        let Ok(fetched) = fetched else {
            return (u64::MAX, usize::MAX);
        };
        if fetched.next_offset <= offset {
            return (bytes, records);
        }
        offset = fetched.next_offset;
        bytes += fetched.batches.len() as u64;
        for batch in BatchIter::new(fetched.batches) {
            let batch = batch.expect("it is whole").1;
            records += decode_records(&batch, UNPACKED_MAX).expect("it is readable").len();
        }
    }
}

/// The values that readers of the plain form get: they ask again from where the last answer ends.
async fn plain(cluster: &Cluster) -> Values {
    let leader = cluster.leader(TOPIC, 0).await;
    let mut log = raw::log(&cluster.node(leader).addresses.public).await;
    let (mut offset, mut before, mut values) = (0, -1, Values::new());
    loop {
        let fetched = raw::fetch(&mut log, raw::partition(TOPIC, 0), offset, RecordForm::Plain).await;
        let fetched = fetched.expect("it leads");
        if fetched.next_offset <= offset {
            assert_eq!(offset, fetched.high_watermark);
            return values;
        }
        offset = fetched.next_offset;
        for record in fetched.records {
            assert!(
                before < record.offset && record.offset < offset,
                "{before}, {}, {offset}",
                record.offset
            );
            before = record.offset;
            values.insert(record.key.expect("it has one"), record.value.expect("none is deleted"));
        }
    }
}

/// What `jangada consume` prints of the values: with `--as-table` each once.
async fn printed(cluster: &Cluster, form: &[&str]) -> Values {
    let args = [&["consume", TOPIC, "--exit-at-end", "--format", "%k=%v\n"], form].concat();
    let text = cluster.cli(&args).await.expect(0).text();
    let rows = text
        .lines()
        .map(|line| line.split_once('=').expect("a key and a value"));
    rows.map(|(key, value)| (Bytes::from(key.to_owned()), Bytes::from(value.to_owned())))
        .collect()
}

async fn sum(cluster: &Cluster, id: u32, name: &str) -> f64 {
    Scrape::of(cluster, id).await.sum(name, &[]).unwrap_or(0.0)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_many_updates_of_few_keys_little_more_is_left_than_the_last_values() {
    let mut cluster = Cluster::start(3).await;
    create(&cluster, &[]).await;
    let client = cluster.client().await;
    let (updates, keys, value_bytes) = match is_long() {
        true => (10_000_000, 10_000, 100),
        false => (200_000, 2_000, 500),
    };
    let mut written = Updates::new(&client, value_bytes);
    written.write(updates, keys).await;
    let since = Instant::now();
    let most = (3 * written.live_bytes()).max(written.live_bytes() + 2 * UNSAVED_BYTES);
    eventually("the rest is gone", CLEAN_TIMEOUT, || async {
        (stored(&cluster).await.0 <= most).then_some(())
    })
    .await;
    println!(
        "{updates} updates of {keys} keys: at most {most} bytes are left {:.1} s after the last one",
        since.elapsed().as_secs_f64()
    );
    for id in cluster.ids() {
        eventually("each replica has cleaned", CLEAN_TIMEOUT, || async {
            let gone = sum(&cluster, id, "jangada_compaction_records_gone_total").await;
            (gone as u64 > updates / 2).then_some(())
        })
        .await;
    }
    all_replicas_have(&cluster, &written.values).await;
    assert!(printed(&cluster, &["--as-table"]).await == written.values);
    assert!(plain(&cluster).await == written.values);
    // A log of entries with fewer records is opened again, and a reader in the middle of what is gone goes on.
    for id in cluster.ids() {
        cluster.stop(id).await;
        cluster.restart(id);
    }
    all_replicas_have(&cluster, &written.values).await;
    let from = (updates / 2).to_string();
    let rest = printed(&cluster, &["--from", &from, "--partition", "0"]).await;
    assert!(
        !rest.is_empty()
            && rest
                .iter()
                .all(|(key, value)| written.values.contains_key(key) && !value.is_empty())
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn processes_that_are_killed_in_the_middle_of_a_pass_lose_no_last_value() {
    let options = Options {
        sections: SLOW.to_owned(),
        ..Options::default()
    };
    let mut cluster = Cluster::start_with(3, options).await;
    create(&cluster, &[]).await;
    let client = cluster.client().await;
    let mut written = Updates::new(&client, 200);
    let mut kills = 0;
    let rounds = if is_long() { 30 } else { 6 };
    for round in 0..rounds {
        written.write(10_000, 1_500).await;
        let victim = round % 3 + 1;
        // It is in the middle of a pass.
        eventually("it cleans", WAIT, || async {
            let under_way = sum(&cluster, victim, "jangada_compaction_under_way").await;
            (under_way > 0.5).then_some(())
        })
        .await;
        cluster.kill(victim);
        kills += 1;
        written.write(3_000, 1_500).await;
        cluster.restart(victim);
        cluster.ready(victim).await;
    }
    assert_eq!(kills, rounds);
    all_replicas_have(&cluster, &written.values).await;
    eventually("passes end all the same", CLEAN_TIMEOUT, || async {
        (stored(&cluster).await.0 <= written.live_bytes() + 3 * UNSAVED_BYTES).then_some(())
    })
    .await;
    all_replicas_have(&cluster, &written.values).await;
    for id in cluster.ids() {
        let unreadable = sum(&cluster, id, "jangada_compaction_unreadable_batches").await;
        assert!(unreadable < 0.5, "broker {id}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_lags_and_one_that_is_new_get_what_is_left() {
    let mut cluster = Cluster::start(3).await;
    create(&cluster, &[]).await;
    let client = cluster.client().await;
    let mut written = Updates::new(&client, 500);
    written.write(20_000, 1_000).await;
    cluster.stop(3).await;
    written.write(40_000, 1_000).await;
    let has_cleaned = async |cluster: &Cluster, id: u32| {
        eventually("it cleans", CLEAN_TIMEOUT, || async {
            let gone = sum(cluster, id, "jangada_compaction_records_gone_total").await;
            (gone > 30_000.0).then_some(())
        })
        .await;
    };
    for id in [1, 2] {
        has_cleaned(&cluster, id).await;
    }
    cluster.restart(3);
    all_replicas_have(&cluster, &written.values).await;

    cluster.stop(2).await;
    eventually("it is not heard of", WAIT, || async {
        let run = cluster.cli(&["cluster", "replace-broker", "2", "--yes"]).await;
        (run.code == Some(0)).then_some(())
    })
    .await;
    std::fs::remove_dir_all(cluster.node(2).data()).expect("it is ours");
    cluster.restart(2);
    written.write(5_000, 1_000).await;
    all_replicas_have(&cluster, &written.values).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tombstones_go_when_all_replicas_have_cleaned_and_deleted_keys_never_come_back() {
    let mut cluster = Cluster::start(3).await;
    create(&cluster, &[("delete.retention.ms", "1000")]).await;
    let client = cluster.client().await;
    let mut written = Updates::new(&client, 500);
    written.write(10_000, 1_000).await;
    cluster.stop(3).await;
    written.delete(0..500).await;
    let deleted: Vec<Bytes> = (0..500).map(|key| Bytes::from(format!("key {key}"))).collect();
    // Behind them lies so much that they are saved, and not the newest batch.
    written.write(10_000, 1_500).await;
    written.delete(0..500).await;
    written.write(5_000, 1_500).await;
    written.delete(0..500).await;
    for _ in 0..3 {
        for number in 0..1_500 {
            let key = Bytes::from(format!("other {number}"));
            let value = Bytes::from("x".repeat(1_000));
            written.values.insert(key.clone(), value.clone());
            written
                .send(ProducerRecord::new(TOPIC).with_key(key).with_value(value))
                .await;
        }
        written.answered().await;
    }
    let lag = "jangada_compaction_tombstone_horizon_lag_offsets";
    eventually(
        "the horizon waits for the broker that is down",
        CLEAN_TIMEOUT,
        || async {
            let lags = [sum(&cluster, 1, lag).await, sum(&cluster, 2, lag).await];
            lags.iter().any(|lag| *lag > 0.0).then_some(())
        },
    )
    .await;
    let (values, seen) = read(&client).await;
    assert!(values == written.values);
    assert_eq!(
        deleted.iter().find(|key| !seen.contains(key)),
        None,
        "each deletion is there"
    );
    cluster.restart(3);
    cluster.healthy().await;
    for id in cluster.ids() {
        lead(&cluster, id).await;
        eventually("the tombstones go", CLEAN_TIMEOUT, || async {
            let (values, seen) = read(&cluster.client().await).await;
            let back = deleted.iter().find(|key| values.contains_key(*key));
            assert_eq!(back, None, "a deleted key is back");
            seen.is_empty().then_some(())
        })
        .await;
    }
    all_replicas_have(&cluster, &written.values).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_does_not_go_with_compaction_is_refused_with_a_reason() {
    let cluster = Cluster::start(1).await;
    create(&cluster, &[]).await;
    let mut log = raw::log(&cluster.node(1).addresses.public).await;
    let refused = raw::produce(&mut log, raw::partition(TOPIC, 0), raw::batch(None, &[b"no key"])).await;
    raw::assert_refused(refused, "KEY_REQUIRED", &["record 0", "has no key", TOPIC]);
    cluster
        .cli_with(&["produce", TOPIC], b"no key\n".to_vec())
        .await
        .expect(1)
        .names(&["has no key"]);
    for (setting, named) in [
        ("cleanup.policy=compress", "cleanup.policy"),
        ("min.cleanable.dirty.ratio=1.1", "min.cleanable.dirty.ratio"),
        ("min.cleanable.dirty.ratio=-0.1", "min.cleanable.dirty.ratio"),
        ("delete.retention.ms=soon", "delete.retention.ms"),
        ("min.compaction.lag.ms=-1", "min.compaction.lag.ms"),
    ] {
        let run = cluster.cli(&["topic", "alter", TOPIC, "-c", setting]).await;
        run.expect(1).names(&[named]);
    }
    cluster
        .cli(&["queue", "create", "billing", "--topic", TOPIC])
        .await
        .expect(1)
        .names(&["which is compacted", "cleanup.policy"]);
    cluster.create_topic("orders", 1, 1).await;
    cluster
        .cli(&["queue", "create", "billing", "--topic", "orders"])
        .await
        .expect(0);
    cluster
        .cli(&["topic", "alter", "orders", "-c", "cleanup.policy=compact"])
        .await
        .expect(1)
        .names(&["is read by queues", "billing"]);
}
