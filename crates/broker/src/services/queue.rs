//! `QueueService`: sending to queues, and handing their messages out.

use std::sync::Arc;

use jangada_proto::v1;
use jangada_proto::v1::queue_service_server::QueueService;
use jangada_queue::{AttemptId, SessionId};
use jangada_types::PartitionIndex;
use jangada_types::queue_config::Dedup;
use tonic::{Request, Response, Status, Streaming};

use super::queue_transaction_wire as transactions;
use super::queue_wire as wire;
use super::record_wire::invalid;
use super::{names, queue_streams, status};
use crate::admission::{Call, Framed, call_of};
use crate::api::call::queues::PeekMessages;
use crate::api::produce;
use crate::api::queue_messages::receive::Receive;
use crate::api::queue_messages::{self, QueueRef, peek, receive, send, send_in, settle};
use crate::error::RequestError;
use crate::listener::Protocol;
use crate::node::Node;

/// The service `QueueService` (`queue.proto`).
pub(crate) struct Queues {
    pub node: Arc<Node>,
}

#[tonic::async_trait]
impl QueueService for Queues {
    async fn find_queue(
        &self,
        request: Request<v1::FindQueueRequest>,
    ) -> Result<Response<v1::FindQueueResponse>, Status> {
        let call = call_of(&request);
        status::answer(&self.node, &call, find(&self.node, &call, request.into_inner()))
    }

    async fn send(&self, request: Request<v1::SendRequest>) -> Result<Response<v1::SendResponse>, Status> {
        let call = call_of(&request);
        let sent = send_all(&self.node, &call, request.into_inner()).await;
        status::answer(&self.node, &call, sent)
    }

    type SendStreamStream = queue_streams::Sent;

    async fn send_stream(
        &self,
        request: Request<Streaming<v1::SendStreamRequest>>,
    ) -> Result<Response<Self::SendStreamStream>, Status> {
        let call = call_of(&request);
        let stream = queue_streams::send(self.node.clone(), call.clone(), request.into_inner());
        status::answer(&self.node, &call, stream)
    }

    async fn receive(&self, request: Request<v1::ReceiveRequest>) -> Result<Response<v1::ReceiveResponse>, Status> {
        let call = call_of(&request);
        let received = receive_some(&self.node, &call, request.into_inner()).await;
        status::answer(&self.node, &call, received)
    }

    async fn settle(&self, request: Request<v1::SettleRequest>) -> Result<Response<v1::SettleResponse>, Status> {
        let call = call_of(&request);
        let settled = settle_all(&self.node, &call, request.into_inner()).await;
        status::answer(&self.node, &call, settled)
    }

    type ConsumeStream = queue_streams::Consumed;

    async fn consume(
        &self,
        request: Request<Streaming<v1::ConsumeRequest>>,
    ) -> Result<Response<Self::ConsumeStream>, Status> {
        let call = call_of(&request);
        let stream = queue_streams::consume(self.node.clone(), call.clone(), request.into_inner()).await;
        status::answer(&self.node, &call, stream)
    }

    async fn cancel(&self, request: Request<v1::CancelRequest>) -> Result<Response<v1::CancelResponse>, Status> {
        let call = call_of(&request);
        let cancelled = cancel_all(&self.node, &call, request.into_inner()).await;
        status::answer(&self.node, &call, cancelled)
    }

    async fn peek(&self, request: Request<v1::PeekRequest>) -> Result<Response<v1::PeekResponse>, Status> {
        let call = call_of(&request);
        let shown = peek_some(&self.node, &call, request.into_inner()).await;
        status::answer(&self.node, &call, shown)
    }
}

pub(super) fn queue_of(node: &Node, name: String, id: &[u8]) -> Result<QueueRef, RequestError> {
    queue_messages::find(node, &names::queue(id, name)?)
}

fn find(node: &Arc<Node>, call: &Call, request: v1::FindQueueRequest) -> Result<v1::FindQueueResponse, RequestError> {
    let queue = queue_of(node, request.queue, &request.queue_id)?;
    let image = node.metadata.image();
    let partitions = queue.partitions().map(|index| {
        let leader = queue_messages::leader_of(node, &queue, index);
        let broker = leader.and_then(|(leader, _)| image.broker(leader));
        let address = broker.map(|broker| {
            broker
                .address_at(&call.context.listener, Protocol::Grpc.name())
                .to_string()
        });
        v1::QueuePartition {
            partition: index.get(),
            leader_id: leader.map_or(0, |(leader, _)| leader.get()),
            leader_address: address.unwrap_or_default(),
            leader_epoch: leader.map_or(0, |(_, term)| u32::try_from(term).unwrap_or(u32::MAX)),
        }
    });
    Ok(v1::FindQueueResponse {
        partitions: partitions.collect(),
        queue: queue.name().to_owned(),
        queue_id: wire::queue_id_to(queue.id()),
        topic: queue.topic.name.to_string(),
        topic_id: bytes::Bytes::copy_from_slice(queue.topic.id.as_bytes()),
        version: image.version(),
        recognizes_repetitions: queue.config.dedup != Dedup::None,
        recognizes_content: queue.config.dedup == Dedup::Content,
    })
}

/// Sends messages, for a call of its own or one of a stream.
pub(super) async fn send_all(
    node: &Arc<Node>,
    call: &Call,
    request: v1::SendRequest,
) -> Result<v1::SendResponse, RequestError> {
    if request.messages.is_empty() {
        return Err(invalid("the request has no messages: send at least one"));
    }
    let queue = queue_of(node, request.queue, &request.queue_id)?;
    let timeout = produce::timeout(node, request.timeout_ms)?;
    let sends_in = transactions::sends_in_of(request.transaction, request.base_sequence)?;
    let messages = request.messages.into_iter().map(wire::message_of).collect();
    let partition = request.partition.map(PartitionIndex);
    let outcomes = match sends_in {
        None => send::send(node, &call.context, &queue, (partition, messages), timeout).await?,
        Some(sends_in) => {
            let wanted = (partition, messages, sends_in);
            send_in::send_in(node, &call.context, &queue, wanted, timeout).await?
        }
    };
    Ok(wire::sent_to(outcomes, |error| {
        node.refused(error, &call.context.listener)
    }))
}

async fn receive_some(
    node: &Arc<Node>,
    call: &Call,
    request: v1::ReceiveRequest,
) -> Result<v1::ReceiveResponse, RequestError> {
    let queue = queue_of(node, request.queue, &request.queue_id)?;
    if request.attempt_id != 0 && request.session == 0 {
        return Err(invalid("attempt_id needs session: choose one at random, and keep it"));
    }
    let wanted = Receive {
        partition: request.partition.map(PartitionIndex),
        session: SessionId(request.session),
        attempt: AttemptId(request.attempt_id),
        messages: wire::max_messages(request.max_messages)?,
        max_bytes: wire::max_bytes(request.max_bytes)?,
        lease_ms: wire::lease_ms(request.lease_ms)?,
        wait: wire::wait(request.wait_ms)?,
    };
    wire::check_count("items to settle", request.settle.len(), 0)?;
    let settles = wire::settle_of(&queue, request.settle)?;
    let settled = match settles.is_empty() {
        true => Vec::new(),
        false => settle::settle(node, &call.context, &queue, settles).await,
    };
    let received = receive::receive(node, &call.context, &queue, wanted).await;
    let received = match received {
        Err(error) if settled.is_empty() => return Err(error),
        // What was settled is told in any case: the error comes again with the next call.
        Err(_) => None,
        Ok(received) => Some(received),
    };
    let (messages, room, full) = match received {
        Some(received) => (received.messages, received.room, received.in_flight_full),
        None => Default::default(),
    };
    let response = v1::ReceiveResponse {
        in_flight_full: wire::in_flight_full_to(full),
        messages: messages.into_iter().map(wire::received_to).collect(),
        settled: wire::settled_to(settled, |error| node.refused(error, &call.context.listener)),
    };
    Ok(match room {
        Some(room) => {
            call.send(Framed::of(&response, Some(room)));
            v1::ReceiveResponse::default()
        }
        None => response,
    })
}

async fn settle_all(
    node: &Arc<Node>,
    call: &Call,
    request: v1::SettleRequest,
) -> Result<v1::SettleResponse, RequestError> {
    let queue = queue_of(node, request.queue, &request.queue_id)?;
    wire::check_count("items", request.items.len(), 1)?;
    let items = wire::settle_of(&queue, request.items)?;
    let settled = match transactions::settles_in_of(request.transaction, &items)? {
        None => settle::settle(node, &call.context, &queue, items).await,
        Some(transaction) => settle::acknowledge_in(node, &call.context, &queue, (items, transaction)).await?,
    };
    let results = wire::settled_to(settled, |error| node.refused(error, &call.context.listener));
    Ok(v1::SettleResponse { results })
}

async fn cancel_all(
    node: &Arc<Node>,
    call: &Call,
    request: v1::CancelRequest,
) -> Result<v1::CancelResponse, RequestError> {
    let queue = queue_of(node, request.queue, &request.queue_id)?;
    wire::check_count("messages", request.messages.len(), 1)?;
    let places = request.messages.into_iter().map(|place| {
        let index = PartitionIndex(place.partition);
        queue.target(index)?;
        Ok((index, wire::offset_of(place.offset)?))
    });
    let places = places.collect::<Result<Vec<_>, RequestError>>()?;
    let cancelled = settle::cancel(node, &call.context, &queue, places).await;
    let results = wire::settled_to(cancelled, |error| node.refused(error, &call.context.listener));
    Ok(v1::CancelResponse { results })
}

async fn peek_some(node: &Arc<Node>, call: &Call, request: v1::PeekRequest) -> Result<v1::PeekResponse, RequestError> {
    let queue = queue_of(node, request.queue, &request.queue_id)?;
    let wanted = PeekMessages {
        at: queue.partition(PartitionIndex(request.partition)),
        from: wire::offset_of(request.from_offset)?,
        states: request
            .states
            .into_iter()
            .map(wire::state_of)
            .collect::<Result<_, _>>()?,
        limit: wire::peek_limit(request.limit)?,
        max_bytes: wire::max_bytes(request.max_bytes)?,
    };
    let shown = peek::peek(node, &call.context, &queue, wanted).await?;
    let response = wire::peeked_to(shown.peeked);
    Ok(match shown.room {
        Some(room) => {
            call.send(Framed::of(&response, Some(room)));
            v1::PeekResponse::default()
        }
        None => response,
    })
}
