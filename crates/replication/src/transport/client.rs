//! openraft's network: one group's way to one other replica, on the links that all groups share.

use std::collections::VecDeque;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::{Stream, StreamExt, stream};
use jangada_proto::internal::message::Body;
use jangada_proto::internal::{SnapshotChunk, SnapshotHeader};
use jangada_types::{GroupId, ReplicaId};
use openraft::base::{BoxFuture, BoxStream};
use openraft::error::{NetworkError, RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::{RPCOption, RaftNetworkFactory, RaftNetworkV2};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, StreamAppendResult, TransferLeaderRequest,
    TransferLeaderResponse, VoteRequest, VoteResponse,
};

use super::link::{AppendStream, Lane, LinkError};
use super::{Peer, SNAPSHOT_CHUNK_BYTES, Transport, client, endpoint};
use crate::codec;
use crate::raft_types::{Snapshot, TypeConfig, Vote};
use crate::wire;

/// Append messages of one group under way to one replica: within the 64 that openraft's follower buffers.
const IN_FLIGHT_MESSAGES_MAX: usize = 48;
/// Entry bytes of one group under way to one replica.
const IN_FLIGHT_BYTES_MAX: usize = 4 << 20;
/// Between two tries to reach a broker whose address is not known.
const UNKNOWN_PEER_PAUSE: Duration = Duration::from_millis(100);
/// A snapshot's transfer may take this long; it is small.
const SNAPSHOT_TIMEOUT: Duration = Duration::from_secs(30);

/// Makes the networks of one group.
pub(crate) struct NetworkFactory {
    pub transport: Arc<Transport>,
    pub group: GroupId,
}

impl RaftNetworkFactory<TypeConfig> for NetworkFactory {
    type Network = Network;

    async fn new_client(&mut self, target: ReplicaId, _node: &()) -> Network {
        Network {
            transport: self.transport.clone(),
            group: self.group,
            target,
            lane: Lane::Bulk,
        }
    }

    async fn new_heartbeat_client(&mut self, target: ReplicaId, _node: &()) -> Network {
        Network {
            transport: self.transport.clone(),
            group: self.group,
            target,
            lane: Lane::Control,
        }
    }
}

/// One group's way to one replica. Votes always go over the control connection; `lane` says which way appends go.
pub(crate) struct Network {
    transport: Arc<Transport>,
    group: GroupId,
    target: ReplicaId,
    lane: Lane,
}

fn unreachable(cause: impl ToString) -> RPCError<TypeConfig> {
    RPCError::Unreachable(Unreachable::from_string(cause))
}

impl From<LinkError> for RPCError<TypeConfig> {
    fn from(error: LinkError) -> Self {
        unreachable(error)
    }
}

fn protocol(cause: impl ToString) -> RPCError<TypeConfig> {
    RPCError::Network(NetworkError::from_string(cause))
}

impl Network {
    fn peer(&self) -> Result<Arc<Peer>, RPCError<TypeConfig>> {
        self.transport
            .peer(self.target.broker)
            .ok_or_else(|| unreachable(format!("broker {} is not known", self.target.broker)))
    }

    /// One request over the control connection.
    async fn call(&self, body: Body, timeout: Duration) -> Result<Body, RPCError<TypeConfig>> {
        let peer = self.peer()?;
        let call = peer.control.call(self.group, self.target.incarnation, body);
        match tokio::time::timeout(timeout, call).await {
            Err(_) => Err(unreachable(format!(
                "broker {} did not answer within {timeout:?}",
                self.target.broker
            ))),
            Ok(Err(error)) => Err(error.into()),
            Ok(Ok(Body::Refused(refused))) => Err(unreachable(refused.reason)),
            Ok(Ok(body)) => Ok(body),
        }
    }

    async fn call_append(
        &self,
        request: AppendEntriesRequest<TypeConfig>,
        timeout: Duration,
    ) -> Result<wire::AppendResult, RPCError<TypeConfig>> {
        match self.call(Body::Append(wire::append_to(request)), timeout).await? {
            Body::AppendResult(result) => wire::append_result_from(result).map_err(protocol),
            _ => Err(protocol("not the answer to an append")),
        }
    }
}

/// A pipelined stream of appends: sends while the windows have room, yields answers in order.
struct Pipeline<S> {
    input: S,
    input_ended: bool,
    stream: AppendStream,
    /// Bytes of each request under way.
    in_flight: VecDeque<usize>,
    in_flight_bytes: usize,
}

impl<S: Stream<Item = AppendEntriesRequest<TypeConfig>> + Unpin> Pipeline<S> {
    /// The next answer; `None` at the end.
    async fn next(&mut self) -> Option<Result<StreamAppendResult<TypeConfig>, RPCError<TypeConfig>>> {
        loop {
            if self.input_ended && self.in_flight.is_empty() {
                return None;
            }
            let room = self.in_flight.len() < IN_FLIGHT_MESSAGES_MAX && self.in_flight_bytes < IN_FLIGHT_BYTES_MAX;
            tokio::select! {
                biased;
                answer = self.stream.answer(), if !self.in_flight.is_empty() => return Some(self.answered(answer)),
                request = self.input.next(), if room && !self.input_ended => match request {
                    None => self.input_ended = true,
                    Some(request) => {
                        let request = wire::append_to(request);
                        let bytes = wire::append_size(&request);
                        if let Err(error) = self.stream.send(request).await {
                            self.end();
                            return Some(Err(error.into()));
                        }
                        self.in_flight.push_back(bytes);
                        self.in_flight_bytes += bytes;
                    }
                },
            }
        }
    }

    fn end(&mut self) {
        self.input_ended = true;
        self.in_flight.clear();
    }

    fn answered(
        &mut self,
        answer: Option<Result<Body, LinkError>>,
    ) -> Result<StreamAppendResult<TypeConfig>, RPCError<TypeConfig>> {
        let bytes = self.in_flight.pop_front().expect("an answer belongs to a request");
        self.in_flight_bytes -= bytes;
        let result = match answer {
            None => Err(unreachable("the connection ended")),
            Some(Err(error)) => Err(error.into()),
            Some(Ok(Body::Refused(refused))) => Err(unreachable(refused.reason)),
            Some(Ok(Body::AppendResult(result))) => wire::append_result_from(result).map_err(protocol),
            Some(Ok(_)) => Err(protocol("not the answer to an append")),
        };
        // After a conflict or a higher vote nothing that is under way can succeed.
        if !matches!(result, Ok(Ok(_))) {
            self.end();
        }
        result
    }
}

impl RaftNetworkV2<TypeConfig> for Network {
    type SnapshotData = Bytes;

    async fn append_entries(
        &mut self,
        request: AppendEntriesRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<TypeConfig>, RPCError<TypeConfig>> {
        use openraft::raft::StreamAppendError;
        Ok(match self.call_append(request, option.soft_ttl()).await? {
            Ok(_) => AppendEntriesResponse::Success,
            Err(StreamAppendError::Conflict(_)) => AppendEntriesResponse::Conflict,
            Err(StreamAppendError::HigherVote(vote)) => AppendEntriesResponse::HigherVote(vote),
        })
    }

    fn stream_append<'s, S>(
        &'s mut self,
        input: S,
        option: RPCOption,
    ) -> BoxFuture<
        's,
        Result<BoxStream<'s, Result<StreamAppendResult<TypeConfig>, RPCError<TypeConfig>>>, RPCError<TypeConfig>>,
    >
    where
        S: Stream<Item = AppendEntriesRequest<TypeConfig>> + Send + Unpin + 'static,
    {
        Box::pin(async move {
            let answers: BoxStream<'s, _> = match self.lane {
                Lane::Control => {
                    let network = &*self;
                    let timeout = option.hard_ttl();
                    Box::pin(input.then(move |request| network.call_append(request, timeout)))
                }
                Lane::Bulk => {
                    let peer = match self.peer() {
                        Ok(peer) => peer,
                        Err(error) => {
                            // openraft paces its tries only once it was asked for a request.
                            tokio::time::sleep(UNKNOWN_PEER_PAUSE).await;
                            return Err(error);
                        }
                    };
                    let stream = peer
                        .bulk
                        .open_stream(self.group, self.target.incarnation, IN_FLIGHT_MESSAGES_MAX);
                    let pipeline = Pipeline {
                        input,
                        input_ended: false,
                        stream,
                        in_flight: VecDeque::new(),
                        in_flight_bytes: 0,
                    };
                    Box::pin(stream::unfold(pipeline, |mut pipeline| async move {
                        let answer = pipeline.next().await?;
                        Some((answer, pipeline))
                    }))
                }
            };
            Ok(answers)
        })
    }

    async fn vote(
        &mut self,
        request: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        match self
            .call(Body::Vote(wire::vote_request_to(&request)), option.hard_ttl())
            .await?
        {
            Body::VoteResult(result) => wire::vote_result_from(result).map_err(protocol),
            _ => Err(protocol("not the answer to a vote request")),
        }
    }

    async fn pre_vote(
        &mut self,
        request: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        match self
            .call(Body::PreVote(wire::vote_request_to(&request)), option.hard_ttl())
            .await?
        {
            Body::VoteResult(result) => wire::vote_result_from(result).map_err(protocol),
            _ => Err(protocol("not the answer to a pre-vote request")),
        }
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: Snapshot,
        cancel: impl Future<Output = ReplicationClosed> + Send + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        let send = async {
            let peer = self.peer()?;
            let address = peer.address();
            let channel = endpoint(&address)
                .map_err(unreachable)?
                .connect()
                .await
                .map_err(unreachable)?;
            let chunks = snapshot_chunks(
                self.transport.hello(self.target.broker),
                self.group,
                self.target,
                &vote,
                snapshot,
            );
            let response = client(channel).install_snapshot(stream::iter(chunks)).await;
            let response = response.map_err(|status| unreachable(status.message()))?.into_inner();
            wire::vote_from(response.vote).map_err(protocol)
        };
        tokio::select! {
            closed = cancel => Err(StreamingError::Closed(closed)),
            sent = tokio::time::timeout(SNAPSHOT_TIMEOUT, send) => match sent {
                Ok(vote) => Ok(SnapshotResponse::new(vote?)),
                Err(_) => {
                    let broker = self.target.broker;
                    Err(unreachable(format!("broker {broker} did not take the snapshot within {SNAPSHOT_TIMEOUT:?}")).into())
                }
            },
        }
    }

    async fn transfer_leader(
        &mut self,
        request: TransferLeaderRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<TypeConfig>, RPCError<TypeConfig>> {
        match self
            .call(Body::TransferLeader(wire::transfer_to(&request)), option.hard_ttl())
            .await?
        {
            Body::TransferLeaderResult(result) if result.error.is_empty() => Ok(Ok(())),
            Body::TransferLeaderResult(result) => Err(unreachable(result.error)),
            _ => Err(protocol("not the answer to a leader transfer")),
        }
    }
}

fn snapshot_chunks(
    hello: jangada_proto::internal::Hello,
    group: GroupId,
    target: ReplicaId,
    vote: &Vote,
    snapshot: Snapshot,
) -> Vec<SnapshotChunk> {
    let meta = &snapshot.meta;
    let header = SnapshotHeader {
        group_id: group.get(),
        to_incarnation: target.incarnation.get(),
        vote: Some(wire::vote_to(vote)),
        last_log_id: meta.last_log_id.map(wire::log_id_to),
        membership: codec::encode_membership(meta.last_membership.membership()),
        membership_log_id: meta.last_membership.log_id().map(wire::log_id_to),
        size_bytes: snapshot.snapshot.len() as u64,
    };
    let mut rest = snapshot.snapshot;
    let mut chunks = vec![SnapshotChunk {
        hello: Some(hello),
        header: Some(header),
        data: Bytes::new(),
    }];
    while !rest.is_empty() {
        let data = rest.split_to(rest.len().min(SNAPSHOT_CHUNK_BYTES));
        chunks.push(SnapshotChunk {
            hello: None,
            header: None,
            data,
        });
    }
    chunks
}
