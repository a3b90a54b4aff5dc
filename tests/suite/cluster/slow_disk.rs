//! A leader whose disk is slower than its followers': they commit records that it has in memory only, so it must bound
//! those.

use std::ffi::OsStr;
use std::time::{Duration, Instant};

use tonic::Code;
use tonic_types::StatusExt as _;

use crate::harness::strace::{self, Attached};
use crate::harness::{Cluster, Options, WAIT, eventually, raw, skipped};

const TOPIC: &str = "orders";

/// The least values of the settings.
const SECTIONS: &str = "[limits]\nproduce_inflight_bytes_per_partition = 8388608\nproduce_inflight_bytes = 16777216\n
# The leader keeps its lease while each of its system calls is looked at.
[raft]\nelection_timeout_min_ms = 15000\nelection_timeout_max_ms = 20000\n";
const QUEUE_BYTES_MAX: usize = 16_777_216;

const VALUE_BYTES: usize = 1_000_000;
/// Four times as many bytes as may wait for the disk.
const SENT_MAX: usize = 64;
/// Bound of the growth of memory: the waiting bytes, once more in the transport and in buffers, and some for everything
/// else.
const GROWTH_BYTES_MAX: usize = 3 * QUEUE_BYTES_MAX;

/// Each sync takes this long, in microseconds: longer than all batches take to be sent.
const SLOW: &str = "inject=fdatasync:delay_enter=20000000";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_waits_for_a_slow_disk_is_bounded() {
    let options = Options {
        alone: true,
        sections: SECTIONS.to_owned(),
        ..Options::default()
    };
    let cluster = Cluster::start_with(3, options).await;
    if let Err(why) = strace::works_in(&cluster.folder()) {
        return skipped("what_waits_for_a_slow_disk_is_bounded", &why);
    }
    cluster.create_topic(TOPIC, 1, 3).await;
    let leader = cluster.leader(TOPIC, 0).await;
    let pid = cluster.node(leader).pid();
    let mut log = raw::log(&cluster.node(leader).addresses.public).await;
    let value = vec![b'a'; VALUE_BYTES];
    let batch = raw::batch(None, &[&value]);
    raw::produce(&mut log, raw::partition(TOPIC, 0), batch.clone())
        .await
        .expect("it is written");

    let before = cluster.node(leader).memory("VmRSS");
    let slow = ["-e", "trace=fdatasync", "-e", SLOW, "-o", "/dev/null"];
    let slow = Attached::to(pid, slow.map(OsStr::new)).await;
    let began = Instant::now();
    let mut written = 1;
    let refused = loop {
        assert!(
            written < SENT_MAX,
            "nobody was told to wait: {written} batches were taken"
        );
        match raw::produce(&mut log, raw::partition(TOPIC, 0), batch.clone()).await {
            Ok(response) => {
                assert_eq!(response.base_offset, written as i64);
                written += 1;
            }
            refused => break refused,
        }
    };
    let status = raw::assert_refused(refused, "BROKER_BUSY", &["disk"]);
    println!(
        "{written} batches were taken within {:?}: {}",
        began.elapsed(),
        status.message()
    );
    assert_eq!(status.code(), Code::ResourceExhausted);
    assert_eq!(raw::detail(&status, "definite").as_deref(), Some("true"));
    let delay = status.get_details_retry_info().and_then(|info| info.retry_delay);
    assert!(delay.is_some_and(|delay| delay > Duration::ZERO), "{status:?}");
    assert!(written * VALUE_BYTES < 2 * QUEUE_BYTES_MAX, "{written} batches");
    let growth = cluster.node(leader).memory("VmRSS").saturating_sub(before);
    println!("the leader grew by {} MiB", growth >> 20);
    assert!(growth < GROWTH_BYTES_MAX, "{growth} bytes");
    // Reading goes on.
    assert_eq!(
        raw::end(&mut log, raw::partition(TOPIC, 0)).await.expect("it leads"),
        written as i64
    );

    slow.detach();
    eventually("the disk is quick, and batches are taken again", WAIT, || {
        let (mut log, batch) = (log.clone(), batch.clone());
        async move { raw::produce(&mut log, raw::partition(TOPIC, 0), batch).await.ok() }
    })
    .await;
    cluster.grown(TOPIC, 0, written as i64 + 1).await;
}
