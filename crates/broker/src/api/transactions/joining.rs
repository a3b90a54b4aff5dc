//! Partitions and groups become parts of transactions, before the first batch is written or the first offset staged there. So whatever is
//! open anywhere has a coordinator that knows it.

use std::sync::{Arc, Weak};
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use jangada_transactions::{Answer, JoinKind, JoinRequest, Producer, judge_id};
use jangada_types::Reason;
use tokio::time::Instant;

use super::coordinator::not_the_answer;
use super::standing;
use crate::api::call::transactions::JoinTransaction;
use crate::api::context::Route;
use crate::api::passing::ask_leader;
use crate::api::shards::known_shard_of_name;
use crate::error::RequestError;
use crate::groups::CoordinatorReplica;
use crate::leader_lookup::Lead;
use crate::node::Node;
use crate::partition::{Join, JoinTransactions, OpenHere, Standing};
use crate::replica::LEADER_RETRY;

/// Until when another coordinator is looked for. Whoever waits for records to be appended waits about as long.
const JOIN_TIMEOUT: Duration = Duration::from_millis(900);
/// How long the coordinator lets a request wait for the end of the transaction before.
const END_TIMEOUT: Duration = Duration::from_millis(800);
/// How long a request waits for a command that has what it asks for. It is not much more than a round; then it asks by one of its own.
const JOINING_TIMEOUT: Duration = Duration::from_millis(50);
/// Between two tries while there is no leader.
const RETRY: Duration = Duration::from_millis(20);

/// This broker, as its partitions see it.
pub(crate) struct NodeTransactions {
    /// The node has the partitions, and they have this.
    node: Weak<Node>,
}

impl NodeTransactions {
    pub fn new(node: &Arc<Node>) -> Self {
        Self {
            node: Arc::downgrade(node),
        }
    }

    fn node(&self) -> Result<Arc<Node>, RequestError> {
        let gone = || RequestError::new(Reason::ShuttingDown, "this broker stops");
        self.node.upgrade().ok_or_else(gone)
    }
}

impl JoinTransactions for NodeTransactions {
    fn join(&self, wanted: Join) -> BoxFuture<'_, Result<u64, RequestError>> {
        async move {
            let node = self.node()?;
            let request = JoinTransaction {
                id: wanted.transactional_id,
                producer: Producer {
                    id: wanted.producer_id,
                    epoch: wanted.producer_epoch,
                },
                partitions: vec![wanted.partition],
                groups: Vec::new(),
                adds: wanted.adds,
                metadata_version: node.metadata.image().version(),
            };
            join(&node, request).await
        }
        .boxed()
    }

    fn standing(&self, open: OpenHere) -> BoxFuture<'_, Result<Standing, RequestError>> {
        async move { standing::of(&self.node()?, open).await }.boxed()
    }

    fn timeout_max(&self) -> Duration {
        let node = self.node.upgrade();
        let max_ms = node.map_or(0, |node| node.settings.transactions.max_timeout_ms);
        Duration::from_millis(max_ms.into())
    }
}

/// Makes partitions and groups parts of a producer's open transaction, wherever that is coordinated, and returns its number.
///
/// # Errors
/// INVALID_TRANSACTIONAL_ID, UNKNOWN_TRANSACTIONAL_ID, PRODUCER_FENCED, INVALID_TRANSACTION_STATE, CONCURRENT_TRANSACTIONS,
/// TOO_MANY_TRANSACTIONAL_IDS, DISK_FULL; NOT_READY: no coordinator could be asked.
pub(crate) async fn join(node: &Arc<Node>, wanted: JoinTransaction) -> Result<u64, RequestError> {
    judge_id(&wanted.id)?;
    let shard = known_shard_of_name(node, &wanted.id).ok_or_else(|| without_leader(&wanted.id, no_shards()))?;
    let deadline = Instant::now() + JOIN_TIMEOUT;
    loop {
        let joined = match node.leaders.find(&shard, Route::PassOn).await {
            Ok(Lead::Here(replica)) => join_here(node, &replica, wanted.clone()).await,
            Ok(Lead::At(leader)) => ask_leader(node, (&shard, leader), wanted.clone(), JOIN_TIMEOUT).await,
            Err(error) => Err(error),
        };
        match joined {
            Err(error) if is_about_leader(error.reason) && Instant::now() < deadline => tokio::time::sleep(RETRY).await,
            Err(error) => return Err(without_leader(&wanted.id, error)),
            Ok(seq) => return Ok(seq),
        }
    }
}

/// Does so for another broker, if this one coordinates the transaction.
///
/// # Errors
/// As [`join`], and NOT_LEADER.
pub(crate) async fn join_for_another(node: &Arc<Node>, wanted: &JoinTransaction) -> Result<u64, RequestError> {
    judge_id(&wanted.id)?;
    let shard = known_shard_of_name(node, &wanted.id).ok_or_else(no_shards)?;
    let replica = node.leaders.leading::<CoordinatorReplica>(&shard).await?;
    join_here(node, &replica, wanted.clone()).await
}

async fn join_here(node: &Node, replica: &CoordinatorReplica, wanted: JoinTransaction) -> Result<u64, RequestError> {
    node.partitions.check_disk(&replica.hosted)?;
    let id = wanted.id;
    let request = JoinRequest {
        id: id.clone(),
        producer: wanted.producer,
        partitions: wanted.partitions,
        groups: wanted.groups,
        kind: if wanted.adds {
            JoinKind::Implicit
        } else {
            JoinKind::Check
        },
        metadata_version: wanted.metadata_version,
    };
    let deadline = Instant::now() + END_TIMEOUT;
    loop {
        replica.await_joining(&request, JOINING_TIMEOUT).await;
        let decided = replica.decide_transaction(None, |leader, image, now| leader.join(image, request.clone(), now));
        let error = match decided.await {
            Ok(Answer::Joined { seq }) => return Ok(seq),
            Ok(other) => return Err(not_the_answer(&other)),
            Err(error) => error,
        };
        // The markers of the last transaction are written, or will be in a moment: that is worth more than another call.
        let left = deadline.saturating_duration_since(Instant::now());
        let is_in_the_way = error.reason == Reason::ConcurrentTransactions && !left.is_zero();
        if !is_in_the_way || !replica.await_begin(&id, left).await {
            return Err(error);
        }
    }
}

/// The shards were created with the first id or group of the cluster, and this broker has not heard of it.
fn no_shards() -> RequestError {
    RequestError::new(Reason::NotReady, "this broker does not know the coordinator yet")
}

/// Whether a refusal says that another broker is to be asked, or the same one later.
fn is_about_leader(reason: Reason) -> bool {
    matches!(
        reason,
        Reason::NotLeader
            | Reason::LeaderNotAvailable
            | Reason::NotReady
            | Reason::QuorumTimeout
            | Reason::ShuttingDown
            | Reason::BrokerBusy
    )
}

/// For whoever writes to a partition or a group: its leader is not the one that is missing.
fn without_leader(id: &str, error: RequestError) -> RequestError {
    if !is_about_leader(error.reason) {
        return error;
    }
    let message = format!(
        "the coordinator of the transactional id {id:?} does not answer: {}; nothing was written, try again",
        error.message
    );
    RequestError::new(Reason::NotReady, message).retry_after(LEADER_RETRY)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_writes_to_a_partition_is_not_sent_to_the_leader_of_another() {
        let lost = RequestError::new(Reason::NotLeader, "broker 3 leads it").with("leader_id", 3);
        let told = without_leader("transfers", lost);
        assert_eq!((told.reason, told.definite), (Reason::NotReady, true));
        assert!(told.metadata.is_empty() && told.retry_delay.is_some(), "{told:?}");
        let behind = without_leader("transfers", no_shards());
        assert_eq!(
            (behind.reason, behind.definite),
            (Reason::NotReady, true),
            "it may hear of it in a moment"
        );
        let fenced = RequestError::new(Reason::ProducerFenced, "another process has the id").with("expected", 4);
        assert_eq!(without_leader("transfers", fenced.clone()), fenced);
    }
}
