//! Queues from outside: creating, showing, changing, pausing and deleting them. Field names are those of `queue_admin.proto`.

use std::collections::BTreeMap;
use std::future::Future;

use jangada_proto::v1;
use jangada_proto::v1::queue_admin_service_client::QueueAdminServiceClient;
use jangada_types::queue_config::key::PAUSED;
use jangada_types::{QueueId, Reason, TopicId};
use tonic::transport::Channel;
use tonic::{Response, Status};

use super::dead_letters::{DeadLetter, DeadLetters, DeadLettersDone, Redrive};
use super::queue_depth::QueueDepth;
use super::redriving::Redriving;
use super::types::topic_id;
use super::{Admin, CREATE_TIMEOUT, ConfigEntry};
use crate::attempts::CallFailed;
use crate::channels::RESPONSE_BYTES_MAX;
use crate::cluster::Repeat;
use crate::error::ClientError;
use crate::offset_at::OffsetAt;
use crate::wire_error::Failure;

/// A queue to create.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewQueue {
    /// `[A-Za-z0-9._-]{1,249}`, not `.` or `..`, not beginning with `__`, and not the name of a topic.
    pub name: String,
    /// Where its messages are to be.
    pub messages: QueueMessages,
    /// Settings by key.
    pub config: BTreeMap<String, String>,
    /// Accept a queue of that name that exists, with messages in the same place, whatever its settings. Default: false.
    pub if_not_exists: bool,
}

/// Where the messages of a queue are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum QueueMessages {
    /// In a topic of the queue's own, whose log is cut as they are done.
    Owned {
        /// 1 to 10,000. 0: the cluster's default.
        partitions: u32,
        /// 1 to the number of brokers. 0: the cluster's default.
        replicas: u32,
    },
    /// In an ordinary topic, which keeps its records as its own settings say.
    Topic {
        /// The topic's name.
        topic: String,
        /// Where the queue begins in the partitions that the topic has.
        start: OffsetAt,
    },
    /// In the log of an exchange, from its end on.
    Exchange {
        /// The exchange's name.
        exchange: String,
    },
}

impl NewQueue {
    /// A queue with a topic of its own and default settings.
    pub fn new(name: impl Into<String>, partitions: u32, replicas: u32) -> Self {
        Self {
            name: name.into(),
            messages: QueueMessages::Owned { partitions, replicas },
            config: BTreeMap::new(),
            if_not_exists: false,
        }
    }

    /// A queue that reads a topic, with default settings.
    pub fn reading(name: impl Into<String>, topic: impl Into<String>, start: OffsetAt) -> Self {
        let topic = topic.into();
        Self {
            messages: QueueMessages::Topic { topic, start },
            ..Self::new(name, 0, 0)
        }
    }

    /// A queue that is a view over the log of an exchange, with default settings.
    pub fn over(name: impl Into<String>, exchange: impl Into<String>) -> Self {
        let exchange = exchange.into();
        Self {
            messages: QueueMessages::Exchange { exchange },
            ..Self::new(name, 0, 0)
        }
    }

    fn wire(&self) -> v1::CreateQueueRequest {
        use v1::create_queue_request::Start;
        let mut request = v1::CreateQueueRequest {
            name: self.name.clone(),
            config: self.config.clone().into_iter().collect(),
            if_not_exists: self.if_not_exists,
            ..v1::CreateQueueRequest::default()
        };
        match &self.messages {
            QueueMessages::Owned { partitions, replicas } => {
                request.partitions = *partitions;
                request.replicas = *replicas;
            }
            QueueMessages::Topic { topic, start } => {
                request.topic.clone_from(topic);
                request.start = Some(match start {
                    OffsetAt::Earliest => Start::Earliest(true),
                    OffsetAt::Latest => Start::Latest(true),
                    OffsetAt::Timestamp(timestamp_ms) => Start::TimestampMs(*timestamp_ms),
                });
            }
            QueueMessages::Exchange { exchange } => request.exchange.clone_from(exchange),
        }
        request
    }
}

/// A queue that was created or was there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CreatedQueue {
    /// The queue's id.
    pub queue_id: QueueId,
    /// Whether this call created the queue; false if it was there before.
    pub created: bool,
    /// The first metadata version that has the queue.
    pub version: u64,
    /// Number of partitions of its topic.
    pub partitions: u32,
    /// Replicas of each partition.
    pub replicas: u32,
}

/// A queue in the list of all queues.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueueSummary {
    /// The queue's name.
    pub name: String,
    /// The queue's id.
    pub queue_id: QueueId,
    /// Whether the topic is the queue's own.
    pub is_owned: bool,
    /// The topic whose records are its messages; an owned queue's has its name.
    pub topic: String,
    /// The topic's id.
    pub topic_id: TopicId,
    /// Number of partitions of the topic.
    pub partitions: u32,
    /// Replicas of each partition.
    pub replicas: u32,
    /// Whether nothing is handed out.
    pub is_paused: bool,
}

/// A queue with its settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueueDescription {
    /// As in the list.
    pub queue: QueueSummary,
    /// Every setting that the queue may have, by subject.
    pub config: Vec<ConfigEntry>,
    /// What the queue has in each partition, by index.
    pub partitions: Vec<QueueDepth>,
}

/// Where a queue begins anew in a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QueueSeek {
    /// By position or time.
    At(OffsetAt),
    /// At this offset, 0 or more.
    Offset(i64),
}

impl QueueSummary {
    fn from_wire(queue: v1::QueueSummary, context: &str) -> Result<Self, ClientError> {
        Ok(Self {
            queue_id: queue_id(&queue.queue_id, context)?,
            topic_id: topic_id(&queue.topic_id, context)?,
            is_owned: queue.kind() == v1::QueueKind::Owned,
            name: queue.name,
            topic: queue.topic,
            partitions: queue.partitions,
            replicas: queue.replicas,
            is_paused: queue.is_paused,
        })
    }
}

fn queue_id(bytes: &[u8], context: &str) -> Result<QueueId, ClientError> {
    QueueId::from_slice(bytes).ok_or_else(|| {
        let message = format!("the answer has a queue id of {} bytes instead of 16", bytes.len());
        ClientError::Refused(Failure::local(tonic::Code::DataLoss, message, true).rejection(context))
    })
}

impl Admin {
    /// Creates a queue, and returns when each of its partitions has a leader that all live brokers know.
    ///
    /// When an attempt ended without an answer and the next one finds a queue of that name with its messages in the same place and
    /// just the settings that were asked for, it is taken for the work of the first and reported as created.
    ///
    /// An attempt may take 35 s, whatever `request_timeout` is.
    ///
    /// # Errors
    /// [`ClientError::Refused`] with `QUEUE_EXISTS` unless [`NewQueue::if_not_exists`], with `TOPIC_EXISTS`, and for a bad name, count,
    /// topic or setting.
    pub async fn create_queue(&self, queue: NewQueue) -> Result<CreatedQueue, ClientError> {
        let context = format!("create queue {}", queue.name);
        let mut request = queue.wire();
        let mut is_ours = false;
        let answer = match self.send_creation(&context, &request).await {
            Err(failed) if failed.in_doubt && failed.failure.reason == Some(Reason::QueueExists) => {
                self.check_queue_is_ours(&queue, failed, &context).await?;
                is_ours = true;
                // A broker that finds the queue there waits for its leaders only if the request has `if_not_exists`.
                request.if_not_exists = true;
                self.send_creation(&context, &request).await
            }
            answer => answer,
        };
        let answer = answer.map_err(|failed| failed.into_error(&context))?;
        self.cluster.metadata.require_version(answer.version);
        Ok(CreatedQueue {
            queue_id: queue_id(&answer.queue_id, &context)?,
            created: answer.created || is_ours,
            version: answer.version,
            partitions: answer.partitions,
            replicas: answer.replicas,
        })
    }

    async fn send_creation(
        &self,
        context: &str,
        request: &v1::CreateQueueRequest,
    ) -> Result<v1::CreateQueueResponse, CallFailed> {
        let within = CREATE_TIMEOUT.max(self.cluster.config.request_timeout);
        let call = |channel| {
            let (mut service, request) = (service(channel), request.clone());
            async move { service.create_queue(request).await }
        };
        self.cluster
            .call_any_within(within, context, Repeat::Always, call)
            .await
    }

    /// Called when the queue exists: an earlier attempt of this call may have created it if it is as it was asked for.
    async fn check_queue_is_ours(
        &self,
        wanted: &NewQueue,
        failed: CallFailed,
        context: &str,
    ) -> Result<(), ClientError> {
        let found = self.describe_queue(&wanted.name).await?;
        let set = found.config.iter().filter(|entry| entry.is_set);
        let set: BTreeMap<_, _> = set.map(|entry| (&entry.key, &entry.value)).collect();
        let fits = |wanted: u32, found: u32| wanted == 0 || wanted == found;
        let is_there = match &wanted.messages {
            QueueMessages::Owned { partitions, replicas } => {
                let queue = &found.queue;
                queue.is_owned && fits(*partitions, queue.partitions) && fits(*replicas, queue.replicas)
            }
            QueueMessages::Topic { topic, .. } => !found.queue.is_owned && found.queue.topic == *topic,
            QueueMessages::Exchange { exchange } => found.queue.topic == format!("__exchange.{exchange}"),
        };
        match is_there && set == wanted.config.iter().collect() {
            true => Ok(()),
            false => Err(failed.failure.into_error(context)),
        }
    }

    /// All queues, by name.
    ///
    /// # Errors
    /// [`ClientError::Unavailable`] when no broker answers.
    pub async fn list_queues(&self) -> Result<Vec<QueueSummary>, ClientError> {
        let context = "list queues";
        let answer = self.call_queues(context, Repeat::Hedged, |mut service| async move {
            service.list_queues(v1::ListQueuesRequest {}).await
        });
        let answer = answer.await.map_err(|failed| failed.into_error(context))?;
        let queues = answer.queues.into_iter();
        queues.map(|queue| QueueSummary::from_wire(queue, context)).collect()
    }

    /// One queue with its effective settings.
    ///
    /// # Errors
    /// [`ClientError::Refused`] with `UNKNOWN_QUEUE`.
    pub async fn describe_queue(&self, name: &str) -> Result<QueueDescription, ClientError> {
        let context = format!("describe queue {name}");
        let answer = self.call_queues(&context, Repeat::Hedged, |mut service| {
            let request = v1::DescribeQueueRequest {
                name: name.to_owned(),
                ..v1::DescribeQueueRequest::default()
            };
            async move { service.describe_queue(request).await }
        });
        let answer = answer.await.map_err(|failed| failed.into_error(&context))?;
        Ok(QueueDescription {
            queue: QueueSummary::from_wire(answer.queue.unwrap_or_default(), &context)?,
            config: answer.config.into_iter().map(ConfigEntry::from).collect(),
            partitions: answer.partitions.into_iter().map(QueueDepth::from_wire).collect(),
        })
    }

    /// Changes a queue's settings, all or none. Returns the metadata version that has them.
    ///
    /// # Errors
    /// [`ClientError::Refused`] with `UNKNOWN_QUEUE`, and for a bad setting.
    pub async fn alter_queue(
        &self,
        name: &str,
        set: BTreeMap<String, String>,
        unset: Vec<String>,
    ) -> Result<u64, ClientError> {
        let context = format!("alter queue {name}");
        let queue = self.describe_queue(name).await?.queue;
        let request = v1::AlterQueueRequest {
            name: name.to_owned(),
            queue_id: queue.queue_id.to_bytes().to_vec().into(),
            set: set.into_iter().collect(),
            unset,
        };
        let answer = self.call_queues(&context, Repeat::Always, |mut service| {
            let request = request.clone();
            async move { service.alter_queue(request).await }
        });
        let answer = answer.await.map_err(|failed| queue_error(failed, &context))?;
        self.cluster.metadata.require_version(answer.version);
        Ok(answer.version)
    }

    /// Lets a queue hand out nothing, or again what it has. Messages are taken meanwhile, and what is out can be settled. Returns the
    /// metadata version that has it.
    ///
    /// # Errors
    /// [`ClientError::Refused`] with `UNKNOWN_QUEUE`.
    pub async fn pause_queue(&self, name: &str, is_paused: bool) -> Result<u64, ClientError> {
        match is_paused {
            true => {
                let set = BTreeMap::from([(PAUSED.to_owned(), is_paused.to_string())]);
                self.alter_queue(name, set, Vec::new()).await
            }
            false => self.alter_queue(name, BTreeMap::new(), vec![PAUSED.to_owned()]).await,
        }
    }

    /// Deletes a queue; the messages of an owned one with it. Returns the metadata version without it.
    ///
    /// When an attempt ended without an answer and the next one does not find the queue, it is taken for deleted.
    ///
    /// # Errors
    /// [`ClientError::Refused`] with `UNKNOWN_QUEUE`.
    pub async fn delete_queue(&self, name: &str) -> Result<u64, ClientError> {
        let context = format!("delete queue {name}");
        let queue = self.describe_queue(name).await?.queue;
        let request = v1::DeleteQueueRequest {
            name: name.to_owned(),
            queue_id: queue.queue_id.to_bytes().to_vec().into(),
        };
        let answer = self.call_queues(&context, Repeat::Always, |mut service| {
            let request = request.clone();
            async move { service.delete_queue(request).await }
        });
        let version = match answer.await {
            Ok(answer) => answer.version,
            Err(failed) if failed.in_doubt && failed.failure.reason == Some(Reason::UnknownQueue) => {
                self.describe_cluster().await?.version
            }
            Err(failed) => return Err(queue_error(failed, &context)),
        };
        self.cluster.metadata.require_version(version);
        Ok(version)
    }

    /// Drops all messages of a queue in one partition, or those before an offset: also those that consumers have, and dead letters.
    /// Without an offset it is repeated only when an attempt certainly had no effect, for it would drop what came meanwhile.
    ///
    /// # Errors
    /// [`ClientError::Refused`] with `UNKNOWN_QUEUE` or `UNKNOWN_PARTITION`; [`ClientError::OutcomeUnknown`] when an answer is missing.
    pub async fn purge_queue(
        &self,
        queue: &str,
        partition: u32,
        before_offset: Option<i64>,
    ) -> Result<(), ClientError> {
        let context = format!("purge queue {queue}[{partition}]");
        let request = v1::PurgeQueueRequest {
            queue_id: self.queue_id_of(queue).await?,
            partition,
            before_offset,
            ..v1::PurgeQueueRequest::default()
        };
        let repeat = match before_offset {
            Some(_) => Repeat::Always,
            None => Repeat::IfDefinite,
        };
        let answer = self.call_queues(&context, repeat, |mut service| {
            let request = request.clone();
            async move { service.purge_queue(request).await }
        });
        answer.await.map(drop).map_err(|failed| queue_error(failed, &context))
    }

    /// Lets a queue that reads a topic begin anew in one partition. Returns the offset. Repeated only when an attempt certainly had no
    /// effect, for consumers may have settled messages since.
    ///
    /// # Errors
    /// [`ClientError::Refused`] with `UNKNOWN_QUEUE`, `UNKNOWN_PARTITION`, or `WRONG_QUEUE_KIND`; [`ClientError::OutcomeUnknown`] when an
    /// answer is missing.
    pub async fn seek_queue(&self, queue: &str, partition: u32, to: QueueSeek) -> Result<i64, ClientError> {
        use v1::seek_queue_request::Start;
        let context = format!("seek queue {queue}[{partition}]");
        let request = v1::SeekQueueRequest {
            queue_id: self.queue_id_of(queue).await?,
            partition,
            start: Some(match to {
                QueueSeek::At(OffsetAt::Earliest) => Start::Earliest(true),
                QueueSeek::At(OffsetAt::Latest) => Start::Latest(true),
                QueueSeek::At(OffsetAt::Timestamp(timestamp_ms)) => Start::TimestampMs(timestamp_ms),
                QueueSeek::Offset(offset) => Start::Offset(offset),
            }),
            ..v1::SeekQueueRequest::default()
        };
        let answer = self.call_queues(&context, Repeat::IfDefinite, |mut service| {
            let request = request.clone();
            async move { service.seek_queue(request).await }
        });
        let answer = answer.await.map_err(|failed| queue_error(failed, &context))?;
        Ok(answer.offset)
    }

    /// Dead letters of one partition, by offset, and where to look on.
    ///
    /// # Errors
    /// [`ClientError::Refused`] with `UNKNOWN_QUEUE` or `UNKNOWN_PARTITION`.
    pub async fn list_dead(
        &self,
        queue: &str,
        wanted: &DeadLetters,
    ) -> Result<(Vec<DeadLetter>, Option<i64>), ClientError> {
        let context = format!("list dead letters of {queue}[{}]", wanted.partition);
        let request = wanted.wire(self.queue_id_of(queue).await?);
        let answer = self.call_queues(&context, Repeat::Always, |mut service| {
            let request = request.clone();
            async move { service.list_dead(request).await }
        });
        let answer = answer.await.map_err(|failed| queue_error(failed, &context))?;
        let letters = answer.messages.into_iter().map(|letter| DeadLetter {
            offset: letter.offset,
            reason: letter.reason,
            failures: letter.failures,
            deliveries: letter.deliveries,
            died_at_ms: letter.died_at_ms,
        });
        Ok((letters.collect(), answer.next_offset))
    }

    /// Lets dead letters of a queue go out again, at a rate, in all partitions in turn. It goes on while its progress is asked for, over
    /// brokers that fail, and ends when it is dropped.
    ///
    /// # Errors
    /// [`ClientError::Refused`] with `UNKNOWN_QUEUE`.
    pub async fn redrive_dead(&self, queue: &str, wanted: Redrive) -> Result<Redriving, ClientError> {
        let queue_id = self.queue_id_of(queue).await?;
        Ok(Redriving::new(self.cluster.clone(), queue, queue_id, wanted))
    }

    /// Deletes dead letters of one partition, at most 1,000; the answer says where to go on. An attempt that is repeated counts only what
    /// those before it have left.
    ///
    /// # Errors
    /// [`ClientError::Refused`] with `UNKNOWN_QUEUE` or `UNKNOWN_PARTITION`.
    pub async fn purge_dead(&self, queue: &str, wanted: &DeadLetters) -> Result<DeadLettersDone, ClientError> {
        let context = format!("purge dead letters of {queue}[{}]", wanted.partition);
        let request = wanted.wire(self.queue_id_of(queue).await?);
        let answer = self.call_queues(&context, Repeat::Always, |mut service| {
            let request = request.clone();
            async move { service.purge_dead(request).await }
        });
        answer
            .await
            .map(DeadLettersDone::from_wire)
            .map_err(|failed| queue_error(failed, &context))
    }

    pub(super) async fn queue_id_of(&self, name: &str) -> Result<bytes::Bytes, ClientError> {
        let queue = self.describe_queue(name).await?.queue;
        Ok(queue.queue_id.to_bytes().to_vec().into())
    }

    pub(super) async fn call_queues<T, F>(
        &self,
        what: &str,
        repeat: Repeat,
        call: impl Fn(QueueAdminServiceClient<Channel>) -> F + Sync,
    ) -> Result<T, CallFailed>
    where
        T: Send,
        F: Future<Output = Result<Response<T>, Status>> + Send,
    {
        self.cluster
            .call_any(what, repeat, |channel| call(service(channel)))
            .await
    }
}

pub(super) fn service(channel: Channel) -> QueueAdminServiceClient<Channel> {
    QueueAdminServiceClient::new(channel).max_decoding_message_size(RESPONSE_BYTES_MAX)
}

/// A refusal because the queue is unknown is definite whatever happened before: there is no queue left that could be changed.
pub(super) fn queue_error(failed: CallFailed, context: &str) -> ClientError {
    match failed.failure.reason {
        Some(Reason::UnknownQueue) => failed.failure.into_error(context),
        _ => failed.into_error(context),
    }
}
