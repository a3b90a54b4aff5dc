//! The accepting side of a peer's connections: hands messages to the groups, answers on the same connection.
//!
//! The reader never waits for a group: a group's requests wait in a queue of their own, as long as the sender's
//! window allows. Answers within one append stream keep the order of its requests.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::time::Duration;

use futures::{Stream, StreamExt};
use jangada_proto::internal::message::Body;
use jangada_proto::internal::{
    AppendEntries, Frame, InstallSnapshotResponse, Message, Refused, SnapshotChunk, TransferLeaderResult,
};
use jangada_types::{BrokerId, GroupId, Incarnation};
use openraft::raft::{AppendEntriesRequest, AppendEntriesResponse, StreamAppendError};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::calls::Calls;
use super::inbox::{Hosted, Inbox};
use super::introduction;
use super::link::send_frames;
use super::plausible::Refusal;
use super::{queue, snapshots};
use crate::raft_types::TypeConfig;
use crate::wire;

/// A stream of frames to a peer.
pub type FrameStream = Pin<Box<dyn Stream<Item = Result<Frame, Status>> + Send>>;

/// More than a sender's window of messages per group: a full queue is the peer's fault.
const GROUP_QUEUE_MESSAGES: usize = 64;
/// Answers that wait to be sent on one connection.
const ANSWER_QUEUE_MESSAGES: usize = 16 * 1024;
/// Append streams of a connection, beside two for each group here: one that ends and one that begins.
const STREAMS_SPARE: usize = 64;

/// Between two looks at what this broker's commits have come to, for the peers that called it.
const TELL_EVERY: Duration = Duration::from_millis(500);

/// Takes the first frame and checks its handshake.
async fn greet(inbox: &dyn Inbox, frames: &mut Streaming<Frame>) -> Result<(BrokerId, Frame), Status> {
    let mut first = frames.message().await?.unwrap_or_default();
    let peer = inbox.admit(first.hello.take())?;
    Ok((peer, first))
}

/// A response that says who gives it.
fn introduced<T>(inbox: &dyn Inbox, to: BrokerId, body: T) -> Response<T> {
    let mut response = Response::new(body);
    introduction::introduce(response.metadata_mut(), &inbox.hello(to));
    response
}

/// Tells a peer that called this broker how far its commits are, whenever that has changed.
async fn tell_commits(inbox: Weak<dyn Inbox>, answers: queue::Sender) {
    let mut told = None;
    let mut tick = tokio::time::interval(TELL_EVERY);
    loop {
        tick.tick().await;
        let Some(commits) = inbox.upgrade().and_then(|inbox| inbox.own_commits()) else {
            return;
        };
        if told.replace(commits) == Some(commits) {
            continue;
        }
        let message = Message {
            body: Some(Body::Commits(commits)),
            ..Message::default()
        };
        if answers.send(message).await.is_err() {
            return;
        }
    }
}

/// Frames out of a queue of answers.
fn answer_stream() -> (queue::Sender, FrameStream) {
    let (answers, mut waiting) = queue::queue(ANSWER_QUEUE_MESSAGES);
    let (frames, outgoing) = mpsc::channel(2);
    tokio::spawn(async move { send_frames(&mut waiting, frames, |_| true).await });
    (answers, Box::pin(ReceiverStream::new(outgoing).map(Ok)))
}

fn answer(to: &Message, body: Body) -> Message {
    Message {
        group_id: to.group_id,
        to_incarnation: 0,
        call_id: to.call_id,
        body: Some(body),
    }
}

/// The answer to a request that is not looked at.
pub(super) fn refusal_of(request: &Message, reason: &str) -> Message {
    answer(request, refused(reason))
}

fn refused(reason: impl Into<String>) -> Body {
    Body::Refused(Refused { reason: reason.into() })
}

fn hosted(inbox: &dyn Inbox, group_id: u64, to_incarnation: u32) -> Result<Hosted, Body> {
    inbox
        .hosted(GroupId::from(group_id), Incarnation::from(to_incarnation))
        .map_err(refused)
}

/// Serves a control connection: each message is a call of its own, answered when it is done, in any order.
pub(crate) async fn control(
    inbox: Arc<dyn Inbox>,
    request: Request<Streaming<Frame>>,
) -> Result<Response<FrameStream>, Status> {
    let mut frames = request.into_inner();
    let (peer, first) = greet(&*inbox, &mut frames).await?;
    let (answers, outgoing) = answer_stream();
    let response = introduced(&*inbox, peer, outgoing);
    tokio::spawn(async move {
        // Ends with this task.
        let mut telling = JoinSet::new();
        telling.spawn(tell_commits(Arc::downgrade(&inbox), answers.clone()));
        let calls = Calls::new(inbox.clone(), peer, answers);
        let mut next = Some(first);
        while let Some(frame) = next {
            inbox.note_contact(peer);
            calls.begin(frame.messages);
            next = frames.message().await.ok().flatten();
            if inbox.is_expelled(peer) {
                return;
            }
        }
    });
    Ok(response)
}

/// One call. `None`: it is empty.
pub(crate) async fn serve_call(inbox: Arc<dyn Inbox>, peer: BrokerId, mut message: Message) -> Option<Message> {
    let body = message.body.take()?;
    let hosted = match hosted(&*inbox, message.group_id, message.to_incarnation) {
        Ok(hosted) => hosted,
        Err(refused) => return Some(answer(&message, refused)),
    };
    let result = match inbox.may_speak(GroupId::from(message.group_id), peer) {
        Ok(()) => serve_judged(&*inbox, &hosted, peer, body).await,
        Err(refusal) => Err(refusal),
    };
    let body = result.unwrap_or_else(|refusal| {
        inbox.refused(peer, GroupId::from(message.group_id), &refusal);
        refused(refusal.to_string())
    });
    Some(answer(&message, body))
}

/// A call that openraft sees only if it can be true.
async fn serve_judged(inbox: &dyn Inbox, hosted: &Hosted, peer: BrokerId, body: Body) -> Result<Body, Refusal> {
    let judge = hosted.judge(peer);
    match body {
        Body::Append(request) => {
            let request = wire::append_from(request)?;
            judge.append(&request)?;
            append_once(hosted, request).await
        }
        Body::Vote(request) => {
            let request = wire::vote_request_from(request)?;
            judge.vote_request(&request)?;
            let response = hosted.raft.vote(request).await.map_err(Refusal::stopped)?;
            Ok(Body::VoteResult(wire::vote_result_to(&response)))
        }
        Body::PreVote(request) => {
            let request = wire::vote_request_from(request)?;
            judge.vote_request(&request)?;
            let response = hosted.raft.pre_vote(request).await.map_err(Refusal::stopped)?;
            Ok(Body::VoteResult(wire::vote_result_to(&response)))
        }
        Body::TransferLeader(request) => {
            let request = wire::transfer_from(request)?;
            judge.transfer(&request)?;
            // Its leader takes no writes and sends no heartbeats any more: a damaged leader is better than none.
            if request.to_node_id() == &hosted.local && inbox.asked_to_lead(hosted.group) {
                let (group, from) = (hosted.group, peer);
                tracing::warn!(%group, %from, "a damaged replica here is asked to lead, and takes it: its leader stopped for that");
            }
            let taken = hosted
                .raft
                .handle_transfer_leader(request)
                .await
                .map_err(Refusal::stopped)?;
            let error = taken.err().map(|error| error.to_string()).unwrap_or_default();
            Ok(Body::TransferLeaderResult(TransferLeaderResult { error }))
        }
        _ => Err(Refusal::malformed("not a request")),
    }
}

/// Serves a heartbeat, or another append outside the streams.
async fn append_once(hosted: &Hosted, request: AppendEntriesRequest<TypeConfig>) -> Result<Body, Refusal> {
    let _permit = hosted
        .heartbeats
        .try_acquire()
        .map_err(|_| Refusal::Busy("earlier heartbeats still wait for the disk".to_owned()))?;
    let matched = request.entries.last().map(|entry| entry.log_id).or(request.prev_log_id);
    let result = match hosted
        .raft
        .append_entries(request.clone())
        .await
        .map_err(Refusal::stopped)?
    {
        AppendEntriesResponse::Success => Ok(matched),
        AppendEntriesResponse::PartialSuccess(id) => Ok(id),
        AppendEntriesResponse::HigherVote(vote) => Err(StreamAppendError::HigherVote(vote)),
        AppendEntriesResponse::Conflict => {
            Err(StreamAppendError::Conflict(request.prev_log_id.ok_or_else(|| {
                Refusal::Busy("a conflict without a log id".to_owned())
            })?))
        }
    };
    Ok(Body::AppendResult(wire::append_result_to(result)))
}

/// Serves a bulk connection: append streams, told apart by their call id.
pub(crate) async fn bulk(
    inbox: Arc<dyn Inbox>,
    request: Request<Streaming<Frame>>,
) -> Result<Response<FrameStream>, Status> {
    let mut frames = request.into_inner();
    let (peer, first) = greet(&*inbox, &mut frames).await?;
    let (answers, outgoing) = answer_stream();
    let response = introduced(&*inbox, peer, outgoing);
    tokio::spawn(async move {
        let mut inbound = Inbound {
            inbox,
            peer,
            answers,
            streams: BTreeMap::new(),
        };
        let mut next = Some(first);
        while let Some(frame) = next {
            if inbound.inbox.is_expelled(peer) {
                return;
            }
            inbound.inbox.note_contact(peer);
            for message in frame.messages {
                if !inbound.take(message) {
                    tracing::warn!(%peer, "its bulk connection ends here: it takes no answers, or is gone");
                    return;
                }
            }
            next = frames.message().await.ok().flatten();
        }
    });
    Ok(response)
}

/// One bulk connection's append streams.
struct Inbound {
    inbox: Arc<dyn Inbox>,
    peer: BrokerId,
    answers: queue::Sender,
    streams: BTreeMap<u64, AppendStream>,
}

/// One of them.
struct AppendStream {
    hosted: Hosted,
    requests: mpsc::Sender<AppendEntriesRequest<TypeConfig>>,
}

impl Inbound {
    /// False: the answers of as many messages wait as may. The reader does not wait for a peer that does not read, or what it
    /// sends would lie in the connection's window.
    fn take(&mut self, mut message: Message) -> bool {
        let refusal = match message.body.take() {
            Some(Body::StreamEnd(_)) => {
                self.streams.remove(&message.call_id);
                return true;
            }
            Some(Body::Append(request)) => match self.append(&message, request) {
                Ok(()) => return true,
                Err(refusal) => refusal,
            },
            _ => Refusal::malformed("only append streams go over the bulk connection"),
        };
        self.inbox.refused(self.peer, GroupId::from(message.group_id), &refusal);
        self.streams.remove(&message.call_id);
        let refusal = answer(&message, refused(refusal.to_string()));
        self.answers.try_send(refusal).is_ok()
    }

    fn append(&mut self, message: &Message, request: AppendEntries) -> Result<(), Refusal> {
        let request = wire::append_from(request)?;
        let stream = match self.streams.get(&message.call_id) {
            Some(stream) => stream,
            None => {
                let stream = self.open(message)?;
                self.streams.entry(message.call_id).or_insert(stream)
            }
        };
        stream.hosted.judge(self.peer).append(&request)?;
        stream.requests.try_send(request).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => Refusal::flood("more appends under way than the window allows"),
            mpsc::error::TrySendError::Closed(_) => Refusal::Busy("the group has stopped".to_owned()),
        })
    }

    fn open(&self, message: &Message) -> Result<AppendStream, Refusal> {
        let group = GroupId::from(message.group_id);
        let incarnation = Incarnation::from(message.to_incarnation);
        let hosted = self.inbox.hosted(group, incarnation).map_err(Refusal::Busy)?;
        self.inbox.may_speak(group, self.peer)?;
        if self.streams.len() >= STREAMS_SPARE + 2 * self.inbox.group_count() {
            return Err(Refusal::flood("more append streams than there are groups"));
        }
        let (requests, queue) = mpsc::channel(GROUP_QUEUE_MESSAGES);
        tokio::spawn(run_append_stream(
            hosted.clone(),
            queue,
            self.answers.clone(),
            message.group_id,
            message.call_id,
        ));
        Ok(AppendStream { hosted, requests })
    }
}

async fn run_append_stream(
    hosted: Hosted,
    queue: mpsc::Receiver<AppendEntriesRequest<TypeConfig>>,
    answers: queue::Sender,
    group_id: u64,
    call_id: u64,
) {
    let results = hosted.raft.stream_append(ReceiverStream::new(queue));
    futures::pin_mut!(results);
    while let Some(result) = results.next().await {
        let body = match result {
            Ok(result) => Body::AppendResult(wire::append_result_to(result)),
            Err(fatal) => refused(fatal.to_string()),
        };
        let message = Message {
            group_id,
            to_incarnation: 0,
            call_id,
            body: Some(body),
        };
        if answers.send(message).await.is_err() {
            return;
        }
    }
}

/// Takes a snapshot for one group.
pub(crate) async fn install_snapshot(
    inbox: Arc<dyn Inbox>,
    request: Request<Streaming<SnapshotChunk>>,
) -> Result<Response<InstallSnapshotResponse>, Status> {
    let mut messages = request.into_inner();
    let mut first = messages.message().await?.unwrap_or_default();
    let peer = inbox.admit(first.hello.take())?;
    let group = GroupId::from(first.header.as_ref().map_or(0, |header| header.group_id));
    let taken = snapshots::take(&*inbox, peer, first, messages).await;
    let response = taken.map_err(|refusal| {
        inbox.refused(peer, group, &refusal);
        match refusal {
            Refusal::Busy(_) => Status::unavailable(refusal.to_string()),
            Refusal::Implausible(_) => Status::invalid_argument(refusal.to_string()),
        }
    })?;
    Ok(introduced(&*inbox, peer, response))
}
