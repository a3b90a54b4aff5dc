//! The services that generic gRPC tools need: reflection and health, on the public listener.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio_stream::{StreamExt as _, iter};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_reflection::pb::v1::ServerReflectionRequest;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;

use crate::harness::{Cluster, WAIT};

/// The services of the contract, besides health and reflection themselves.
const SERVICES: [&str; 4] = [
    "jangada.v1.AdminService",
    "jangada.v1.GroupService",
    "jangada.v1.LogService",
    "jangada.v1.MetadataService",
];

/// Timeout of one call.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);

fn request<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(CALL_TIMEOUT);
    request
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_public_listener_answers_reflection_and_health() {
    let cluster = Cluster::start(1).await;
    let endpoint = Endpoint::from_shared(format!("http://{}", cluster.brokers()[0])).expect("an address");
    let channel = tokio::time::timeout(WAIT, endpoint.connect()).await;
    let channel = channel.expect("it answers").expect("it listens");
    reflection(channel.clone()).await;
    health(channel).await;
}

/// Asks reflection one question.
async fn reflect(channel: &Channel, question: MessageRequest) -> MessageResponse {
    let question = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(question),
    };
    let mut client = ServerReflectionClient::new(channel.clone());
    let answers = client.server_reflection_info(request(iter([question]))).await;
    let mut answers = answers.expect("reflection is served").into_inner();
    let answer = answers.next().await.expect("an answer").expect("reflection answers");
    answer.message_response.expect("a message")
}

/// Asks as `grpcurl list` and `grpcurl describe` do.
async fn reflection(channel: Channel) {
    let MessageResponse::ListServicesResponse(listed) =
        reflect(&channel, MessageRequest::ListServices(String::new())).await
    else {
        panic!("no list of services");
    };
    let listed: BTreeSet<String> = listed.service.into_iter().map(|service| service.name).collect();
    for service in SERVICES.into_iter().chain(["grpc.health.v1.Health"]) {
        assert!(listed.contains(service), "{service} is not listed: {listed:?}");
    }
    assert!(listed.iter().all(|service| !service.contains("internal")), "{listed:?}");
    for (symbol, word) in [
        (SERVICES[2], "ProduceStream"),
        (SERVICES[1], "CommitOffsets"),
        ("jangada.v1.ProduceRequest", "expected_key_offset"),
        // The message types of error details.
        ("google.rpc.ErrorInfo", "reason"),
        ("google.rpc.RetryInfo", "retry_delay"),
    ] {
        let question = MessageRequest::FileContainingSymbol(symbol.to_owned());
        let MessageResponse::FileDescriptorResponse(files) = reflect(&channel, question).await else {
            panic!("{symbol} is not described");
        };
        let has_word = |file: &Vec<u8>| file.windows(word.len()).any(|window| window == word.as_bytes());
        assert!(
            files.file_descriptor_proto.iter().any(has_word),
            "{symbol} without {word}"
        );
    }
}

/// Asks as load balancers and orchestrators do.
async fn health(channel: Channel) {
    let mut client = HealthClient::new(channel);
    for service in SERVICES.into_iter().chain([""]) {
        let question = HealthCheckRequest {
            service: service.to_owned(),
        };
        let answer = client.check(request(question)).await.expect("health is served");
        assert_eq!(answer.into_inner().status(), ServingStatus::Serving, "{service:?}");
    }
    let question = HealthCheckRequest {
        service: "jangada.v1.NoSuchService".to_owned(),
    };
    let error = client.check(request(question)).await.expect_err("there is none");
    assert_eq!(error.code(), Code::NotFound, "{error}");
}
