//! Space comes back: topics are deleted and trimmed beside topics that stay, all written at once so that their records lie mixed on disk.
//!
//! `JANGADA_LONG=1` takes three times as much.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use jangada_client::{ProducerConfig, ProducerRecord};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

use crate::harness::{Cluster, Options, POLL_INTERVAL, Scrape, is_long};

/// Bytes written to each of the four topics.
const TOPIC_BYTES: u64 = 160 << 20;

const RECORD_BYTES: usize = 8 * 1024;
const PARTITIONS: u32 = 2;

/// The space is free again within this time.
const BACK_TIMEOUT: Duration = Duration::from_secs(60);

/// Files that hold records. They may be garbage to less than a quarter (what was deleted shares files with what stays, and moving
/// it is not worth it yet), so they take up to four thirds of what stays. A little more is for rows beside the records.
const DATA: [&str; 2] = ["blob", "sst"];
const DATA_PERCENT: u64 = 140;

/// All other files, whatever is deleted: the write-ahead log up to `storage.wal_bytes`, which is 64 MiB here, one file that
/// is being written and five that are kept to be written over, each a little longer than `memtable_bytes`, 8 MiB; and RocksDB's
/// catalogue and its own log.
const OTHER_BYTES: u64 = 144 << 20;

/// The space that a node takes: files and bytes by the end of their names (`blob`, `sst`, `log`), or by their folder.
type Taken = BTreeMap<String, (usize, u64)>;

/// Adds the disk space of a folder.
fn add_taken(folder: &Path, taken: &mut Taken) {
    let Ok(entries) = std::fs::read_dir(folder) else {
        return;
    };
    for entry in entries.flatten() {
        let path = entry.path();
        match entry.metadata() {
            Ok(metadata) if metadata.is_dir() => add_taken(&path, taken),
            Ok(metadata) => {
                let end = path.extension().unwrap_or(folder.as_os_str());
                let (files, bytes) = taken.entry(end.to_string_lossy().into_owned()).or_default();
                *files += 1;
                // Allocated blocks, not the length: recycled files and files with holes count for the space that they occupy.
                *bytes += metadata.blocks() * 512;
            }
            // The file was deleted since the directory was read.
            Err(_) => {}
        }
    }
}

fn taken(cluster: &Cluster, id: u32) -> Taken {
    let mut taken = Taken::new();
    add_taken(&cluster.node(id).data(), &mut taken);
    taken
}

/// Bytes of the files that hold records, and of all others.
fn data_and_others(taken: &Taken) -> (u64, u64) {
    let (data, others): (Vec<_>, Vec<_>) = taken.iter().partition(|(end, _)| DATA.contains(&end.as_str()));
    let sum = |files: Vec<(&String, &(usize, u64))>| files.iter().map(|(_, (_, bytes))| bytes).sum();
    (sum(data), sum(others))
}

/// The files that hold the space of each node, and its log lines about giving it back: for a failed test.
async fn who_holds_it(cluster: &Cluster) -> String {
    let mut said = String::new();
    for id in cluster.ids() {
        let taken = taken(cluster, id);
        said += &format!(
            "node {id}: data and others {:?} bytes: {taken:?}\n",
            data_and_others(&taken)
        );
        let scrape = Scrape::of(cluster, id).await;
        let of_store = |line: &&str| line.starts_with("jangada_store_") && !line.contains("_bucket");
        for line in scrape.text.lines().filter(of_store) {
            said += &format!("  {line}\n");
        }
        let log = cluster.node(id).log();
        let tells = |line: &&str| {
            ["gave space back", "clean", "blobs", "damage"]
                .iter()
                .any(|word| line.contains(word))
        };
        for line in log.lines().filter(tells) {
            said += &format!("  {line}\n");
        }
    }
    said
}

/// The bytes of a topic's records, all replicas of one partition counted once.
async fn live_bytes(cluster: &Cluster, topic: &str) -> u64 {
    let states = cluster.admin().await.describe_partitions(Some(topic)).await;
    states
        .expect("the leaders answer")
        .iter()
        .filter_map(|state| state.size_bytes)
        .sum()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn space_of_deleted_and_trimmed_topics_comes_back() {
    // So that a failure tells what was done to give space back.
    let sections = "[log]\nfilter = \"info,openraft=error,jangada_storage=debug\"\n".to_owned();
    let options = Options {
        sections,
        ..Options::default()
    };
    let cluster = Cluster::start_with(3, options).await;
    let times = if is_long() { 3 } else { 1 };
    let topics = ["stays", "stays-too", "deleted", "trimmed"];
    for topic in topics {
        cluster.create_topic(topic, PARTITIONS, 3).await;
    }
    let client = cluster.client().await;
    let producer = client.producer(ProducerConfig::default());
    let producer = producer.expect("the defaults are valid");
    let mut random = StdRng::seed_from_u64(7);
    let mut deliveries = Vec::new();
    for number in 0..TOPIC_BYTES * times / RECORD_BYTES as u64 {
        for topic in topics {
            let mut value = vec![0; RECORD_BYTES];
            random.fill_bytes(&mut value);
            let record = ProducerRecord::new(topic)
                .with_partition((number % u64::from(PARTITIONS)) as u32)
                .with_value(value);
            deliveries.push(producer.send(record).await.expect("it is taken"));
        }
    }
    for delivery in deliveries {
        delivery.await.expect("it is written");
    }
    cluster.healthy().await;
    let live = live_bytes(&cluster, "stays").await + live_bytes(&cluster, "stays-too").await;
    assert!(live >= 2 * TOPIC_BYTES * times, "{live} bytes");
    println!(
        "{live} bytes are to stay on each node; before:\n{}",
        who_holds_it(&cluster).await
    );

    cluster.cli(&["topic", "rm", "deleted", "--yes"]).await.expect(0);
    cluster
        .cli(&["topic", "trim", "trimmed", "--before", "latest"])
        .await
        .expect(0);
    let gone = Instant::now();
    let enough = live / 100 * DATA_PERCENT;
    let is_back = |id| {
        let (data, others) = data_and_others(&taken(&cluster, id));
        data <= enough && others <= OTHER_BYTES
    };
    while !cluster.ids().into_iter().all(is_back) {
        assert!(
            gone.elapsed() < BACK_TIMEOUT,
            "not within {BACK_TIMEOUT:?}: on each node {enough} bytes of data and {OTHER_BYTES} of others are allowed:\n{}",
            who_holds_it(&cluster).await
        );
        tokio::time::sleep(POLL_INTERVAL).await;
    }
    let took = gone.elapsed();
    println!(
        "{enough} bytes of data are allowed; after {took:?}:\n{}",
        who_holds_it(&cluster).await
    );
    // And nothing else went.
    for topic in ["stays", "stays-too"] {
        for partition in 0..PARTITIONS {
            let state = cluster.partition(topic, partition).await;
            let records = TOPIC_BYTES * times / RECORD_BYTES as u64 / u64::from(PARTITIONS);
            assert_eq!(state.log_start_offset, Some(0));
            assert_eq!(state.high_watermark, i64::try_from(records).ok());
        }
    }
    let consume = ["consume", "stays", "--exit-at-end", "-f", "%p %o\\n"];
    let consumed = cluster.cli(&consume).await.expect(0);
    let records = TOPIC_BYTES * times / RECORD_BYTES as u64;
    assert_eq!(consumed.text().lines().count() as u64, records);
}
