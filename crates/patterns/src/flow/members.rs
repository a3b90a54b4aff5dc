//! What a flow shares with its membership: records that wait and are under way, and what becomes of them when partitions move.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use jangada_client::{
    ConsumedRecord, GroupHandle, ListenerError, OffsetCommit, PartitionPosition, RebalanceListener, StartPositions,
    TopicPartition,
};
use tokio::sync::Notify;

use super::lanes::Lanes;
use super::progress::{Progress, Ticket};

/// How often a member that gives up partitions looks whether what is under way has ended, beside being told.
const LOOK_INTERVAL: Duration = Duration::from_millis(200);

/// Records with the same lane are handled one at a time. One without a key has a lane of its own.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Lane {
    pub topic: Arc<str>,
    pub partition: u32,
    pub key: Result<Bytes, i64>,
}

/// A record that was taken.
#[derive(Clone)]
pub(super) struct Taken {
    pub ticket: Ticket,
    pub record: Arc<ConsumedRecord>,
}

/// What waits and what is under way.
#[derive(Default)]
pub(super) struct Work {
    pub lanes: Lanes<Lane, Taken>,
    pub progress: Progress,
    /// Offsets that are in work, by partition.
    begun: std::collections::BTreeSet<(TopicPartition, i64)>,
    /// The member, for commits beside its calls; none before it has partitions.
    handle: Option<GroupHandle>,
}

/// The work, shared with the listener.
#[derive(Clone, Default)]
pub(super) struct Members {
    work: Arc<Mutex<Work>>,
    /// Notified when a record has ended.
    ended: Arc<Notify>,
}

impl Members {
    pub fn work(&self) -> MutexGuard<'_, Work> {
        self.work.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a record that was handed out. False: its partition is not owned any more, or being given up.
    pub fn push(&self, record: ConsumedRecord) -> bool {
        let mut work = self.work();
        let Some(ticket) = work.progress.take((&record.topic, record.partition), record.offset) else {
            return false;
        };
        let lane = Lane {
            topic: record.topic.clone(),
            partition: record.partition,
            key: record.key.clone().ok_or(record.offset),
        };
        let record = Arc::new(record);
        work.lanes.push(lane, Taken { ticket, record });
        true
    }

    /// The next record that may begin.
    pub fn begin(&self) -> Option<(Lane, Taken)> {
        let mut work = self.work();
        let (lane, taken) = work.lanes.take()?;
        work.begun.insert((taken.ticket.partition.clone(), taken.ticket.offset));
        Some((lane, taken))
    }

    /// A record has ended: finished, or left to whoever has its partition.
    pub fn end(&self, lane: &Lane, ticket: &Ticket, is_finished: bool) {
        let mut work = self.work();
        work.begun.remove(&(ticket.partition.clone(), ticket.offset));
        if is_finished {
            work.progress.finish(ticket);
        }
        work.lanes.done(lane);
        drop(work);
        self.ended.notify_waiters();
    }

    /// The member and what it may commit now, of partitions that stay.
    pub fn to_commit(&self) -> Option<(GroupHandle, Vec<OffsetCommit>)> {
        let work = self.work();
        let commits = work.progress.to_commit_of_staying();
        let handle = work.handle.clone()?;
        (!commits.is_empty()).then_some((handle, commits))
    }

    /// Nothing of these partitions begins any more; waits until what has begun has ended.
    async fn leave(&self, partitions: &[TopicPartition]) {
        {
            let mut work = self.work();
            let Work {
                lanes, progress, begun, ..
            } = &mut *work;
            let of_these = |lane: &Lane| {
                let is_it = |left: &TopicPartition| left.partition == lane.partition && left.topic == lane.topic;
                partitions.iter().any(is_it)
            };
            lanes.drop_waiting(of_these);
            progress.leave(partitions, |partition, offset| {
                begun.contains(&(partition.clone(), offset))
            });
        }
        loop {
            let ended = self.ended.notified();
            let is_idle = {
                let work = self.work();
                !work.begun.iter().any(|(partition, _)| partitions.contains(partition))
            };
            if is_idle {
                return;
            }
            // Whoever has ended between the look and the wait is seen by the next look.
            let _ = tokio::time::timeout(LOOK_INTERVAL, ended).await;
        }
    }
}

/// The partitions of a group's changes.
fn partitions(of: &[PartitionPosition]) -> Vec<TopicPartition> {
    of.iter().map(|position| position.partition.clone()).collect()
}

impl RebalanceListener for Members {
    fn on_assigned<'a>(
        &'a self,
        group: &'a GroupHandle,
        partitions: &'a [TopicPartition],
    ) -> BoxFuture<'a, Result<StartPositions, ListenerError>> {
        let mut work = self.work();
        work.handle = Some(group.clone());
        for partition in partitions {
            work.progress.came(partition);
        }
        Box::pin(futures::future::ready(Ok(Vec::new())))
    }

    fn on_revoked<'a>(&'a self, group: &'a GroupHandle, revoked: &'a [PartitionPosition]) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            let partitions = partitions(revoked);
            self.leave(&partitions).await;
            let commits = self
                .work()
                .progress
                .to_commit(|partition| partitions.contains(partition));
            if !commits.is_empty()
                && let Err(error) = group.commit_offsets(&commits).await
            {
                tracing::warn!(%error, "what was finished of partitions that are given up will come again elsewhere");
            }
            self.work().progress.gone(&partitions);
        })
    }

    fn on_lost<'a>(&'a self, _: &'a GroupHandle, lost: &'a [PartitionPosition]) -> BoxFuture<'a, ()> {
        let partitions = partitions(lost);
        let mut work = self.work();
        let of_these = |lane: &Lane| {
            let is_it = |left: &TopicPartition| left.partition == lane.partition && left.topic == lane.topic;
            partitions.iter().any(is_it)
        };
        work.lanes.drop_waiting(of_these);
        work.progress.gone(&partitions);
        Box::pin(futures::future::ready(()))
    }
}
