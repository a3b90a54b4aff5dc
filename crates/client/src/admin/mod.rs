//! Managing topics, queues, exchanges, the cluster and groups: one method for each call of the AdminService and the QueueAdminService,
//! which any broker takes, and those of the ExchangeService and the GroupService that are not for publishers and members.
//!
//! Calls are repeated, at another broker, until `retry_timeout`. Where an attempt ended without an answer, the next one may meet
//! the work of the one before; each method says what it makes of that. What changes a topic names it by the id that it has when the
//! call begins: another topic that gets its name meanwhile is never touched.

mod dead_letters;
mod exchanges;
mod groups;
mod queue_depth;
mod queues;
mod redriving;
mod schedules;
mod transactions;
mod types;

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use jangada_proto::v1;
use jangada_proto::v1::admin_service_client::AdminServiceClient;
use jangada_proto::v1::metadata_service_client::MetadataServiceClient;
use jangada_types::{BrokerId, Incarnation, Reason};
use tonic::transport::Channel;
use tonic::{Response, Status};

pub use dead_letters::{DeadFilter, DeadLetter, DeadLetters, DeadLettersDone, Redrive, RedriveProgress};
pub use exchanges::{
    CameBy, CreatedExchange, ExchangeDescription, ExchangeLog, ExchangeSummary, MessageTrace, NewExchange, TraceHop,
};
pub use groups::{CommittedOffset, GroupDescription, GroupListing, GroupMember, GroupSummary, OwnedPartition};
pub use queue_depth::{QueueCounts, QueueDepth, QueueTally};
pub use queues::{CreatedQueue, NewQueue, QueueDescription, QueueMessages, QueueSeek, QueueSummary};
pub use redriving::Redriving;
pub use schedules::{CatchUp, NewSchedule, QueueSchedule, QueueSchedules, ScheduleIsPut, ScheduleTiming};
pub use transactions::{PartitionProducer, TransactionDescription, TransactionListing};
pub use types::{
    BrokerState, ClusterDescription, ConfigEntry, CreatedTopic, DamagedReplica, Leader, MetadataRole, NewTopic,
    PartitionState, TopicDescription, TopicSummary, WriteRefusal,
};

use crate::attempts::CallFailed;
use crate::channels::RESPONSE_BYTES_MAX;
use crate::cluster::{Cluster, Repeat};
use crate::error::ClientError;
use crate::isolation::Isolation;

/// Timeout of one attempt to create partitions. A broker waits up to 30 s until all brokers know the new leaders; then
/// it says what it waited for.
const CREATE_TIMEOUT: Duration = Duration::from_secs(35);

/// Manages topics and the cluster. Clones are cheap.
///
/// ```no_run
/// # async fn example(client: jangada_client::Client) -> Result<(), jangada_client::ClientError> {
/// use jangada_client::NewTopic;
///
/// let admin = client.admin();
/// let mut topic = NewTopic::new("orders", 12, 3);
/// topic.config.insert("retention.ms".to_owned(), "86400000".to_owned());
/// admin.create_topic(topic).await?;
/// for topic in admin.list_topics().await? {
///     println!("{} has {} partitions", topic.name, topic.partitions);
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Admin {
    cluster: Arc<Cluster>,
}

impl Admin {
    pub(crate) fn new(cluster: Arc<Cluster>) -> Self {
        Self { cluster }
    }

    /// Creates a topic and returns when every partition has a leader that all live brokers know.
    ///
    /// When an attempt ended without an answer and the next one finds the topic there, with just the partitions, replicas and
    /// settings that were asked for, it is taken for the work of the first and reported as created. Leaders are waited for all the
    /// same.
    ///
    /// An attempt may take 35 s, whatever `request_timeout` is.
    ///
    /// # Errors
    /// [`ClientError::Refused`] with `TOPIC_EXISTS` unless [`NewTopic::if_not_exists`], and for a bad name, count or setting.
    pub async fn create_topic(&self, topic: NewTopic) -> Result<CreatedTopic, ClientError> {
        let context = format!("create topic {}", topic.name);
        let mut request = v1::CreateTopicRequest {
            name: topic.name.clone(),
            partitions: topic.partitions,
            replicas: topic.replicas,
            config: topic.config.clone().into_iter().collect(),
            if_not_exists: topic.if_not_exists,
        };
        let mut is_ours = false;
        let answer = match self.create(&request).await {
            Err(failed) if failed.in_doubt && failed.failure.reason == Some(Reason::TopicExists) => {
                self.check_ours(&topic, failed, &context).await?;
                is_ours = true;
                // A broker that finds the topic there waits for its leaders only if the request has `if_not_exists`.
                request.if_not_exists = true;
                self.create(&request).await
            }
            answer => answer,
        };
        let answer = answer.map_err(|failed| failed.into_error(&context))?;
        self.cluster.metadata.require_version(answer.version);
        Ok(CreatedTopic {
            topic_id: types::topic_id(&answer.topic_id, &context)?,
            created: answer.created || is_ours,
            version: answer.version,
            partitions: Some(answer.partitions).filter(|count| *count > 0),
            replicas: Some(answer.replicas).filter(|count| *count > 0),
        })
    }

    async fn create(&self, request: &v1::CreateTopicRequest) -> Result<v1::CreateTopicResponse, CallFailed> {
        let create = |mut service: AdminServiceClient<Channel>| {
            let request = request.clone();
            async move { service.create_topic(request).await }
        };
        self.call_creating(&format!("create topic {}", request.name), Repeat::Always, create)
            .await
    }

    /// Called when the topic exists: an earlier attempt of this call may have created it if it is exactly as it was
    /// asked for.
    async fn check_ours(&self, wanted: &NewTopic, failed: CallFailed, context: &str) -> Result<(), ClientError> {
        let found = self.describe_topic(&wanted.name).await?;
        let set: BTreeMap<_, _> = found
            .config
            .iter()
            .filter(|entry| entry.is_set)
            .map(|entry| (&entry.key, &entry.value))
            .collect();
        let fits = |wanted: u32, found: usize| wanted == 0 || wanted as usize == found;
        let ours = fits(wanted.partitions, found.partitions.len())
            && fits(wanted.replicas, found.replicas as usize)
            && set == wanted.config.iter().collect();
        match ours {
            true => Ok(()),
            false => Err(failed.failure.into_error(context)),
        }
    }

    /// All topics, by name.
    ///
    /// # Errors
    /// [`ClientError::Unavailable`] when no broker answers.
    pub async fn list_topics(&self) -> Result<Vec<TopicSummary>, ClientError> {
        let context = "list topics";
        let answer = self.call(context, Repeat::Hedged, |mut service| async move {
            service.list_topics(v1::ListTopicsRequest {}).await
        });
        let answer = answer.await.map_err(|failed| failed.into_error(context))?;
        answer
            .topics
            .into_iter()
            .map(|topic| TopicSummary::from_wire(topic, context))
            .collect()
    }

    /// One topic with its effective settings and its partitions' state.
    ///
    /// # Errors
    /// [`ClientError::UnknownTopic`].
    pub async fn describe_topic(&self, name: &str) -> Result<TopicDescription, ClientError> {
        let context = format!("describe topic {name}");
        let answer = self.call(&context, Repeat::Hedged, |mut service| {
            let request = v1::DescribeTopicRequest {
                name: name.to_owned(),
                ..v1::DescribeTopicRequest::default()
            };
            async move { service.describe_topic(request).await }
        });
        let answer = answer.await.map_err(|failed| topic_error(failed, name, &context))?;
        TopicDescription::from_wire(answer, &context)
    }

    /// Changes a topic's settings, all or none. Returns the metadata version that has them.
    ///
    /// # Errors
    /// [`ClientError::UnknownTopic`]; [`ClientError::Refused`] for a bad setting.
    pub async fn alter_topic(
        &self,
        name: &str,
        set: BTreeMap<String, String>,
        unset: Vec<String>,
    ) -> Result<u64, ClientError> {
        let context = format!("alter topic {name}");
        let request = v1::AlterTopicRequest {
            name: name.to_owned(),
            set: set.into_iter().collect(),
            unset,
            topic_id: self.find(name, &context).await?.topic_id,
        };
        let answer = self.call(&context, repeat_of(&request.topic_id), |mut service| {
            let request = request.clone();
            async move { service.alter_topic(request).await }
        });
        let answer = answer.await.map_err(|failed| topic_error(failed, name, &context))?;
        self.cluster.metadata.require_version(answer.version);
        Ok(answer.version)
    }

    /// Gives a topic more partitions, so that it has `total`, and returns when every partition has a leader that all live
    /// brokers know. As many as it has: nothing is done. Returns the metadata version that has them.
    ///
    /// Records stay where they are: a key's later records may go to another partition than its earlier ones.
    ///
    /// # Errors
    /// [`ClientError::UnknownTopic`]; [`ClientError::Refused`] with `INVALID_PARTITIONS` for fewer than it has, or when the
    /// topic has `key.index.enable`.
    pub async fn create_partitions(&self, name: &str, total: u32) -> Result<u64, ClientError> {
        let context = format!("give topic {name} {total} partitions");
        let request = v1::CreatePartitionsRequest {
            name: name.to_owned(),
            total,
            topic_id: self.find(name, &context).await?.topic_id,
        };
        let answer = self.call_creating(&context, repeat_of(&request.topic_id), |mut service| {
            let request = request.clone();
            async move { service.create_partitions(request).await }
        });
        let answer = answer.await.map_err(|failed| topic_error(failed, name, &context))?;
        self.cluster.metadata.require_version(answer.version);
        Ok(answer.version)
    }

    /// Deletes a topic with its data. Returns the metadata version without it.
    ///
    /// When an attempt ended without an answer and the next one does not find the topic, it is taken for deleted.
    ///
    /// # Errors
    /// [`ClientError::UnknownTopic`].
    pub async fn delete_topic(&self, name: &str) -> Result<u64, ClientError> {
        let context = format!("delete topic {name}");
        let request = v1::DeleteTopicRequest {
            name: name.to_owned(),
            topic_id: self.find(name, &context).await?.topic_id,
        };
        let answer = self.call(&context, repeat_of(&request.topic_id), |mut service| {
            let request = request.clone();
            async move { service.delete_topic(request).await }
        });
        let version = match answer.await {
            Ok(answer) => answer.version,
            Err(failed) if failed.in_doubt && failed.failure.reason == Some(Reason::UnknownTopic) => {
                self.describe_cluster().await?.version
            }
            Err(failed) => return Err(topic_error(failed, name, &context)),
        };
        self.cluster.metadata.require_version(version);
        Ok(version)
    }

    /// Drops a partition's records below an offset, by default all of them. Returns the new log start offset.
    ///
    /// # Errors
    /// [`ClientError::UnknownTopic`], [`ClientError::UnknownPartition`]; [`ClientError::Refused`] with `OFFSET_OUT_OF_RANGE`
    /// above the high watermark.
    pub async fn trim(&self, topic: &str, partition: u32, before_offset: Option<i64>) -> Result<i64, ClientError> {
        if let Some(offset) = before_offset.filter(|offset| *offset < 0) {
            return Err(ClientError::Config(format!(
                "trim before offset {offset}: offsets begin at 0"
            )));
        }
        let context = format!("trim {topic}[{partition}]");
        let partition = self.target(topic, partition, &context).await?;
        // All records means all that are there now: a repeated attempt must not take more.
        let before_offset = match before_offset {
            Some(offset) => offset,
            None => {
                let seen = self.cluster.metadata.image().refreshes;
                let mut found = self.cluster.partition(&topic.into(), partition.partition).await?;
                if found.id_bytes() != partition.topic_id {
                    // The id that this client knew belongs to another topic, deleted since.
                    let refreshed = self.cluster.refresh(seen, self.cluster.deadline()).await;
                    refreshed.map_err(|failure| ClientError::Unavailable(failure.rejection(&context)))?;
                    found = self.cluster.partition(&topic.into(), partition.partition).await?;
                }
                let latest = self
                    .cluster
                    .list_offsets(
                        &found,
                        partition.partition,
                        (crate::offset_at::OffsetAt::Latest, Isolation::Uncommitted),
                    )
                    .await?;
                latest.offset.unwrap_or(0)
            }
        };
        let answer = self.call(&context, repeat_of(&partition.topic_id), |mut service| {
            let request = v1::TrimPartitionRequest {
                partition: Some(partition.clone()),
                before_offset,
            };
            async move { service.trim_partition(request).await }
        });
        let answer = answer.await.map_err(|failed| topic_error(failed, topic, &context))?;
        Ok(answer.log_start_offset)
    }

    /// Brokers, their state, and the metadata group.
    ///
    /// # Errors
    /// [`ClientError::Unavailable`] when no broker answers.
    pub async fn describe_cluster(&self) -> Result<ClusterDescription, ClientError> {
        let answer = self.call("describe the cluster", Repeat::Hedged, |mut service| async move {
            service.describe_cluster(v1::DescribeClusterRequest {}).await
        });
        let answer = answer
            .await
            .map_err(|failed| failed.into_error("describe the cluster"))?;
        Ok(answer.into())
    }

    /// The partitions of a topic, or of all topics, with their leaders' view of each replica.
    ///
    /// # Errors
    /// [`ClientError::UnknownTopic`].
    pub async fn describe_partitions(&self, topic: Option<&str>) -> Result<Vec<PartitionState>, ClientError> {
        let name = topic.unwrap_or_default();
        let context = if name.is_empty() {
            "describe partitions".to_owned()
        } else {
            format!("describe partitions of {name}")
        };
        let answer = self.call(&context, Repeat::Hedged, |mut service| {
            let request = v1::DescribePartitionsRequest {
                topic: name.to_owned(),
                ..v1::DescribePartitionsRequest::default()
            };
            async move { service.describe_partitions(request).await }
        });
        let answer = answer.await.map_err(|failed| topic_error(failed, name, &context))?;
        answer
            .partitions
            .into_iter()
            .map(|partition| PartitionState::from_wire(partition, &context))
            .collect()
    }

    /// Hands a partition's leadership to another replica and returns when that one leads.
    ///
    /// # Errors
    /// [`ClientError::UnknownTopic`], [`ClientError::UnknownPartition`]; [`ClientError::Refused`] when the broker has no replica or
    /// is not alive.
    pub async fn transfer_leader(&self, topic: &str, partition: u32, to: BrokerId) -> Result<Leader, ClientError> {
        let context = format!("transfer the leader of {topic}[{partition}] to broker {to}");
        let partition = self.target(topic, partition, &context).await?;
        let answer = self.call(&context, repeat_of(&partition.topic_id), |mut service| {
            let request = v1::TransferLeaderRequest {
                partition: Some(partition.clone()),
                to_broker_id: to.get(),
            };
            async move { service.transfer_leader(request).await }
        });
        let answer = answer.await.map_err(|failed| topic_error(failed, topic, &context))?;
        Ok(Leader {
            id: BrokerId(answer.leader_id),
            epoch: answer.leader_epoch,
        })
    }

    /// Lets a broker that lost its disk come back empty under its id. Returns the incarnation under which it may.
    ///
    /// Each call begins another incarnation, so it is repeated only when an attempt certainly had no effect.
    ///
    /// # Errors
    /// [`ClientError::Refused`] for an unknown broker; [`ClientError::OutcomeUnknown`] when an answer is missing.
    pub async fn replace_broker(&self, broker: BrokerId) -> Result<Incarnation, ClientError> {
        let context = format!("replace broker {broker}");
        let answer = self.call(&context, Repeat::IfDefinite, |mut service| async move {
            service
                .replace_broker(v1::ReplaceBrokerRequest {
                    broker_id: broker.get(),
                })
                .await
        });
        let answer = answer.await.map_err(|failed| failed.into_error(&context))?;
        Ok(Incarnation(answer.incarnation))
    }

    /// Takes a broker without replicas out of the cluster. Removing it again changes nothing more.
    ///
    /// # Errors
    /// [`ClientError::Refused`] for an unknown broker, and for one that has replicas; [`ClientError::OutcomeUnknown`] when an
    /// answer is missing.
    pub async fn remove_broker(&self, broker: BrokerId) -> Result<(), ClientError> {
        let context = format!("remove broker {broker}");
        let answer = self.call(&context, Repeat::Always, |mut service| async move {
            service
                .remove_broker(v1::RemoveBrokerRequest {
                    broker_id: broker.get(),
                })
                .await
        });
        answer.await.map(drop).map_err(|failed| failed.into_error(&context))
    }

    /// The topic of this name as it is now, whatever this client knew of it. If there is none, the answer has no id:
    /// the broker that is called then goes by the name, and says what is wrong with it.
    async fn find(&self, name: &str, context: &str) -> Result<v1::Topic, ClientError> {
        let mut min_version = self.cluster.metadata.min_version();
        let answer = loop {
            let asked = self.cluster.call_any(context, Repeat::Hedged, |channel| {
                let request = v1::GetMetadataRequest {
                    topics: vec![name.to_owned()],
                    min_version,
                    ..v1::GetMetadataRequest::default()
                };
                let mut service = MetadataServiceClient::new(channel).max_decoding_message_size(RESPONSE_BYTES_MAX);
                async move { service.get_metadata(request).await }
            });
            match asked.await {
                // A cluster that was made anew counts its versions from the beginning again.
                Err(failed) if failed.failure.reason == Some(Reason::NotReady) && min_version > 0 => min_version = 0,
                answer => break answer.map_err(|failed| failed.into_error(context))?,
            }
        };
        Ok(answer.topics.into_iter().next().unwrap_or_default())
    }

    /// Names a partition by its topic's id.
    async fn target(&self, topic: &str, partition: u32, context: &str) -> Result<v1::TopicPartition, ClientError> {
        let v1::Topic {
            topic_id, partitions, ..
        } = self.find(topic, context).await?;
        let partitions = partitions.len() as u32;
        if !topic_id.is_empty() && partition >= partitions {
            return Err(ClientError::UnknownPartition {
                topic: topic.into(),
                partition,
                partitions,
            });
        }
        Ok(v1::TopicPartition {
            topic_id,
            topic: topic.to_owned(),
            partition,
        })
    }

    async fn call<T, F>(
        &self,
        what: &str,
        repeat: Repeat,
        call: impl Fn(AdminServiceClient<Channel>) -> F + Sync,
    ) -> Result<T, CallFailed>
    where
        T: Send,
        F: Future<Output = Result<Response<T>, Status>> + Send,
    {
        self.cluster
            .call_any(what, repeat, |channel| call(service(channel)))
            .await
    }

    /// A call that creates partitions.
    async fn call_creating<T, F>(
        &self,
        what: &str,
        repeat: Repeat,
        call: impl Fn(AdminServiceClient<Channel>) -> F + Sync,
    ) -> Result<T, CallFailed>
    where
        T: Send,
        F: Future<Output = Result<Response<T>, Status>> + Send,
    {
        let within = CREATE_TIMEOUT.max(self.cluster.config.request_timeout);
        let call = |channel| call(service(channel));
        self.cluster.call_any_within(within, what, repeat, call).await
    }
}

/// How a call about a topic may be repeated: a call by name is repeated only if definite, as another attempt could meet
/// another topic of that name.
fn repeat_of(topic_id: &[u8]) -> Repeat {
    match topic_id.is_empty() {
        true => Repeat::IfDefinite,
        false => Repeat::Always,
    }
}

fn service(channel: Channel) -> AdminServiceClient<Channel> {
    AdminServiceClient::new(channel).max_decoding_message_size(RESPONSE_BYTES_MAX)
}

/// A refusal because the topic is unknown is definite whatever happened before: there is no topic left that could be
/// changed.
fn topic_error(failed: CallFailed, topic: &str, context: &str) -> ClientError {
    match failed.failure.reason {
        Some(Reason::UnknownTopic) => ClientError::UnknownTopic { topic: topic.into() },
        _ => failed.into_error(context),
    }
}
