//! Takes messages of a queue as a stream, and settles them.
//!
//! ```text
//! link (Consume, one for each broker that leads partitions) ──► driver task ──► inbox ──► next()
//!   ▲                                                            │  ▲                        │
//!   └── credit, settlements, extensions of leases ◄──────────────┘  └──── ack(), nack(), drop ┘
//! ```
//!
//! The driver knows each message that this consumer has. It extends their leases, and when a stream breaks it opens another one with the
//! same session, and the tokens of what it has: nothing of that is handed out again, to anybody.

mod config;
mod driver;
mod full;
mod held;
mod link;
mod said;

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures::Stream;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;

pub use config::QueueConsumerConfig;

use self::driver::Driver;
use self::full::InFlightFull;
use self::said::{Command, Said};
use super::calls::Queue;
use super::message::{ReceivedMessage, Settled, Settlement};
use crate::cluster::Cluster;
use crate::error::ClientError;

/// Takes messages of a queue, each of which is its own until it is settled.
///
/// It is a [`Stream`]. When it is dropped, what it has not handed out is given back; the handles that it has handed out work on.
///
/// ```no_run
/// # async fn example(client: jangada_client::Client) -> Result<(), jangada_client::ClientError> {
/// use jangada_client::QueueConsumerConfig;
///
/// let mut consumer = client.queue_consumer("thumbnails", QueueConsumerConfig::default()).await?;
/// loop {
///     let message = consumer.next().await?;
///     match make_thumbnail(message.body.as_deref()) {
///         Ok(()) => message.ack().await?,
///         Err(_) => message.nack(None).await?,
///     }
/// }
/// # fn make_thumbnail(picture: Option<&[u8]>) -> Result<(), std::io::Error> { Ok(()) }
/// # }
/// ```
pub struct QueueConsumer {
    inbox: mpsc::UnboundedReceiver<Result<QueueDelivery, ClientError>>,
    queue: Arc<str>,
    /// The driver goes on while somebody has one.
    commands: mpsc::UnboundedSender<Said>,
    driver: JoinHandle<()>,
    full: watch::Receiver<Option<u32>>,
}

impl QueueConsumer {
    pub(crate) async fn start(
        cluster: Arc<Cluster>,
        queue: Arc<str>,
        config: QueueConsumerConfig,
    ) -> Result<Self, ClientError> {
        config.check()?;
        let layout = Queue::new(cluster.clone(), queue.clone()).find().await?;
        #[allow(clippy::disallowed_methods, reason = "each message that is held is settled once")]
        let (commands, receiver) = mpsc::unbounded_channel();
        #[allow(clippy::disallowed_methods, reason = "messages come only for credit")]
        let (sender, inbox) = mpsc::unbounded_channel();
        let (largest, full) = watch::channel(None);
        let in_flight = InFlightFull::new(largest);
        let commands_of_handles = commands.downgrade();
        let (driver, events) = Driver::new(
            cluster,
            queue.clone(),
            config,
            layout,
            commands_of_handles,
            sender,
            in_flight,
        );
        let driver = tokio::spawn(driver.run(receiver, events));
        Ok(Self {
            inbox,
            queue,
            commands,
            driver,
            full,
        })
    }

    /// Takes leave at once: gives back what it has not handed out. Who awaits this waits until the brokers know that, and until all handles
    /// that it has handed out are settled or dropped. A process that ends without it breaks its streams instead: brokers then wait 5 s for
    /// it to come back, and what it had counts as failed.
    pub fn close(self) -> impl Future<Output = ()> + Send {
        let Self {
            inbox,
            commands,
            driver,
            ..
        } = self;
        drop((inbox, commands));
        // A driver that has ended, for whatever reason, gives nothing back any more.
        async move { drop(driver.await) }
    }

    /// The queue's name.
    pub fn queue(&self) -> &str {
        &self.queue
    }

    /// Whether nothing comes from a partition although there may be messages, as consumers have as many of them as they may: so many. It is
    /// known after about a second.
    pub fn in_flight_full(&self) -> Option<u32> {
        *self.full.borrow()
    }

    /// Returns when [`in_flight_full`](Self::in_flight_full) has changed since this call; never, when the consumer has ended.
    pub fn in_flight_full_changed(&self) -> impl Future<Output = ()> + Send + use<> {
        let mut full = self.full.clone();
        full.mark_unchanged();
        async move {
            if full.changed().await.is_err() {
                std::future::pending().await
            }
        }
    }

    /// The next message; waits for one. A call that is dropped loses nothing. A message whose lease was over before it was taken is passed
    /// over: it goes out again, to whoever is next.
    ///
    /// # Errors
    /// [`ClientError::UnknownQueue`] when the queue is gone, and what else no retry mends: the consumer has ended then, and later calls
    /// give
    /// [`ClientError::Closed`]. [`ClientError::Unavailable`] when no broker served it for `retry_timeout`; it tries on.
    pub async fn next(&mut self) -> Result<QueueDelivery, ClientError> {
        std::future::poll_fn(|cx| self.poll_delivery(cx))
            .await
            .unwrap_or(Err(ClientError::Closed))
    }

    fn poll_delivery(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<QueueDelivery, ClientError>>> {
        loop {
            match ready!(self.inbox.poll_recv(cx)) {
                Some(Ok(delivery)) if delivery.is_lost() => drop(delivery),
                next => return Poll::Ready(next),
            }
        }
    }
}

impl Stream for QueueConsumer {
    type Item = Result<QueueDelivery, ClientError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.poll_delivery(cx)
    }
}

/// A message that a consumer has. Its fields are those of [`ReceivedMessage`].
///
/// While it lives its lease is extended, for [`extend_for`](QueueConsumerConfig::extend_for). Dropped without having been settled it is
/// given back, and goes out again at once.
pub struct QueueDelivery {
    message: Arc<ReceivedMessage>,
    handle: Handle,
}

impl std::ops::Deref for QueueDelivery {
    type Target = ReceivedMessage;

    fn deref(&self) -> &ReceivedMessage {
        &self.message
    }
}

impl std::fmt::Debug for QueueDelivery {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("QueueDelivery")
            .field("message", &self.message)
            .finish_non_exhaustive()
    }
}

/// The right to settle a message.
struct Handle {
    queue: Arc<str>,
    message: Arc<ReceivedMessage>,
    /// Its lease is lost: the driver was told so.
    lost: Arc<AtomicBool>,
    /// None: it was settled.
    commands: Option<mpsc::UnboundedSender<Said>>,
}

impl QueueDelivery {
    /// The message without the right to settle it, to be kept or handed on.
    pub fn content(&self) -> Arc<ReceivedMessage> {
        self.message.clone()
    }

    fn new(
        queue: Arc<str>,
        message: ReceivedMessage,
        lost: Arc<AtomicBool>,
        commands: mpsc::UnboundedSender<Said>,
    ) -> Self {
        let message = Arc::new(message);
        Self {
            handle: Handle {
                queue,
                message: message.clone(),
                lost,
                commands: Some(commands),
            },
            message,
        }
    }

    /// Says that the message is done, and waits until that is on the disks of a quorum. After that it is never handed out again.
    ///
    /// # Errors
    /// [`ClientError::LeaseLost`]: its lease ran out and somebody else has it, or had it and it is dead.
    /// [`ClientError::OutcomeUnknown`] when no broker confirmed it within `retry_timeout`: it may be handed out again.
    pub async fn ack(self) -> Result<(), ClientError> {
        self.handle.settle(Settlement::Ack).await
    }

    /// Says that the message failed: it goes out again after the delay, or by the queue's backoff, and is a dead letter after
    /// `queue.attempts.max` of them.
    ///
    /// # Errors
    /// The errors of [`ack`](Self::ack).
    pub async fn nack(self, delay: Option<Duration>) -> Result<(), ClientError> {
        self.handle.settle(Settlement::Nack { delay, failed: true }).await
    }

    /// Puts the message off without a failure: it goes out again after the delay.
    ///
    /// # Errors
    /// The errors of [`ack`](Self::ack).
    pub async fn postpone(self, delay: Duration) -> Result<(), ClientError> {
        let delay = Some(delay);
        self.handle.settle(Settlement::Nack { delay, failed: false }).await
    }

    /// Gives the message back: it goes out again at once, to anybody. To drop it does the same without waiting.
    ///
    /// # Errors
    /// The errors of [`ack`](Self::ack).
    pub async fn release(self) -> Result<(), ClientError> {
        self.handle.settle(Settlement::Release).await
    }

    /// Makes the message a dead letter, with a reason for people.
    ///
    /// # Errors
    /// The errors of [`ack`](Self::ack).
    pub async fn reject(self, reason: impl Into<String>) -> Result<(), ClientError> {
        let reason = reason.into();
        self.handle.settle(Settlement::Reject { reason }).await
    }

    /// Extends the lease by hand: it lasts so long from now on. Needed only where it is not extended by itself.
    ///
    /// # Errors
    /// The errors of [`ack`](Self::ack).
    pub async fn extend(&self, lease: Duration) -> Result<(), ClientError> {
        self.handle.ask(Settlement::Extend { lease: Some(lease) }).await
    }

    /// The name of the queue that it came from.
    pub(crate) fn queue(&self) -> &Arc<str> {
        &self.handle.queue
    }

    /// It was acknowledged in a transaction: there is nothing more to be said of it.
    pub(crate) fn leave_to_transaction(mut self) {
        if let Some(commands) = self.handle.commands.take() {
            // Without a driver nobody extends its lease.
            let _ = commands.send(Said::InTransaction(self.message.token.clone()));
        }
    }

    /// Whether work on the message is in vain: its lease is over, or it is known to be somebody else's by now.
    pub fn is_lost(&self) -> bool {
        self.handle.lost.load(Ordering::Relaxed)
    }
}

impl Handle {
    async fn settle(mut self, settlement: Settlement) -> Result<(), ClientError> {
        let asked = self.ask(settlement);
        // Once it is asked for, dropping the handle gives nothing back.
        self.commands = None;
        asked.await
    }

    fn ask(&self, settlement: Settlement) -> impl Future<Output = Result<(), ClientError>> + Send + use<> {
        let (done, outcome) = oneshot::channel();
        let command = Command {
            token: self.message.token.clone(),
            partition: self.message.place.partition,
            settlement,
            done: Some(done),
        };
        let sent = self
            .commands
            .as_ref()
            .is_some_and(|commands| commands.send(Said::Settle(command)).is_ok());
        async move {
            let outcome = match sent {
                true => outcome.await.unwrap_or(Err(ClientError::Closed)),
                false => Err(ClientError::Closed),
            };
            match outcome? {
                Settled::Done | Settled::Already => Ok(()),
                Settled::LeaseLost => Err(ClientError::LeaseLost),
            }
        }
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        if let Some(commands) = self.commands.take() {
            let command = Command {
                token: self.message.token.clone(),
                partition: self.message.place.partition,
                settlement: Settlement::Release,
                done: None,
            };
            // Without a driver the lease runs out.
            let _ = commands.send(Said::Settle(command));
        }
    }
}
