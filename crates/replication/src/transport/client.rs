//! openraft's network: one group's way to one other replica, on the links that all groups share.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures::{Stream, StreamExt, TryFutureExt, stream};
use jangada_proto::internal::message::Body;
use jangada_types::planted::{self, Bug};
use jangada_types::{GroupId, ReplicaId};
use openraft::base::{BoxFuture, BoxStream};
use openraft::error::{NetworkError, RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::{Backoff, RPCOption, RaftNetworkFactory, RaftNetworkV2};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, StreamAppendError, StreamAppendResult,
    TransferLeaderRequest, TransferLeaderResponse, VoteRequest, VoteResponse,
};
use tokio::time::Instant;

use super::channel::internal_client;
use super::link::{Lane, LinkError};
use super::pipeline::{self, Answer, Pipeline, Unanswered};
use super::plausible::{self, Asked, Horizon, Implausible, Rejections};
use super::snapshots::{self, Progress};
use super::{Peer, Transport};
use crate::raft_types::{TypeConfig, Vote};
use crate::runtime::patience;
use crate::snapshot::{Snapshot, SnapshotData};
use crate::wire;

/// How long a stream of appends waits for a connection before openraft is told that there is none.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// Between two tries to send something to a replica, when the first failed: at first, and at most.
const REST_MIN: Duration = Duration::from_millis(50);
const REST_MAX: Duration = Duration::from_millis(500);
/// Between two looks whether a snapshot goes forward.
const PROGRESS_EVERY: Duration = Duration::from_secs(1);

/// Makes the networks of one group.
pub(crate) struct NetworkFactory {
    pub transport: Arc<Transport>,
    pub group: GroupId,
    /// What peers are believed of the group.
    pub horizon: Arc<Horizon>,
    pub rejections: Arc<Rejections>,
}

impl RaftNetworkFactory<TypeConfig> for NetworkFactory {
    type Network = Network;

    async fn new_client(&mut self, target: ReplicaId, _node: &()) -> Network {
        self.network(target, Lane::Bulk)
    }

    async fn new_heartbeat_client(&mut self, target: ReplicaId, _node: &()) -> Network {
        self.network(target, Lane::Control)
    }
}

impl NetworkFactory {
    fn network(&self, target: ReplicaId, lane: Lane) -> Network {
        Network {
            transport: self.transport.clone(),
            group: self.group,
            target,
            lane,
            unanswered: None,
            pace: Pace::default(),
            answers: Answers {
                horizon: self.horizon.clone(),
                rejections: self.rejections.clone(),
            },
        }
    }
}

/// Judges what a replica answers.
#[derive(Clone)]
pub(super) struct Answers {
    pub horizon: Arc<Horizon>,
    pub rejections: Arc<Rejections>,
}

impl Answers {
    /// Counts and reports what cannot be.
    fn take<T>(&self, answer: T, judged: Result<(), Implausible>) -> Result<T, RPCError<TypeConfig>> {
        match judged {
            Ok(()) => Ok(answer),
            Err(implausible) => {
                self.rejections.count(implausible.cause);
                Err(unreachable(implausible))
            }
        }
    }

    pub fn append(&self, asked: Asked, answer: wire::AppendResult) -> Result<wire::AppendResult, RPCError<TypeConfig>> {
        let judged = plausible::append_answer(&self.horizon, asked, &answer);
        self.take(answer, judged)
    }

    fn vote(&self, answer: VoteResponse<TypeConfig>) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        let judged = plausible::vote_answer(&self.horizon, &answer);
        self.take(answer, judged)
    }
}

/// One group's way to one replica. Votes always go over the control connection; `lane` says which way appends go.
pub(crate) struct Network {
    transport: Arc<Transport>,
    group: GroupId,
    target: ReplicaId,
    lane: Lane,
    unanswered: Option<Unanswered>,
    pace: Pace,
    answers: Answers,
}

/// Rests between tries that fail, before anything is read to be sent. openraft's own back-off comes when it has read
/// already: every group that has something for a broker that is down would read a message's worth again for each try,
/// and keep it for as long as it rests.
#[derive(Default)]
struct Pace {
    rest: Duration,
}

impl Pace {
    async fn rest(&self) {
        if !self.rest.is_zero() {
            tokio::time::sleep(self.rest).await;
        }
    }

    fn failed(&mut self) {
        self.rest = (self.rest * 2).clamp(REST_MIN, REST_MAX);
    }

    fn succeeded(&mut self) {
        self.rest = Duration::ZERO;
    }
}

pub(super) fn unreachable(cause: impl ToString) -> RPCError<TypeConfig> {
    RPCError::Unreachable(Unreachable::from_string(cause))
}

impl From<LinkError> for RPCError<TypeConfig> {
    fn from(error: LinkError) -> Self {
        unreachable(error)
    }
}

pub(super) fn protocol(cause: impl ToString) -> RPCError<TypeConfig> {
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
        let timeout = patience(timeout);
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

    /// A session of appends over the bulk connection. Nothing is read for it before there is one.
    async fn session<'s, S>(
        &'s mut self,
        input: S,
    ) -> Result<impl Stream<Item = Answer> + Send + 's, RPCError<TypeConfig>>
    where
        S: Stream<Item = AppendEntriesRequest<TypeConfig>> + Send + Unpin + 's,
    {
        self.pace.rest().await;
        let peer = self.peer().inspect_err(|_| self.pace.failed())?;
        let connected = peer.bulk.connected(CONNECT_TIMEOUT).await;
        connected.inspect_err(|_| self.pace.failed())?;
        let (group, to) = (self.group, self.target.incarnation);
        let open = || peer.bulk.open_stream(group, to, pipeline::IN_FLIGHT_MESSAGES_MAX);
        // Every broker serves from its own image of the metadata.
        let hold = match group == GroupId::METADATA {
            true => Duration::ZERO,
            false => pipeline::COMMIT_HOLD,
        };
        let pipeline = Pipeline::new(
            input,
            &mut self.unanswered,
            open,
            (pipeline::TIMEOUT, hold),
            self.answers.clone(),
        );
        let session = (pipeline, &mut self.pace);
        Ok(stream::unfold(session, |(mut pipeline, pace)| async move {
            let answer = pipeline.next().await?;
            match answer {
                Ok(_) => pace.succeeded(),
                Err(_) => pace.failed(),
            }
            Some((answer, (pipeline, pace)))
        }))
    }

    /// Sends a snapshot and returns the replica's vote. Gives up when nothing goes forward for a while.
    async fn send_snapshot(&self, vote: &Vote, snapshot: Snapshot) -> Result<Vote, RPCError<TypeConfig>> {
        self.pace.rest().await;
        let address = self.peer()?.address();
        let channel = self.transport.dialer().connect(&address).await;
        let channel = channel.map_err(unreachable)?;
        let hello = self.transport.hello(self.target.broker);
        let header = snapshots::header(self.group, self.target, vote, &snapshot);
        let answer_timeout = snapshots::answer_timeout(header.size_bytes);
        let progress = Arc::<Progress>::default();
        let messages = snapshots::messages(hello, header, snapshot.snapshot, progress.clone());
        let mut client = internal_client(channel);
        let mut call = pin!(client.install_snapshot(messages));
        let (mut sent, mut since) = (progress.get(), Instant::now());
        let response = loop {
            if let Ok(response) = tokio::time::timeout(PROGRESS_EVERY, &mut call).await {
                break response;
            }
            let now = progress.get();
            if now != sent {
                (sent, since) = (now, Instant::now());
            }
            let (messages, is_sent) = now;
            let timeout = if is_sent { answer_timeout } else { snapshots::STALLED };
            if since.elapsed() >= timeout {
                let broker = self.target.broker;
                let text =
                    format!("broker {broker} took {messages} messages of a snapshot and nothing more for {timeout:?}");
                return Err(unreachable(text));
            }
        };
        let response = response.map_err(|status| match progress.take_failure() {
            Some(failure) => unreachable(format!("the snapshot cannot be read: {failure}")),
            None => unreachable(status.message()),
        })?;
        let judged = self
            .transport
            .judge_answerer(self.target.broker, &address, response.metadata());
        judged.map_err(unreachable)?;
        let response = response.into_inner();
        let vote = wire::vote_from(response.vote).map_err(protocol)?;
        self.answers.take(vote, self.answers.horizon.term(vote.leader_id.term))
    }

    async fn call_append(
        &self,
        request: AppendEntriesRequest<TypeConfig>,
        timeout: Duration,
    ) -> Result<wire::AppendResult, RPCError<TypeConfig>> {
        let asked = plausible::asked(&request);
        match self.call(Body::Append(wire::append_to(request)), timeout).await? {
            Body::AppendResult(result) => {
                let result = wire::append_result_from(result).map_err(protocol)?;
                self.answers.append(asked, result)
            }
            _ => Err(protocol("not the answer to an append")),
        }
    }
}

/// What a candidate says of its log: what it has.
fn as_claimed(mut request: VoteRequest<TypeConfig>) -> VoteRequest<TypeConfig> {
    if planted::is(Bug::TruncationBelowCommit)
        && let Some(last) = &mut request.last_log_id
    {
        last.index += 1_000;
    }
    request
}

impl RaftNetworkV2<TypeConfig> for Network {
    type SnapshotData = SnapshotData;

    async fn append_entries(
        &mut self,
        request: AppendEntriesRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<TypeConfig>, RPCError<TypeConfig>> {
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
                Lane::Bulk => Box::pin(self.session(input).try_flatten_stream()),
            };
            Ok(answers)
        })
    }

    async fn vote(
        &mut self,
        request: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        let request = as_claimed(request);
        match self
            .call(Body::Vote(wire::vote_request_to(&request)), option.hard_ttl())
            .await?
        {
            Body::VoteResult(result) => self.answers.vote(wire::vote_result_from(result).map_err(protocol)?),
            _ => Err(protocol("not the answer to a vote request")),
        }
    }

    async fn pre_vote(
        &mut self,
        request: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        let request = as_claimed(request);
        match self
            .call(Body::PreVote(wire::vote_request_to(&request)), option.hard_ttl())
            .await?
        {
            Body::VoteResult(result) => self.answers.vote(wire::vote_result_from(result).map_err(protocol)?),
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
        let sent = tokio::select! {
            closed = cancel => return Err(StreamingError::Closed(closed)),
            sent = self.send_snapshot(&vote, snapshot) => sent,
        };
        match &sent {
            Ok(_) => self.pace.succeeded(),
            Err(_) => self.pace.failed(),
        }
        Ok(SnapshotResponse::new(sent?))
    }

    /// None from openraft: see [`Pace`].
    fn backoff(&self) -> Option<Backoff> {
        Some(Backoff::new(std::iter::repeat(Duration::ZERO)))
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use jangada_types::{BrokerId, Incarnation};

    use super::super::dialer::Dialer;
    use super::super::handshake::Identity;
    use super::*;
    use crate::peers::Peers;

    fn peer() -> BrokerId {
        BrokerId::from(2)
    }

    /// A way to broker 2 of one that knows these brokers.
    async fn way(addresses: &BTreeMap<BrokerId, String>) -> Network {
        let identity = Identity {
            cluster_id: "cluster".to_owned(),
            broker: BrokerId::from(1),
            incarnation: Incarnation::from(1),
        };
        let transport = Arc::new(Transport::new(
            Arc::new(identity),
            Arc::new(Peers::none()),
            Box::new(Default::default),
            Dialer::new(jangada_env::Network::System),
        ));
        transport.set_peers(addresses);
        let mut factory = NetworkFactory {
            transport,
            group: GroupId(7),
            horizon: Arc::new(Horizon::new(0, false)),
            rejections: Arc::default(),
        };
        factory
            .new_client(ReplicaId::new(peer(), Incarnation::from(1)), &())
            .await
    }

    /// The first answer of a session whose input must not be asked.
    async fn first_answer(network: &mut Network) -> Answer {
        let input = stream::poll_fn(|_| panic!("entries are read for a replica that cannot get them"));
        let option = RPCOption::new(Duration::from_secs(1));
        let mut answers = network.stream_append(input, option).await.unwrap();
        answers.next().await.expect("a session does not end without an error")
    }

    #[tokio::test]
    async fn nothing_is_read_for_a_broker_that_is_down() {
        // Nothing listens there: the port was the system's choice, and is free again.
        let free = std::net::TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap();
        let mut network = way(&BTreeMap::from([(peer(), free.to_string())])).await;
        let started = Instant::now();
        let answer = first_answer(&mut network).await;
        assert!(
            matches!(&answer, Err(RPCError::Unreachable(error)) if error.to_string().contains("refused")),
            "{answer:?}"
        );
        assert!(started.elapsed() >= CONNECT_TIMEOUT);
    }

    #[tokio::test]
    async fn tries_that_fail_at_once_are_spread() {
        let mut network = way(&BTreeMap::new()).await;
        let started = Instant::now();
        for _ in 0..4 {
            let answer = first_answer(&mut network).await;
            assert!(matches!(answer, Err(RPCError::Unreachable(_))), "{answer:?}");
        }
        assert!(started.elapsed() >= REST_MIN * (1 + 2 + 4));
    }
}
