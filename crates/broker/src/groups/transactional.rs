//! What a shard's replica decides about transactional ids, and the markers that its leader has to send.

use jangada_shard::{self as shard, ShardLeader};
use jangada_transactions::{Acknowledgment, Answer, Image, Leader, Now, Outgoing, Step};
use jangada_types::{Reason, Rejection};

use super::CoordinatorReplica;
use crate::error::RequestError;
use crate::quota::Holding;

/// After this time the markers of a transaction should be written.
const ENDING_RETRY: std::time::Duration = std::time::Duration::from_millis(20);

impl CoordinatorReplica {
    /// Decides a request about a transactional id, and proposes what it takes, until there is an answer.
    ///
    /// A refusal is confirmed by a quorum before it is given: a leader that was deposed and does not know it would send a process away that
    /// the next leader has just given the id to.
    pub async fn decide_transaction(
        &self,
        room: Option<Holding>,
        request: impl Fn(&mut Leader, &Image, Now) -> Step,
    ) -> Result<Answer, RequestError> {
        let room = std::sync::Arc::new(room);
        let decide = || {
            let of_ids = |leader: &mut ShardLeader, shard: &_, now| leader.transactions(shard, now, &request);
            self.driver.decide(room.clone(), of_ids)
        };
        let decided = match decide().await? {
            Err(rejection) if rejection.reason != Reason::ConcurrentTransactions => {
                self.driver.read(|_| ()).await?;
                decide().await?
            }
            decided => decided,
        };
        match decided.map_err(refused)? {
            shard::Answer::Transaction(answer) => Ok(answer),
            shard::Answer::Group(answer) => unreachable!("a transactional id was asked, and answered {answer:?}"),
        }
    }

    /// Reads what is at least as new as everything that was answered before the call.
    pub async fn read_transactions<T>(&self, read: impl FnOnce(&Image) -> T) -> Result<T, RequestError> {
        self.driver.read(|shard| read(&shard.transactions)).await
    }

    /// Whether all markers of a transaction are written, as this replica has it.
    pub fn is_complete(&self, id: &str, seq: u64) -> bool {
        let is_complete = |image: &Image| image.id(id).is_none_or(|row| row.is_complete(seq));
        self.driver.with_machine(|shard| is_complete(&shard.transactions))
    }

    /// The markers that are to be sent now, at most `max`, and the time at which the next ones are due on the monotonic clock. None: this
    /// replica does not lead.
    pub fn take_outgoing(&self, max: usize) -> Option<(Vec<Outgoing>, Option<u64>)> {
        self.driver.with_leader(|leader, _, now| {
            let outgoing = leader.outbox().take_outgoing(now, max);
            (outgoing, leader.outbox().next_outgoing())
        })
    }

    /// Takes what became of markers.
    pub async fn acknowledge(&self, acknowledgments: Vec<Acknowledgment>) -> Result<(), RequestError> {
        let acknowledge = |leader: &mut ShardLeader, shard: &_, now| {
            let take = |leader: &mut Leader, image: &Image, now| leader.acknowledge(image, &acknowledgments, now);
            leader.transactions(shard, now, take)
        };
        self.driver.decide((), acknowledge).await?.map(drop).map_err(refused)
    }

    /// Markers that are not acknowledged; 0 on replicas that do not lead.
    pub fn waiting_markers(&self) -> usize {
        let waiting = self
            .driver
            .with_leader(|leader, _, _| leader.outbox().waiting_markers());
        waiting.unwrap_or(0)
    }
}

/// With the time after which a refusal that passes by itself may be gone.
fn refused(rejection: Rejection) -> RequestError {
    let error = RequestError::from(rejection);
    match error.reason {
        Reason::ConcurrentTransactions => error.retry_after(ENDING_RETRY),
        _ => error,
    }
}
