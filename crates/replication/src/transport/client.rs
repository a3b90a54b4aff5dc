//! openraft's network: one group's way to one other replica, on the links that all groups share.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::{Stream, StreamExt, stream};
use jangada_proto::internal::message::Body;
use jangada_proto::internal::{AppendEntries, SnapshotChunk, SnapshotHeader};
use jangada_types::{GroupId, ReplicaId};
use openraft::base::{BoxFuture, BoxStream};
use openraft::error::{NetworkError, RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::{RPCOption, RaftNetworkFactory, RaftNetworkV2};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, StreamAppendResult, TransferLeaderRequest,
    TransferLeaderResponse, VoteRequest, VoteResponse,
};
use tokio::time::{Instant, Sleep};

use super::link::{AppendStream, Lane, LinkError};
use super::{Peer, SNAPSHOT_CHUNK_BYTES, Transport, client, endpoint};
use crate::codec;
use crate::raft_types::{Snapshot, TypeConfig, Vote};
use crate::wire;

/// Append messages of one group under way to one replica: within the 64 that openraft's follower buffers.
const IN_FLIGHT_MESSAGES_MAX: usize = 48;
/// Entry bytes of one group under way to one replica.
const IN_FLIGHT_BYTES_MAX: usize = 4 << 20;
/// A replica that has appends and answers none of them for so long counts as unreachable. Far more than a disk takes
/// that is merely slow.
const PATIENCE: Duration = Duration::from_secs(10);
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
            unanswered: None,
        }
    }

    async fn new_heartbeat_client(&mut self, target: ReplicaId, _node: &()) -> Network {
        Network {
            transport: self.transport.clone(),
            group: self.group,
            target,
            lane: Lane::Control,
            unanswered: None,
        }
    }
}

/// One group's way to one replica. Votes always go over the control connection; `lane` says which way appends go.
pub(crate) struct Network {
    transport: Arc<Transport>,
    group: GroupId,
    target: ReplicaId,
    lane: Lane,
    unanswered: Option<Unanswered>,
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

/// A stream of appends that the replica did not answer in time, kept until it does.
struct Unanswered {
    stream: AppendStream,
    answers: usize,
}

/// A pipelined stream of appends: sends while the windows have room, yields answers in order.
///
/// A replica that answers nothing for [`PATIENCE`] counts as unreachable, although the connection is sound: its disk
/// hangs. Until openraft is told so, it keeps the log for what is under way, and nothing is purged. The stream is kept,
/// and nothing more is sent until the replica has answered what it has, so that nothing piles up there; one that is only
/// slow then goes on where it is.
struct Pipeline<'a, S> {
    input: S,
    input_ended: bool,
    /// None: it has ended.
    stream: Option<AppendStream>,
    /// Where the stream is kept for the next pipeline.
    kept: &'a mut Option<Unanswered>,
    /// Answers to requests of an earlier pipeline, which nobody waits for any more.
    late: usize,
    /// A request that the link's window had no room for yet, and its size.
    next: Option<(AppendEntries, usize)>,
    /// Bytes of each request under way.
    in_flight: VecDeque<usize>,
    in_flight_bytes: usize,
    patience: Duration,
    /// The last answer, or the first request after all were answered.
    heard: Instant,
    alarm: Pin<Box<Sleep>>,
}

type Answer = Result<StreamAppendResult<TypeConfig>, RPCError<TypeConfig>>;

impl<'a, S: Stream<Item = AppendEntriesRequest<TypeConfig>> + Unpin> Pipeline<'a, S> {
    fn new(
        input: S,
        kept: &'a mut Option<Unanswered>,
        open: impl FnOnce() -> AppendStream,
        patience: Duration,
    ) -> Self {
        let (stream, late) = match kept.take() {
            Some(Unanswered { stream, answers }) => (stream, answers),
            None => (open(), 0),
        };
        Self {
            input,
            input_ended: false,
            stream: Some(stream),
            kept,
            late,
            next: None,
            in_flight: VecDeque::new(),
            in_flight_bytes: 0,
            patience,
            heard: Instant::now(),
            alarm: Box::pin(tokio::time::sleep(patience)),
        }
    }

    /// The next answer; `None` at the end.
    async fn next(&mut self) -> Option<Answer> {
        loop {
            let stream = self.stream.as_mut()?;
            let unanswered = self.late + self.in_flight.len();
            if self.input_ended && unanswered == 0 && self.next.is_none() {
                return None;
            }
            let has_room = self.in_flight.len() < IN_FLIGHT_MESSAGES_MAX && self.in_flight_bytes < IN_FLIGHT_BYTES_MAX;
            let takes = has_room && self.late == 0 && self.next.is_none() && !self.input_ended;
            let bytes = self.next.as_ref().map_or(0, |(_, bytes)| *bytes);
            let window = stream.window();
            tokio::select! {
                biased;
                answer = stream.answer(), if unanswered > 0 => {
                    self.heard = Instant::now();
                    if self.late == 0 {
                        return Some(self.answered(answer));
                    }
                    self.late -= 1;
                    if let Err(error) = body_of(answer) {
                        self.end();
                        return Some(Err(error));
                    }
                }
                room = window.room(bytes), if self.next.is_some() => {
                    let (request, bytes) = self.next.take().expect("it was looked at");
                    if let Err(error) = stream.send(request, room).await {
                        self.end();
                        return Some(Err(error.into()));
                    }
                    self.in_flight.push_back(bytes);
                    self.in_flight_bytes += bytes;
                }
                request = self.input.next(), if takes => match request {
                    None => self.input_ended = true,
                    Some(request) => {
                        if unanswered == 0 {
                            self.heard = Instant::now();
                        }
                        let request = wire::append_to(request);
                        let bytes = wire::append_size(&request);
                        self.next = Some((request, bytes));
                    }
                },
                () = &mut self.alarm, if unanswered > 0 || self.next.is_some() => {
                    let end = self.heard + self.patience;
                    if end <= Instant::now() {
                        return Some(Err(self.give_up()));
                    }
                    self.alarm.as_mut().reset(end);
                }
            }
        }
    }

    /// The replica is silent: keeps the stream for when it answers.
    fn give_up(&mut self) -> RPCError<TypeConfig> {
        let answers = self.late + self.in_flight.len();
        let stream = self.stream.take().filter(|_| answers > 0);
        *self.kept = stream.map(|stream| Unanswered { stream, answers });
        self.end();
        unreachable(format!(
            "no answer within {:?}; {answers} appends are under way",
            self.patience
        ))
    }

    fn end(&mut self) {
        self.stream = None;
    }

    fn answered(&mut self, answer: Option<Result<Body, LinkError>>) -> Answer {
        let bytes = self.in_flight.pop_front().expect("an answer belongs to a request");
        self.in_flight_bytes -= bytes;
        let result = match body_of(answer) {
            Err(error) => Err(error),
            Ok(Body::AppendResult(result)) => wire::append_result_from(result).map_err(protocol),
            Ok(_) => Err(protocol("not the answer to an append")),
        };
        // After a conflict or a higher vote nothing that is under way can succeed.
        if !matches!(result, Ok(Ok(_))) {
            self.end();
        }
        result
    }
}

fn body_of(answer: Option<Result<Body, LinkError>>) -> Result<Body, RPCError<TypeConfig>> {
    match answer {
        None => Err(unreachable("the connection ended")),
        Some(Err(error)) => Err(error.into()),
        Some(Ok(Body::Refused(refused))) => Err(unreachable(refused.reason)),
        Some(Ok(body)) => Ok(body),
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
                    let (group, to) = (self.group, self.target.incarnation);
                    let open = || peer.bulk.open_stream(group, to, IN_FLIGHT_MESSAGES_MAX);
                    let pipeline = Pipeline::new(input, &mut self.unanswered, open, PATIENCE);
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

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use jangada_proto::internal::{AppendResult, Message, Refused};
    use jangada_types::{BrokerId, Incarnation};
    use tokio::sync::mpsc;
    use tokio_stream::wrappers::ReceiverStream;

    use super::super::link::Loose;
    use super::*;
    use crate::raft_types::LeaderId;

    /// What a pipeline of these tests has instead of ten seconds.
    const SHORT: Duration = Duration::from_millis(50);
    /// No test waits longer for what must happen.
    const LONG: Duration = Duration::from_secs(30);

    struct Peer {
        loose: Loose,
        /// Calls that were not answered.
        waiting: VecDeque<u64>,
    }

    impl Peer {
        fn new() -> Self {
            Self {
                loose: Loose::new(),
                waiting: VecDeque::new(),
            }
        }

        /// Appends that came since the last call.
        fn take(&mut self) -> usize {
            let mut taken = 0;
            while let Ok(Message { call_id, body, .. }) = self.loose.sent.try_recv() {
                if matches!(body, Some(Body::Append(_))) {
                    self.waiting.push_back(call_id);
                    taken += 1;
                }
            }
            taken
        }

        fn answer(&mut self, body: Body) {
            let call_id = self.waiting.pop_front().unwrap();
            self.loose.answer(call_id, body);
        }

        /// A pipeline over this peer that gets `appends` to send, and what it yields first.
        async fn session(&self, kept: &mut Option<Unanswered>, appends: usize) -> Answer {
            let (requests, input) = mpsc::channel(appends.max(1));
            for _ in 0..appends {
                requests.try_send(append()).unwrap();
            }
            let open = || {
                let (group, to) = (GroupId(7), Incarnation::from(1));
                self.loose.link.open_stream(group, to, IN_FLIGHT_MESSAGES_MAX)
            };
            let mut pipeline = Pipeline::new(ReceiverStream::new(input), kept, open, SHORT);
            let answer = tokio::time::timeout(LONG, pipeline.next()).await;
            answer
                .expect("a silent peer is given up")
                .expect("its input has not ended")
        }
    }

    fn append() -> AppendEntriesRequest<TypeConfig> {
        let leader = ReplicaId {
            broker: BrokerId::from(1),
            incarnation: Incarnation::from(1),
        };
        AppendEntriesRequest {
            vote: Vote {
                leader_id: LeaderId {
                    term: 1,
                    voted_for: leader,
                },
                committed: true,
            },
            prev_log_id: None,
            leader_commit: None,
            entries: Vec::new(),
        }
    }

    fn matched() -> Body {
        Body::AppendResult(AppendResult {
            matched_none: true,
            result: None,
        })
    }

    #[tokio::test]
    async fn a_replica_that_answers_no_append_counts_as_unreachable_and_gets_no_more() {
        let (mut peer, mut kept) = (Peer::new(), None);
        for round in 0..3 {
            let answer = peer.session(&mut kept, 2).await;
            assert!(matches!(answer, Err(RPCError::Unreachable(_))), "{answer:?}");
            assert_eq!(peer.take(), if round == 0 { 2 } else { 0 });
        }
        // It was only slow: it goes on as soon as it has answered what it has.
        peer.answer(matched());
        peer.answer(matched());
        assert!(matches!(
            peer.session(&mut kept, 1).await,
            Err(RPCError::Unreachable(_))
        ));
        assert_eq!(peer.take(), 1);
        peer.answer(matched());
    }

    #[tokio::test]
    async fn a_stream_that_the_peer_ended_is_opened_anew() {
        let (mut peer, mut kept) = (Peer::new(), None);
        assert!(peer.session(&mut kept, 1).await.is_err());
        assert_eq!(peer.take(), 1);
        peer.answer(Body::Refused(Refused::default()));
        assert!(peer.session(&mut kept, 1).await.is_err());
        assert_eq!(peer.take(), 0);
        assert!(kept.is_none());
        assert!(peer.session(&mut kept, 1).await.is_err());
        assert_eq!(peer.take(), 1);
    }
}
