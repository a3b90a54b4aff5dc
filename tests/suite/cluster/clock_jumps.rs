//! A broker whose wall clock is wrong deletes nothing.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use jangada_types::{BatchBuilder, Codec};

use crate::harness::raw::{self, Producer};
use crate::harness::{Cluster, Options, WAIT, eventually, is_long};

const TOPIC: &str = "orders";
/// A topic whose records are older than its retention: they are deleted as soon as the leader may delete by time.
const PROBE: &str = "old";
const EIGHT_DAYS_MS: &str = "691200000";
const EIGHT_DAYS_BACK_MS: &str = "-691200000";
/// How long a clock must be steady here; it is wrong for longer.
const STEADY: Duration = Duration::from_millis(1_500);

const STEPPED: &str = "the wall clock stepped; nothing is deleted or forgotten";
const DIFFERS: &str = "differs from those of most others";
const AGREES: &str = "agrees with those of the other brokers again";

fn options(steady: Duration) -> Options {
    Options {
        sections: format!(
            "[retention]\ncheck_interval_ms = 100\nsteady_clock_ms = {}\n[produce]\nproducer_expiration_ms = 86400000\n",
            steady.as_millis()
        ),
        stopped: true,
        ..Options::default()
    }
}

/// Starts all nodes, each with a clock that a file of its own sets off.
async fn start(nodes: u32, steady: Duration) -> (Cluster, impl Fn(u32) -> PathBuf) {
    let mut cluster = Cluster::start_with(nodes, options(steady)).await;
    let folder = cluster.folder();
    let file = move |id: u32| folder.join(format!("clock-{id}"));
    for id in cluster.ids() {
        let path = file(id);
        let path = path.to_str().expect("the folder's name is text").to_owned();
        cluster.restart_with(id, &[("JANGADA_CLOCK_OFFSET_FILE", &path)]);
    }
    cluster.healthy().await;
    cluster.create_topic(TOPIC, 1, nodes).await;
    (cluster, file)
}

/// Waits until a node has logged these words so many times.
async fn said(cluster: &Cluster, id: u32, words: &str, times: usize) {
    eventually(words, WAIT, || {
        let said = cluster.node(id).log().matches(words).count() >= times;
        async move { said.then_some(()) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_whose_clock_differs_by_days_from_the_others_deletes_and_forgets_nothing() {
    let (cluster, file) = start(3, STEADY).await;
    let leader = cluster.leader(TOPIC, 0).await;
    let mut log = raw::log(&cluster.node(leader).addresses.public).await;
    let producer = raw::new_producer(&mut log).await;
    let batch = |sequence| raw::batch(Some(Producer { sequence, ..producer }), &[b"kept"]);
    let mut sequence = 0;
    for (round, offset_ms) in (1..).zip([EIGHT_DAYS_MS, EIGHT_DAYS_BACK_MS]) {
        raw::produce(&mut log, raw::partition(TOPIC, 0), batch(sequence))
            .await
            .expect("it is written");
        sequence += 1;
        // Until now it could delete.
        tokio::time::sleep(STEADY).await;
        std::fs::write(file(leader), offset_ms).expect("the folder is writable");
        said(&cluster, leader, STEPPED, 2 * round - 1).await;
        let since = Instant::now();
        while since.elapsed() < 2 * STEADY {
            let written = raw::produce(&mut log, raw::partition(TOPIC, 0), batch(sequence)).await;
            let written = written.expect("its producer is known, and its time is no further from theirs");
            assert_eq!(
                (written.base_offset, written.log_start_offset),
                (i64::from(sequence), 0)
            );
            sequence += 1;
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        assert_eq!(cluster.leader(TOPIC, 0).await, leader);
        assert_eq!(cluster.log_start(TOPIC, 0).await, 0);
        said(&cluster, leader, DIFFERS, round).await;
        std::fs::remove_file(file(leader)).expect("it was written");
        said(&cluster, leader, AGREES, round).await;
        tokio::time::sleep(STEADY).await;
        assert_eq!(cluster.log_start(TOPIC, 0).await, 0);
    }
}

/// One record that is older than a topic keeps.
async fn write_old(log: &mut raw::Log) {
    let mut builder = BatchBuilder::new(Codec::None);
    let nine_days_ms = 9 * 24 * 60 * 60 * 1_000;
    builder
        .append(raw::now_ms() - nine_days_ms, None, Some(b"old"), [])
        .expect("small");
    raw::produce(log, raw::partition(PROBE, 0), builder.build())
        .await
        .expect("it is written");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_is_alone_and_days_off_for_a_moment_deletes_and_forgets_nothing() {
    // No hour here: longer than the clock is off, as it is by default.
    let (steady, off) = match is_long() {
        true => (Duration::from_secs(30), Duration::from_secs(12)),
        false => (Duration::from_secs(5), Duration::from_secs(1)),
    };
    let (cluster, file) = start(1, steady).await;
    cluster.create_topic(PROBE, 1, 1).await;
    let mut log = raw::log(&cluster.brokers()[0]).await;
    let producer = raw::new_producer(&mut log).await;
    let young = |sequence| raw::batch(Some(Producer { sequence, ..producer }), &[b"kept"]);
    let mut write_young = async |sequence| raw::produce(&mut log, raw::partition(TOPIC, 0), young(sequence)).await;
    write_young(0).await.expect("it is written");
    let mut log = raw::log(&cluster.brokers()[0]).await;
    write_old(&mut log).await;
    let deletes_before = async |offset: i64| {
        eventually("old records are deleted", WAIT, || async {
            (cluster.log_start(PROBE, 0).await == offset).then_some(())
        })
        .await;
    };
    deletes_before(1).await;

    let (set_off, set_right) = (
        |offset_ms| std::fs::write(file(1), offset_ms).expect("the folder is writable"),
        || std::fs::remove_file(file(1)).expect("it was written"),
    );
    let kept = async || {
        let starts = (cluster.log_start(TOPIC, 0).await, cluster.log_start(PROBE, 0).await);
        assert_eq!(starts, (0, 1), "nothing was deleted");
    };
    set_off(EIGHT_DAYS_MS);
    said(&cluster, 1, STEPPED, 1).await;
    write_old(&mut log).await;
    let written = write_young(1).await.expect("its producer is not forgotten");
    assert_eq!((written.base_offset, written.duplicate), (1, false));
    tokio::time::sleep(off).await;
    kept().await;
    set_right();
    said(&cluster, 1, STEPPED, 2).await;
    kept().await;

    set_off(EIGHT_DAYS_BACK_MS);
    said(&cluster, 1, STEPPED, 3).await;
    let refused = write_young(2).await;
    raw::assert_refused(
        refused,
        "INVALID_TIMESTAMP",
        &["message.timestamp.after.max.ms", "clock"],
    );
    tokio::time::sleep(off).await;
    kept().await;
    set_right();
    said(&cluster, 1, STEPPED, 4).await;
    kept().await;
    assert!(write_young(1).await.expect("it is known").duplicate);
    let written = write_young(2).await.expect("its producer is not forgotten");
    assert_eq!(written.base_offset, 2);

    // When the clock has been right for long enough, what is old goes, and nothing else.
    deletes_before(2).await;
    assert_eq!(cluster.log_start(TOPIC, 0).await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_is_alone_deletes_by_its_clock_when_that_was_steady() {
    let (cluster, file) = start(1, STEADY).await;
    let mut log = raw::log(&cluster.brokers()[0]).await;
    raw::produce(
        &mut log,
        raw::partition(TOPIC, 0),
        raw::batch(None, &[b"kept for a week"]),
    )
    .await
    .expect("it is written");
    tokio::time::sleep(STEADY).await;
    assert_eq!(cluster.log_start(TOPIC, 0).await, 0);
    let jumped = Instant::now();
    std::fs::write(file(1), EIGHT_DAYS_MS).expect("the folder is writable");
    eventually("the record is deleted", WAIT, || async {
        (cluster.log_start(TOPIC, 0).await == 1).then_some(())
    })
    .await;
    assert!(jumped.elapsed() >= STEADY, "after {:?}", jumped.elapsed());
}
