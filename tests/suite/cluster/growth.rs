//! Growth in use: of a topic's partitions, and of the replicas of the groups' coordinator.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use bytes::Bytes;
use jangada_client::{Client, ClientConfig, PartitionState, ProducerConfig, ProducerRecord};
use jangada_proto::v1::{CommitOffsetsRequest, DescribeGroupResponse, OwnedPartition};

use crate::harness::groups::{Coordinator, Member, offsets};
use crate::harness::{Cluster, Options, WAIT, cli, eventually};

const TOPIC: &str = "orders";
const GROUP: &str = "billing";

/// Longer than any of these tests: a slow machine ends no session.
const SESSION: Duration = Duration::from_secs(120);

async fn topic_id(cluster: &Cluster) -> Bytes {
    let topic = cluster.admin().await.describe_topic(TOPIC).await.expect("it exists");
    Bytes::copy_from_slice(topic.topic_id.as_bytes())
}

/// Waits until the group is at rest and its members own `partitions` partitions between them.
async fn owned(cluster: &Cluster, partitions: usize) -> DescribeGroupResponse {
    let calls = Coordinator::new(cluster.brokers(), GROUP);
    eventually("the members share all partitions", WAIT, || {
        let mut calls = calls.clone();
        async move {
            let group = calls.describe().await.ok()?;
            let owned = group.members.iter().map(|member| member.owned.len()).sum::<usize>();
            (group.state == "Stable" && owned == partitions).then_some(group)
        }
    })
    .await
}

/// The epoch since which each partition has its owner.
fn since(owned: &[OwnedPartition]) -> BTreeMap<u32, u32> {
    let row = |owned: &OwnedPartition| Some((owned.partition.as_ref()?.partition, owned.since_epoch));
    owned.iter().filter_map(row).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_topic_gets_more_partitions_while_it_is_in_use() {
    let mut cluster = Cluster::start(3).await;
    cluster.create_topic(TOPIC, 4, 3).await;
    let topic = topic_id(&cluster).await;
    let member = |name| Member::start(Coordinator::new(cluster.brokers(), GROUP), name, TOPIC, SESSION);
    let members = [member("m0"), member("m1")];
    let before = owned(&cluster, 4).await;
    let config = ClientConfig {
        metadata_max_age: Duration::from_millis(200),
        ..cluster.client_config()
    };
    let client = Client::connect(config).await.expect("a broker answers");
    let producer = client
        .producer(ProducerConfig::default())
        .expect("the settings are fine");
    let send = async |key: String| {
        let sent = producer.send(ProducerRecord::new(TOPIC).with_key(key)).await;
        sent.expect("it is taken").await.expect("it is acknowledged").partition
    };
    assert!(send("first".to_owned()).await < 4);

    let grow = async |name: &str, total: &str| cluster.cli(&["topic", "alter", name, "--partitions", total]).await;
    grow(TOPIC, "6").await.expect(0);
    grow(TOPIC, "6").await.expect(0);
    for (total, cause) in [
        ("5", "can't be taken away"),
        ("0", "ask for 1 to"),
        ("10001", "ask for 1 to"),
    ] {
        grow(TOPIC, total).await.expect(1).names(&[TOPIC, cause]);
    }
    let indexed = [
        "topic",
        "create",
        "indexed",
        "--partitions",
        "1",
        "--replicas",
        "3",
        "-c",
        "key.index.enable=true",
    ];
    cluster.cli(&indexed).await.expect(0);
    grow("indexed", "2")
        .await
        .expect(1)
        .names(&["indexed", "key.index.enable"]);
    grow("nothing", "2").await.expect(1).names(&["nothing"]);

    // Through any broker, the first time.
    for broker in cluster.brokers() {
        for partition in ["4", "5"] {
            let args = ["produce", TOPIC, "--partition", partition];
            cli::run(std::slice::from_ref(&broker), &args, b"after\n".to_vec())
                .await
                .expect(0);
        }
    }
    // The group takes up what is new, and nothing else pauses.
    let after = owned(&cluster, 6).await;
    for was in &before.members {
        let mut same = after.members.iter().filter(|is| is.member_id == was.member_id);
        let is = since(&same.next().expect("it stayed").owned);
        assert_eq!(is.len(), 3);
        for (partition, epoch) in since(&was.owned) {
            assert_eq!(
                is.get(&partition),
                Some(&epoch),
                "partition {partition} stayed where it was"
            );
        }
    }
    // A producer that was there before uses it.
    let mut used = BTreeSet::new();
    let deadline = Instant::now() + WAIT;
    for key in 0.. {
        if used.len() == 6 {
            break;
        }
        assert!(Instant::now() < deadline, "records went to {used:?} only");
        used.insert(send(format!("key {key}")).await);
    }

    cluster.kill_all();
    cluster.start_all();
    cluster.healthy().await;
    assert_eq!(topic_id(&cluster).await, topic);
    for partition in [4, 5] {
        assert!(cluster.high_watermark(TOPIC, partition).await > 3);
    }
    assert_eq!(owned(&cluster, 6).await.members.len(), 2);
    for member in members {
        member.leave().await;
    }
}

/// The first group came when there was one broker. Two more come, and then the first one goes, with its disk.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_coordinator_that_began_alone_survives_the_loss_of_its_first_broker() {
    let options = Options {
        stopped: true,
        seeds: 1,
        sections: "[groups]\nshards = 4\n".to_owned(),
        ..Options::default()
    };
    let mut cluster = Cluster::start_with(3, options).await;
    cluster.restart(1);
    cluster.ready(1).await;
    cluster.create_topic(TOPIC, 1, 1).await;
    let commit = CommitOffsetsRequest {
        group: GROUP.to_owned(),
        member_id: String::new(),
        member_epoch: -1,
        offsets: offsets(&topic_id(&cluster).await, [(0, 7)]),
        ..Default::default()
    };
    let mut calls = Coordinator::new(cluster.brokers(), GROUP);
    calls
        .commit(commit)
        .await
        .expect("a group without members takes offsets");

    for id in [2, 3] {
        cluster.restart(id);
        cluster.ready(id).await;
    }
    let admin = cluster.admin().await;
    eventually("each shard has three replicas in sync", WAIT, || async {
        let shards = admin.describe_partitions(Some("__groups")).await.ok()?;
        let is_whole = |shard: &PartitionState| shard.in_sync.len() == 3;
        (shards.len() == 4 && shards.iter().all(is_whole)).then_some(())
    })
    .await;
    cluster.kill(1);
    let mut calls = Coordinator::new(cluster.brokers(), GROUP);
    assert_eq!(calls.offsets().await, BTreeMap::from([(0, 7)]));
}
