//! Transactions from outside. Field names are those of `transaction.proto`; what is 0 or -1 there for "none" is `None`.

use jangada_proto::v1;
use jangada_types::{BrokerId, TopicId};
use tonic::Code;

use super::Admin;
use crate::cluster::Repeat;
use crate::error::ClientError;
use crate::group::{Coordinator, transaction_service};
use crate::wire_error::Failure;

/// The transactional ids of a cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TransactionListing {
    /// The ids, ordered, without the partitions and groups of each.
    pub transactions: Vec<TransactionDescription>,
    /// Shards of the coordinator that did not answer in time: their ids are missing.
    pub missing_shards: Vec<u32>,
}

/// A transactional id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TransactionDescription {
    /// The transactional id itself.
    pub transactional_id: String,
    /// Empty, Ongoing, PrepareCommit, PrepareAbort, CompleteCommit, CompleteAbort.
    pub state: String,
    /// The producer's id.
    pub producer_id: i64,
    /// The epoch of its present, or next, transaction.
    pub producer_epoch: i32,
    /// A transaction that is open for longer is aborted, milliseconds.
    pub timeout_ms: u32,
    /// The time at which the open transaction began, milliseconds since the Unix epoch. `None`: none is open.
    pub started_ms: Option<i64>,
    /// Partitions of the open transaction, or that do not know yet how it ended: the topic's id and the partition's index.
    pub partitions: Vec<(TopicId, u32)>,
    /// Groups of which the same is true.
    pub groups: Vec<String>,
    /// The epoch of the last transaction that ended, and whether it was committed. `None`: none has.
    pub last: Option<(i32, bool)>,
    /// The broker that coordinates it.
    pub coordinator_id: BrokerId,
}

/// A producer, as a partition remembers it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartitionProducer {
    /// The producer's id.
    pub producer_id: i64,
    /// The highest epoch in which it wrote, or was fenced.
    pub producer_epoch: i32,
    /// The sequence of its last record. `None`: it wrote none in this epoch.
    pub last_sequence: Option<i32>,
    /// The time of its last append, by its leader's clock, milliseconds since the Unix epoch.
    pub last_append_ms: i64,
    /// The first offset of its open transaction, and the time since which that is open, milliseconds since the Unix epoch.
    pub transaction: Option<(i64, i64)>,
}

impl Admin {
    /// The transactional ids of all shards: only those in these states, if any are named, and whose transaction has been open for longer.
    ///
    /// # Errors
    /// [`ClientError::Unavailable`] when no broker answers within `retry_timeout`.
    pub async fn list_transactions(
        &self,
        states: &[&str],
        older_than_ms: u64,
    ) -> Result<TransactionListing, ClientError> {
        const CONTEXT: &str = "list transactions";
        let answer = self.cluster.call_any(CONTEXT, Repeat::Hedged, |channel| {
            let request = v1::ListTransactionsRequest {
                states: states.iter().map(|state| (*state).to_owned()).collect(),
                older_than_ms,
            };
            let mut service = transaction_service(channel);
            async move { service.list_transactions(request).await }
        });
        let answer = answer.await.map_err(|failed| failed.into_error(CONTEXT))?;
        let transactions = answer.transactions.into_iter();
        Ok(TransactionListing {
            transactions: transactions
                .map(|state| TransactionDescription::from_wire(state, CONTEXT))
                .collect::<Result<_, _>>()?,
            missing_shards: answer.missing_shards,
        })
    }

    /// One transactional id, linearizable.
    ///
    /// # Errors
    /// [`ClientError::Refused`] with `UNKNOWN_TRANSACTIONAL_ID`.
    pub async fn describe_transaction(&self, transactional_id: &str) -> Result<TransactionDescription, ClientError> {
        let context = format!("describe transactional id {transactional_id}");
        let coordinator = Coordinator::of_transactions(self.cluster.clone(), transactional_id.into());
        let answer = coordinator.call_transactions(coordinator.deadline(), |mut service| {
            let request = v1::DescribeTransactionRequest {
                transactional_id: transactional_id.to_owned(),
            };
            async move { service.describe_transaction(request).await }
        });
        let answer = answer
            .await
            .map_err(|failed| failed.without_effect().into_error(&context))?;
        TransactionDescription::from_wire(answer.transaction.unwrap_or_default(), &context)
    }

    /// Aborts the open transaction of an id, and fences its producer. Returns whether one was open: when an attempt ended without an
    /// answer, whether it was at the last attempt.
    ///
    /// # Errors
    /// [`ClientError::Refused`] with `UNKNOWN_TRANSACTIONAL_ID`.
    pub async fn abort_transaction(&self, transactional_id: &str) -> Result<bool, ClientError> {
        let coordinator = Coordinator::of_transactions(self.cluster.clone(), transactional_id.into());
        let answer = coordinator.call_transactions(coordinator.deadline(), |mut service| {
            let request = v1::AbortTransactionRequest {
                transactional_id: transactional_id.to_owned(),
            };
            async move { service.abort_transaction(request).await }
        });
        match answer.await {
            Ok(answer) => Ok(answer.aborted),
            Err(failed) => Err(failed.into_error(&format!("abort the transaction of {transactional_id}"))),
        }
    }

    /// What a partition remembers of its idempotent and transactional producers, by id.
    ///
    /// # Errors
    /// [`ClientError::UnknownTopic`], [`ClientError::UnknownPartition`], or when its leader does not answer within `retry_timeout`.
    pub async fn describe_producers(&self, topic: &str, partition: u32) -> Result<Vec<PartitionProducer>, ClientError> {
        let topic = self.cluster.partition(&topic.into(), partition).await?;
        let call = |channel, target| {
            let request = v1::DescribeProducersRequest {
                partition: Some(target),
            };
            let mut service = transaction_service(channel);
            async move { service.describe_producers(request).await }
        };
        let answer = self
            .cluster
            .call_leader_on("describe producers of", &topic, partition, call)
            .await?;
        Ok(answer.producers.into_iter().map(PartitionProducer::from).collect())
    }
}

impl TransactionDescription {
    fn from_wire(state: v1::TransactionState, context: &str) -> Result<Self, ClientError> {
        let partitions = state.partitions.into_iter().map(|partition| {
            let topic = TopicId::from_slice(&partition.topic_id).ok_or_else(|| {
                let failure = Failure::local(Code::Internal, "a topic id that does not have 16 bytes", true);
                failure.into_error(context)
            })?;
            Ok::<_, ClientError>((topic, partition.partition))
        });
        Ok(Self {
            partitions: partitions.collect::<Result<_, _>>()?,
            transactional_id: state.transactional_id,
            state: state.state,
            producer_id: state.producer_id,
            producer_epoch: state.producer_epoch,
            timeout_ms: state.timeout_ms,
            started_ms: Some(state.started_ms).filter(|started| *started > 0),
            groups: state.groups,
            last: state.last_epoch.map(|epoch| (epoch, state.last_committed)),
            coordinator_id: BrokerId(state.coordinator_id),
        })
    }
}

impl From<v1::ProducerState> for PartitionProducer {
    fn from(state: v1::ProducerState) -> Self {
        Self {
            producer_id: state.producer_id,
            producer_epoch: state.producer_epoch,
            last_sequence: Some(state.last_sequence).filter(|sequence| *sequence >= 0),
            last_append_ms: state.last_append_ms,
            transaction: state
                .transaction_first_offset
                .map(|first| (first, state.transaction_since_ms)),
        }
    }
}
