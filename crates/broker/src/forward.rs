//! Calls that one broker passes on to another: for what only that one can do or knows. They go one hop, over the internal
//! listener, with the context of the client's call.
//!
//! Brokers below feature level 6 don't know such calls. They are called as clients call them, with a header that says that
//! they are not to pass the call on again; and they call in this way. Any client can send that header, so it means something
//! only while there is such a broker ([`was_passed_on`]).

use std::time::Duration;

use jangada_controller::{Broker, ENDPOINTS_FEATURE_LEVEL, Image};
use jangada_proto::internal::forward_request::Call;
use jangada_proto::internal::forward_response::Answer;
use jangada_proto::internal::{CallContext, ForwardRequest};
use jangada_proto::v1::admin_service_client::AdminServiceClient;
use jangada_proto::v1::group_service_client::GroupServiceClient;
use jangada_proto::v1::metadata_service_client::MetadataServiceClient;
use jangada_proto::v1::*;
use jangada_replication::Registry;
use jangada_replication::transport::{self, dialer::CallError};
use jangada_types::limits::RESPONSE_BYTES_MAX;
use tonic::metadata::MetadataValue;
use tonic::transport::Channel;
use tonic::{Request, Response, Status};

use crate::api::context::RequestContext;

/// Marks a call that a broker below level 6 passed on, or that is passed on to one.
const FORWARDED: &str = "jangada-forwarded";
/// A call to another broker.
pub(crate) const CALL_TIMEOUT: Duration = Duration::from_secs(15);

/// Whether a call that came by a listener of clients was passed on by another broker, and so is not to be passed on again.
pub(crate) fn was_passed_on<T>(image: &Image, request: &Request<T>) -> bool {
    request.metadata().contains_key(FORWARDED) && image.brokers().any(|broker| !knows_forwarding(broker))
}

fn knows_forwarding(broker: &Broker) -> bool {
    broker.feature_level >= ENDPOINTS_FEATURE_LEVEL
}

/// A request that can be passed on.
pub(crate) trait Forwarded: Sized + Send {
    /// What it is answered.
    type Answer;

    /// In the message between brokers.
    fn into_call(self) -> Call;

    /// Out of the message between brokers; none if it is the answer to something else.
    fn answer_in(answer: Answer) -> Option<Self::Answer>;

    /// As a client would ask.
    fn ask_as_client(
        channel: Channel,
        request: Request<Self>,
    ) -> impl Future<Output = Result<Response<Self::Answer>, Status>> + Send;
}

macro_rules! forwarded {
    ($($request:ident => $answer:ident as $call:ident, $client:ident.$method:ident;)*) => {$(
        impl Forwarded for $request {
            type Answer = $answer;

            fn into_call(self) -> Call {
                Call::$call(self)
            }

            fn answer_in(answer: Answer) -> Option<$answer> {
                match answer {
                    Answer::$call(answer) => Some(answer),
                    _ => None,
                }
            }

            async fn ask_as_client(channel: Channel, request: Request<Self>) -> Result<Response<$answer>, Status> {
                let mut client = $client::new(channel).max_decoding_message_size(RESPONSE_BYTES_MAX);
                client.$method(request).await
            }
        }
    )*};
}

forwarded! {
    TrimPartitionRequest => TrimPartitionResponse as TrimPartition, AdminServiceClient.trim_partition;
    TransferLeaderRequest => TransferLeaderResponse as TransferLeader, AdminServiceClient.transfer_leader;
    DescribePartitionsRequest => DescribePartitionsResponse as DescribePartitions, AdminServiceClient.describe_partitions;
    DescribeClusterRequest => DescribeClusterResponse as DescribeDamage, AdminServiceClient.describe_cluster;
    ListGroupsRequest => ListGroupsResponse as ListGroups, GroupServiceClient.list_groups;
    GetMetadataRequest => GetMetadataResponse as GetMetadata, MetadataServiceClient.get_metadata;
}

/// Passes a client's call on to another broker, or asks it something when there is no client.
pub(crate) async fn forward<R: Forwarded>(
    registry: &Registry,
    broker: &Broker,
    context: Option<&RequestContext>,
    request: R,
    within: Duration,
) -> Result<R::Answer, CallError> {
    if !knows_forwarding(broker) {
        let mut request = Request::new(request);
        request
            .metadata_mut()
            .insert(FORWARDED, MetadataValue::from_static("1"));
        request.set_timeout(within);
        let ask = |channel| R::ask_as_client(channel, request);
        return registry.dialer().call(&broker.address, within, ask).await;
    }
    // As the transport reaches it: it may have told this broker a newer address than the metadata have.
    let address = registry.peer_address(broker.id);
    let address = address.unwrap_or_else(|| broker.internal_address.clone());
    let mut request = Request::new(ForwardRequest {
        hello: Some(registry.hello(broker.id)),
        context: context.map(context_of),
        call: Some(request.into_call()),
    });
    request.set_timeout(within);
    let ask = |channel| async move { transport::internal_client(channel).forward(request).await };
    let response = registry.dialer().call(&address, within, ask).await?;
    let answer = response.answer.and_then(R::answer_in);
    answer.ok_or_else(|| {
        CallError::Failed(Status::internal(format!(
            "broker {} answered something else",
            broker.id
        )))
    })
}

fn context_of(context: &RequestContext) -> CallContext {
    CallContext {
        listener: context.listener.to_string(),
        peer: context.peer.to_string(),
        client_id: context.client_id.as_deref().unwrap_or_default().to_owned(),
    }
}
