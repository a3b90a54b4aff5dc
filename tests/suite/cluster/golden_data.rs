//! A data directory that an earlier build wrote must be read by every later one: `tests/golden/data/v1.tar.gz`.
//!
//! It is that of a single broker that was killed, so that part of it is only in the write-ahead log: topic `golden` with two
//! partitions, the lines of [`LINES`] on partition 0 (zstd), [`TRIMMED`] of them dropped, one line on partition 1. [`record`]
//! makes it anew, when the format changes on purpose: `JANGADA_BLESS=1 make test FILTER=golden_data`.

use std::path::PathBuf;
use std::process::Command;

use crate::harness::{Cluster, Options};

const LINES: usize = 500;
const TRIMMED: usize = 7;

fn archive() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("golden/data/v1.tar.gz")
}

fn lines(from: usize) -> String {
    (from..LINES).map(|i| format!("golden line {i}\n")).collect()
}

fn tar(arguments: &[&str]) {
    let status = Command::new("tar").args(arguments).status().expect("tar runs");
    assert!(status.success(), "tar {arguments:?}");
}

async fn stopped() -> Cluster {
    let options = Options {
        stopped: true,
        ..Options::default()
    };
    Cluster::start_with(1, options).await
}

/// Writes the archive when told to.
async fn record() {
    let mut cluster = stopped().await;
    cluster.restart(1);
    cluster.healthy().await;
    cluster.create_topic("golden", 2, 1).await;
    // Into named partitions, so that what each holds is known.
    let produce = |partition: &'static str, text: String| {
        let cluster = &cluster;
        async move {
            let args = ["produce", "golden", "--compression", "zstd", "--partition", partition];
            cluster.cli_with(&args, text.into_bytes()).await.expect(0);
        }
    };
    produce("0", lines(0)).await;
    produce("1", "alone\n".to_owned()).await;
    let before = TRIMMED.to_string();
    cluster
        .cli(&["topic", "trim", "golden", "--partition", "0", "--before", &before])
        .await
        .expect(0);
    cluster.kill(1);
    let data = cluster.node(1).data();
    std::fs::create_dir_all(archive().parent().expect("the archive has a folder")).expect("the tree is writable");
    tar(&[
        "-czf",
        &archive().to_string_lossy(),
        "-C",
        &data.to_string_lossy(),
        "--exclude=LOG*",
        "--exclude=LOCK",
        ".",
    ]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_earlier_builds_data_is_read() {
    if std::env::var_os("JANGADA_BLESS").is_some() {
        record().await;
    }
    let mut cluster = stopped().await;
    let data = cluster.node(1).data();
    std::fs::create_dir_all(&data).expect("the temporary folder is writable");
    tar(&["-xzf", &archive().to_string_lossy(), "-C", &data.to_string_lossy()]);
    cluster.restart(1);
    cluster.ready(1).await;
    cluster.healthy().await;
    let consume = |partition: &'static str| {
        let cluster = &cluster;
        async move {
            let args = ["consume", "golden", "--partition", partition, "--exit-at-end"];
            cluster.cli(&args).await.expect(0).text()
        }
    };
    assert_eq!(consume("0").await, lines(TRIMMED));
    assert_eq!(consume("1").await, "alone\n");
    // And it goes on from there.
    cluster
        .cli_with(&["produce", "golden"], b"after\n".to_vec())
        .await
        .expect(0);
    let all = consume("0").await + &consume("1").await;
    assert!(all.contains("after\n"), "{all}");
}
