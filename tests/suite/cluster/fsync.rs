//! A record is acknowledged only after two nodes have it on disk, as the system calls tell.

use std::ffi::OsStr;
use std::fs;
use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::harness::strace::{self, Attached};
use crate::harness::{Cluster, raw};

const TOPIC: &str = "orders";

/// A trace of a node's syncs.
struct Trace {
    strace: Attached,
    file: PathBuf,
}

impl Trace {
    async fn of(pid: u32, file: PathBuf) -> Trace {
        let calls = ["-ttt", "-T", "-e", "trace=fdatasync,fsync,sync_file_range,msync", "-o"];
        let strace = Attached::to(pid, calls.map(OsStr::new).into_iter().chain([file.as_os_str()])).await;
        Trace { strace, file }
    }

    /// Detaches; gives when each sync ended, seconds since 1970.
    fn syncs(self) -> Vec<f64> {
        self.strace.detach();
        ends_of_syncs(&fs::read_to_string(&self.file).unwrap_or_default())
    }
}

/// When each successful `fdatasync` or `fsync` of a trace returned. A call that another thread's line cuts in two is in the trace as
/// `<unfinished ...>` and `<... fdatasync resumed>`; the time of the latter is that of its end.
fn ends_of_syncs(trace: &str) -> Vec<f64> {
    let mut ends = Vec::new();
    for line in trace.lines() {
        // The process id, padded with spaces; the time; the call.
        let timed = line
            .split_once(' ')
            .and_then(|(_, rest)| rest.trim_start().split_once(' '));
        let Some((at, call)) = timed.and_then(|(at, call)| Some((at.parse::<f64>().ok()?, call))) else {
            continue;
        };
        let is_sync = call.starts_with("fdatasync(") || call.starts_with("fsync(");
        let is_resumed = call.starts_with("<... fdatasync resumed>") || call.starts_with("<... fsync resumed>");
        if !(is_sync || is_resumed) || !call.contains("= 0 <") {
            continue;
        }
        let took = call
            .rsplit_once('<')
            .and_then(|(_, took)| took.strip_suffix('>')?.parse::<f64>().ok());
        ends.push(if is_resumed {
            at
        } else {
            at + took.expect("-T tells the time")
        });
    }
    ends
}

fn now() -> f64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("it is after 1970");
    now.as_secs_f64()
}

#[test]
fn a_trace_is_read() {
    let trace = "7    1.500000 fdatasync(9) = 0 <0.250000>\n\
                 8 2.000000 fdatasync(9 <unfinished ...>\n\
                 8    2.125000 <... fdatasync resumed>) = 0 <0.125000>\n\
                 8 3.000000 fdatasync(9) = -1 EIO (Input/output error) <0.000010>\n\
                 8 4.000000 sync_file_range(9, 0, 1, SYNC_FILE_RANGE_WRITE) = 0 <0.000010>\n";
    assert_eq!(ends_of_syncs(trace), [1.75, 2.125]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_nodes_have_synced_before_the_acknowledgement() {
    let mut cluster = Cluster::start(3).await;
    if let Err(why) = strace::works_in(&cluster.folder()) {
        println!("skipped: strace does not work here: {why}");
        return;
    }
    cluster.create_topic(TOPIC, 1, 3).await;
    let leader = cluster.leader(TOPIC, 0).await;
    // With one follower down, the majority is the other two, and nobody's sync can be left out.
    let down = cluster
        .ids()
        .into_iter()
        .find(|id| *id != leader)
        .expect("there are three");
    cluster.kill(down);
    let up: Vec<u32> = cluster.ids().into_iter().filter(|id| *id != down).collect();
    let leader = cluster.leader(TOPIC, 0).await;
    let mut log = raw::log(&cluster.node(leader).addresses.public).await;
    raw::produce(&mut log, raw::partition(TOPIC, 0), raw::batch(None, &[b"first"]))
        .await
        .expect("it is written");

    let mut traces = Vec::new();
    for id in up {
        traces.push((
            id,
            Trace::of(cluster.node(id).pid(), cluster.folder().join(format!("trace-{id}"))).await,
        ));
    }
    let mut between = Vec::new();
    for _ in 0..10 {
        // Syncs of the record before, which may still go on, are not to be counted for this one.
        tokio::time::sleep(Duration::from_millis(200)).await;
        let sent = now();
        raw::produce(&mut log, raw::partition(TOPIC, 0), raw::batch(None, &[b"traced"]))
            .await
            .expect("it is written");
        between.push((sent, now()));
    }
    for (id, trace) in traces {
        let syncs = trace.syncs();
        println!("node {id}: {} syncs", syncs.len());
        for (sent, acknowledged) in &between {
            let within = syncs.iter().any(|at| sent < at && at < acknowledged);
            assert!(
                within,
                "node {id} has not synced between {sent} and {acknowledged}: {syncs:?}"
            );
        }
    }
}
