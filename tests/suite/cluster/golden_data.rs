//! A data directory that an earlier build wrote must be read by every later one: `tests/golden/data/v1.tar.gz`.
//!
//! It is that of a single broker that was killed, so that part of it is only in the write-ahead log: topic `golden` with two
//! partitions, the lines of [`LINES`] on partition 0 (zstd), [`TRIMMED`] of them dropped, one line on partition 1. [`record`]
//! makes it anew, when the format changes on purpose: `JANGADA_BLESS=1 make test FILTER=golden_data`.

use std::path::PathBuf;
use std::process::Command;

use jangada_proto::internal::internal_service_client::InternalServiceClient;
use jangada_proto::internal::{JoinRequest, Member};
use jangada_proto::v1::admin_service_client::AdminServiceClient;
use jangada_proto::v1::produce_request::Payload;
use jangada_proto::v1::{AlterTopicRequest, ProduceRequest, ProduceResponse};
use tonic::Status;

use crate::harness::{Cluster, Options, WAIT, eventually, raw};

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
    new_commands_wait_for_every_broker(&cluster).await;
}

/// The data is of a cluster at feature level 1. A broker of another level joins it, which exists only as far as it says so.
async fn join(cluster: &Cluster, feature_level: u32) {
    let address = format!("http://{}", cluster.node(1).addresses.internal);
    let mut broker = InternalServiceClient::connect(address).await.expect("it listens");
    let request = JoinRequest {
        cluster_id: String::new(),
        member: Some(Member {
            broker_id: 2,
            internal_address: "127.0.0.1:1".to_owned(),
            address: "127.0.0.1:2".to_owned(),
            directory_id: vec![2; 16].into(),
            feature_level,
            ..Member::default()
        }),
        protocol_min: 1,
        protocol_max: 1,
    };
    broker.join(request).await.expect("it is let in");
}

async fn append_at(log: &mut raw::Log, offset: i64) -> Result<ProduceResponse, Status> {
    let request = ProduceRequest {
        partition: Some(raw::partition("golden", 1)),
        payload: Some(Payload::Batch(raw::batch(None, &[b"conditional"]))),
        expected_end_offset: Some(offset),
        ..ProduceRequest::default()
    };
    log.produce(request).await.map(tonic::Response::into_inner)
}

/// A replica of an older build would stop at a command that it does not know, for good.
async fn new_commands_wait_for_every_broker(cluster: &Cluster) {
    let mut log = raw::log(&cluster.node(1).addresses.public).await;
    join(cluster, 2).await;
    let end = raw::end(&mut log, raw::partition("golden", 1)).await.expect("it leads");
    let refused = append_at(&mut log, end).await;
    let status = raw::assert_refused(refused, "NOT_READY", &["broker 2", "feature level 2", "upgrade"]);
    assert_eq!(raw::detail(&status, "definite").as_deref(), Some("true"));
    // Past the client, which would ask the other one, too.
    let address = format!("http://{}", cluster.node(1).addresses.public);
    let mut admin = AdminServiceClient::connect(address).await.expect("it listens");
    let set = AlterTopicRequest {
        name: "golden".to_owned(),
        set: [("key.index.enable".to_owned(), "true".to_owned())].into(),
        unset: Vec::new(),
    };
    let refused = admin.alter_topic(set.clone()).await;
    raw::assert_refused(refused, "NOT_READY", &["broker 2", "upgrade"]);
    // Without a condition nothing has changed.
    let batch = raw::batch(None, &[b"plain"]);
    let plain = raw::produce(&mut log, raw::partition("golden", 1), batch).await;
    assert_eq!(plain.expect("it is appended").base_offset, end);

    join(cluster, 3).await;
    let appended = eventually("all brokers are new enough", WAIT, || {
        let mut log = log.clone();
        async move { append_at(&mut log, end + 1).await.ok() }
    });
    assert_eq!(appended.await.base_offset, end + 1);
    admin.alter_topic(set).await.expect("every broker knows it");
}
