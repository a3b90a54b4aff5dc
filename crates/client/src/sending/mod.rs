//! Takes messages one by one and sends them many in a request: what the producers of queues and the publishers to exchanges share.
//!
//! ```text
//! enqueue() ── lane (what waits, in order) ── one request at a time for each lane ── a broker
//!    ▲                                                          │
//!    └────────────── what became of each message ◄──────────────┘
//! ```
//!
//! While a request of a lane is under way the next one grows, so that a lane alone is prompt and a busy one is efficient. One task, the
//! `driver`, has all lanes. A message that was refused for the moment goes back to the front of its lane, so those of a lane keep their
//! order.

mod driver;

use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::time::Instant;

use crate::attempts::CallFailed;
use crate::cluster::Cluster;
use crate::config::TIME_MAX;
use crate::error::ClientError;
use crate::wire_error::Failure;
use driver::Driver;

/// How much longer than a broker waits for quorums a request may take.
pub(crate) const QUORUM_GRACE: Duration = Duration::from_secs(1);

/// What became of each message of a request, in their order; an error is of all of them.
pub(crate) type Answer<T> = Result<Vec<Result<T, Failure>>, Failure>;

/// Where messages go: which lanes there are, and how a request is made. The driver's task owns it.
pub(crate) trait Outlet: Send + 'static {
    /// What is sent.
    type Message: Send + 'static;
    /// What its sender is told when it was sent.
    type Outcome: Send + 'static;
    /// Names a lane.
    type Lane: Ord + Clone + Send + 'static;
    /// What was looked up after a failure.
    type Found: Send + 'static;

    /// What a message takes in a request, roughly, bytes.
    fn bytes(message: &Self::Message) -> usize;

    /// The lane of a message that has its place in an order. None: it may go into any of [`lanes`](Self::lanes).
    fn lane_of(&self, message: &Self::Message) -> Option<Self::Lane>;

    /// The number of lanes for messages that may go anywhere; at least 1.
    fn lanes(&self) -> u32;

    /// The lane of this number, below [`lanes`](Self::lanes), for a message that may go anywhere.
    fn any_lane(&self, message: &Self::Message, number: u32) -> Self::Lane;

    /// The lane's number, if it takes messages that may go anywhere.
    fn number(lane: &Self::Lane) -> Option<u32>;

    /// Sends messages in one request.
    fn send<'a>(
        &self,
        lane: &Self::Lane,
        messages: impl Iterator<Item = &'a Self::Message>,
    ) -> BoxFuture<'static, Answer<Self::Outcome>>;

    /// Whether a message may be sent again after an attempt whose outcome is not known.
    fn may_repeat(&self, message: &Self::Message) -> bool;

    /// What the sender of a message hears that was not sent.
    fn error(&self, failed: CallFailed, message: &Self::Message) -> ClientError;

    /// What is being done with a lane, for notices, and with which partition.
    fn what(&self, lane: &Self::Lane) -> (Arc<str>, Option<u32>);

    /// Looks up after a failure where messages go. None: there is nothing to look up.
    fn find(&self) -> Option<BoxFuture<'static, Option<Self::Found>>>;

    /// Takes over what was looked up.
    fn found(&mut self, found: Self::Found);
}

/// The bounds of a sender.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// How long a message is tried in all.
    pub send_timeout: Duration,
    /// How long brokers wait for quorums in one attempt.
    pub quorum_timeout: Duration,
    /// Bytes of messages that may wait or be under way.
    pub buffer_bytes: usize,
    /// Bytes of messages of one request at most.
    pub batch_bytes: usize,
}

impl Limits {
    /// # Errors
    /// [`ClientError::Config`] for a bound that makes no sense.
    pub fn check(&self) -> Result<(), ClientError> {
        let bad = |what: String| Err(ClientError::Config(what));
        if self.send_timeout.is_zero() || self.send_timeout > TIME_MAX {
            return bad(format!(
                "send_timeout {:?}: above zero, up to {TIME_MAX:?}",
                self.send_timeout
            ));
        }
        if self.quorum_timeout.is_zero() || self.quorum_timeout > Duration::from_secs(60) {
            return bad(format!(
                "quorum_timeout {:?}: above zero, up to 60s",
                self.quorum_timeout
            ));
        }
        if self.batch_bytes == 0 {
            return bad("batch_bytes 0: at least 1".to_owned());
        }
        if self.buffer_bytes < self.batch_bytes || u32::try_from(self.buffer_bytes).is_err() {
            return bad(format!(
                "buffer_bytes {}: at least batch_bytes, below 4 GiB",
                self.buffer_bytes
            ));
        }
        Ok(())
    }
}

/// A message that waits, with whom to tell what became of it.
struct Pending<O: Outlet> {
    message: O::Message,
    until: Instant,
    /// An attempt before may have sent it.
    in_doubt: bool,
    done: oneshot::Sender<Result<O::Outcome, ClientError>>,
    /// Its part of the buffer.
    _room: OwnedSemaphorePermit,
}

/// The handle on a driver. Clones share the buffer and the task, which ends when all are dropped and all messages are answered.
pub(crate) struct Sending<O: Outlet> {
    messages: mpsc::UnboundedSender<Pending<O>>,
    buffer: Arc<Semaphore>,
    limits: Limits,
}

impl<O: Outlet> Clone for Sending<O> {
    fn clone(&self) -> Self {
        Self {
            messages: self.messages.clone(),
            buffer: self.buffer.clone(),
            limits: self.limits,
        }
    }
}

impl<O: Outlet> Sending<O> {
    /// Starts the driver. Must be called within a tokio runtime. The limits were checked.
    pub fn start(cluster: Arc<Cluster>, outlet: O, limits: Limits) -> Self {
        #[allow(clippy::disallowed_methods, reason = "the buffer's semaphore bounds its bytes")]
        let (messages, receiver) = mpsc::unbounded_channel();
        tokio::spawn(Driver::new(cluster, outlet, limits.batch_bytes).run(receiver));
        Self {
            messages,
            buffer: Arc::new(Semaphore::new(limits.buffer_bytes)),
            limits,
        }
    }

    /// Hands a message over in the order of these calls; waits while the buffer is full. What this returns gives what became of it, and
    /// need not be awaited.
    ///
    /// # Errors
    /// [`ClientError::Closed`] when the runtime ends.
    pub async fn enqueue(
        &self,
        message: O::Message,
    ) -> Result<impl Future<Output = Result<O::Outcome, ClientError>> + Send + use<O>, ClientError> {
        let bytes = O::bytes(&message).min(self.limits.buffer_bytes);
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        let room = self.buffer.clone().acquire_many_owned(bytes).await;
        let (done, outcome) = oneshot::channel();
        let pending = Pending {
            message,
            until: Instant::now() + self.limits.send_timeout,
            in_doubt: false,
            done,
            _room: room.map_err(|_| ClientError::Closed)?,
        };
        self.messages.send(pending).map_err(|_| ClientError::Closed)?;
        Ok(async move { outcome.await.unwrap_or(Err(ClientError::Closed)) })
    }

    /// Sends messages and waits for all of them. Of each the result has what became of it, in their order.
    pub async fn send_all(
        &self,
        messages: impl IntoIterator<Item = O::Message>,
    ) -> Vec<Result<O::Outcome, ClientError>> {
        let mut waiting = Vec::new();
        for message in messages {
            waiting.push(self.enqueue(message).await);
        }
        let mut results = Vec::with_capacity(waiting.len());
        for sent in waiting {
            results.push(match sent {
                Ok(sent) => sent.await,
                Err(error) => Err(error),
            });
        }
        results
    }
}
