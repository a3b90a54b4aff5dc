//! Runs a handler for the messages of a queue, so many at once, until it is stopped.

use std::fmt::Display;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use futures::stream::{FuturesUnordered, StreamExt as _};
use tokio::sync::watch;

use super::consumer::{QueueConsumerConfig, QueueDelivery};
use super::message::ReceivedMessage;
use crate::client::Client;
use crate::error::ClientError;

/// What becomes of a message that a handler has worked on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is done.
    Ack,
    /// It failed, and goes out again after the delay, or by the queue's backoff.
    Nack(Option<Duration>),
    /// It is put off, without a failure.
    Postpone(Duration),
    /// It is a dead letter. The reason, for people, goes to the broker's log; the letter has only that it was rejected.
    Reject(String),
}

impl<T, E: Display> From<Result<T, E>> for Verdict {
    fn from(result: Result<T, E>) -> Self {
        match result {
            Ok(_) => Self::Ack,
            Err(error) => {
                tracing::warn!(%error, "a message failed");
                Self::Nack(None)
            }
        }
    }
}

/// Works on the messages of a queue with a handler.
///
/// ```no_run
/// # async fn example(client: jangada_client::Client) -> Result<(), jangada_client::ClientError> {
/// use jangada_client::Worker;
///
/// let worker = Worker::new(&client, "thumbnails");
/// let stop = worker.stop_handle();
/// tokio::spawn(async move {
///     tokio::signal::ctrl_c().await.ok();
///     stop.stop();
/// });
/// let handled = worker.run(8, |message| async move {
///     println!("{:?}", message.body);
///     Ok::<(), std::io::Error>(())
/// });
/// println!("{} messages were acknowledged", handled.await?.acknowledged);
/// # Ok(())
/// # }
/// ```
pub struct Worker {
    client: Client,
    queue: Arc<str>,
    config: Option<QueueConsumerConfig>,
    stop: watch::Sender<bool>,
}

/// Stops a worker. Clones stop the same one.
#[derive(Clone)]
pub struct StopHandle(watch::Sender<bool>);

impl StopHandle {
    /// Makes the worker begin no other message. It returns when those that it has begun are settled; what it has not begun is given
    /// back.
    pub fn stop(&self) {
        self.0.send_replace(true);
    }
}

/// What a worker has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Handled {
    /// Messages that were acknowledged.
    pub acknowledged: u64,
    /// Messages that failed, were put off, or rejected.
    pub others: u64,
    /// Messages whose settling failed, mostly as their lease was lost: they may have been worked on twice.
    pub unsettled: u64,
}

impl Worker {
    /// A worker with default settings, which has as many messages at hand as it works on at once.
    pub fn new(client: &Client, queue: impl Into<Arc<str>>) -> Self {
        Self {
            client: client.clone(),
            queue: queue.into(),
            config: None,
            stop: watch::Sender::new(false),
        }
    }

    /// Sets how the worker takes messages.
    #[must_use]
    pub fn with_config(mut self, config: QueueConsumerConfig) -> Self {
        self.config = Some(config);
        self
    }

    /// A handle that stops the worker, from any task.
    pub fn stop_handle(&self) -> StopHandle {
        StopHandle(self.stop.clone())
    }

    /// Runs the handler for each message, for at most so many at once, until the worker is stopped. A handler that panics has failed on its
    /// message. Brokers that cannot be reached are waited for.
    ///
    /// # Errors
    /// [`ClientError::Config`] for a concurrency of 0; [`ClientError::UnknownQueue`], also when the queue is deleted meanwhile; what else
    /// no retry mends. The handlers that have begun are waited for.
    pub async fn run<H, F, V>(self, concurrency: u32, handler: H) -> Result<Handled, ClientError>
    where
        H: Fn(Arc<ReceivedMessage>) -> F,
        F: Future<Output = V>,
        V: Into<Verdict>,
    {
        if concurrency == 0 {
            return Err(ClientError::Config("concurrency 0: at least 1".to_owned()));
        }
        let config = self.config.unwrap_or_else(|| QueueConsumerConfig {
            prefetch: concurrency,
            ..QueueConsumerConfig::default()
        });
        let mut consumer = self.client.queue_consumer(&*self.queue, config).await?;
        let mut stop = self.stop.subscribe();
        let mut handled = Handled::default();
        let mut working = FuturesUnordered::new();
        let failed = loop {
            let has_room = working.len() < concurrency as usize;
            tokio::select! {
                biased;
                // The sender lives as long as this worker.
                _ = stop.wait_for(|stop| *stop) => break None,
                Some(outcome) = working.next(), if !working.is_empty() => handled.count(outcome),
                message = consumer.next(), if has_room => match message {
                    Ok(message) => working.push(work(message, &handler)),
                    Err(error) if error.is_retryable() => tracing::warn!(%error, "the worker waits for the queue"),
                    Err(error) => break Some(error),
                },
            }
        };
        let left = consumer.close();
        while let Some(outcome) = working.next().await {
            handled.count(outcome);
        }
        left.await;
        failed.map_or(Ok(handled), Err)
    }
}

/// Whether a message was acknowledged; an error: it was not settled.
type Outcome = Result<bool, ClientError>;

impl Handled {
    fn count(&mut self, outcome: Outcome) {
        match outcome {
            Ok(true) => self.acknowledged += 1,
            Ok(false) => self.others += 1,
            Err(_) => self.unsettled += 1,
        }
    }
}

async fn work<F, V>(message: QueueDelivery, handler: &impl Fn(Arc<ReceivedMessage>) -> F) -> Outcome
where
    F: Future<Output = V>,
    V: Into<Verdict>,
{
    let content = message.content();
    let worked = AssertUnwindSafe(async { handler(content).await.into() }).catch_unwind();
    let verdict = worked.await.unwrap_or_else(|_| {
        tracing::error!("a handler panicked: its message has failed");
        Verdict::Nack(None)
    });
    let is_done = verdict == Verdict::Ack;
    let settled = match verdict {
        Verdict::Ack => message.ack().await,
        Verdict::Nack(delay) => message.nack(delay).await,
        Verdict::Postpone(delay) => message.postpone(delay).await,
        Verdict::Reject(reason) => message.reject(reason).await,
    };
    if let Err(error) = &settled {
        tracing::warn!(%error, "a message was worked on and could not be settled");
    }
    settled.map(|()| is_done)
}
