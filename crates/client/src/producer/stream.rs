//! The produce stream to one broker, with the attempts that were sent on it and not answered yet.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use futures::stream::{AbortHandle, BoxStream, StreamExt as _, abortable, once};
use jangada_proto::v1;
use jangada_types::BrokerId;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Streaming};

use super::lane::Ticket;
use crate::channels::StreamChannel;
use crate::cluster::{Cluster, log_service};
use crate::wire_error::Failure;

/// Most attempts under way to one broker. Throughput no longer grows beyond some dozens; latency does.
pub(crate) const OUTSTANDING_MAX: usize = 256;

/// An attempt that waits for its answer.
pub(crate) struct Outstanding {
    pub lane: u64,
    pub ticket: Ticket,
}

/// Identifies one stream to a broker. The generation tells its events from those of an earlier stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct LinkId {
    pub broker: BrokerId,
    pub generation: u64,
}

pub(crate) struct Link {
    pub id: LinkId,
    pub address: Arc<str>,
    since: Instant,
    /// The open stream. `None` while it is being opened.
    open: Option<Open>,
    pub outstanding: BTreeMap<u64, Outstanding>,
    /// Attempts in the order of sending; answered ones are skipped when they come to the front.
    sent: VecDeque<(Instant, u64)>,
    /// Lanes that wait for the stream to open or to have room.
    pub waiting: VecDeque<u64>,
    /// Whether a timer watches the attempts that wait for an answer.
    pub watched: bool,
}

struct Open {
    requests: mpsc::Sender<v1::ProduceStreamRequest>,
    answers: AbortHandle,
    /// Keeps the stream counted on its connection while it is open.
    _connection: Arc<StreamChannel>,
}

impl Drop for Open {
    fn drop(&mut self) {
        self.answers.abort();
    }
}

/// An event of a link.
pub(crate) enum LinkEvent {
    Answer(v1::ProduceStreamResponse),
    Ended(Failure),
}

/// A stream just opened.
pub(crate) struct Opened {
    requests: mpsc::Sender<v1::ProduceStreamRequest>,
    answers: Streaming<v1::ProduceStreamResponse>,
    connection: Arc<StreamChannel>,
}

pub(crate) type LinkEvents = BoxStream<'static, (LinkId, LinkEvent)>;

impl Link {
    pub fn new(id: LinkId, address: Arc<str>, since: Instant) -> Self {
        Self {
            id,
            address,
            since,
            open: None,
            outstanding: BTreeMap::new(),
            sent: VecDeque::new(),
            waiting: VecDeque::new(),
            watched: true,
        }
    }

    /// Opens a stream to a broker.
    pub async fn connect(cluster: Arc<Cluster>, address: Arc<str>) -> Result<Opened, Failure> {
        // A little more than the connection may take.
        let within = cluster.config.connect_timeout + Duration::from_secs(1);
        // Capacity for all that may be outstanding, so that handing a request over never waits.
        let (requests, receiver) = mpsc::channel(OUTSTANDING_MAX);
        let open = |channel| {
            let mut service = log_service(channel);
            async move { service.produce_stream(ReceiverStream::new(receiver)).await }
        };
        match cluster.metadata.open_stream(&address, within, open).await {
            Ok((answers, connection)) => Ok(Opened {
                requests,
                answers,
                connection,
            }),
            // No batch has been sent, so the failure is definite.
            Err(failure) => Err(Failure {
                definite: true,
                ..failure
            }),
        }
    }

    /// Installs the opened stream, which can be sent on from now. The events end with [`LinkEvent::Ended`], or without
    /// it when the link is dropped.
    pub fn opened(&mut self, opened: Opened) -> LinkEvents {
        let Opened {
            requests,
            answers,
            connection,
        } = opened;
        let id = self.id;
        let ended = Failure::local(Code::Unavailable, "the broker ended the stream", false);
        let events = answers
            .map(|answer| match answer {
                Ok(answer) => LinkEvent::Answer(answer),
                Err(status) => LinkEvent::Ended(status.into()),
            })
            .chain(once(std::future::ready(LinkEvent::Ended(ended))))
            .map(move |event| (id, event));
        let (events, answers) = abortable(events);
        self.open = Some(Open {
            requests,
            answers,
            _connection: connection,
        });
        events.boxed()
    }

    pub fn has_room(&self) -> bool {
        self.open.is_some() && self.outstanding.len() < OUTSTANDING_MAX
    }

    /// Sends a request. If the stream has just ended, its end is on its way as an event.
    pub fn send(&mut self, request: v1::ProduceStreamRequest, outstanding: Outstanding, now: Instant) {
        assert!(self.has_room(), "the driver looked before");
        let correlation = request.correlation_id;
        self.sent.push_back((now, correlation));
        self.outstanding.insert(correlation, outstanding);
        let open = self.open.as_ref().expect("has room");
        if let Err(mpsc::error::TrySendError::Full(_)) = open.requests.try_send(request) {
            unreachable!("the channel holds as many as may be outstanding");
        }
    }

    /// The time since which something has been waiting for an answer: the oldest attempt, or the stream itself for its
    /// opening.
    pub fn oldest(&mut self) -> Option<Instant> {
        if self.open.is_none() {
            return Some(self.since);
        }
        while let Some((sent, correlation)) = self.sent.front() {
            if self.outstanding.contains_key(correlation) {
                return Some(*sent);
            }
            self.sent.pop_front();
        }
        None
    }
}
