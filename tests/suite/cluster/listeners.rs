//! Listeners by name: clients are told the addresses of the listener that they came by, and every listener is guarded alike.

use std::collections::BTreeMap;
use std::fs;

use jangada_client::{Client, ClientConfig, ProducerConfig, ProducerRecord};
use jangada_proto::internal::ForwardRequest;
use jangada_proto::internal::internal_service_client::InternalServiceClient;
use jangada_proto::v1::admin_service_client::AdminServiceClient;
use jangada_proto::v1::group_service_client::GroupServiceClient;
use jangada_proto::v1::metadata_service_client::MetadataServiceClient;
use jangada_proto::v1::{
    DescribeClusterRequest, FindCoordinatorRequest, GetMetadataRequest, ListGroupsRequest, TrimPartitionRequest,
};
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;
use tonic::{Code, Request, Status};

use super::golden_data::{archives, join, stopped, tar};
use crate::harness::{Cluster, Options, WAIT, eventually, ports, raw};

const TOPIC: &str = "orders";

/// The brokers' addresses in the metadata that a client gets at this address, by broker.
async fn told(address: &str) -> BTreeMap<u32, String> {
    let mut client = MetadataServiceClient::connect(format!("http://{address}"))
        .await
        .expect("it listens");
    let metadata = client.get_metadata(GetMetadataRequest::default()).await;
    let brokers = metadata.expect("it answers").into_inner().brokers;
    brokers
        .into_iter()
        .map(|broker| (broker.broker_id, broker.address))
        .collect()
}

/// Three nodes of which the third has no listener `inside`; with what clients are told that come by the public listener, and by
/// that one.
async fn cluster() -> (Cluster, [BTreeMap<u32, String>; 2]) {
    let options = Options {
        inside: 2,
        ..Options::default()
    };
    let cluster = Cluster::start_with(3, options).await;
    let public = |id| cluster.node(id).addresses.public.clone();
    let inside = |id| cluster.node(id).addresses.inside.clone().unwrap_or_else(|| public(id));
    let expected = [
        (1..=3).map(|id| (id, public(id))).collect(),
        (1..=3).map(|id| (id, inside(id))).collect(),
    ];
    (cluster, expected)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_are_told_the_addresses_of_the_listener_that_they_came_by() {
    let (cluster, [public, inside]) = cluster().await;
    cluster.create_topic(TOPIC, 1, 3).await;
    for id in 1..=2 {
        let addresses = &cluster.node(id).addresses;
        let by_inside = addresses.inside.as_ref().expect("it has one");
        eventually("every broker has told its endpoints", WAIT, || async {
            (told(by_inside).await == inside).then_some(())
        })
        .await;
        assert_eq!(told(&addresses.public).await, public);
        for (address, expected) in [(&addresses.public, &public), (by_inside, &inside)] {
            names_brokers_as(address, expected).await;
        }
    }
    // A broker that does not lead the partition names the leader.
    let leader = cluster.partition(TOPIC, 0).await.leader_id.expect("it has one").get();
    let other = (1..=2).find(|id| *id != leader).expect("one of two");
    let addresses = &cluster.node(other).addresses;
    let by_inside = addresses.inside.as_ref().expect("it has one");
    for (address, expected) in [(&addresses.public, &public), (by_inside, &inside)] {
        let mut log = raw::log(address).await;
        let batch = raw::batch(None, &[b"misdirected"]);
        let refused = raw::produce(&mut log, raw::partition(TOPIC, 0), batch).await;
        let status = raw::assert_refused(refused, "NOT_LEADER", &[TOPIC]);
        assert_eq!(raw::detail(&status, "leader_address").as_ref(), expected.get(&leader));
    }
}

/// The other answers that name addresses of brokers.
async fn names_brokers_as(address: &str, expected: &BTreeMap<u32, String>) {
    let url = format!("http://{address}");
    let mut groups = GroupServiceClient::connect(url.clone()).await.expect("it listens");
    let request = FindCoordinatorRequest {
        group: "readers".to_owned(),
    };
    let found = groups
        .find_coordinator(request)
        .await
        .expect("there is one")
        .into_inner();
    assert_eq!(Some(&found.address), expected.get(&found.broker_id));
    let mut admin = AdminServiceClient::connect(url).await.expect("it listens");
    let described = admin.describe_cluster(DescribeClusterRequest {}).await;
    let brokers = described.expect("it answers").into_inner().brokers;
    let addresses: BTreeMap<u32, String> = brokers
        .into_iter()
        .map(|broker| (broker.broker_id, broker.address))
        .collect();
    assert_eq!(addresses, *expected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_works_by_another_listener_than_the_public_one() {
    let (cluster, _) = cluster().await;
    cluster.create_topic(TOPIC, 3, 3).await;
    let inside = cluster.node(1).addresses.inside.clone().expect("it has one");
    let client = Client::connect(ClientConfig::new([inside])).await.expect("it is found");
    let producer = client
        .producer(ProducerConfig::default())
        .expect("the settings are valid");
    for n in 0..30u8 {
        let record = ProducerRecord::new(TOPIC).with_key(vec![n]).with_value(vec![n]);
        let delivery = producer.send(record).await.expect("there is room");
        let written = tokio::time::timeout(WAIT, delivery).await;
        written.expect("it is answered").expect("it is written");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_says_nothing_ends_on_every_listener() {
    let options = Options {
        inside: 1,
        ..Options::default()
    };
    let cluster = Cluster::start_with(1, options).await;
    let addresses = &cluster.node(1).addresses;
    let inside = addresses.inside.clone().expect("it has one");
    let silent = [&addresses.public, &inside, &addresses.internal, &addresses.http].map(String::clone);
    let ends = silent.map(|address| async move {
        let mut connection = TcpStream::connect(&address).await.expect("it listens");
        let mut words = Vec::new();
        let end = tokio::time::timeout(WAIT, connection.read_to_end(&mut words)).await;
        // A reset is an end, too.
        let _ = end.unwrap_or_else(|_| panic!("{address} keeps a connection that says nothing"));
    });
    for end in ends.map(tokio::spawn) {
        end.await.expect("it ends");
    }
}

/// A call as an older broker passes it on, and as any client may send it.
fn marked<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    let metadata = request.metadata_mut();
    metadata.insert("jangada-forwarded", "1".parse().expect("it is one"));
    request
}

/// With the mark a broker does not pass the call on: it says that it does not lead the partition.
async fn trimmed_elsewhere(cluster: &Cluster) -> Result<(), Status> {
    let leader = cluster.partition(TOPIC, 0).await.leader_id.expect("it has one").get();
    let other = cluster
        .ids()
        .into_iter()
        .find(|id| *id != leader)
        .expect("there are more");
    let url = format!("http://{}", cluster.node(other).addresses.public);
    let mut admin = AdminServiceClient::connect(url).await.expect("it listens");
    let request = TrimPartitionRequest {
        partition: Some(raw::partition(TOPIC, 0)),
        before_offset: -1,
    };
    admin.trim_partition(marked(request)).await.map(drop)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_are_passed_on_over_the_internal_listener_and_a_client_cannot_pretend_that_they_were() {
    let cluster = Cluster::start(3).await;
    cluster.create_topic(TOPIC, 1, 3).await;
    trimmed_elsewhere(&cluster).await.expect("the mark means nothing");
    let url = format!("http://{}", cluster.node(1).addresses.public);
    let mut admin = AdminServiceClient::connect(url.clone()).await.expect("it listens");
    let described = admin.describe_cluster(marked(DescribeClusterRequest {})).await;
    assert_eq!(described.expect("it answers").into_inner().brokers.len(), 3);
    let mut groups = GroupServiceClient::connect(url).await.expect("it listens");
    let request = FindCoordinatorRequest {
        group: "readers".to_owned(),
    };
    groups.find_coordinator(request).await.expect("there is one");
    eventually("the groups of all brokers are listed", WAIT, || {
        let mut groups = groups.clone();
        async move {
            let listed = groups.list_groups(marked(ListGroupsRequest {})).await.ok()?;
            listed.into_inner().missing_shards.is_empty().then_some(())
        }
    })
    .await;
    // A caller that is not a broker of the cluster cannot have calls passed on.
    let internal = cluster.node(1).addresses.internal.clone();
    let mut broker = InternalServiceClient::connect(format!("http://{internal}"))
        .await
        .expect("it listens");
    let refused = broker
        .forward(ForwardRequest::default())
        .await
        .expect_err("it said nothing");
    assert_eq!(refused.code(), Code::FailedPrecondition, "{refused:?}");
}

/// An older broker could not read that another one has endpoints beside the two of every broker.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn endpoints_are_told_once_every_broker_knows_such() {
    let (_, oldest) = archives().pop_first().expect("the first is part of the tree");
    let mut cluster = stopped().await;
    let data = cluster.node(1).data();
    fs::create_dir_all(&data).expect("the temporary folder is writable");
    tar(&["-xzf", &oldest.to_string_lossy(), "-C", &data.to_string_lossy()]);
    cluster.restart(1);
    cluster.healthy().await;
    join(&cluster, 5).await.expect("the cluster is at level 1");
    cluster.stop(1).await;

    let inside = format!("127.0.0.1:{}", ports::free());
    cluster.restart_with(1, &[("JANGADA__LISTENERS__INSIDE__BIND", &inside)]);
    cluster.ready(1).await;
    let public = cluster.node(1).addresses.public.clone();
    assert_eq!(told(&inside).await.get(&1), Some(&public));
    // An older broker passes calls on with a mark, which counts as long as there is one.
    let url = format!("http://{public}");
    let mut admin = AdminServiceClient::connect(url).await.expect("it listens");
    let described = admin.describe_cluster(marked(DescribeClusterRequest {})).await;
    assert_eq!(described.expect("it answers").into_inner().brokers, []);
    join(&cluster, jangada_types::FEATURE_LEVEL)
        .await
        .expect("it is newer than before");
    eventually("the endpoint is told", WAIT, || async {
        (told(&inside).await.get(&1) == Some(&inside)).then_some(())
    })
    .await;
    let refused = join(&cluster, 5).await.expect_err("it would not know");
    assert!(refused.message().contains("upgrade"), "{refused:?}");
}
