//! `/metrics` as a monitoring system sees it: series that move under load, the lag of groups, and bounds on the number
//! of series.

use std::time::{Duration, Instant};

use jangada_proto::v1::{CommitOffsetsRequest, DeleteGroupRequest};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::groups::{coordinator, topic_id};
use crate::harness::groups::offsets;
use crate::harness::{Cluster, Options, Scrape, WAIT, eventually, raw};

const TOPIC: &str = "orders";
const GROUP: &str = "billing";
/// A short interval, so that a test need not wait for long.
const LAG_SOON: &str = "[metrics]\ngroup_lag_interval_ms = 500\n";

/// Writes `records` records to each partition, in one batch each; returns the bytes of these batches.
async fn write(cluster: &Cluster, topic: &str, partitions: u32, records: usize) -> usize {
    let mut bytes = 0;
    for partition in 0..partitions {
        let leader = cluster.leader(topic, partition).await;
        let mut log = raw::log(&cluster.node(leader).addresses.public).await;
        let batch = raw::batch(None, &vec![&b"some record"[..]; records]);
        bytes += batch.len();
        let written = raw::produce(&mut log, raw::partition(topic, partition), batch).await;
        written.expect("the leader takes it");
    }
    bytes
}

async fn commit(cluster: &Cluster, group: &str, topic: &str, rows: impl IntoIterator<Item = (u32, i64)>) {
    let topic = topic_id(cluster, topic).await;
    let commit = CommitOffsetsRequest {
        group: group.to_owned(),
        offsets: offsets(&topic, rows),
        ..CommitOffsetsRequest::default()
    };
    let committed = coordinator(cluster, group).commit(commit).await;
    committed.expect("a group without members takes it");
}

/// The sum over all nodes; none if no node has the series.
async fn sum(cluster: &Cluster, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
    let mut sum = None;
    for id in cluster.ids() {
        if let Some(more) = Scrape::of(cluster, id).await.sum(name, labels) {
            sum = Some(sum.unwrap_or(0.0) + more);
        }
    }
    sum
}

async fn becomes(cluster: &Cluster, name: &str, labels: &[(&str, &str)], wanted: Option<f64>) {
    let what = format!("{name} {labels:?} becomes {wanted:?}");
    eventually(&what, WAIT, || async {
        (sum(cluster, name, labels).await == wanted).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn records_move_the_counters_and_histograms_of_their_leaders() {
    let cluster = Cluster::start(3).await;
    cluster.create_topic(TOPIC, 3, 3).await;
    let mut bytes = 0;
    for _ in 0..4 {
        bytes += write(&cluster, TOPIC, 3, 10).await;
    }
    let run = cluster.cli(&["consume", TOPIC, "--exit-at-end"]).await;
    assert_eq!(run.code, Some(0), "{run:?}");
    for (name, wanted) in [
        ("jangada_produced_records_total", 120),
        ("jangada_produced_batches_total", 12),
        ("jangada_produced_bytes_total", bytes),
        ("jangada_topic_produced_records_total", 120),
        ("jangada_topic_produced_bytes_total", bytes),
        ("jangada_fetched_bytes_total", bytes),
        ("jangada_topic_fetched_bytes_total", bytes),
        ("jangada_produce_duration_seconds_count", 12),
    ] {
        assert_eq!(sum(&cluster, name, &[]).await, Some(wanted as f64), "{name}");
    }
    // Three replicas of each partition have it.
    let topic = [("topic", TOPIC)];
    becomes(&cluster, "jangada_topic_size_bytes", &topic, Some(3.0 * bytes as f64)).await;
    let produced = [("method", "LogService/Produce"), ("outcome", "OK")];
    assert_eq!(sum(&cluster, "jangada_requests_total", &produced).await, Some(12.0));

    let leader = cluster.leader(TOPIC, 0).await;
    let scrape = Scrape::of(&cluster, leader).await;
    for histogram in [
        "jangada_produce_duration_seconds",
        "jangada_fetch_duration_seconds",
        "jangada_raft_commit_duration_seconds",
        "jangada_raft_apply_duration_seconds",
        "jangada_store_sync_duration_seconds",
        "jangada_store_write_duration_seconds",
    ] {
        let count = scrape.value(&format!("{histogram}_count"), &[]);
        let sum = scrape.value(&format!("{histogram}_sum"), &[]);
        assert!(
            count > 0.0 && sum > 0.0 && sum < 60.0,
            "{histogram}: {count} took {sum} s"
        );
        let buckets = scrape.buckets(histogram);
        assert!(
            buckets.is_sorted_by(|a, b| a.0 < b.0 && a.1 <= b.1),
            "{histogram}: {buckets:?}"
        );
        assert!(
            buckets[0].0 < 0.001 && buckets[buckets.len() - 2].0 > 10.0,
            "{buckets:?}"
        );
        assert_eq!(*buckets.last().expect("there are buckets"), (f64::INFINITY, count));
    }
    let mut log = raw::log(&cluster.node(leader).addresses.public).await;
    let refused = raw::produce(&mut log, raw::partition("none", 0), raw::batch(None, &[b"x"]));
    refused.await.expect_err("there is no such topic");
    let scrape = Scrape::of(&cluster, leader).await;
    let unknown = [("method", "LogService/Produce"), ("outcome", "UNKNOWN_TOPIC")];
    assert_eq!(scrape.value("jangada_requests_total", &unknown), 1.0);
    assert_eq!(
        scrape.value("jangada_request_errors_total", &[("reason", "UNKNOWN_TOPIC")]),
        1.0
    );
    // Reasons that did not occur have series, too: Prometheus sees no increase in a series that begins with 1.
    assert_eq!(
        scrape.value("jangada_request_errors_total", &[("reason", "DISK_FULL")]),
        0.0
    );
    let node = cluster.node(leader);
    let memory = scrape.value("process_resident_memory_bytes", &[]);
    let really = node.memory("VmRSS") as f64;
    assert!((memory / really - 1.0).abs() < 0.5, "{memory} and really {really}");
    assert!(scrape.value("process_open_fds", &[]) <= scrape.value("process_max_fds", &[]));
    let level = jangada_types::FEATURE_LEVEL.to_string();
    assert_eq!(scrape.value("jangada_build_info", &[("feature_level", &level)]), 1.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_scrape_has_the_form_that_was_asked_for() {
    let cluster = Cluster::start(1).await;
    let scrape = Scrape::of(&cluster, 1).await;
    let head = scrape.head.to_lowercase();
    assert!(head.contains("content-type: text/plain; version=0.0.4"), "{head}");
    assert_eq!(scrape.families["jangada_produced_bytes_total"], "counter");
    let http = &cluster.node(1).addresses.http;
    let mut stream = TcpStream::connect(http).await.expect("it listens");
    let accept = "application/openmetrics-text;version=1.0.0;q=0.8,text/plain;version=0.0.4;q=0.5,*/*;q=0.1";
    let request = format!("GET /metrics HTTP/1.1\r\nHost: {http}\r\nAccept: {accept}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.expect("it reads");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("it answers");
    let (head, text) = answer.split_once("\r\n\r\n").expect("the answer has a head");
    let head = head.to_lowercase();
    assert!(
        head.contains("content-type: application/openmetrics-text; version=1.0.0"),
        "{head}"
    );
    assert!(
        text.contains("# TYPE jangada_produced_bytes counter\n") && text.ends_with("# EOF\n"),
        "{text}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_lag_of_a_group_is_seen_wherever_its_partitions_are_led_and_goes_with_the_group() {
    let options = Options {
        sections: LAG_SOON.to_owned(),
        ..Options::default()
    };
    let mut cluster = Cluster::start_with(3, options).await;
    // Each partition has one replica, so two thirds of the ends are not on the coordinator's broker.
    cluster.create_topic(TOPIC, 6, 1).await;
    write(&cluster, TOPIC, 6, 10).await;
    let pair = [("group", GROUP), ("topic", TOPIC)];
    let lag = "jangada_group_lag_records";
    assert_eq!(sum(&cluster, lag, &pair).await, None, "there is no group yet");
    // The sixth was never committed.
    commit(&cluster, GROUP, TOPIC, (0..5).map(|partition| (partition, 4))).await;
    becomes(&cluster, lag, &pair, Some(5.0 * 6.0)).await;
    write(&cluster, TOPIC, 6, 7).await;
    becomes(&cluster, lag, &pair, Some(5.0 * 13.0)).await;
    // Records that are no longer there do not count.
    let run = cluster
        .cli(&["topic", "trim", TOPIC, "--before", "10", "--partition", "0"])
        .await;
    assert_eq!(run.code, Some(0), "{run:?}");
    becomes(&cluster, lag, &pair, Some(4.0 * 13.0 + 7.0)).await;
    commit(&cluster, GROUP, TOPIC, (0..5).map(|partition| (partition, 17))).await;
    becomes(&cluster, lag, &pair, Some(0.0)).await;
    assert_eq!(sum(&cluster, "jangada_group_lag_unknown", &[]).await, Some(0.0));

    // Another broker coordinates it.
    let (owner, _) = coordinator(&cluster, GROUP).find().await;
    cluster.stop(owner).await;
    let others: Vec<u32> = cluster.ids().into_iter().filter(|id| *id != owner).collect();
    eventually("another one finds it out", WAIT, || async {
        for id in &others {
            let scrape = Scrape::of(&cluster, *id).await;
            // A partition of one replica is down with the broker: its end is not known, so the lag is not either.
            if scrape.sum("jangada_group_lag_unknown", &[]) == Some(1.0) {
                assert_eq!(scrape.sum(lag, &pair), None, "{}", scrape.text);
                return Some(());
            }
        }
        None
    })
    .await;
    cluster.restart(owner);
    cluster.ready(owner).await;
    becomes(&cluster, lag, &pair, Some(0.0)).await;
    let mut calls = coordinator(&cluster, GROUP);
    let deleted = calls.call(|mut client| async move {
        let group = GROUP.to_owned();
        client.delete_group(DeleteGroupRequest { group }).await
    });
    deleted.await.expect("it has no members");
    becomes(&cluster, lag, &pair, None).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_topics_and_groups_have_few_series_and_nothing_is_left_out_of_the_sums() {
    let options = Options {
        sections: format!("{LAG_SOON}topics_max = 3\ngroup_series_max = 2\n"),
        ..Options::default()
    };
    let cluster = Cluster::start_with(1, options).await;
    let mut bytes = 0;
    for n in 0..8 {
        let topic = format!("topic-{n}");
        cluster.create_topic(&topic, 1, 1).await;
        bytes += write(&cluster, &topic, 1, 5).await;
        commit(&cluster, &format!("group-{n}"), &topic, [(0, 2)]).await;
    }
    let scrape = eventually("the lag of all groups is found out", WAIT, || async {
        let scrape = Scrape::of(&cluster, 1).await;
        (scrape.sum("jangada_group_lag_left_out", &[]) == Some(6.0)).then_some(scrape)
    })
    .await;
    assert_eq!(scrape.values_of("jangada_topic_size_bytes", "topic").len(), 4);
    assert_eq!(scrape.value("jangada_topics_left_out", &[]), 5.0);
    assert_eq!(scrape.value("jangada_topic_size_bytes", &[]), bytes as f64);
    let produced = scrape.value("jangada_topic_produced_records_total", &[("topic", "(others)")]);
    assert_eq!(
        (produced, scrape.value("jangada_topic_produced_records_total", &[])),
        (25.0, 40.0)
    );
    assert_eq!(scrape.values_of("jangada_group_lag_records", "group").len(), 3);
    assert_eq!(scrape.value("jangada_group_lag_records", &[]), 8.0 * 3.0);
    assert_eq!(
        scrape.value("jangada_group_lag_records", &[("group", "(others)")]),
        6.0 * 3.0
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_lacks_a_replica_or_a_leader_is_seen() {
    let mut cluster = Cluster::start(3).await;
    cluster.create_topic(TOPIC, 6, 3).await;
    write(&cluster, TOPIC, 6, 1).await;
    let under = "jangada_under_replicated_partitions";
    becomes(&cluster, under, &[], Some(0.0)).await;
    assert_eq!(sum(&cluster, "jangada_metadata_leader", &[]).await, Some(1.0));
    assert_eq!(Scrape::of(&cluster, 1).await.value("jangada_partitions", &[]), 6.0);
    cluster.kill(3);
    eventually("the others lead all, and miss its replicas", WAIT, || async {
        let (one, other) = (Scrape::of(&cluster, 1).await, Scrape::of(&cluster, 2).await);
        let dead = [&one, &other].map(|scrape| scrape.value("jangada_brokers", &[("state", "dead")]));
        let missing = one.value(under, &[]) + other.value(under, &[]);
        // The partitions, and the metadata.
        (dead == [1.0, 1.0] && missing == 7.0).then_some(())
    })
    .await;
    cluster.kill(2);
    eventually("no partition has a leader", WAIT, || async {
        let scrape = Scrape::of(&cluster, 1).await;
        let offline = scrape.value("jangada_partitions_offline", &[]);
        (offline == 6.0 && scrape.value("jangada_replicas_leaderless", &[]) == 7.0).then_some(())
    })
    .await;
    cluster.restart(2);
    cluster.restart(3);
    cluster.healthy().await;
    becomes(&cluster, under, &[], Some(0.0)).await;
    becomes(&cluster, "jangada_partitions_offline", &[], Some(0.0)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_scrape_of_300_partitions_is_fast() {
    let cluster = Cluster::start_alone(1).await;
    cluster.create_topic(TOPIC, 300, 1).await;
    let mut took = Vec::new();
    for _ in 0..5 {
        let began = Instant::now();
        let scrape = Scrape::of(&cluster, 1).await;
        took.push(began.elapsed());
        assert_eq!(scrape.value("jangada_replicas_leading", &[]), 301.0);
    }
    took.sort_unstable();
    println!("scrapes took {took:?}");
    // The median: the machine may be busy with something else.
    assert!(took[2] < Duration::from_millis(250), "{took:?}");
}
