//! A record is acknowledged only after two nodes have it on disk, as the system calls tell: its bytes were written to the write-ahead
//! log, and then that very file was synced.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::harness::strace::{self, Attached};
use crate::harness::{Cluster, raw, skipped};

const TOPIC: &str = "orders";

/// The files of the write-ahead log: in this folder of a node's data, and with this end.
const WAL_FOLDER: &str = "/store/rocksdb/";
const WAL_END: &str = ".log";

const WRITES: [&str; 5] = ["write", "pwrite64", "writev", "pwritev", "pwritev2"];
const SYNCS: [&str; 2] = ["fdatasync", "fsync"];

/// Each sync takes this much longer, in microseconds: an answer that does not wait for it is far ahead of it.
const SLOW: &str = "inject=fdatasync,fsync:delay_enter=50000";

/// More bytes than are written to the log at once here: the trace cuts longer ones.
const SHOWN_BYTES: &str = "65536";

/// A trace of a node's writes and syncs.
struct Trace {
    strace: Attached,
    file: PathBuf,
}

impl Trace {
    async fn of(pid: u32, file: PathBuf) -> Trace {
        let calls = format!("trace={},{}", WRITES.join(","), SYNCS.join(","));
        let options = ["-ttt", "-T", "-y", "-s", SHOWN_BYTES, "-e", &calls, "-e", SLOW, "-o"];
        let options = options.map(OsStr::new).into_iter().chain([file.as_os_str()]);
        let strace = Attached::to(pid, options).await;
        Trace { strace, file }
    }

    /// Detaches; returns the calls that were traced.
    fn calls(self) -> Vec<Call> {
        self.strace.detach();
        calls(&fs::read_to_string(&self.file).expect("strace has written it"))
    }
}

/// A system call on a file that succeeded. Times are seconds since 1970.
struct Call {
    name: String,
    file: String,
    /// The arguments behind the file, as in the trace.
    arguments: String,
    begun: f64,
    ended: f64,
}

impl Call {
    /// From `write(17</path>, "...", 5) = 5 <0.000043>`. `None`: it failed, or is about no file.
    fn parse(begun: f64, text: &str) -> Option<Call> {
        let (call, outcome) = text.rsplit_once(" = ")?;
        let (name, arguments) = call.split_once('(')?;
        let (descriptor, rest) = arguments.split_once('<')?;
        descriptor.parse::<u32>().ok()?;
        let (file, arguments) = rest.split_once('>')?;
        let result = outcome.split_whitespace().next()?.parse::<i64>().ok()?;
        let took = outcome.rsplit_once('<')?.1.strip_suffix('>')?.parse::<f64>().ok()?;
        (result >= 0).then(|| Call {
            name: name.to_owned(),
            file: file.to_owned(),
            arguments: arguments.to_owned(),
            begun,
            ended: begun + took,
        })
    }

    fn writes_to_the_wal(&self, text: &str) -> bool {
        let is_wal = self.file.contains(WAL_FOLDER) && self.file.ends_with(WAL_END);
        is_wal && WRITES.contains(&self.name.as_str()) && self.arguments.contains(text)
    }

    /// Whether this call began when the other was over, and is about the same file.
    fn syncs(&self, write: &Call) -> bool {
        SYNCS.contains(&self.name.as_str()) && self.file == write.file && self.begun >= write.ended
    }
}

/// The calls of a trace. One that another thread's line cuts in two is in it as `<unfinished ...>` and `<... fdatasync resumed>`.
fn calls(trace: &str) -> Vec<Call> {
    let mut unfinished = BTreeMap::new();
    let mut calls = Vec::new();
    for (thread, at, text) in trace.lines().filter_map(parts_of) {
        if let Some(beginning) = text.strip_suffix(" <unfinished ...>") {
            unfinished.insert(thread, (at, beginning));
        } else if let Some((_, rest)) = text.strip_prefix("<... ").and_then(|text| text.split_once(" resumed>")) {
            let whole = unfinished.remove(thread);
            calls.extend(whole.and_then(|(begun, beginning)| Call::parse(begun, &format!("{beginning}{rest}"))));
        } else {
            calls.extend(Call::parse(at, text));
        }
    }
    calls
}

/// The thread's id, which is padded with spaces; the time; the call.
fn parts_of(line: &str) -> Option<(&str, f64, &str)> {
    let (thread, rest) = line.split_once(' ')?;
    let (at, text) = rest.trim_start().split_once(' ')?;
    Some((thread, at.parse().ok()?, text))
}

/// When a record was on disk: the end of the first sync of the log's file that began when the record had been written to it.
fn on_disk(calls: &[Call], record: &str) -> Option<f64> {
    let write = calls.iter().find(|call| call.writes_to_the_wal(record))?;
    let syncs = calls.iter().filter(|call| call.syncs(write));
    syncs.map(|sync| sync.ended).min_by(f64::total_cmp)
}

fn now() -> f64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("it is after 1970");
    now.as_secs_f64()
}

#[test]
fn only_a_sync_after_the_write_and_of_its_file_counts() {
    let write = "7    1.000000 write(9</d/store/rocksdb/000004.log>, \"\\0\\2record 1; \"..., 12) = 12 <0.250000>";
    let begun = "7 1.000000 write(9</d/store/rocksdb/000004.log>, \"record 1; \", 10 <unfinished ...>";
    let ended = "7 1.250000 <... write resumed>)        = 10 <0.250000>";
    let sync = "7 1.500000 fdatasync(9</d/store/rocksdb/000004.log>) = 0 (DELAYED) <0.250000>";
    let seen = |lines: &[&str]| on_disk(&calls(&lines.join("\n")), "record 1; ");

    assert_eq!(seen(&[write, sync]), Some(1.75));
    assert_eq!(
        seen(&[begun, "8 1.125000 write(3</x>, \"\", 0) = 0 <0.125000>", ended, sync]),
        Some(1.75)
    );
    let cut = [
        write,
        "8 2.000000 fsync(9</d/store/rocksdb/000004.log> <unfinished ...>",
        "7 2.062500 fdatasync(9</d/store/rocksdb/000004.log> <unfinished ...>",
        "8 2.125000 <... fsync resumed>) = 0 <0.125000>",
    ];
    assert_eq!(seen(&cut), Some(2.125));

    let of_another_record = write.replace("record 1", "record 2");
    let of_another_file = sync.replace("rocksdb/000004.log", "commit-mark");
    let elsewhere = write.replace("rocksdb/000004.log", "commit-mark");
    let before = sync.replace("1.500000", "0.500000");
    let during = sync.replace("1.500000", "1.125000");
    let failed = sync.replace("= 0 (DELAYED)", "= -1 EIO (Input/output error)");
    for lines in [
        [write, &of_another_file],
        [write, &before],
        [write, &during],
        [write, &failed],
        [&of_another_record, sync],
        [&elsewhere, sync],
        [begun, sync],
    ] {
        assert_eq!(seen(&lines), None, "{lines:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_nodes_have_synced_before_the_acknowledgement() {
    let mut cluster = Cluster::start(3).await;
    if let Err(why) = strace::works_in(&cluster.folder()) {
        return skipped("two_nodes_have_synced_before_the_acknowledgement", &why);
    }
    cluster.create_topic(TOPIC, 1, 3).await;
    let leader = cluster.leader(TOPIC, 0).await;
    // With one follower down, the majority is the other two, and neither of them can skip its sync.
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
    let mut acknowledged = Vec::new();
    for number in 0..10 {
        let record = format!("record {number}; ");
        // Twice: the log has blocks, and the border of two may cut one of them.
        let batch = raw::batch(None, &[record.repeat(2).as_bytes()]);
        raw::produce(&mut log, raw::partition(TOPIC, 0), batch)
            .await
            .expect("it is written");
        acknowledged.push((record, now()));
    }
    for (id, trace) in traces {
        let calls = trace.calls();
        println!("node {id}: {} writes and syncs", calls.len());
        for (record, acknowledged) in &acknowledged {
            let on_disk = on_disk(&calls, record);
            assert!(
                on_disk.is_some_and(|at| at < *acknowledged),
                "{record}acknowledged at {acknowledged}, on the disk of node {id} at {on_disk:?}"
            );
        }
    }
}
