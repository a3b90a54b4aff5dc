//! One shard's replica on this broker, as the front that the services use: decides what members and tools ask, and reads.

use std::sync::Arc;
use std::time::Duration;

use jangada_coordinator::{Answer, Image, Leader, Now, Step, TopicPartition};
use jangada_shard::{self as shard, ShardLeader};
use jangada_types::{Offset, Reason, Rejection};

use super::COORDINATOR_REPLICAS;
use super::endings::Endings;
use super::slowest::{BoundedTopic, SlowestByPartition, slowest_of};
use crate::error::RequestError;
use crate::quota::Holding;
use crate::replica::{Driven, Driver, Front, Hosted, Kind};

/// After this time a client should ask a group again that has just changed.
const GROUP_RETRY: Duration = Duration::from_millis(50);
/// After this time the member that has an instance id may have left.
const INSTANCE_RETRY: Duration = Duration::from_secs(1);

/// Shards of the coordinator, among the kinds of hosted groups.
pub(crate) const KIND: Kind = Kind {
    noun: "shard",
    not_ready: Reason::NotReady,
    replicas_min: COORDINATOR_REPLICAS,
    without_quorum: "members are sent away",
    is_vital: false,
};

/// A group's name, and its committed offsets.
pub(super) type GroupOffsets = (Arc<str>, Vec<(TopicPartition, Offset)>);

/// A shard's replica, as the services call it.
pub(crate) struct CoordinatorReplica {
    pub hosted: Arc<Hosted>,
    pub(super) driver: Driver<ShardLeader>,
    pub(super) endings: Arc<Endings>,
}

impl CoordinatorReplica {
    pub fn new(hosted: Arc<Hosted>, driven: Arc<Driven<ShardLeader>>, endings: Arc<Endings>) -> Self {
        Self {
            driver: Driver::new(hosted.clone(), driven),
            endings,
            hosted,
        }
    }

    /// Decides a request, and proposes what it takes, until there is an answer. Many may be under way at once, as far as
    /// there is room.
    pub async fn decide(
        &self,
        room: Option<Holding>,
        first: impl FnOnce(&mut Leader, &Image, Now) -> Step,
    ) -> Result<Answer, RequestError> {
        let of_groups = |leader: &mut ShardLeader, shard: &_, now| leader.groups(shard, now, first);
        match self.driver.decide(room, of_groups).await?.map_err(refused)? {
            shard::Answer::Group(answer) => Ok(answer),
            shard::Answer::Transaction(answer) => unreachable!("a group was asked, and answered {answer:?}"),
        }
    }

    /// Reads what is at least as new as everything that was answered before the call. Calls that wait at the same time
    /// share one round.
    pub async fn read<T>(&self, read: impl FnOnce(&Image) -> T) -> Result<T, RequestError> {
        self.driver.read(|shard| read(&shard.groups)).await
    }

    /// Groups and members.
    pub fn count(&self) -> (u64, u64) {
        self.driver.with_machine(|shard| {
            let image = &shard.groups;
            let members = image.groups().map(|(_, group)| group.members.len() as u64);
            (image.groups().len() as u64, members.sum())
        })
    }

    /// The committed offsets of all groups, if this replica leads and a quorum answers it. Walks all of them, not under the
    /// lock: a command that comes meanwhile copies the group that it touches.
    pub fn committed(&self) -> Vec<GroupOffsets> {
        if !self.hosted.is_ready() || self.hosted.check_quorum.is_lost() {
            return Vec::new();
        }
        let image = self.driver.with_machine(|shard| shard.groups.clone());
        let offsets = |group: &jangada_coordinator::Group| {
            let offsets = group.offsets.iter();
            offsets
                .map(|(partition, committed)| (*partition, committed.offset))
                .collect()
        };
        image
            .groups()
            .map(|(name, group)| (name.clone(), offsets(group)))
            .collect()
    }
}

impl CoordinatorReplica {
    /// The slowest group in each partition of these topics. Not under the lock, as [`CoordinatorReplica::committed`].
    pub(super) fn slowest(&self, bounded: &[BoundedTopic]) -> SlowestByPartition {
        slowest_of(&self.driver.with_machine(|shard| shard.groups.clone()), bounded)
    }
}

impl Front for CoordinatorReplica {
    fn tick(&self) {
        self.driver.tick();
    }

    fn refresh_leadership(&self) {
        self.driver.refresh_leadership();
        // A leader that begins has everything to send that was decided before it.
        self.endings.wake();
    }
}

/// With the time after which a refusal that passes by itself may be gone.
fn refused(rejection: Rejection) -> RequestError {
    let error = RequestError::from(rejection);
    match error.reason {
        Reason::GroupChanged | Reason::NotReady => error.retry_after(GROUP_RETRY),
        Reason::UnreleasedInstanceId => error.retry_after(INSTANCE_RETRY),
        _ => error,
    }
}
