//! What a pass of compaction costs: its speed, processor time, memory and writes, and what producers notice of it.
//!
//! 48 MiB of updates of 6,000 keys by default. `JANGADA_LONG=1` makes it 4 GiB of 1,000,000, which fill the default map once; the figures
//! are printed (`--nocapture`), and mean something on a machine that does nothing else.

use std::path::Path;
use std::time::{Duration, Instant};

use jangada_client::NewTopic;

use crate::harness::{Cluster, Options, Scrape, WAIT, eventually, is_long};

const PASS_TIMEOUT: Duration = Duration::from_secs(900);
/// A reclaiming of space that has written nothing for so long is over.
const QUIET: Duration = Duration::from_secs(3);
const QUIET_LONG: Duration = Duration::from_secs(40);
const RECORD_BYTES: u64 = 1_000;

/// What is written, and how.
struct Size {
    bytes: u64,
    keys: u64,
    /// Records a second, and how many, of the producer beside a pass.
    beside: (u64, u64),
}

fn size() -> Size {
    match is_long() {
        true => Size {
            bytes: 4 << 30,
            keys: 1_000_000,
            beside: (1_000, 60_000),
        },
        false => Size {
            bytes: 48 << 20,
            keys: 6_000,
            beside: (500, 750),
        },
    }
}

/// What a broker has used up to now.
struct Used {
    at: Instant,
    cpu: Duration,
    written_bytes: u64,
}

impl Used {
    fn of(cluster: &Cluster) -> Self {
        let node = cluster.node(1);
        let io = std::fs::read_to_string(format!("/proc/{}/io", node.pid())).expect("it runs");
        let line = io.lines().find_map(|line| line.strip_prefix("write_bytes: "));
        Self {
            at: Instant::now(),
            cpu: node.cpu(),
            written_bytes: line.expect("the kernel counts").parse().expect("a number"),
        }
    }
}

async fn create(cluster: &Cluster, name: &str) {
    cluster
        .create(NewTopic {
            config: [("min.cleanable.dirty.ratio".to_owned(), "0.2".to_owned())].into(),
            ..NewTopic::new(name, 1, 1)
        })
        .await;
}

async fn fill(cluster: &Cluster, topic: &str, size: &Size) {
    let (bytes, keys, record) = (size.bytes.to_string(), size.keys.to_string(), RECORD_BYTES.to_string());
    let args = [
        "bench",
        "produce",
        "--topic",
        topic,
        "--total-bytes",
        &bytes,
        "--keys",
        &keys,
    ];
    let args = [&args[..], &["--record-bytes", &record, "-o", "json"]].concat();
    cluster.cli(&args).await.expect(0);
}

/// The latency of a producer of another topic, milliseconds, of half of the records and of all but a hundredth.
async fn latency(cluster: &Cluster, (rate, samples): (u64, u64)) -> (f64, f64) {
    let (rate, samples) = (rate.to_string(), samples.to_string());
    let args = [
        "bench",
        "produce",
        "--topic",
        "beside",
        "--rate",
        &rate,
        "--samples",
        &samples,
        "-o",
        "json",
    ];
    let report = cluster.cli(&args).await.expect(0).json();
    let figure = |name: &str| report["latency"][name].as_f64().expect("it is measured");
    (figure("p50_ms"), figure("p99_ms"))
}

async fn passes(cluster: &Cluster) -> f64 {
    Scrape::of(cluster, 1)
        .await
        .value("jangada_compaction_passes_total", &[])
}

async fn begin(cluster: &Cluster, topic: &str) {
    let run = cluster
        .cli(&["topic", "alter", topic, "-c", "cleanup.policy=compact"])
        .await;
    run.expect(0);
    eventually("a pass begins", WAIT, || async {
        let scrape = Scrape::of(cluster, 1).await;
        let began = scrape.value("jangada_compaction_under_way", &[]) > 0.5;
        (began || passes(cluster).await > 0.5).then_some(())
    })
    .await;
}

async fn ended(cluster: &Cluster, before: f64) {
    eventually("the pass ends", PASS_TIMEOUT, || async {
        (passes(cluster).await > before + 0.5).then_some(())
    })
    .await;
}

/// Waits until the store has moved away what the pass has replaced.
async fn reclaimed(cluster: &Cluster) {
    let quiet = if is_long() { QUIET_LONG } else { QUIET };
    let (mut written, mut since) = (Used::of(cluster).written_bytes, Instant::now());
    eventually("the store is at rest", PASS_TIMEOUT, || {
        let now = Used::of(cluster).written_bytes;
        // Notes of the broker's own are small.
        if now > written + (1 << 20) {
            (written, since) = (now, Instant::now());
        }
        let is_quiet = since.elapsed() >= quiet;
        async move { is_quiet.then_some(()) }
    })
    .await;
}

fn bytes_below(path: &Path) -> u64 {
    let entries = std::fs::read_dir(path).into_iter().flatten().filter_map(Result::ok);
    let of = |entry: std::fs::DirEntry| match entry.metadata() {
        Ok(metadata) if metadata.is_dir() => bytes_below(&entry.path()),
        Ok(metadata) => metadata.len(),
        // Files of the store come and go.
        Err(_) => 0,
    };
    entries.map(of).sum()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pass_reads_each_byte_twice_and_producers_go_on_beside_it() {
    let size = size();
    let options = Options {
        plain_storage: true,
        alone: true,
        ..Options::default()
    };
    let cluster = Cluster::start_with(1, options).await;
    for name in ["alone", "shared", "beside"] {
        create(&cluster, name).await;
    }
    let (gib, mb) = (size.bytes as f64 / f64::from(1 << 30), size.bytes as f64 / 1e6);
    let node = cluster.node(1);

    fill(&cluster, "alone", &size).await;
    reclaimed(&cluster).await;
    let disk_before = bytes_below(&node.data());
    let memory_before = node.memory("VmRSS");
    std::fs::write(format!("/proc/{}/clear_refs", node.pid()), "5").expect("it is ours");
    let before = Used::of(&cluster);
    begin(&cluster, "alone").await;
    ended(&cluster, 0.0).await;
    let after = Used::of(&cluster);
    let seconds = (after.at - before.at).as_secs_f64();
    let scrape = Scrape::of(&cluster, 1).await;
    let figure = |name: &str| scrape.value(&format!("jangada_compaction_{name}"), &[]);
    let memory = node.memory("VmHWM").saturating_sub(memory_before);
    reclaimed(&cluster).await;
    let at_rest = Used::of(&cluster);
    let amplification = |used: &Used| (used.written_bytes - before.written_bytes) as f64 / size.bytes as f64;
    println!(
        "a pass over {mb:.0} MB of {} keys, at most {} MiB/s: {seconds:.1} s, {:.1} MB/s of what is cleaned, {:.2} CPU s/GiB, \
         {:.0} MiB more memory at its peak, read {:.0} MB, wrote {:.0} MB, {:.0} MB are left",
        size.keys,
        64,
        mb / seconds,
        (after.cpu - before.cpu).as_secs_f64() / gib,
        memory as f64 / f64::from(1 << 20),
        figure("read_bytes_total") / 1e6,
        figure("written_bytes_total") / 1e6,
        figure("stored_bytes") / 1e6,
    );
    println!(
        "bytes written to the disk for each byte cleaned: {:.2} when the pass ends, {:.2} when the store is at rest; on the disk {:.0} MB \
         before, {:.0} MB after",
        amplification(&after),
        amplification(&at_rest),
        disk_before as f64 / 1e6,
        bytes_below(&node.data()) as f64 / 1e6,
    );
    assert!(
        figure("read_bytes_total") <= 2.1 * size.bytes as f64,
        "each batch is learned, and cleaned"
    );
    let live = (size.keys * RECORD_BYTES) as f64;
    assert!(
        figure("stored_bytes") < 1.5 * live + 2e6,
        "of each key one record is left"
    );
    assert!(
        memory < 700 << 20,
        "a map of 128 MiB, a batch that is unpacked, and little else"
    );

    let without = latency(&cluster, size.beside).await;
    fill(&cluster, "shared", &size).await;
    let passes_before = passes(&cluster).await;
    begin(&cluster, "shared").await;
    let beside = latency(&cluster, size.beside).await;
    let still_runs = passes(&cluster).await < passes_before + 0.5;
    println!(
        "a producer of {} records a second of 1 KiB: p50 {:.2} ms and p99 {:.2} ms without a pass, \
         p50 {:.2} ms and p99 {:.2} ms beside one{}",
        size.beside.0,
        without.0,
        without.1,
        beside.0,
        beside.1,
        if still_runs { "" } else { " (which ended meanwhile)" },
    );
    ended(&cluster, passes_before).await;
}
