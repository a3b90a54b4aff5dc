//! Data directories that earlier builds wrote must be read by every later one: `tests/golden/data/v*.tar.gz`.
//!
//! Each is that of a single broker that was killed, so that part of it is only in the write-ahead log. All have topic `golden` with two
//! partitions: the lines of [`LINES`] on partition 0 (zstd), [`TRIMMED`] of them dropped, and one line on partition 1. Beside that:
//!
//! - v1, a cluster at feature level 1: nothing.
//! - v2, at feature level 4: see [`record`]. It was stopped in order and started again before the end, so that of each thing some is in the
//!   saved states, and some only in the logs.
//!
//! When the format has changed on purpose, `JANGADA_BLESS=1 make test FILTER=golden_data` lets [`record`] add an archive under the next
//! number. Those that are there are never written again.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use jangada_client::{ClientError, Condition, NewTopic, ProducerConfig, ProducerRecord, RecordMetadata};
use jangada_proto::internal::internal_service_client::InternalServiceClient;
use jangada_proto::internal::{JoinRequest, JoinResponse, Member};
use jangada_proto::v1::admin_service_client::AdminServiceClient;
use jangada_proto::v1::produce_request::Payload;
use jangada_proto::v1::{AlterTopicRequest, ProduceRequest, ProduceResponse, RecordForm};
use jangada_types::BatchHeader;
use tonic::Status;

use crate::harness::{Cluster, Options, WAIT, eventually, raw};

const LINES: usize = 500;
const TRIMMED: usize = 7;
const CODECS: [&str; 5] = ["none", "gzip", "snappy", "lz4", "zstd"];

/// The longest that a broker can be told to remember a silent producer, milliseconds: a year.
const EXPIRATION_MS: i64 = 31_536_000_000;

/// The archives get old. Their records must not be dropped by age: no test here is about retention.
const OLD: [(&str, &str); 2] = [
    ("JANGADA__RETENTION__CHECK_INTERVAL_MS", "3600000"),
    ("JANGADA__PRODUCE__PRODUCER_EXPIRATION_MS", "31536000000"),
];

/// The archives by their number.
pub(super) fn archives() -> BTreeMap<u32, PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden/data");
    let files = fs::read_dir(folder).expect("it is part of the tree");
    files
        .filter_map(|file| {
            let path = file.expect("it can be listed").path();
            let name = path.file_name()?.to_str()?;
            let number = name.strip_prefix('v')?.strip_suffix(".tar.gz")?;
            Some((number.parse::<u32>().ok()?, path))
        })
        .collect()
}

fn lines(from: usize) -> String {
    (from..LINES).map(|i| format!("golden line {i}\n")).collect()
}

pub(super) fn tar(arguments: &[&str]) {
    let status = Command::new("tar").args(arguments).status().expect("tar runs");
    assert!(status.success(), "tar {arguments:?}");
}

pub(super) async fn stopped() -> Cluster {
    let options = Options {
        stopped: true,
        ..Options::default()
    };
    Cluster::start_with(1, options).await
}

/// A broker with the data of an archive.
pub(super) async fn started_with(archive: &Path) -> Cluster {
    let mut cluster = stopped().await;
    let data = cluster.node(1).data();
    fs::create_dir_all(&data).expect("the temporary folder is writable");
    tar(&["-xzf", &archive.to_string_lossy(), "-C", &data.to_string_lossy()]);
    cluster.restart_with(1, &OLD);
    cluster.healthy().await;
    cluster
}

async fn produce(cluster: &Cluster, topic: &str, partition: &str, codec: &str, text: String) {
    let args = ["produce", topic, "--compression", codec, "--partition", partition];
    cluster.cli_with(&args, text.into_bytes()).await.expect(0);
}

async fn trim(cluster: &Cluster, topic: &str, before: &str) {
    let args = ["topic", "trim", topic, "--partition", "0", "--before", before];
    cluster.cli(&args).await.expect(0);
}

async fn consume(cluster: &Cluster, topic: &str, partition: &str) -> String {
    let args = ["consume", topic, "--partition", partition, "--exit-at-end"];
    cluster.cli(&args).await.expect(0).text()
}

/// The records that the group has not read yet, which it commits.
async fn consume_as_group(cluster: &Cluster, topic: &str) -> String {
    let args = ["consume", topic, "--group", "billing", "--exit-at-end"];
    cluster.cli(&args).await.expect(0).text()
}

/// Appends a record if the last one with its key is at this offset.
async fn append_after(
    cluster: &Cluster,
    last: Option<i64>,
    value: &'static str,
) -> Result<RecordMetadata, ClientError> {
    let client = cluster.client().await;
    let producer = client
        .producer(ProducerConfig::default())
        .expect("the defaults are valid");
    let record = ProducerRecord::new("accounts").with_key("account 7").with_value(value);
    let delivery = producer.send_if(record, Condition::KeyOffset(last)).await;
    delivery.expect("it is taken").await
}

/// Writes a new archive.
async fn record(archive: &Path) {
    let mut cluster = stopped().await;
    cluster.restart(1);
    cluster.healthy().await;
    for (topic, partitions) in [("golden", 2), ("codecs", 5), ("emptied", 1), ("grown", 1)] {
        cluster.create_topic(topic, partitions, 1).await;
    }
    let accounts = NewTopic {
        config: [("key.index.enable".to_owned(), "true".to_owned())].into(),
        ..NewTopic::new("accounts", 1, 1)
    };
    cluster.create(accounts).await;
    // Into named partitions, so that what each holds is known.
    produce(&cluster, "golden", "0", "zstd", lines(0)).await;
    produce(&cluster, "golden", "1", "zstd", "alone\n".to_owned()).await;
    for (partition, codec) in CODECS.into_iter().enumerate() {
        produce(&cluster, "codecs", &partition.to_string(), codec, lines(0)).await;
    }
    trim(&cluster, "golden", &TRIMMED.to_string()).await;
    produce(&cluster, "emptied", "0", "none", lines(0)).await;
    trim(&cluster, "emptied", "latest").await;
    append_after(&cluster, None, "first").await.expect("it is the first");
    consume_as_group(&cluster, "golden").await;

    let status = cluster.stop(1).await;
    assert!(status.success(), "{status}");
    cluster.restart(1);
    cluster.healthy().await;
    append_after(&cluster, Some(0), "second").await.expect("it is the next");
    let refused = append_after(&cluster, Some(0), "refused").await;
    refused.expect_err("there is one after that");
    consume_as_group(&cluster, "codecs").await;
    let grow = cluster.cli(&["topic", "alter", "grown", "--partitions", "3"]).await;
    grow.expect(0);
    produce(&cluster, "grown", "2", "none", "new\n".to_owned()).await;

    cluster.kill(1);
    let data = cluster.node(1).data();
    tar(&[
        "-czf",
        &archive.to_string_lossy(),
        "-C",
        &data.to_string_lossy(),
        "--exclude=LOG*",
        "--exclude=LOCK",
        ".",
    ]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn earlier_builds_data_is_read() {
    if std::env::var_os("JANGADA_BLESS").is_some_and(|value| value == "1") {
        let (newest, path) = archives().pop_last().expect("the first is part of the tree");
        record(&path.with_file_name(format!("v{}.tar.gz", newest + 1))).await;
    }
    for (number, archive) in archives() {
        println!("{}", archive.display());
        let cluster = started_with(&archive).await;
        assert_eq!(consume(&cluster, "golden", "0").await, lines(TRIMMED));
        assert_eq!(consume(&cluster, "golden", "1").await, "alone\n");
        a_producer_is_remembered(&cluster).await;
        // And it goes on from there.
        cluster
            .cli_with(&["produce", "golden"], b"after\n".to_vec())
            .await
            .expect(0);
        let all = consume(&cluster, "golden", "0").await + &consume(&cluster, "golden", "1").await;
        assert!(all.contains("after\n"), "{all}");
        match number {
            1 => new_commands_wait_for_every_broker(&cluster).await,
            _ => what_came_with_later_levels_is_read(&cluster).await,
        }
    }
}

/// The batch of partition 1 is recognised when it is sent again; and a new producer gets an id that was never given
/// out.
async fn a_producer_is_remembered(cluster: &Cluster) {
    let mut log = raw::log(&cluster.node(1).addresses.public).await;
    let partition = raw::partition("golden", 1);
    let fetched = raw::fetch(&mut log, partition.clone(), 0, RecordForm::Raw).await;
    let batch = fetched.expect("it leads").batches;
    let header = BatchHeader::parse(&batch).expect("it is a batch");
    assert!(raw::new_producer(&mut log).await.id > header.producer_id.get());
    // When even the longest time is over, a producer is forgotten.
    if raw::now_ms() - header.max_timestamp < EXPIRATION_MS {
        let again = raw::produce(&mut log, partition, batch).await.expect("it is known");
        assert_eq!((again.base_offset, again.duplicate), (0, true));
    }
}

async fn what_came_with_later_levels_is_read(cluster: &Cluster) {
    for partition in 0..CODECS.len() {
        assert_eq!(consume(cluster, "codecs", &partition.to_string()).await, lines(0));
    }
    let emptied = cluster.partition("emptied", 0).await;
    let end = i64::try_from(LINES).ok();
    assert_eq!((emptied.log_start_offset, emptied.high_watermark), (end, end));
    assert_eq!(consume(cluster, "grown", "2").await, "new\n");

    assert_eq!(consume_as_group(cluster, "golden").await, "after\n");
    assert_eq!(consume_as_group(cluster, "codecs").await, "");

    assert_eq!(consume(cluster, "accounts", "0").await, "first\nsecond\n");
    let refused = append_after(cluster, Some(0), "refused").await;
    let error = refused.expect_err("there is one after that");
    assert!(
        matches!(error, ClientError::ConditionFailed { actual: 1, .. }),
        "{error}"
    );
    let appended = append_after(cluster, Some(1), "third").await;
    assert_eq!(appended.expect("that is the last").offset, Some(2));

    // The cluster is above the level that the commands of all that need.
    let refused = join(cluster, 3).await.expect_err("it does not know all commands");
    assert!(refused.message().contains("upgrade"), "{refused:?}");
}

/// Joins as a broker of this feature level, which exists only for this call.
pub(super) async fn join(cluster: &Cluster, feature_level: u32) -> Result<JoinResponse, Status> {
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
    broker.join(request).await.map(tonic::Response::into_inner)
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
    join(cluster, 2).await.expect("the cluster is at level 1");
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
        ..AlterTopicRequest::default()
    };
    let refused = admin.alter_topic(set.clone()).await;
    raw::assert_refused(refused, "NOT_READY", &["broker 2", "upgrade"]);
    // Without a condition nothing has changed.
    let batch = raw::batch(None, &[b"plain"]);
    let plain = raw::produce(&mut log, raw::partition("golden", 1), batch).await;
    assert_eq!(plain.expect("it is appended").base_offset, end);

    join(cluster, 3).await.expect("it is newer than before");
    let appended = eventually("all brokers are new enough", WAIT, || {
        let mut log = log.clone();
        async move { append_at(&mut log, end + 1).await.ok() }
    });
    assert_eq!(appended.await.base_offset, end + 1);
    admin.alter_topic(set).await.expect("every broker knows it");
}
