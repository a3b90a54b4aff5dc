//! The stream with one broker: it sends what the driver asks, and tells the driver what comes.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use jangada_proto::v1;
use jangada_proto::v1::consume_request::Message as Request;
use jangada_proto::v1::consume_response::Message as Response;
use jangada_types::BrokerId;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::Code;

use crate::cluster::Cluster;
use crate::queue::calls::queue_service;
use crate::wire_error::Failure;

/// Names one stream; the generation tells it from an earlier one with the same broker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct LinkId {
    pub broker: BrokerId,
    pub generation: u64,
}

/// What happens on a link.
pub(super) enum LinkEvent {
    Response(Response),
    Ended(Failure),
}

/// An open stream, or one that is being opened.
pub(super) struct Link {
    pub id: LinkId,
    /// What it serves, once it has begun.
    pub partitions: Option<Vec<u32>>,
    /// Credit that is to be sent.
    pub owed: u32,
    /// Messages of earlier streams that its first credit leaves a place for.
    pub reserved: u32,
    /// Bounded by what is held: each message is settled once, and extended now and then.
    requests: mpsc::UnboundedSender<v1::ConsumeRequest>,
    task: JoinHandle<()>,
}

impl Link {
    /// Opens a stream. Its events come until [`LinkEvent::Ended`], or until it is dropped.
    pub fn open(
        cluster: Arc<Cluster>,
        (id, address): (LinkId, Arc<str>),
        start: v1::ConsumeStart,
        reserved: u32,
        events: mpsc::UnboundedSender<(LinkId, LinkEvent)>,
    ) -> Self {
        #[allow(
            clippy::disallowed_methods,
            reason = "each message that is held is settled once, and extended now and then"
        )]
        let (requests, receiver) = mpsc::unbounded_channel();
        let task = tokio::spawn(async move {
            let failure = run(&cluster, &address, start, receiver, |response| {
                events.send((id, LinkEvent::Response(response))).is_ok()
            });
            let failure = failure.await;
            // Without a driver nobody needs to know.
            let _ = events.send((id, LinkEvent::Ended(failure)));
        });
        Self {
            id,
            partitions: None,
            owed: 0,
            reserved,
            requests,
            task,
        }
    }

    pub fn is_started(&self) -> bool {
        self.partitions.is_some()
    }

    pub fn serves(&self, partition: u32) -> bool {
        self.partitions
            .as_ref()
            .is_some_and(|served| served.contains(&partition))
    }

    pub fn send(&self, request: Request) {
        // If it has just ended, its end is on its way as an event.
        let _ = self.requests.send(v1::ConsumeRequest { message: Some(request) });
    }

    /// Takes leave: the broker gives back what this consumer has of it. Returns when the broker has ended the stream, or after a while.
    pub async fn close(self, within: Duration) {
        let Self { requests, mut task, .. } = self;
        drop(requests);
        if tokio::time::timeout(within, &mut task).await.is_err() {
            task.abort();
        }
    }
}

async fn run(
    cluster: &Cluster,
    address: &str,
    start: v1::ConsumeStart,
    requests: mpsc::UnboundedReceiver<v1::ConsumeRequest>,
    mut tell: impl FnMut(Response) -> bool,
) -> Failure {
    // A little more than the connection may take, and the election that the broker waits for.
    let within = cluster.config.connect_timeout + Duration::from_secs(5);
    let first = v1::ConsumeRequest {
        message: Some(Request::Start(start)),
    };
    let requests = futures::stream::once(std::future::ready(first)).chain(UnboundedReceiverStream::new(requests));
    let open = |channel| async move { queue_service(channel).consume(requests).await };
    let (mut responses, _connection) = match cluster.metadata.open_stream(address, within, open).await {
        Ok(opened) => opened,
        Err(failure) => return failure,
    };
    loop {
        match responses.message().await {
            Ok(Some(v1::ConsumeResponse { message: Some(message) })) => {
                if !tell(message) {
                    return Failure::local(Code::Cancelled, "the consumer has ended", true);
                }
            }
            // What a newer broker says besides is nothing that this client could act on.
            Ok(Some(v1::ConsumeResponse { message: None })) => {}
            Ok(None) => return Failure::local(Code::Unavailable, "the broker ended the stream", true),
            Err(status) => return status.into(),
        }
    }
}
