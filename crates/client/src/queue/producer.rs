//! Sends messages to a queue: a lane for each partition.

use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use jangada_proto::v1;

use super::calls::{Queue, QueueLayout, queue_error, queue_service, sent_of};
use super::message::{QueueMessage, SentMessage, millis};
use crate::attempts::CallFailed;
use crate::cluster::Cluster;
use crate::error::ClientError;
use crate::sending::{Answer, Limits, Outlet, QUORUM_GRACE, Sending};

/// How a [`QueueProducer`] sends.
#[derive(Clone, Debug)]
pub struct QueueProducerConfig {
    /// How long a message is tried in all. Default: 30 s. Up to 7 days.
    pub send_timeout: Duration,
    /// How long a broker waits for the quorum in one attempt. Default: 10 s. Up to a minute.
    pub quorum_timeout: Duration,
    /// Bytes of messages that may wait or be under way; beyond them [`send`](QueueProducer::send) waits. Default: 32 MiB.
    pub buffer_bytes: usize,
    /// Bytes of messages of one request at most; a larger message goes alone. Default: 512 KiB. At most `queue.message.max.bytes`.
    pub batch_bytes: usize,
}

impl Default for QueueProducerConfig {
    fn default() -> Self {
        Self {
            send_timeout: Duration::from_secs(30),
            quorum_timeout: Duration::from_secs(10),
            buffer_bytes: 32 << 20,
            batch_bytes: 512 << 10,
        }
    }
}

impl QueueProducerConfig {
    pub(crate) fn limits(&self) -> Limits {
        Limits {
            send_timeout: self.send_timeout,
            quorum_timeout: self.quorum_timeout,
            buffer_bytes: self.buffer_bytes,
            batch_bytes: self.batch_bytes,
        }
    }
}

/// Sends messages to one queue. Clones share the buffer and the task.
///
/// A message that was sent is on the disks of a quorum. When an answer is lost the message is sent again if the queue recognizes
/// repetitions (`queue.dedup`) and the message has an id, or its content is what counts; else its sender is told
/// [`ClientError::OutcomeUnknown`].
///
/// ```no_run
/// # async fn example(client: jangada_client::Client) -> Result<(), jangada_client::ClientError> {
/// use jangada_client::{QueueMessage, QueueProducerConfig};
///
/// let producer = client.queue_producer("thumbnails", QueueProducerConfig::default()).await?;
/// let sent = producer.send(QueueMessage::new("picture 7").with_message_id("picture-7")).await?;
/// println!("it is at {:?}", sent.place);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct QueueProducer {
    sending: Sending<Partitions>,
    queue: Arc<str>,
}

impl QueueProducer {
    pub(crate) async fn start(
        cluster: Arc<Cluster>,
        queue: Arc<str>,
        config: QueueProducerConfig,
    ) -> Result<Self, ClientError> {
        let limits = config.limits();
        limits.check()?;
        let partitions = Partitions {
            layout: Queue::new(cluster.clone(), queue.clone()).find().await?,
            cluster: cluster.clone(),
            queue: queue.clone(),
            quorum_timeout: limits.quorum_timeout,
        };
        Ok(Self {
            sending: Sending::start(cluster, partitions, limits),
            queue,
        })
    }

    /// The queue's name.
    pub fn queue(&self) -> &str {
        &self.queue
    }

    /// Sends a message and waits until it is on the disks of a quorum. Calls at the same time share requests.
    ///
    /// A call that is dropped may have sent its message.
    ///
    /// # Errors
    /// [`ClientError::UnknownQueue`]; [`ClientError::Refused`] for a message that the queue does not take;
    /// [`ClientError::Unavailable`] after `send_timeout`, also of a queue that was full all the time (`QUEUE_FULL`);
    /// [`ClientError::OutcomeUnknown`]; [`ClientError::Closed`] when the runtime ends.
    pub async fn send(&self, message: QueueMessage) -> Result<SentMessage, ClientError> {
        self.enqueue(message).await?.await
    }

    /// Sends messages and waits for all of them. Of each the result has what became of it, in their order.
    ///
    /// # Errors
    /// The errors of [`send`](Self::send), for each message.
    pub async fn send_batch(&self, messages: Vec<QueueMessage>) -> Vec<Result<SentMessage, ClientError>> {
        self.sending.send_all(messages).await
    }

    /// Hands a message over in the order of these calls; waits while the buffer is full. What this returns gives what became of it, and
    /// need not be awaited.
    ///
    /// # Errors
    /// [`ClientError::Closed`].
    pub async fn enqueue(
        &self,
        message: QueueMessage,
    ) -> Result<impl Future<Output = Result<SentMessage, ClientError>> + Send + use<>, ClientError> {
        self.sending.enqueue(message).await
    }
}

/// The partitions of a queue: lanes by their index.
struct Partitions {
    cluster: Arc<Cluster>,
    queue: Arc<str>,
    layout: QueueLayout,
    quorum_timeout: Duration,
}

impl Partitions {
    fn context(&self) -> String {
        format!("send to queue {}", self.queue)
    }
}

impl Outlet for Partitions {
    type Message = QueueMessage;
    type Outcome = SentMessage;
    type Lane = u32;
    type Found = QueueLayout;

    fn bytes(message: &QueueMessage) -> usize {
        message.bytes()
    }

    fn lane_of(&self, message: &QueueMessage) -> Option<u32> {
        self.layout.partition_of(message)
    }

    fn lanes(&self) -> u32 {
        self.layout.partitions.len().max(1) as u32
    }

    fn any_lane(&self, _: &QueueMessage, number: u32) -> u32 {
        number
    }

    fn number(partition: &u32) -> Option<u32> {
        Some(*partition)
    }

    fn send<'a>(
        &self,
        partition: &u32,
        messages: impl Iterator<Item = &'a QueueMessage>,
    ) -> BoxFuture<'static, Answer<SentMessage>> {
        let request = v1::SendRequest {
            queue: self.queue.to_string(),
            queue_id: self.layout.queue_id.clone(),
            partition: Some(*partition),
            messages: messages.map(QueueMessage::to_wire).collect(),
            timeout_ms: u32::try_from(millis(self.quorum_timeout)).unwrap_or(u32::MAX),
            ..v1::SendRequest::default()
        };
        let known = self.layout.partitions.get(*partition as usize);
        let leader = known.and_then(|known| known.leader.clone());
        let cluster = self.cluster.clone();
        let within = self.quorum_timeout + QUORUM_GRACE;
        Box::pin(async move {
            // Any broker passes it on; the leader is faster.
            let address = match leader {
                Some((_, address)) => address,
                None => cluster.metadata.candidates().swap_remove(0),
            };
            let send = |channel| async move { queue_service(channel).send(request).await };
            let answer = cluster.metadata.attempt(&address, within, send).await?;
            Ok(answer.results.into_iter().map(sent_of).collect())
        })
    }

    fn may_repeat(&self, message: &QueueMessage) -> bool {
        self.layout.recognizes_content || self.layout.recognizes_repetitions && message.message_id.is_some()
    }

    fn error(&self, failed: CallFailed, _: &QueueMessage) -> ClientError {
        queue_error(failed, &self.queue, &self.context())
    }

    fn what(&self, partition: &u32) -> (Arc<str>, Option<u32>) {
        (self.context().into(), Some(*partition))
    }

    fn find(&self) -> Option<BoxFuture<'static, Option<QueueLayout>>> {
        let queue = Queue::new(self.cluster.clone(), self.queue.clone());
        Some(Box::pin(async move { queue.find().await.ok() }))
    }

    fn found(&mut self, found: QueueLayout) {
        self.layout = found.newer(&self.layout);
    }
}
