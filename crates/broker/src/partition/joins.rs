//! Whether a batch may begin a transaction here. Before the first batch of a transaction is proposed, or the first message of a queue is
//! acknowledged in it, the coordinator of its transactional id makes the partition a part of the transaction, or refuses. So whatever is
//! open here has a coordinator that knows it, and that sends the marker which ends it (KIP-890).
//!
//! ```text
//!   batch -> open here in this epoch? -> its number
//!                 | no: JoinTransactions::join, once; who comes meanwhile waits for the same call -> its number
//!                 v
//!            TxnAppend with the number, by which apply tells it from transactions before and after
//! ```
//!
//! What was found holds in the term in which it was found, until the transaction's marker comes through here: another leader may have
//! ended it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use jangada_types::limits::PRODUCERS_PER_PARTITION_MAX;
use jangada_types::{GroupId, LeaderEpoch, Offset, ProducerEpoch, ProducerId};
use parking_lot::Mutex;
use tokio::sync::OnceCell;

use crate::error::RequestError;

/// The transaction that a batch says that it belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct InTransaction {
    pub transactional_id: Arc<str>,
    /// The partition becomes a part of the transaction with its first batch; otherwise the client has said before that it is one.
    pub adds: bool,
}

/// Asks for a partition to be a part of a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Join {
    pub transactional_id: Arc<str>,
    pub producer_id: ProducerId,
    pub producer_epoch: ProducerEpoch,
    pub partition: GroupId,
    /// Make it one; otherwise it must be one already.
    pub adds: bool,
}

/// A transaction that is open in a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct OpenHere {
    pub producer_id: ProducerId,
    pub producer_epoch: ProducerEpoch,
    pub seq: u64,
    pub partition: GroupId,
    /// The offset of its first record; none: it only acknowledges messages of queues.
    pub first: Option<Offset>,
    pub since_ms: i64,
}

/// What its coordinator says of a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// It is open, or being ended: its marker will come.
    Open,
    /// No coordinator knows it any more, or it has gone on to a later one: no marker will come.
    Gone,
}

/// The coordinators of transactional ids, as partitions ask them.
pub(crate) trait JoinTransactions: Send + Sync {
    /// Makes a partition a part of its producer's open transaction, and returns the transaction's number when a quorum of the
    /// coordinator has that.
    fn join(&self, join: Join) -> BoxFuture<'_, Result<u64, RequestError>>;

    /// What has become of a transaction that has been open in a partition for longer than any may be. A marker that is still due is
    /// sent again.
    fn standing(&self, _open: OpenHere) -> BoxFuture<'_, Result<Standing, RequestError>> {
        Box::pin(std::future::ready(Ok(Standing::Open)))
    }

    /// No transaction is open for longer.
    fn timeout_max(&self) -> Duration {
        Duration::from_secs(15 * 60)
    }
}

/// What was found of the open transactions of producers.
#[derive(Default)]
pub(super) struct Joins(Mutex<Known>);

#[derive(Default)]
struct Known {
    term: LeaderEpoch,
    by_producer: BTreeMap<ProducerId, Arc<Joined>>,
}

pub(super) struct Joined {
    epoch: ProducerEpoch,
    /// Its number; not set: nobody has asked yet, or it is being asked for.
    pub seq: OnceCell<u64>,
}

impl Joins {
    /// What is known of a producer's transaction in this epoch: perhaps nothing yet.
    pub fn of(&self, term: LeaderEpoch, id: ProducerId, epoch: ProducerEpoch) -> Arc<Joined> {
        let mut known = self.0.lock();
        if known.term != term || known.by_producer.len() >= PRODUCERS_PER_PARTITION_MAX {
            (known.term, known.by_producer) = (term, BTreeMap::new());
        }
        let fresh = || {
            Arc::new(Joined {
                epoch,
                seq: OnceCell::new(),
            })
        };
        let joined = known.by_producer.entry(id).or_insert_with(fresh);
        if joined.epoch != epoch {
            *joined = fresh();
        }
        joined.clone()
    }

    /// A transaction of the producer has ended here.
    pub fn ended(&self, id: ProducerId, seq: u64) {
        let mut known = self.0.lock();
        let is_over = |joined: &Arc<Joined>| joined.seq.get().is_none_or(|known| *known <= seq);
        if known.by_producer.get(&id).is_some_and(is_over) {
            known.by_producer.remove(&id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: ProducerId = ProducerId(7);

    fn epoch(epoch: i16) -> ProducerEpoch {
        ProducerEpoch(epoch)
    }

    #[test]
    fn what_was_found_holds_in_its_term_and_epoch_until_the_transaction_ends() {
        let joins = Joins::default();
        let term = LeaderEpoch(3);
        let seq = |term, epoch| joins.of(term, ID, epoch).seq.get().copied();
        assert_eq!(seq(term, epoch(1)), None);
        joins.of(term, ID, epoch(1)).seq.set(5).expect("it is empty");
        assert_eq!(seq(term, epoch(1)), Some(5));
        joins.ended(ID, 4);
        assert_eq!(seq(term, epoch(1)), Some(5), "that was an earlier one");
        joins.ended(ID, 5);
        assert_eq!(seq(term, epoch(1)), None);
        joins.of(term, ID, epoch(1)).seq.set(6).expect("it is empty");
        assert_eq!(seq(term, epoch(2)), None);
        joins.of(term, ID, epoch(2)).seq.set(7).expect("it is empty");
        assert_eq!(seq(LeaderEpoch(4), epoch(2)), None, "another leader may have ended it");
    }
}
