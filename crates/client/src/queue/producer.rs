//! Sends messages to a queue.
//!
//! ```text
//! send() ── partition ── lane (what waits, in order) ── one request at a time for each lane ── the partition's leader
//!    ▲                                                          │
//!    └────────────── what became of each message ◄──────────────┘
//! ```
//!
//! While a request of a lane is under way the next one grows, so that a lane alone is prompt and a busy one is efficient. One task has all
//! lanes. A message that was refused for the moment goes back to the front of its lane, so those of a key keep their order.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::{FuturesUnordered, StreamExt as _};
use jangada_proto::v1;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::time::Instant;
use tonic::Code;

use super::calls::{Queue, QueueLayout, queue_service, sent_of};
use super::message::{QueueMessage, SentMessage, millis};
use crate::backoff::Backoff;
use crate::cluster::Cluster;
use crate::config::TIME_MAX;
use crate::error::ClientError;
use crate::notice::{Next, Trouble};
use crate::wire_error::{Disposition, Failure};

/// Messages of one request at most.
const REQUEST_MESSAGES_MAX: usize = 1_000;

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
    fn check(&self) -> Result<(), ClientError> {
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
    commands: mpsc::UnboundedSender<Pending>,
    buffer: Arc<Semaphore>,
    buffer_bytes: usize,
    queue: Arc<str>,
}

/// A message that waits, with whom to tell what became of it.
struct Pending {
    message: QueueMessage,
    until: Instant,
    /// An attempt before may have sent it.
    in_doubt: bool,
    done: oneshot::Sender<Result<SentMessage, ClientError>>,
    /// Its part of the buffer.
    _room: OwnedSemaphorePermit,
}

impl QueueProducer {
    pub(crate) async fn start(
        cluster: Arc<Cluster>,
        queue: Arc<str>,
        config: QueueProducerConfig,
    ) -> Result<Self, ClientError> {
        config.check()?;
        let layout = Queue::new(cluster.clone(), queue.clone()).find().await?;
        #[allow(clippy::disallowed_methods, reason = "the buffer's semaphore bounds its bytes")]
        let (commands, receiver) = mpsc::unbounded_channel();
        let buffer_bytes = config.buffer_bytes;
        let driver = Driver {
            backoff: Backoff::new(&cluster.env.random),
            turn: cluster.env.random.number() as usize,
            cluster,
            queue: queue.clone(),
            config,
            layout,
            lanes: BTreeMap::new(),
        };
        tokio::spawn(driver.run(receiver));
        Ok(Self {
            commands,
            buffer: Arc::new(Semaphore::new(buffer_bytes)),
            buffer_bytes,
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
        let mut waiting = Vec::with_capacity(messages.len());
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

    /// Hands a message over in the order of these calls; waits while the buffer is full. What this returns gives what became of it, and
    /// need not be awaited.
    ///
    /// # Errors
    /// [`ClientError::Closed`].
    pub async fn enqueue(
        &self,
        message: QueueMessage,
    ) -> Result<impl Future<Output = Result<SentMessage, ClientError>> + Send + use<>, ClientError> {
        let bytes = message.bytes().min(self.buffer_bytes);
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        let room = self.buffer.clone().acquire_many_owned(bytes).await;
        let (done, outcome) = oneshot::channel();
        let pending = Pending {
            message,
            // The driver knows how long.
            until: Instant::now(),
            in_doubt: false,
            done,
            _room: room.map_err(|_| ClientError::Closed)?,
        };
        self.commands.send(pending).map_err(|_| ClientError::Closed)?;
        Ok(async move { outcome.await.unwrap_or(Err(ClientError::Closed)) })
    }
}

/// The messages of one partition.
#[derive(Default)]
struct Lane {
    waiting: VecDeque<Pending>,
    is_under_way: bool,
    /// Nothing is sent before this time, after a failure.
    not_before: Option<Instant>,
    trouble: Option<Trouble>,
}

/// A request that was answered, or not.
struct Answered {
    partition: u32,
    sent: Vec<Pending>,
    answer: Result<v1::SendResponse, Failure>,
}

enum Event {
    Message(Option<Pending>),
    Answered(Box<Answered>),
    /// A lane may go on.
    Due,
    Found(Option<QueueLayout>),
}

struct Driver {
    cluster: Arc<Cluster>,
    queue: Arc<str>,
    config: QueueProducerConfig,
    layout: QueueLayout,
    lanes: BTreeMap<u32, Lane>,
    /// For messages that may go anywhere.
    turn: usize,
    backoff: Backoff,
}

impl Driver {
    async fn run(mut self, mut messages: mpsc::UnboundedReceiver<Pending>) {
        let mut under_way: FuturesUnordered<BoxFuture<'static, Answered>> = FuturesUnordered::new();
        let mut finding: Option<BoxFuture<'static, Option<QueueLayout>>> = None;
        let mut open = true;
        while open || !under_way.is_empty() || self.lanes.values().any(|lane| !lane.waiting.is_empty()) {
            let due = self.lanes.values().filter_map(|lane| lane.not_before).min();
            let event = tokio::select! {
                biased;
                Some(answered) = under_way.next(), if !under_way.is_empty() => Event::Answered(Box::new(answered)),
                message = messages.recv(), if open => Event::Message(message),
                found = async { finding.as_mut().expect("it is asked before").await }, if finding.is_some() => Event::Found(found),
                () = async { tokio::time::sleep_until(due.expect("it is asked before")).await }, if due.is_some() => Event::Due,
            };
            match event {
                Event::Message(None) => open = false,
                Event::Message(Some(pending)) => {
                    self.take(pending);
                    // All that came meanwhile goes into the same requests.
                    while let Ok(more) = messages.try_recv() {
                        self.take(more);
                    }
                }
                Event::Answered(answered) => {
                    if self.answered(*answered) && finding.is_none() {
                        let queue = Queue::new(self.cluster.clone(), self.queue.clone());
                        finding = Some(Box::pin(async move { queue.find().await.ok() }));
                    }
                }
                Event::Due => {
                    let now = Instant::now();
                    for lane in self.lanes.values_mut() {
                        lane.not_before.take_if(|at| *at <= now);
                    }
                }
                Event::Found(found) => {
                    finding = None;
                    if let Some(found) = found {
                        self.layout = found.newer(&self.layout);
                    }
                }
            }
            self.send_all(&mut under_way);
        }
    }

    fn take(&mut self, mut pending: Pending) {
        pending.until = Instant::now() + self.config.send_timeout;
        let partition = self.layout.partition_of(&pending.message);
        let partition = partition.unwrap_or_else(|| self.any_partition(self.layout.partitions.len().max(1) as u32));
        self.lanes.entry(partition).or_default().waiting.push_back(pending);
    }

    /// The partition of a message that may go anywhere: one whose request grows already, or the next one in turn.
    fn any_partition(&mut self, partitions: u32) -> u32 {
        for _ in 0..partitions {
            let growing = self.turn as u32 % partitions;
            let is_open = |lane: &Lane| lane.not_before.is_none() && lane.waiting.len() < REQUEST_MESSAGES_MAX;
            if self.lanes.get(&growing).is_none_or(is_open) {
                return growing;
            }
            self.turn = self.turn.wrapping_add(1);
        }
        self.turn as u32 % partitions
    }

    fn send_all(&mut self, under_way: &mut FuturesUnordered<BoxFuture<'static, Answered>>) {
        let partitions = self.layout.partitions.len().max(1) as u32;
        let ready: Vec<u32> = self
            .lanes
            .iter()
            .filter(|(_, lane)| !lane.is_under_way && lane.not_before.is_none() && !lane.waiting.is_empty())
            .map(|(partition, _)| *partition)
            .collect();
        for partition in ready {
            let sent = self.next_request(partition);
            if partition == self.turn as u32 % partitions {
                self.turn = self.turn.wrapping_add(1);
            }
            let request = v1::SendRequest {
                queue: self.queue.to_string(),
                queue_id: self.layout.queue_id.clone(),
                partition: Some(partition),
                messages: sent.iter().map(|pending| pending.message.to_wire()).collect(),
                timeout_ms: u32::try_from(millis(self.config.quorum_timeout)).unwrap_or(u32::MAX),
                ..v1::SendRequest::default()
            };
            let leader = self
                .layout
                .partitions
                .get(partition as usize)
                .and_then(|known| known.leader.clone());
            let cluster = self.cluster.clone();
            let within = self.config.quorum_timeout + Duration::from_secs(1);
            under_way.push(Box::pin(async move {
                // Any broker passes it on; the leader is faster.
                let address = match leader {
                    Some((_, address)) => address,
                    None => cluster.metadata.candidates().swap_remove(0),
                };
                let send = |channel| async move { queue_service(channel).send(request).await };
                let answer = cluster.metadata.attempt(&address, within, send).await;
                Answered {
                    partition,
                    sent,
                    answer,
                }
            }));
        }
    }

    /// Takes what one request may carry off the front of a lane.
    fn next_request(&mut self, partition: u32) -> Vec<Pending> {
        let lane = self.lanes.entry(partition).or_default();
        lane.is_under_way = true;
        let (mut sent, mut bytes) = (Vec::new(), 0);
        while let Some(next) = lane.waiting.front() {
            bytes += next.message.bytes();
            if !sent.is_empty() && (bytes > self.config.batch_bytes || sent.len() == REQUEST_MESSAGES_MAX) {
                break;
            }
            sent.extend(lane.waiting.pop_front());
        }
        sent
    }

    /// Tells senders what became of their messages, or puts them back. Returns whether the queue is to be looked up again.
    fn answered(&mut self, answered: Answered) -> bool {
        let Answered {
            partition,
            sent,
            answer,
        } = answered;
        let results = match answer {
            Ok(response) => response.results.into_iter().map(sent_of).collect(),
            Err(failure) => vec![Err(failure); sent.len()],
        };
        let mut again = VecDeque::new();
        let mut worst: Option<Failure> = None;
        let missing = || {
            Err(Failure::local(
                Code::Internal,
                "the broker's answer lacks a message",
                false,
            ))
        };
        let mut results = results.into_iter();
        for mut pending in sent {
            let failure = match results.next().unwrap_or_else(missing) {
                Ok(message) => {
                    // Nobody may wait for it any more.
                    let _ = pending.done.send(Ok(message));
                    continue;
                }
                Err(failure) => failure,
            };
            match self.judge(&mut pending, failure) {
                Ok(failure) => {
                    worst = Some(failure);
                    again.push_back(pending);
                }
                Err(error) => drop(pending.done.send(Err(error))),
            }
        }
        let Some(failure) = worst else {
            let lane = self.lanes.entry(partition).or_default();
            lane.is_under_way = false;
            if let Some(mut trouble) = lane.trouble.take() {
                trouble.works();
            }
            self.backoff.reset();
            return false;
        };
        let delay = self.backoff.next(failure.retry_delay);
        let until = again.front().map_or_else(Instant::now, |pending| pending.until);
        let lane = self.lanes.entry(partition).or_default();
        lane.is_under_way = false;
        lane.not_before = Some(Instant::now() + delay);
        again.append(&mut lane.waiting);
        lane.waiting = again;
        let trouble = lane.trouble.get_or_insert_with(|| {
            let what = format!("send to queue {}", self.queue);
            self.cluster.notices.trouble(what.into(), Some(partition))
        });
        trouble.failed(&failure, Next::until(until, delay));
        true
    }

    /// Whether a message is sent again after a failure; else its sender gets the error.
    fn judge(&self, pending: &mut Pending, failure: Failure) -> Result<Failure, ClientError> {
        let context = format!("send to queue {}", self.queue);
        let has_id = pending.message.message_id.is_some();
        let recognized = self.layout.recognizes_content || self.layout.recognizes_repetitions && has_id;
        let again = match failure.disposition() {
            Disposition::Retry => true,
            Disposition::Unknown => {
                pending.in_doubt = true;
                recognized
            }
            Disposition::Refuse => false,
        };
        if again && Instant::now() < pending.until {
            return Ok(failure);
        }
        let in_doubt = pending.in_doubt;
        let failed = crate::attempts::CallFailed { failure, in_doubt };
        Err(super::calls::queue_error(failed, &self.queue, &context))
    }
}
