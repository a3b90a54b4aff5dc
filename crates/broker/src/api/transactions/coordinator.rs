//! What clients ask the coordinator of a transactional id.

use std::sync::Arc;
use std::time::Duration;

use jangada_controller::Broker;
use jangada_coordinator::TopicPartition;
use jangada_transactions::{
    Answer, CommandKind, EndRequest, InitRequest, Producer, TransactionState, TransactionalId, judge_id,
};
use jangada_types::feature_level::TRANSACTIONS_FEATURE_LEVEL;
use jangada_types::{BrokerId, GroupId, PartitionIndex, ProducerId, Reason};
use tokio::time::Instant;

use crate::api::call::Passable;
use crate::api::call::transactions::{
    AbortTransaction, DescribeTransaction, EndTransaction, InitTransactions, TransactionDescription, TransactionEnded,
};
use crate::api::context::RequestContext;
use crate::api::passing::{PASS_TIMEOUT, pass_on};
use crate::api::shards::{leader_of_shard, shard_of_name};
use crate::error::RequestError;
use crate::groups::CoordinatorReplica;
use crate::leader_lookup::Lead;
use crate::node::Node;
use crate::quota::{Holding, Resource};
use crate::target::Target;

/// How long a request waits for the end of the transaction before it, and an end until it is seen everywhere.
const END_TIMEOUT: Duration = Duration::from_secs(5);
/// An answer leaves so long before nobody waits for it any more.
const ANSWER_MARGIN: Duration = Duration::from_millis(100);
/// What a request takes until Raft lets go of its command, bytes, beside the id.
const REQUEST_BYTES: usize = 512;

/// The broker that coordinates a transactional id, and the index of the shard that holds it. Any broker may be asked.
///
/// # Errors
/// Those of `FindTransactionCoordinator` in the contract.
pub(crate) async fn find_coordinator(node: &Node, id: &str) -> Result<(Broker, PartitionIndex), RequestError> {
    node.stopping.refuse()?;
    judge_id(id)?;
    let shard = shard_of_name(node, id).await?;
    let broker = leader_of_shard(node, &shard, ("transactional id", id)).await?;
    Ok((broker, shard.index))
}

/// The coordinator of one transactional id: this broker, or another one that calls are passed on to.
pub(crate) struct TransactionCoordinator<'a> {
    node: &'a Arc<Node>,
    context: &'a RequestContext,
    shard: Target,
    lead: Lead<CoordinatorReplica>,
}

impl<'a> TransactionCoordinator<'a> {
    /// Finds it, after a moment of waiting for an election.
    ///
    /// # Errors
    /// INVALID_TRANSACTIONAL_ID, SHUTTING_DOWN, NOT_LEADER, LEADER_NOT_AVAILABLE, NOT_READY.
    pub async fn of(node: &'a Arc<Node>, context: &'a RequestContext, id: &str) -> Result<Self, RequestError> {
        node.stopping.refuse()?;
        judge_id(id)?;
        let shard = shard_of_name(node, id).await?;
        let lead = node.leaders.find(&shard, context.route).await?;
        Ok(Self {
            node,
            context,
            shard,
            lead,
        })
    }

    async fn pass_on<R: Passable>(&self, leader: BrokerId, request: R) -> Result<R::Answer, RequestError> {
        pass_on(self.node, self.context, (&self.shard, leader), request, PASS_TIMEOUT).await
    }

    fn room(&self, id: &str) -> Result<Option<Holding>, RequestError> {
        let bytes = REQUEST_BYTES + id.len();
        self.context.caller.try_take(Resource::Commits, bytes).map(Some)
    }

    async fn fresh_id(&self) -> Result<ProducerId, RequestError> {
        let (id, _epoch) = self.node.producer_ids.new_producer().await?;
        Ok(id)
    }

    /// How long the request may wait for the end of a transaction.
    fn patience(&self) -> Duration {
        self.context.time_left(END_TIMEOUT).saturating_sub(ANSWER_MARGIN)
    }

    /// Begins a life of a producer, or goes on with one.
    ///
    /// # Errors
    /// Those of `InitTransactions` in the contract.
    pub async fn init(&self, wanted: InitTransactions) -> Result<Producer, RequestError> {
        // Before the first command, and before a broker is asked that does not know such calls.
        let metadata = &self.node.metadata;
        metadata.require_feature_level(TRANSACTIONS_FEATURE_LEVEL).await?;
        if let Err(error) = metadata.require_feature_level(CommandKind::Begin.since()).await {
            tracing::debug!(%error, "transactions take a command more, as long as there are older brokers");
        }
        let replica = match &self.lead {
            Lead::Here(replica) => replica,
            Lead::At(leader) => return self.pass_on(*leader, wanted).await,
        };
        self.node.partitions.check_disk(&replica.hosted)?;
        let deadline = Instant::now() + self.patience();
        let mut fresh = None;
        loop {
            let request = InitRequest {
                id: wanted.id.clone(),
                timeout_ms: wanted.timeout_ms,
                holder: wanted.holder,
                fresh,
            };
            let room = self.room(&wanted.id)?;
            let decided =
                replica.decide_transaction(room, |leader, image, now| leader.init(image, request.clone(), now));
            match decided.await {
                Ok(Answer::Initialized { producer }) => return Ok(producer),
                Ok(Answer::NeedsProducerId) if fresh.is_none() => fresh = Some(self.fresh_id().await?),
                Ok(other) => return Err(not_the_answer(&other)),
                Err(error) => ended_before(replica, &wanted.id, deadline, error).await?,
            }
        }
    }

    /// Ends a transaction.
    ///
    /// # Errors
    /// Those of `EndTransaction` in the contract.
    pub async fn end(&self, wanted: EndTransaction) -> Result<TransactionEnded, RequestError> {
        let replica = match &self.lead {
            Lead::Here(replica) => replica,
            Lead::At(leader) => return self.pass_on(*leader, wanted).await,
        };
        let EndTransaction {
            id,
            producer,
            commit,
            early,
        } = wanted;
        let deadline = Instant::now() + self.patience();
        let mut fresh = None;
        let (next, seq, is_complete) = loop {
            let request = EndRequest {
                id: id.clone(),
                producer,
                commit,
                bumps: true,
                fresh,
            };
            let room = self.room(&id)?;
            let decided =
                replica.decide_transaction(room, |leader, image, now| leader.end(image, request.clone(), now));
            match decided.await {
                Ok(Answer::Ended { next, seq, is_complete }) => break (next, seq, is_complete),
                Ok(Answer::NeedsProducerId) if fresh.is_none() => fresh = Some(self.fresh_id().await?),
                Ok(other) => return Err(not_the_answer(&other)),
                Err(error) => ended_before(replica, &id, deadline, error).await?,
            }
        };
        let left = deadline.saturating_duration_since(Instant::now());
        let is_visible = is_complete || (!early && replica.await_written(&id, seq, left).await);
        Ok(TransactionEnded { next, is_visible })
    }

    /// The state of the id, at least as new as everything that was answered before.
    ///
    /// # Errors
    /// Those of `DescribeTransaction` in the contract.
    pub async fn describe(&self, wanted: DescribeTransaction) -> Result<TransactionDescription, RequestError> {
        let replica = match &self.lead {
            Lead::Here(replica) => replica,
            Lead::At(leader) => return self.pass_on(*leader, wanted).await,
        };
        let row = row_of(replica, &wanted.id).await?;
        let image = self.node.metadata.image();
        let partition_of = |group: &GroupId| {
            let found = image.partition_of_group(*group)?;
            Some(TopicPartition::new(found.topic.id, found.index.get()))
        };
        Ok(TransactionDescription {
            partitions: row.partitions.iter().filter_map(partition_of).collect(),
            groups: row.groups.iter().cloned().collect(),
            ..summary(wanted.id, &row, self.node.broker())
        })
    }

    /// Aborts the open transaction of the id. False: none was open.
    ///
    /// # Errors
    /// Those of `AbortTransaction` in the contract.
    pub async fn abort(&self, wanted: AbortTransaction) -> Result<bool, RequestError> {
        let replica = match &self.lead {
            Lead::Here(replica) => replica,
            Lead::At(leader) => return self.pass_on(*leader, wanted).await,
        };
        let id = wanted.id;
        let room = self.room(&id)?;
        let decided = replica.decide_transaction(room, |leader, image, now| leader.abort(image, id.clone(), now));
        match decided.await {
            Ok(Answer::Ended { .. }) => Ok(true),
            Ok(other) => Err(not_the_answer(&other)),
            Err(error) if error.reason == Reason::InvalidTransactionState => {
                let row = row_of(replica, &id).await?;
                if !row.state.is_prepare() {
                    return Ok(false);
                }
                let message = format!("the transaction of {id:?} is being ended already: nothing is left to abort");
                Err(RequestError::new(Reason::ConcurrentTransactions, message))
            }
            Err(error) => Err(error),
        }
    }
}

/// Waits until the transaction before has ended, if that is why a request was refused. Then it is to be decided again.
async fn ended_before(
    replica: &CoordinatorReplica,
    id: &Arc<str>,
    deadline: Instant,
    refused: RequestError,
) -> Result<(), RequestError> {
    let left = deadline.saturating_duration_since(Instant::now());
    let is_in_the_way = refused.reason == Reason::ConcurrentTransactions && !left.is_zero();
    match is_in_the_way && replica.await_idle(id, left).await {
        true => Ok(()),
        false => Err(refused),
    }
}

/// The row of an id, at least as new as everything that was answered before.
async fn row_of(replica: &CoordinatorReplica, id: &str) -> Result<Arc<TransactionalId>, RequestError> {
    let row = replica.read_transactions(|image| image.shared_id(id)).await?;
    row.ok_or_else(|| {
        let message = format!("there is no transactional id {id:?}: list them to see what exists");
        RequestError::new(Reason::UnknownTransactionalId, message)
    })
}

/// What a row says, without its participants.
pub(super) fn summary(id: Arc<str>, row: &TransactionalId, coordinator: BrokerId) -> TransactionDescription {
    let is_open = row.state == TransactionState::Ongoing || row.state.is_prepare();
    TransactionDescription {
        id,
        state: row.state,
        producer: row.producer,
        timeout_ms: row.timeout_ms,
        started_ms: if is_open { row.started_ms } else { 0 },
        partitions: Vec::new(),
        groups: Vec::new(),
        last: row.last.map(|last| (last.producer, last.outcome.is_commit())),
        coordinator,
    }
}

pub(super) fn not_the_answer(answer: &Answer) -> RequestError {
    RequestError::new(Reason::Internal, format!("the coordinator answered {answer:?}"))
}
