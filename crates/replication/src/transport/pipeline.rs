//! Appends of one group to one replica, pipelined: many under way, answers in order.

use std::collections::VecDeque;
use std::pin::Pin;
use std::time::Duration;

use futures::{Stream, StreamExt};
use jangada_proto::internal::AppendEntries;
use jangada_proto::internal::message::Body;
use jangada_types::planted::{self, Bug};
use openraft::error::RPCError;
use openraft::raft::{AppendEntriesRequest, StreamAppendResult};
use tokio::time::{Instant, Sleep};

use super::client::{Answers, protocol, unreachable};
use super::link::{AppendStream, LinkError};
use super::plausible::{self, Asked};
use crate::raft_types::{LogId, TypeConfig};
use crate::wire;

/// Append messages of one group under way to one replica: within the 64 that openraft's follower buffers.
pub(super) const IN_FLIGHT_MESSAGES_MAX: usize = 48;
/// Entry bytes of one group under way to one replica.
const IN_FLIGHT_BYTES_MAX: usize = 4 << 20;
/// A replica that has appends and answers none of them for so long counts as unreachable. Far more than a disk takes
/// that is merely slow.
pub(super) const TIMEOUT: Duration = Duration::from_secs(10);
/// How long the news that entries are committed waits for further entries to go along with. A follower needs it to apply what it has, and
/// nobody waits for that; alone it costs as much as an entry.
pub(super) const COMMIT_HOLD: Duration = Duration::from_millis(10);

/// A stream of appends that the replica did not answer in time, kept until it does.
pub(super) struct Unanswered {
    stream: AppendStream,
    answers: usize,
}

/// A pipelined stream of appends: sends while the windows have room, yields answers in order.
///
/// A replica that answers nothing for [`TIMEOUT`] counts as unreachable, although the connection is sound: its disk
/// hangs. Until openraft is told so, it keeps the log for what is under way, and nothing is purged. The stream is kept,
/// and nothing more is sent until the replica has answered what it has, so that nothing piles up there; one that is only
/// slow then goes on where it is.
pub(super) struct Pipeline<'a, S> {
    input: S,
    input_ended: bool,
    /// None: it has ended.
    stream: Option<AppendStream>,
    /// Where the stream is kept for the next pipeline.
    kept: &'a mut Option<Unanswered>,
    /// Answers to requests of an earlier pipeline, which nobody waits for any more.
    late: usize,
    /// A request that the link's window had no room for yet.
    next: Option<(AppendEntries, InFlight)>,
    /// A request that tells nothing but what is committed: it goes when `hold` is over, unless a later one has told as much by then.
    held: Option<(AppendEntries, InFlight)>,
    hold: Duration,
    release: Pin<Box<Sleep>>,
    /// The last entry that was sent in this session.
    sent: Option<LogId>,
    /// Each request under way.
    in_flight: VecDeque<InFlight>,
    judge: Answers,
    in_flight_bytes: usize,
    patience: Duration,
    /// The last answer, or the first request after all were answered.
    heard: Instant,
    alarm: Pin<Box<Sleep>>,
}

/// A request under way.
#[derive(Clone, Copy)]
struct InFlight {
    bytes: usize,
    asked: Asked,
}

pub(super) type Answer = Result<StreamAppendResult<TypeConfig>, RPCError<TypeConfig>>;

impl<'a, S: Stream<Item = AppendEntriesRequest<TypeConfig>> + Unpin> Pipeline<'a, S> {
    pub(super) fn new(
        input: S,
        kept: &'a mut Option<Unanswered>,
        open: impl FnOnce() -> AppendStream,
        (patience, hold): (Duration, Duration),
        judge: Answers,
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
            held: None,
            hold,
            release: Box::pin(tokio::time::sleep(Duration::ZERO)),
            sent: None,
            in_flight: VecDeque::new(),
            judge,
            in_flight_bytes: 0,
            patience,
            heard: Instant::now(),
            alarm: Box::pin(tokio::time::sleep(patience)),
        }
    }

    /// The next answer; `None` at the end.
    pub(super) async fn next(&mut self) -> Option<Answer> {
        loop {
            let stream = self.stream.as_mut()?;
            let unanswered = self.late + self.in_flight.len();
            if self.input_ended && unanswered == 0 && self.next.is_none() {
                return None;
            }
            let has_room = self.in_flight.len() < IN_FLIGHT_MESSAGES_MAX && self.in_flight_bytes < IN_FLIGHT_BYTES_MAX;
            let takes = has_room && self.late == 0 && self.next.is_none() && !self.input_ended;
            let bytes = self.next.as_ref().map_or(0, |(_, next)| next.bytes);
            let window = stream.window();
            tokio::select! {
                biased;
                answer = stream.answer(), if unanswered > 0 => {
                    self.heard = Instant::now();
                    if self.late == 0 {
                        return Some(self.answered(answer));
                    }
                    self.late -= 1;
                    if let Err(error) = late(answer) {
                        self.end();
                        return Some(Err(error));
                    }
                }
                room = window.room(bytes), if self.next.is_some() => {
                    let (request, next) = self.next.take().expect("it was looked at");
                    if let Err(error) = stream.send(request, room).await {
                        self.end();
                        return Some(Err(error.into()));
                    }
                    self.in_flight.push_back(next);
                    self.in_flight_bytes += next.bytes;
                }
                request = self.input.next(), if takes => match request {
                    None => self.input_ended = true,
                    Some(request) => {
                        if unanswered == 0 {
                            self.heard = Instant::now();
                        }
                        self.take(request);
                    }
                },
                () = &mut self.release, if self.held.is_some() && self.next.is_none() => self.next = self.held.take(),
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

    /// Takes a request that is to be sent now, or held.
    fn take(&mut self, request: AppendEntriesRequest<TypeConfig>) {
        let tells_commit_alone = request.entries.is_empty() && self.sent.is_some() && request.prev_log_id == self.sent;
        let asked = plausible::asked(&request);
        self.sent = asked.last();
        let request = wire::append_to(request);
        let bytes = wire::append_size(&request);
        let request = (request, InFlight { bytes, asked });
        if !tells_commit_alone || self.hold.is_zero() {
            // It tells what is committed, too; openraft needs no answer to the one that was held, for the answer to this one says as much.
            self.held = None;
            self.next = Some(request);
        } else if self.held.replace(request).is_none() {
            self.release.as_mut().reset(Instant::now() + self.hold);
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
        let InFlight { bytes, asked } = self.in_flight.pop_front().expect("an answer belongs to a request");
        self.in_flight_bytes -= bytes;
        if answer.is_none() && planted::is(Bug::CommitByMinority) {
            return Ok(Ok(asked.last()));
        }
        let result = append_result(answer).and_then(|result| self.judge.append(asked, result));
        // After a conflict or a higher vote nothing that is under way can succeed.
        if !matches!(result, Ok(Ok(_))) {
            self.end();
        }
        result
    }
}

fn append_result(answer: Option<Result<Body, LinkError>>) -> Answer {
    match answer {
        None => Err(unreachable("the connection ended")),
        Some(Err(error)) => Err(error.into()),
        Some(Ok(Body::Refused(refused))) => Err(unreachable(refused.reason)),
        Some(Ok(Body::AppendResult(result))) => wire::append_result_from(result).map_err(protocol),
        Some(Ok(_)) => Err(protocol("not the answer to an append")),
    }
}

/// What an answer that nobody waits for any more says of the stream: after a refused append the peer answers nothing
/// that was sent behind it, so the stream has ended.
fn late(answer: Option<Result<Body, LinkError>>) -> Result<(), RPCError<TypeConfig>> {
    match append_result(answer)? {
        Ok(_) => Ok(()),
        Err(_) => Err(unreachable("an earlier append was refused")),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::sync::Arc;

    use jangada_proto::internal::{AppendResult, Message, Refused};
    use jangada_types::{BrokerId, GroupId, Incarnation, ReplicaId};
    use openraft::EntryPayload;
    use openraft::entry::RaftEntry;
    use openraft::raft::StreamAppendError;
    use tokio::sync::mpsc;
    use tokio_stream::wrappers::ReceiverStream;

    use super::super::link::Loose;
    use super::super::plausible::Horizon;
    use super::*;
    use crate::raft_types::{Entry, LeaderId, Vote, log_id};

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
            let timing = (SHORT, Duration::ZERO);
            let mut pipeline = Pipeline::new(ReceiverStream::new(input), kept, open, timing, answers());
            let answer = tokio::time::timeout(LONG, pipeline.next()).await;
            answer
                .expect("a silent peer is given up")
                .expect("its input has not ended")
        }

        /// The next append that is sent while a pipeline runs: the number of its entries, and what it says is committed.
        async fn sent(&mut self) -> (usize, Option<u64>) {
            let message = tokio::time::timeout(LONG, self.loose.sent.recv()).await;
            let message = message.expect("it is sent").expect("the link is there");
            let Some(Body::Append(append)) = message.body else {
                panic!("not an append");
            };
            self.waiting.push_back(message.call_id);
            (append.entries.len(), append.leader_commit.map(|id| id.index))
        }
    }

    fn answers() -> Answers {
        Answers {
            horizon: Arc::new(Horizon::new(1, false)),
            rejections: Arc::default(),
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

    fn conflict() -> Body {
        Body::AppendResult(wire::append_result_to(Err(StreamAppendError::Conflict(log_id(1, 1)))))
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
    async fn an_append_that_is_refused_late_ends_the_stream() {
        let (mut peer, mut kept) = (Peer::new(), None);
        assert!(peer.session(&mut kept, 2).await.is_err());
        assert_eq!(peer.take(), 2);
        // The second is never answered: a peer stops at a conflict.
        peer.answer(conflict());
        peer.waiting.clear();
        assert!(peer.session(&mut kept, 1).await.is_err());
        assert!(kept.is_none());
        assert!(peer.session(&mut kept, 1).await.is_err());
        assert_eq!(peer.take(), 1);
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

    /// With one entry, or none, behind the entry of that index.
    fn append_after(prev: u64, has_entry: bool, committed: u64) -> AppendEntriesRequest<TypeConfig> {
        let entry = Entry::new(log_id(1, prev + 1), EntryPayload::Blank);
        AppendEntriesRequest {
            prev_log_id: Some(log_id(1, prev)),
            leader_commit: Some(log_id(1, committed)),
            entries: has_entry.then_some(entry).into_iter().collect(),
            ..append()
        }
    }

    #[tokio::test]
    async fn what_is_committed_goes_with_the_next_entries_or_alone_when_none_come() {
        for (hold, entry_follows) in [(LONG * 10, true), (SHORT, false)] {
            let (mut peer, mut kept) = (Peer::new(), None);
            let (requests, input) = mpsc::channel(8);
            requests.try_send(append_after(4, true, 4)).unwrap();
            requests.try_send(append_after(5, false, 5)).unwrap();
            let open = || {
                let (group, to) = (GroupId(7), Incarnation::from(1));
                peer.loose.link.open_stream(group, to, IN_FLIGHT_MESSAGES_MAX)
            };
            let mut pipeline = Pipeline::new(ReceiverStream::new(input), &mut kept, open, (LONG, hold), answers());
            let first = tokio::select! {
                sent = peer.sent() => sent,
                _ = pipeline.next() => panic!("nothing was answered"),
            };
            assert_eq!(first, (1, Some(4)));
            if entry_follows {
                requests.try_send(append_after(5, true, 5)).unwrap();
            }
            let second = tokio::select! {
                sent = peer.sent() => sent,
                _ = pipeline.next() => panic!("nothing was answered"),
            };
            assert_eq!(second, (usize::from(entry_follows), Some(5)));
        }
    }

    #[tokio::test]
    async fn a_request_without_entries_that_openraft_begins_with_is_not_held() {
        let (mut peer, mut kept) = (Peer::new(), None);
        let (requests, input) = mpsc::channel(8);
        requests.try_send(append_after(4, false, 4)).unwrap();
        let open = || {
            let (group, to) = (GroupId(7), Incarnation::from(1));
            peer.loose.link.open_stream(group, to, IN_FLIGHT_MESSAGES_MAX)
        };
        let mut pipeline = Pipeline::new(
            ReceiverStream::new(input),
            &mut kept,
            open,
            (LONG, LONG * 10),
            answers(),
        );
        let probe = tokio::select! {
            sent = peer.sent() => sent,
            _ = pipeline.next() => panic!("nothing was answered"),
        };
        assert_eq!(probe, (0, Some(4)));
    }
}
