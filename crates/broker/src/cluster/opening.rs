//! A replica on its way to be opened, and one that could not be. Here, and only here, it is asked of which kind its group is:
//! a kind has a state machine and a front, and one arm in [`Opener::open`].

use std::sync::Arc;
use std::time::Duration;

use jangada_controller::{Topic, TopicKind};
use jangada_replication::Publisher;
use jangada_types::{GroupId, PartitionIndex, ReplicaId, TopicConfig};
use tokio::time::Instant;

use crate::groups::{self, CoordinatorReplica};
use crate::partition::{self, Partition};
use crate::queues::QueueSpec;
use crate::replica::{DrivenPublisher, ReplicaName, Replicas};

/// The first attempt to open again what could not be opened comes after this time.
pub(super) const RETRY: Duration = Duration::from_millis(500);
/// Between two attempts to open a replica that cannot be opened, at most. It will hardly heal by itself.
const REOPEN_AFTER_MAX: Duration = Duration::from_secs(30);

/// A replica that is to be opened.
pub(super) struct Opening {
    pub topic: Arc<Topic>,
    pub index: PartitionIndex,
    pub group: GroupId,
    pub replica: ReplicaId,
    /// It was given up, and its vote may be needed until the others have everything.
    pub is_leaving: bool,
    /// Others may lead, too.
    pub has_others: bool,
    /// The topic's settings; an error, for the log, when they can't be read.
    pub config: Result<Arc<TopicConfig>, String>,
    /// The queues that have their messages here.
    pub queues: Arc<[QueueSpec]>,
    pub before: Option<Unopened>,
}

impl Opening {
    fn name(&self) -> ReplicaName {
        ReplicaName {
            topic: self.topic.name.clone(),
            index: Some(self.index),
        }
    }
}

/// What replicas of topics are made with.
pub(super) struct Opener {
    pub replicas: Arc<Replicas>,
    pub partitions: Arc<partition::Shared>,
    pub groups: Arc<groups::Shared>,
}

impl Opener {
    /// Opens a replica of the topic's kind. An error is for the log.
    pub async fn open(&self, opening: &Opening) -> Result<(), String> {
        let id = (opening.group, opening.replica);
        let name = opening.name();
        let opened = match opening.topic.kind {
            TopicKind::Log | TopicKind::Queue | TopicKind::Exchange => {
                let config = opening.config.clone()?;
                let state = self.partitions.empty_partition((opening.group, name.clone()), &config);
                let publisher = state.publisher();
                let front = |hosted| Partition::new(hosted, state, config, self.partitions.clone());
                let opened = self
                    .replicas
                    .open(id, (&partition::KIND, name), publisher.erased(), front);
                opened
                    .await
                    .map(|partition| partition.set_queues(opening.queues.clone()))
            }
            TopicKind::Coordinator => {
                let shard = self.groups.empty_shard((opening.group, name.clone()));
                let publisher = DrivenPublisher(shard.clone());
                let front = |hosted| CoordinatorReplica::new(hosted, shard, self.groups.endings.clone());
                let opened = self.replicas.open(id, (&groups::KIND, name), publisher.erased(), front);
                opened.await.map(drop)
            }
        };
        opened.map_err(|error| error.to_string())
    }
}

/// A replica that could not be opened.
#[derive(Debug)]
pub(super) struct Unopened {
    /// It is logged once.
    pub cause: String,
    /// Until the next attempt.
    pub pause: Duration,
    pub again_at: Instant,
}

impl Unopened {
    /// After one more attempt failed; and whether the cause is another one than before.
    pub fn again(before: Option<Self>, cause: String, now: Instant) -> (Self, bool) {
        let is_new = before.as_ref().is_none_or(|before| before.cause != cause);
        let pause = before.map_or(RETRY, |before| (before.pause * 2).min(REOPEN_AFTER_MAX));
        let again_at = now + pause;
        (Self { cause, pause, again_at }, is_new)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replica_that_cannot_be_opened_is_tried_less_and_less_and_told_once_for_each_cause() {
        let mut before = None;
        let mut told = 0;
        let start = Instant::now();
        let mut now = start;
        let mut attempts = 0;
        while now - start < Duration::from_secs(3600) {
            attempts += 1;
            let cause = if attempts < 50 { "damaged" } else { "gone" };
            let (unopened, is_new) = Unopened::again(before, cause.to_owned(), now);
            told += usize::from(is_new);
            now = unopened.again_at;
            before = Some(unopened);
        }
        assert_eq!(told, 2);
        assert!((115..130).contains(&attempts), "{attempts} attempts in an hour");
    }
}
