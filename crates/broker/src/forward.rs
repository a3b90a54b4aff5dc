//! Messages that one broker passes on to another: calls of its clients that only that one can answer, and its own questions about what
//! only that one knows. They go one hop, over the internal listener, with the context of the client's call.
//!
//! Brokers below feature level 6 don't know such messages. They are called as clients call them, with a header that says that
//! they are not to pass the call on again, as far as their contract has the call; and they call in this way. Any client can send that
//! header, so it means something only while there is such a broker ([`was_passed_on`]).

use std::time::Duration;

use jangada_controller::{Broker, ENDPOINTS_FEATURE_LEVEL, Image};
use jangada_proto::internal::forward_request::Call;
use jangada_proto::internal::forward_response::Answer;
use jangada_proto::internal::{CallContext, ForwardRequest, KnowsLeadersResponse, ListBrokersResponse};
use jangada_proto::v1::admin_service_client::AdminServiceClient;
use jangada_proto::v1::group_service_client::GroupServiceClient;
use jangada_proto::v1::metadata_service_client::MetadataServiceClient;
use jangada_proto::v1::*;
use jangada_replication::Registry;
use jangada_replication::transport::{self, dialer::CallError};
use jangada_types::limits::RESPONSE_BYTES_MAX;
use tonic::metadata::MetadataValue;
use tonic::transport::Channel;
use tonic::{Request, Status};

use crate::api::context::RequestContext;

/// Marks a call that a broker below level 6 passed on, or that is passed on to one.
const FORWARDED: &str = "jangada-forwarded";

/// The other broker, and the connection to it, give a call up so much later than this one does: whose time is over first drops it, and
/// only what this one drops says nothing against the connection.
const GRACE: Duration = Duration::from_millis(100);

/// Whether a call that came by a listener of clients was passed on by another broker, and so is not to be passed on again.
pub(crate) fn was_passed_on<T>(image: &Image, request: &Request<T>) -> bool {
    request.metadata().contains_key(FORWARDED) && image.brokers().any(|broker| !knows_forwarding(broker))
}

fn knows_forwarding(broker: &Broker) -> bool {
    broker.feature_level >= ENDPOINTS_FEATURE_LEVEL
}

/// Why a message that was passed on has no answer.
pub(crate) enum ForwardError {
    /// The other broker is too old for it, which says why.
    TooOld(String),
    Call(CallError),
}

/// Has another broker answer: for a client of this one, or this broker itself when there is no context.
pub(crate) async fn forward(
    registry: &Registry,
    broker: &Broker,
    context: Option<&RequestContext>,
    call: Call,
    within: Duration,
) -> Result<Answer, ForwardError> {
    if !knows_forwarding(broker) {
        return ask_as_client(registry, broker, call, within).await;
    }
    // As the transport reaches it: it may have told this broker a newer address than the metadata have.
    let address = registry.peer_address(broker.id);
    let address = address.unwrap_or_else(|| broker.internal_address.clone());
    let mut request = Request::new(ForwardRequest {
        hello: Some(registry.hello(broker.id)),
        context: context.map(context_of),
        call: Some(call),
    });
    let left = context.map_or(within, |context| context.time_left(within));
    request.set_timeout(left + GRACE);
    let ask = |channel| async move { transport::internal_client(channel).forward(request).await };
    let response = registry.dialer().call(&address, within, ask).await;
    let response = response.map_err(ForwardError::Call)?;
    response.answer.ok_or_else(|| {
        let status = Status::unimplemented(format!("broker {} does not know the answer to such calls", broker.id));
        ForwardError::Call(CallError::Failed(status))
    })
}

/// Calls a broker below level 6 as a client would.
async fn ask_as_client(
    registry: &Registry,
    broker: &Broker,
    call: Call,
    within: Duration,
) -> Result<Answer, ForwardError> {
    macro_rules! ask {
        ($request:ident, $client:ident.$method:ident) => {{
            let mut request = Request::new($request);
            let marked = MetadataValue::from_static("1");
            request.metadata_mut().insert(FORWARDED, marked);
            request.set_timeout(within);
            let ask = |channel: Channel| async move {
                let mut client = $client::new(channel).max_decoding_message_size(RESPONSE_BYTES_MAX);
                client.$method(request).await
            };
            let answer = registry.dialer().call(&broker.address, within, ask).await;
            answer.map_err(ForwardError::Call)
        }};
    }
    match call {
        Call::TrimPartition(request) => ask!(request, AdminServiceClient.trim_partition).map(Answer::TrimPartition),
        Call::TransferLeader(request) => ask!(request, AdminServiceClient.transfer_leader).map(Answer::TransferLeader),
        Call::DescribePartitions(request) => {
            ask!(request, AdminServiceClient.describe_partitions).map(Answer::DescribePartitions)
        }
        Call::DescribeDamage(request) => ask!(request, AdminServiceClient.describe_cluster).map(Answer::DescribeDamage),
        Call::ListGroups(request) => ask!(request, GroupServiceClient.list_groups).map(Answer::ListGroups),
        Call::ListBrokers(_) => {
            let request = GetMetadataRequest::default();
            let answer = ask!(request, MetadataServiceClient.get_metadata)?;
            let broker_ids = answer.brokers.iter().map(|broker| broker.broker_id).collect();
            Ok(Answer::ListBrokers(ListBrokersResponse { broker_ids }))
        }
        Call::KnowsLeaders(asked) => {
            let request = GetMetadataRequest {
                topics: Vec::new(),
                topic_ids: vec![asked.topic_id],
                min_version: asked.min_version,
            };
            let answer = ask!(request, MetadataServiceClient.get_metadata)?;
            let mut partitions = answer.topics.iter().flat_map(|topic| &topic.partitions);
            let all = partitions.all(|partition| partition.leader_id != 0);
            Ok(Answer::KnowsLeaders(KnowsLeadersResponse { all }))
        }
        _ => Err(ForwardError::TooOld(format!(
            "the feature level of broker {} is {}, and it takes such calls from {ENDPOINTS_FEATURE_LEVEL} on",
            broker.id, broker.feature_level
        ))),
    }
}

fn context_of(context: &RequestContext) -> CallContext {
    CallContext {
        listener: context.listener.to_string(),
        peer: context.peer.to_string(),
        client_id: context.client_id.as_deref().unwrap_or_default().to_owned(),
        principal: context.principal.name().to_owned(),
    }
}
