//! The internal listener admits only brokers of this cluster that mean this one and have a protocol version in common
//! with it.

use jangada_proto::internal::internal_service_client::InternalServiceClient;
use jangada_proto::internal::{Frame, Hello, JoinRequest, Member, ProbeRequest, ProposeMetadataRequest, SnapshotChunk};
use jangada_proto::v1::GetMetadataRequest;
use jangada_proto::v1::metadata_service_client::MetadataServiceClient;
use tokio_stream::iter;
use tonic::transport::Channel;
use tonic::{Code, Status};

use crate::harness::{Cluster, Options, raw};

const TOPIC: &str = "orders";

async fn internal(cluster: &Cluster, id: u32) -> InternalServiceClient<Channel> {
    let address = format!("http://{}", cluster.node(id).addresses.internal);
    InternalServiceClient::connect(address).await.expect("it listens")
}

#[track_caller]
fn assert_refused<T>(what: &str, answer: Result<T, Status>, reason: &str) {
    let Err(status) = answer else {
        panic!("{what}: not refused, though {reason}");
    };
    assert_eq!(status.code(), Code::FailedPrecondition, "{what}: {status:?}");
    assert!(status.message().starts_with(reason), "{what}: not {reason}: {status:?}");
}

/// The first message of broker 2 of this cluster to broker 1.
fn hello(cluster_id: &str) -> Hello {
    Hello {
        cluster_id: cluster_id.to_owned(),
        broker_id: 2,
        incarnation: 1,
        to_broker_id: 1,
        protocol_min: 1,
        protocol_max: 1,
        feature_level: 1,
        past: None,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strangers_are_refused() {
    let cluster = Cluster::start(3).await;
    cluster.create_topic(TOPIC, 1, 3).await;
    let cluster_id = cluster.client().await.cluster_id();
    let good = hello(&cluster_id);
    let other = Hello {
        cluster_id: "11111111-2222-4333-8444-555555555555".to_owned(),
        ..good.clone()
    };
    let meant_for_another = Hello {
        to_broker_id: 3,
        ..good.clone()
    };
    let newer = Hello {
        protocol_min: 2,
        protocol_max: 9,
        ..good.clone()
    };
    let older = Hello {
        protocol_min: 0,
        protocol_max: 0,
        ..good.clone()
    };
    let overlapping = Hello {
        protocol_min: 0,
        protocol_max: 9,
        ..good.clone()
    };
    let cases = [
        ("WRONG_CLUSTER", Some(other)),
        ("WRONG_BROKER", Some(meant_for_another)),
        ("UNSUPPORTED_PROTOCOL", Some(newer)),
        ("UNSUPPORTED_PROTOCOL", Some(older)),
        ("NO_HANDSHAKE", None),
    ];
    let mut broker = internal(&cluster, 1).await;
    let frame = |hello: Option<Hello>| {
        iter([Frame {
            hello,
            messages: Vec::new(),
        }])
    };
    for (reason, hello) in cases {
        assert_refused("control", broker.control(frame(hello.clone())).await, reason);
        assert_refused("bulk", broker.bulk(frame(hello.clone())).await, reason);
        let chunk = SnapshotChunk {
            hello: hello.clone(),
            ..SnapshotChunk::default()
        };
        assert_refused("snapshot", broker.install_snapshot(iter([chunk])).await, reason);
        let propose = ProposeMetadataRequest {
            hello,
            ..ProposeMetadataRequest::default()
        };
        assert_refused("propose", broker.propose_metadata(propose).await, reason);
    }
    // The others are not refused because they are made by hand.
    for hello in [good, overlapping] {
        broker
            .control(frame(Some(hello.clone())))
            .await
            .expect("it belongs here");
        broker.bulk(frame(Some(hello))).await.expect("it belongs here");
    }
    probing_and_joining(&mut broker, &cluster_id).await;
    a_public_client(&cluster).await;

    let described = cluster
        .admin()
        .await
        .describe_cluster()
        .await
        .expect("a broker answers");
    assert_eq!(described.brokers.len(), 3, "a stranger got in");
    cluster.healthy().await;
}

async fn probing_and_joining(broker: &mut InternalServiceClient<Channel>, cluster_id: &str) {
    for (min, max) in [(2, 9), (0, 0)] {
        let probe = ProbeRequest {
            broker_id: 4,
            protocol_min: min,
            protocol_max: max,
            ..ProbeRequest::default()
        };
        assert_refused("probe", broker.probe(probe).await, "UNSUPPORTED_PROTOCOL");
    }
    let join = |cluster_id: &str, protocol| JoinRequest {
        cluster_id: cluster_id.to_owned(),
        member: Some(Member {
            broker_id: 4,
            internal_address: "127.0.0.1:1".to_owned(),
            address: "127.0.0.1:2".to_owned(),
            directory_id: vec![4; 16].into(),
            feature_level: 1,
            ..Member::default()
        }),
        protocol_min: protocol,
        protocol_max: protocol,
    };
    assert_refused("join", broker.join(join("", 2)).await, "UNSUPPORTED_PROTOCOL");
    assert_refused("join", broker.join(join("another", 1)).await, "WRONG_CLUSTER");
    assert_refused("join", broker.join(join(cluster_id, 2)).await, "UNSUPPORTED_PROTOCOL");
}

/// A client that was given the wrong port is told the right one; a broker that was, finds its service missing on the
/// public one.
async fn a_public_client(cluster: &Cluster) {
    let node = cluster.node(cluster.leader(TOPIC, 0).await);
    let mut log = raw::log(&node.addresses.internal).await;
    let produced = raw::produce(&mut log, raw::partition(TOPIC, 0), raw::batch(None, &[b"a"])).await;
    let produced = produced.map(drop);
    let offset = raw::end(&mut log, raw::partition(TOPIC, 0)).await.map(drop);
    let mut metadata = MetadataServiceClient::connect(format!("http://{}", node.addresses.internal))
        .await
        .expect("it listens");
    let metadata = metadata.get_metadata(GetMetadataRequest::default()).await.map(drop);
    for answer in [produced, offset, metadata] {
        let status = answer.expect_err("clients are refused on the internal listener");
        assert_eq!(status.code(), Code::FailedPrecondition, "{status:?}");
        for named in ["internal listener", &node.addresses.public] {
            assert!(
                status.message().contains(named),
                "it does not name {named:?}: {status:?}"
            );
        }
    }
    let public = format!("http://{}", node.addresses.public);
    let mut public = InternalServiceClient::connect(public).await.expect("it listens");
    let status = public
        .probe(ProbeRequest::default())
        .await
        .expect_err("brokers are not served there");
    assert_eq!(status.code(), Code::Unimplemented, "{status:?}");
    assert_eq!(
        cluster.partition(TOPIC, 0).await.high_watermark,
        Some(0),
        "something was written"
    );
}

/// A new broker whose seed speaks another protocol says so and ends, instead of waiting forever.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_broker_whose_seed_speaks_another_protocol_says_so() {
    let options = Options {
        stopped: true,
        ..Options::default()
    };
    let mut cluster = Cluster::start_with(2, options).await;
    let _later = later_seed::start(&cluster.node(2).addresses.internal).await;
    cluster.restart(1);
    let status = cluster.ended(1).await;
    let log = cluster.node(1).log_tail();
    assert_eq!(status.code(), Some(1), "{log}");
    for named in ["UNSUPPORTED_PROTOCOL", &cluster.node(2).addresses.internal] {
        assert!(log.contains(named), "it does not name {named:?}:\n{log}");
    }
}

/// A start that is refused for its broker id leaves nothing behind that would refuse the next one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_broker_that_was_refused_for_its_id_starts_with_another() {
    let options = Options {
        stopped: true,
        seeds: 2,
        ..Options::default()
    };
    let mut cluster = Cluster::start_with(3, options).await;
    for id in [1, 2] {
        cluster.restart(id);
    }
    for id in [1, 2] {
        cluster.ready(id).await;
    }
    cluster.restart_with(3, &[("JANGADA__BROKER_ID", "2")]);
    let status = cluster.ended(3).await;
    let log = cluster.node(3).log_tail();
    assert_eq!(status.code(), Some(1), "{log}");
    assert!(log.contains("every broker needs an id of its own"), "{log}");
    cluster.restart(3);
    cluster.healthy().await;
    assert_eq!(cluster.node(3).identity()["broker_id"].as_integer(), Some(3));
}

/// A seed of a later version, as far as a probe meets it.
mod later_seed {
    use std::pin::Pin;

    use jangada_proto::internal::internal_service_server::{InternalService, InternalServiceServer};
    use jangada_proto::internal::{
        AdoptRequest, AdoptResponse, CleanedSinceRequest, CleanedSinceResponse, EndOffsetsRequest, EndOffsetsResponse,
        ForwardRequest, ForwardResponse, Frame, InstallSnapshotResponse, JoinRequest, JoinResponse, ProbeRequest,
        ProbeResponse, ProposeMetadataRequest, ProposeMetadataResponse, SlowestGroups, SlowestGroupsTaken,
        SnapshotChunk,
    };
    use tokio::net::TcpListener;
    use tokio::task::JoinSet;
    use tokio_stream::Stream;
    use tokio_stream::wrappers::TcpListenerStream;
    use tonic::{Request, Response, Status, Streaming};

    struct LaterSeed;

    fn refuse<T>() -> Result<T, Status> {
        Err(Status::failed_precondition(
            "UNSUPPORTED_PROTOCOL: this broker speaks internal protocol 7 to 9, the caller 1 to 1: upgrade the older one",
        ))
    }

    type Frames = Pin<Box<dyn Stream<Item = Result<Frame, Status>> + Send>>;

    #[tonic::async_trait]
    impl InternalService for LaterSeed {
        type ControlStream = Frames;
        type BulkStream = Frames;

        async fn control(&self, _: Request<Streaming<Frame>>) -> Result<Response<Frames>, Status> {
            refuse()
        }

        async fn bulk(&self, _: Request<Streaming<Frame>>) -> Result<Response<Frames>, Status> {
            refuse()
        }

        async fn install_snapshot(
            &self,
            _: Request<Streaming<SnapshotChunk>>,
        ) -> Result<Response<InstallSnapshotResponse>, Status> {
            refuse()
        }

        async fn probe(&self, _: Request<ProbeRequest>) -> Result<Response<ProbeResponse>, Status> {
            refuse()
        }

        async fn adopt(&self, _: Request<AdoptRequest>) -> Result<Response<AdoptResponse>, Status> {
            refuse()
        }

        async fn join(&self, _: Request<JoinRequest>) -> Result<Response<JoinResponse>, Status> {
            refuse()
        }

        async fn end_offsets(&self, _: Request<EndOffsetsRequest>) -> Result<Response<EndOffsetsResponse>, Status> {
            refuse()
        }

        async fn tell_slowest_groups(&self, _: Request<SlowestGroups>) -> Result<Response<SlowestGroupsTaken>, Status> {
            refuse()
        }

        async fn cleaned_since(
            &self,
            _: Request<CleanedSinceRequest>,
        ) -> Result<Response<CleanedSinceResponse>, Status> {
            refuse()
        }

        async fn forward(&self, _: Request<ForwardRequest>) -> Result<Response<ForwardResponse>, Status> {
            refuse()
        }

        async fn propose_metadata(
            &self,
            _: Request<ProposeMetadataRequest>,
        ) -> Result<Response<ProposeMetadataResponse>, Status> {
            refuse()
        }
    }

    /// Listens until what it gives is dropped.
    pub async fn start(address: &str) -> JoinSet<()> {
        let listener = TcpListener::bind(address).await.expect("the port is free");
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            tonic::transport::Server::builder()
                .add_service(InternalServiceServer::new(LaterSeed))
                .serve_with_incoming(TcpListenerStream::new(listener))
                .await
                .expect("it serves");
        });
        tasks
    }
}
