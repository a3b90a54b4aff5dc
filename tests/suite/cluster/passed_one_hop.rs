//! A call that is passed on goes one hop, and what is said of its client is believed on the internal listener alone.

use jangada_proto::internal::forward_request::Call;
use jangada_proto::internal::internal_service_client::InternalServiceClient;
use jangada_proto::internal::{CallContext, ForwardRequest, Hello};
use jangada_proto::v1::ProduceRequest;
use jangada_proto::v1::produce_request::Payload;
use tonic::transport::Channel;
use tonic::{Code, Request};

use crate::harness::{Cluster, Scrape, raw};

const TOPIC: &str = "orders";

fn produce(value: &'static [u8]) -> ProduceRequest {
    ProduceRequest {
        partition: Some(raw::partition(TOPIC, 0)),
        timeout_ms: 10_000,
        payload: Some(Payload::Batch(raw::batch(None, &[value]))),
        ..ProduceRequest::default()
    }
}

async fn internal(cluster: &Cluster, id: u32) -> InternalServiceClient<Channel> {
    let address = format!("http://{}", cluster.node(id).addresses.internal);
    InternalServiceClient::connect(address).await.expect("it listens")
}

/// A call as a broker passes it on.
fn passed(cluster_id: &str, (from, to): (u32, u32), call: Call) -> ForwardRequest {
    ForwardRequest {
        hello: Some(Hello {
            cluster_id: cluster_id.to_owned(),
            broker_id: from,
            incarnation: 1,
            to_broker_id: to,
            protocol_min: 1,
            protocol_max: 1,
            feature_level: jangada_types::FEATURE_LEVEL,
            past: None,
        }),
        context: Some(CallContext {
            listener: "public".to_owned(),
            peer: "192.0.2.7:4711".to_owned(),
            client_id: "somebody".to_owned(),
            principal: "ANONYMOUS".to_owned(),
        }),
        call: Some(call),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_goes_one_hop_and_is_believed_on_the_internal_listener_alone() {
    let cluster = Cluster::start(3).await;
    cluster.create_topic(TOPIC, 1, 3).await;
    let described = cluster.admin().await.describe_cluster().await.expect("it answers");
    let leader = cluster.leader(TOPIC, 0).await;
    let others: Vec<u32> = cluster.ids().into_iter().filter(|id| *id != leader).collect();
    let [from, to] = others[..] else {
        panic!("there are three")
    };
    let call = || Call::Produce(produce(b"astray"));

    // A broker that believes in a leader of yesterday passes a call on to one that does not lead.
    let mut broker = internal(&cluster, to).await;
    let refused = broker.forward(passed(&described.cluster_id, (from, to), call())).await;
    let refused = raw::assert_refused(refused, "NOT_LEADER", &[TOPIC]);
    assert_eq!(raw::detail(&refused, "definite").as_deref(), Some("true"));
    assert_eq!(raw::detail(&refused, "leader_id"), Some(leader.to_string()));
    let address = raw::detail(&refused, "leader_address");
    assert_eq!(address.as_ref(), Some(&cluster.node(leader).addresses.public));
    assert_eq!(cluster.high_watermark(TOPIC, 0).await, 0, "it went a second hop");
    let scraped = Scrape::of(&cluster, to).await;
    assert_eq!(scraped.value("jangada_passed_on_total", &[]), 0.0);
    let labels = [("method", "LogService/Produce"), ("outcome", "NOT_LEADER")];
    assert_eq!(scraped.value("jangada_passed_requests_total", &labels), 1.0);
    // The leader takes it.
    let mut broker = internal(&cluster, leader).await;
    let taken = broker
        .forward(passed(&described.cluster_id, (from, leader), call()))
        .await;
    taken.expect("it leads");
    assert_eq!(cluster.high_watermark(TOPIC, 0).await, 1);

    // A stranger passes nothing on, nor does who says nothing of the client.
    let stranger = broker.forward(passed(&described.cluster_id, (9, leader), call())).await;
    assert_eq!(stranger.expect_err("nobody knows it").code(), Code::FailedPrecondition);
    let nobodys = ForwardRequest {
        context: None,
        ..passed(&described.cluster_id, (from, leader), call())
    };
    raw::assert_refused(broker.forward(nobodys).await, "INVALID_REQUEST", &["context"]);
    let unknown = passed(&described.cluster_id, (from, leader), call());
    let unknown = ForwardRequest {
        context: unknown.context.map(|context| CallContext {
            principal: "User:alice".to_owned(),
            ..context
        }),
        ..unknown
    };
    raw::assert_refused(broker.forward(unknown).await, "INVALID_REQUEST", &["User:alice"]);

    // A client cannot say that a call was passed on, or who has made it.
    let public = format!("http://{}", cluster.node(leader).addresses.public);
    let mut client = InternalServiceClient::connect(public).await.expect("it listens");
    let forged = client
        .forward(passed(&described.cluster_id, (from, leader), call()))
        .await;
    assert_eq!(
        forged.expect_err("clients have no such service").code(),
        Code::Unimplemented
    );
    let mut log = raw::log(&cluster.node(leader).addresses.public).await;
    let mut request = Request::new(produce(b"no"));
    let wish = "passed".parse().expect("a value");
    request.metadata_mut().insert("jangada-route", wish);
    raw::assert_refused(
        log.produce(request).await,
        "INVALID_REQUEST",
        &["jangada-route", "pass-on"],
    );
    assert_eq!(cluster.high_watermark(TOPIC, 0).await, 1);
}
