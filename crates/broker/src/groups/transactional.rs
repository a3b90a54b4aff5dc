//! What a shard's replica decides about transactional ids, and the markers that its leader has to send.

use std::sync::Arc;
use std::time::Duration;

use jangada_shard::{self as shard, ShardLeader};
use jangada_transactions::{Acknowledgment, Answer, Image, JoinRequest, Leader, Now, Outgoing, Step};
use jangada_types::{Reason, Rejection};
use tokio::time::Instant;

use super::CoordinatorReplica;
use crate::error::RequestError;
use crate::quota::Holding;

/// After this time the markers of a transaction should be written.
const ENDING_RETRY: Duration = Duration::from_millis(20);
/// How often who waits for the end of a transaction looks by itself.
const LOOK_EVERY: Duration = Duration::from_millis(100);

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
        let room = Arc::new(room);
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

    /// Whether there are transactional ids here, of which something may have to be sent.
    pub fn has_transactions(&self) -> bool {
        self.driver.with_machine(|shard| !shard.transactions.is_empty())
    }

    /// Waits until all markers of a transaction are written, at most so long. True: they are.
    pub async fn await_written(&self, id: &Arc<str>, seq: u64, within: Duration) -> bool {
        let is_complete = |image: &Image| image.id(id).is_none_or(|row| row.is_complete(seq));
        let is_written = || {
            // What becomes of it after another broker leads is seen in the state.
            self.driver.with_machine(|shard| is_complete(&shard.transactions))
                || self
                    .driver
                    .with_leader(|leader, _, _| leader.outbox().is_written(id, seq))
                    == Some(true)
        };
        self.await_change(id, is_written, within).await
    }

    /// Waits until no transaction of an id is being ended, at most so long. True: so it is.
    pub async fn await_idle(&self, id: &Arc<str>, within: Duration) -> bool {
        let is_being_ended = |image: &Image| image.id(id).is_some_and(|row| row.state.is_prepare());
        let is_idle = || !self.driver.with_machine(|shard| is_being_ended(&shard.transactions));
        self.await_change(id, is_idle, within).await
    }

    /// Waits until the next transaction of an id may begin, at most so long. True: it may.
    pub async fn await_begin(&self, id: &Arc<str>, within: Duration) -> bool {
        let may_begin = || {
            self.driver
                .with_leader(|leader, shard, _| leader.outbox().may_begin(&shard.transactions, id))
        };
        self.await_change(id, || may_begin() == Some(true), within).await
    }

    /// Waits for a command that adds all who ask here, if there is one, so that none of their own is needed; at most so long.
    pub async fn await_joining(&self, request: &JoinRequest, within: Duration) {
        let is_joining = || {
            self.driver
                .with_leader(|leader, shard, _| leader.outbox().is_joining(&shard.transactions, request))
        };
        if is_joining() == Some(true) {
            self.await_change(&request.id, || is_joining() != Some(true), within)
                .await;
        }
    }

    async fn await_change(&self, id: &Arc<str>, is_there: impl Fn() -> bool, within: Duration) -> bool {
        let deadline = Instant::now() + within;
        let watching = self.endings.watch(id);
        loop {
            let changed = watching.changed();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if is_there() {
                return true;
            }
            let now = Instant::now();
            if now >= deadline {
                return false;
            }
            // Of what another leader does nobody is woken.
            let _ = tokio::time::timeout_at(deadline.min(now + LOOK_EVERY), changed).await;
        }
    }

    /// The markers that are to be sent now, at most `max`, and the time until the next ones are due. None: this replica does not lead.
    pub fn take_outgoing(&self, max: usize) -> Option<(Vec<Outgoing>, Option<Duration>)> {
        self.driver.with_leader(|leader, _, now| {
            let outgoing = leader.outbox().take_outgoing(now, max);
            let next_ms = leader.outbox().next_outgoing();
            let until = |next_ms: u64| Duration::from_millis(next_ms.saturating_sub(now.monotonic_ms));
            (outgoing, next_ms.map(until))
        })
    }

    /// Takes what became of markers.
    pub async fn acknowledge(&self, acknowledgments: Vec<Acknowledgment>) -> Result<(), RequestError> {
        let acknowledge = |leader: &mut ShardLeader, shard: &_, now| {
            let take = |leader: &mut Leader, image: &Image, now| {
                let step = leader.acknowledge(image, &acknowledgments, now);
                let written = acknowledgments
                    .iter()
                    .filter(|acknowledgment| leader.is_written(&acknowledgment.id, acknowledgment.seq));
                written.for_each(|acknowledgment| self.endings.changed(&acknowledgment.id));
                step
            };
            leader.transactions(shard, now, take)
        };
        self.driver.decide((), acknowledge).await?.map(drop).map_err(refused)
    }

    /// What this shard has of transactions, if it is led here.
    pub fn count_transactions(&self) -> Option<TransactionCounts> {
        self.driver.with_leader(|leader, shard, _| {
            let (open, since_ms) = leader.outbox().open_transactions();
            TransactionCounts {
                ids: shard.transactions.ids().len() as u64,
                open: open as u64,
                since_ms,
                waiting_ends: leader.outbox().waiting_markers() as u64,
            }
        })
    }
}

/// Transactional ids and transactions of a shard.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct TransactionCounts {
    pub ids: u64,
    pub open: u64,
    /// Since when the oldest of these is open, milliseconds since the Unix epoch.
    pub since_ms: Option<u64>,
    /// Ends that are not written in all partitions and groups, counted there.
    pub waiting_ends: u64,
}

/// With the time after which a refusal that passes by itself may be gone.
fn refused(rejection: Rejection) -> RequestError {
    let error = RequestError::from(rejection);
    match error.reason {
        Reason::ConcurrentTransactions => error.retry_after(ENDING_RETRY),
        _ => error,
    }
}
