//! Bad input is refused with its reason, by a message that names the object, and changes nothing.

use std::collections::BTreeMap;

use bytes::Bytes;
use jangada_client::{BrokerId, NewTopic, Reason};
use jangada_proto::v1::admin_service_client::AdminServiceClient;
use jangada_proto::v1::{
    FetchRequest, InitProducerRequest, ListTopicsRequest, RecordForm, TopicPartition, TrimPartitionRequest,
};
use tonic::Code;

use crate::harness::raw::{self, Producer};
use crate::harness::{Cluster, Options, assert_refused};

const TOPIC: &str = "orders";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_are_refused_without_effect() {
    let cluster = Cluster::start(3).await;
    cluster
        .create(NewTopic {
            config: [("max.message.bytes".to_owned(), "10000".to_owned())].into(),
            ..NewTopic::new(TOPIC, 2, 3)
        })
        .await;
    topics(&cluster).await;
    settings_of_topics(&cluster).await;
    objects_that_do_not_exist(&cluster).await;
    batches(&cluster).await;
    producers(&cluster).await;
    offsets(&cluster).await;
    a_client_on_the_internal_listener(&cluster).await;
    let topics = cluster.admin().await.list_topics().await.expect("a broker answers");
    assert_eq!(
        topics.iter().map(|topic| topic.name.as_str()).collect::<Vec<_>>(),
        [TOPIC]
    );
    assert_eq!(
        cluster.partition(TOPIC, 0).await.high_watermark,
        Some(0),
        "something was written"
    );
}

async fn topics(cluster: &Cluster) {
    let admin = cluster.admin().await;
    let long = "x".repeat(250);
    for name in ["", ".", "..", "a b", "a/b", "\u{e9}", "__internal", &long] {
        assert_refused(
            admin.create_topic(NewTopic::new(name, 1, 1)).await,
            Reason::InvalidTopicName,
            &[name],
        );
    }
    let answer = admin.create_topic(NewTopic::new("new", 10_001, 1)).await;
    assert_refused(answer, Reason::InvalidPartitions, &["new", "10001"]);
    let answer = admin.create_topic(NewTopic::new("new", 1, 4)).await;
    assert_refused(answer, Reason::InvalidReplicas, &["new", "4"]);
    assert_refused(
        admin.create_topic(NewTopic::new(TOPIC, 1, 1)).await,
        Reason::TopicExists,
        &[TOPIC],
    );
    let mut existing = NewTopic::new(TOPIC, 1, 1);
    existing.if_not_exists = true;
    assert!(!admin.create_topic(existing).await.expect("it exists").created);
    assert_eq!(
        admin.describe_topic(TOPIC).await.expect("it exists").partitions.len(),
        2
    );
}

async fn settings_of_topics(cluster: &Cluster) {
    let admin = cluster.admin().await;
    let cases = [
        ("cleanup.policy", "archive"),
        ("no.such.key", "1"),
        ("retention.ms", "-2"),
        ("retention.ms", "soon"),
        ("max.message.bytes", "9000000"),
        ("segment.bytes", "1"),
        ("message.timestamp.type", "Now"),
    ];
    for (key, value) in cases {
        let config: BTreeMap<String, String> = [(key.to_owned(), value.to_owned())].into();
        let new = NewTopic {
            config: config.clone(),
            ..NewTopic::new("new", 1, 1)
        };
        assert_refused(
            admin.create_topic(new).await,
            Reason::InvalidConfig,
            &["new", key, if key.contains("no.such") { key } else { value }],
        );
        assert_refused(
            admin.alter_topic(TOPIC, config, Vec::new()).await,
            Reason::InvalidConfig,
            &[TOPIC, key],
        );
    }
    let described = admin.describe_topic(TOPIC).await.expect("it exists");
    let set: Vec<&str> = described
        .config
        .iter()
        .filter(|entry| entry.is_set)
        .map(|entry| entry.key.as_str())
        .collect();
    assert_eq!(set, ["max.message.bytes"]);
}

async fn objects_that_do_not_exist(cluster: &Cluster) {
    let admin = cluster.admin().await;
    assert_refused(
        admin.describe_topic("nowhere").await,
        Reason::UnknownTopic,
        &["nowhere"],
    );
    assert_refused(admin.delete_topic("nowhere").await, Reason::UnknownTopic, &["nowhere"]);
    assert_refused(admin.trim("nowhere", 0, None).await, Reason::UnknownTopic, &["nowhere"]);
    assert_refused(
        admin.trim(TOPIC, 7, None).await,
        Reason::UnknownPartition,
        &[TOPIC, "7"],
    );
    assert_refused(
        admin.transfer_leader(TOPIC, 0, BrokerId(9)).await,
        Reason::UnknownBroker,
        &["9"],
    );
    assert_refused(admin.replace_broker(BrokerId(9)).await, Reason::UnknownBroker, &["9"]);
    assert_refused(
        admin.replace_broker(BrokerId(1)).await,
        Reason::InvalidRequest,
        &["broker 1", "running"],
    );

    let leader = cluster.leader(TOPIC, 0).await;
    let mut log = raw::log(&cluster.node(leader).addresses.public).await;
    let produced = raw::produce(&mut log, raw::partition("nowhere", 0), raw::batch(None, &[b"a"])).await;
    raw::assert_refused(produced, "UNKNOWN_TOPIC", &["nowhere"]);
    let produced = raw::produce(&mut log, raw::partition(TOPIC, 2), raw::batch(None, &[b"a"])).await;
    raw::assert_refused(produced, "UNKNOWN_PARTITION", &[TOPIC, "2"]);
    let other = TopicPartition {
        topic_id: vec![7; 16].into(),
        topic: String::new(),
        partition: 0,
    };
    let produced = raw::produce(&mut log, other, raw::batch(None, &[b"a"])).await;
    raw::assert_refused(produced, "UNKNOWN_TOPIC", &["07070707"]);

    let follower = cluster
        .ids()
        .into_iter()
        .find(|id| *id != leader)
        .expect("there are three");
    let mut log = raw::log(&cluster.node(follower).addresses.public).await;
    let produced = raw::produce(&mut log, raw::partition(TOPIC, 0), raw::batch(None, &[b"a"])).await;
    let status = raw::assert_refused(produced, "NOT_LEADER", &[TOPIC]);
    assert_eq!(raw::detail(&status, "leader_id"), Some(leader.to_string()));
    assert_eq!(raw::detail(&status, "definite").as_deref(), Some("true"));
}

async fn batches(cluster: &Cluster) {
    let leader = cluster.leader(TOPIC, 0).await;
    let mut log = raw::log(&cluster.node(leader).addresses.public).await;
    let good = raw::batch(None, &[b"a", b"b"]);
    let with = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = good.to_vec();
        change(&mut bytes);
        Bytes::from(bytes)
    };
    // The last offset delta goes with the count.
    let uncounted = resealed(&good, &|b| (b[26], b[60]) = (0, 1));
    // Each record has 8 bytes, of which the fourth is its offset delta.
    assert_eq!((good.len(), good[72]), (61 + 2 * 8, 1 << 1));
    let same_offset = resealed(&good, &|b| b[72] = 0);
    let large = vec![b'x'; 10_000];
    let cases: [(&str, Bytes, &str); 11] = [
        ("wrong CRC", with(&|b| b[17] ^= 1), "CORRUPT_BATCH"),
        (
            "damaged record",
            with(&|b| *b.last_mut().expect("not empty") ^= 1),
            "CORRUPT_BATCH",
        ),
        ("wrong magic", with(&|b| b[16] = 1), "INVALID_BATCH"),
        ("cut off", good.slice(..good.len() - 1), "INVALID_BATCH"),
        ("something behind", with(&|b| b.push(0)), "INVALID_BATCH"),
        ("empty", Bytes::new(), "INVALID_BATCH"),
        ("wrong count", resealed(&good, &|b| b[60] = 3), "INVALID_BATCH"),
        ("a record more than it counts", uncounted, "INVALID_BATCH"),
        ("two records with one offset", same_offset, "INVALID_BATCH"),
        ("unknown codec", resealed(&good, &|b| b[22] |= 7), "UNSUPPORTED_CODEC"),
        ("oversized", raw::batch(None, &[&large]), "BATCH_TOO_LARGE"),
    ];
    for (what, batch, reason) in cases {
        println!("{what}");
        let produced = raw::produce(&mut log, raw::partition(TOPIC, 0), batch).await;
        let status = raw::assert_refused(produced, reason, &[TOPIC]);
        assert_eq!(status.code(), Code::InvalidArgument, "{what}");
    }
    let huge = vec![b'x'; 20 * 1024 * 1024];
    let status = raw::produce(&mut log, raw::partition(TOPIC, 0), Bytes::from(huge))
        .await
        .expect_err("an oversized request");
    assert!(
        matches!(
            status.code(),
            Code::OutOfRange | Code::InvalidArgument | Code::ResourceExhausted
        ),
        "{status:?}"
    );
}

/// Changes bytes that the checksum covers, and corrects the checksum.
fn resealed(batch: &Bytes, change: &dyn Fn(&mut Vec<u8>)) -> Bytes {
    let mut bytes = batch.to_vec();
    change(&mut bytes);
    let crc = crc32c(&bytes[21..]);
    bytes[17..21].copy_from_slice(&crc.to_be_bytes());
    bytes.into()
}

/// CRC-32C, bit by bit: independent of the product's code.
fn crc32c(bytes: &[u8]) -> u32 {
    let crc = bytes.iter().fold(!0u32, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            (crc >> 1) ^ (0x82f6_3b78 & 0u32.wrapping_sub(crc & 1))
        })
    });
    !crc
}

async fn producers(cluster: &Cluster) {
    // On the other partition: what is written here counts as nothing there.
    let leader = cluster.leader(TOPIC, 1).await;
    let mut log = raw::log(&cluster.node(leader).addresses.public).await;
    let producer = raw::new_producer(&mut log).await;
    raw::produce(&mut log, raw::partition(TOPIC, 1), raw::batch(Some(producer), &[b"a"]))
        .await
        .expect("it is written");
    let gap = raw::batch(
        Some(Producer {
            sequence: 2,
            ..producer
        }),
        &[b"c"],
    );
    let status = raw::assert_refused(
        raw::produce(&mut log, raw::partition(TOPIC, 1), gap).await,
        "OUT_OF_ORDER_SEQUENCE",
        &[TOPIC],
    );
    assert_eq!(raw::detail(&status, "expected").as_deref(), Some("1"));
    let never = raw::batch(
        Some(Producer {
            id: 1 << 40,
            ..producer
        }),
        &[b"a"],
    );
    let produced = raw::produce(&mut log, raw::partition(TOPIC, 1), never).await;
    raw::assert_refused(produced, "UNKNOWN_PRODUCER", &["1099511627776"]);
    let unknown = InitProducerRequest {
        producer_id: Some(1 << 40),
        producer_epoch: Some(0),
    };
    raw::assert_refused(log.init_producer(unknown).await, "UNKNOWN_PRODUCER", &["1099511627776"]);
    assert_eq!(cluster.partition(TOPIC, 1).await.high_watermark, Some(1));
}

async fn offsets(cluster: &Cluster) {
    let state = cluster.partition(TOPIC, 1).await;
    let leader = state.leader_id.expect("it has a leader").get();
    let address = &cluster.node(leader).addresses.public;
    let mut log = raw::log(address).await;
    let fetch = |offset, leader_epoch| FetchRequest {
        partition: Some(raw::partition(TOPIC, 1)),
        offset,
        form: RecordForm::Plain.into(),
        leader_epoch,
        ..FetchRequest::default()
    };
    for offset in [-1, 2, i64::MAX] {
        let status = raw::assert_refused(
            log.fetch(fetch(offset, None)).await,
            "OFFSET_OUT_OF_RANGE",
            &[TOPIC, &offset.to_string()],
        );
        assert_eq!(raw::detail(&status, "high_watermark").as_deref(), Some("1"));
        assert_eq!(raw::detail(&status, "log_start_offset").as_deref(), Some("0"));
    }
    let epoch = state.leader_epoch.expect("it has a leader");
    log.fetch(fetch(0, Some(epoch)))
        .await
        .expect("the epoch is the leader's");
    raw::assert_refused(
        log.fetch(fetch(0, Some(epoch - 1))).await,
        "STALE_LEADER_EPOCH",
        &[TOPIC],
    );
    raw::assert_refused(
        log.fetch(fetch(0, Some(epoch + 1))).await,
        "UNKNOWN_LEADER_EPOCH",
        &[TOPIC],
    );

    let mut admin = AdminServiceClient::connect(format!("http://{address}"))
        .await
        .expect("the broker answers");
    for before_offset in [2, -2] {
        let trim = TrimPartitionRequest {
            partition: Some(raw::partition(TOPIC, 1)),
            before_offset,
        };
        raw::assert_refused(
            admin.trim_partition(trim).await,
            "OFFSET_OUT_OF_RANGE",
            &[&before_offset.to_string()],
        );
    }
}

async fn a_client_on_the_internal_listener(cluster: &Cluster) {
    let internal = format!("http://{}", cluster.node(1).addresses.internal);
    let mut admin = AdminServiceClient::connect(internal).await.expect("it listens");
    let status = admin
        .list_topics(ListTopicsRequest {})
        .await
        .expect_err("clients are refused there");
    assert_ne!(status.code(), Code::Unavailable, "{status:?}");
    assert!(
        status.message().contains("internal"),
        "it does not say what is wrong: {status:?}"
    );
}

/// Waits for a node that must not start; returns its log from this start.
async fn refused_start(cluster: &mut Cluster, id: u32) -> String {
    let before = cluster.node(id).log().len();
    cluster.restart(id);
    let status = cluster.ended(id).await;
    assert_eq!(status.code(), Some(1), "{}", cluster.node(id).log_tail());
    cluster.node(id).log().split_off(before)
}

#[track_caller]
fn assert_names(log: &str, words: &[&str]) {
    for word in words {
        assert!(log.contains(word), "it does not name {word:?}:\n{log}");
    }
}

fn edit_settings(cluster: &Cluster, id: u32, from: &str, to: &str) {
    let file = cluster.node(id).settings_file();
    let text = std::fs::read_to_string(&file).expect("the settings are there");
    assert!(text.contains(from), "{text}");
    std::fs::write(&file, text.replace(from, to)).expect("the settings are writable");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_must_not_start_says_why() {
    let mut cluster = Cluster::start(3).await;
    cluster.create_topic(TOPIC, 1, 3).await;
    cluster.kill(3);

    let taken = cluster.node(1).addresses.public.clone();
    let own = cluster.node(3).addresses.public.clone();
    edit_settings(&cluster, 3, &own, &taken);
    assert_names(&refused_start(&mut cluster, 3).await, &[&taken, "in use"]);
    edit_settings(&cluster, 3, &taken, &own);

    edit_settings(&cluster, 3, "broker_id = 3", "no_such_key = 1\nbroker_id = 3");
    assert_names(&refused_start(&mut cluster, 3).await, &["no_such_key"]);
    edit_settings(&cluster, 3, "no_such_key = 1\n", "");

    edit_settings(&cluster, 3, "broker_id = 3", "broker_id = 4");
    assert_names(&refused_start(&mut cluster, 3).await, &["broker 3", "broker 4", "data"]);
    edit_settings(&cluster, 3, "broker_id = 4", "broker_id = 3");

    let (data, away) = (cluster.node(3).data(), cluster.folder().join("away"));
    std::fs::rename(&data, &away).expect("the directory is ours");
    assert_names(
        &refused_start(&mut cluster, 3).await,
        &["broker 3", "empty", "replace-broker 3"],
    );
    std::fs::remove_dir_all(&data).expect("the directory is ours");
    std::fs::rename(&away, &data).expect("the directory is ours");

    cluster.restart(3);
    cluster.healthy().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_of_another_cluster_is_refused() {
    let mut cluster = Cluster::start_with(
        2,
        Options {
            stopped: true,
            ..Options::default()
        },
    )
    .await;
    // Two clusters of one each.
    let internal: Vec<String> = cluster
        .ids()
        .into_iter()
        .map(|id| cluster.node(id).addresses.internal.clone())
        .collect();
    let both = format!("seeds = {internal:?}");
    for (id, own) in [1, 2].into_iter().zip(&internal) {
        edit_settings(&cluster, id, &both, &format!("seeds = [{own:?}]"));
        cluster.restart(id);
        cluster.ready(id).await;
    }
    cluster.kill(2);
    edit_settings(&cluster, 2, &format!("seeds = [{:?}]", internal[1]), &both);
    assert_names(&refused_start(&mut cluster, 2).await, &[&internal[0], "cluster"]);
    cluster.ready(1).await;
}
