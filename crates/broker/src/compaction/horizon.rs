//! When tombstones may go: the leader of a partition asks all other members up to where they have been clean for
//! `delete.retention.ms`, each by its own clock, and lets go what is so with all of them.
//!
//! A tombstone that went from one replica while another still has the value before it would bring that value back with the next
//! leader (redpanda issue 28333). So a member that does not answer, or a learner that has not cleaned yet, keeps the horizon where it is.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use jangada_log::{PartitionCommand, PartitionState};
use jangada_proto::internal::{CleanedPartition, CleanedSinceRequest, CleanedSinceResponse, WantedCleaned};
use jangada_replication::{Registry, transport};
use jangada_types::planted::{self, Bug};
use jangada_types::{BrokerId, GroupId, Incarnation, Offset, ReplicaId};

use super::status::id_of;
use super::{CompactionStatus, Compactor};
use crate::clock_guard::ClockGuard;
use crate::partition::Partition;
use crate::replica::{Hosted, Replicas};

/// How long a broker may take to answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a command waits for its quorum.
const PROPOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// Of each replica that has answered: up to where it has been clean for long enough.
type Answers = BTreeMap<(GroupId, ReplicaId), Offset>;

impl Compactor {
    /// Moves the horizons of the partitions that are led here.
    pub(super) async fn move_horizons(&self) {
        let mut led = self.compacted();
        let status = &self.cleaner.status;
        // Where nothing waits for the horizon, or nothing could go of this replica, nobody is asked.
        let own_since = |partition: &Arc<Partition>| {
            let hosted = &partition.hosted;
            if !hosted.is_ready() || hosted.check_quorum.is_lost() {
                return None;
            }
            let retention_ms = partition.config().delete_retention_ms;
            let since = clean_since(status, &self.cleaner.shared.clock, hosted, retention_ms)?;
            let moves = since > partition.view.clean_horizon() && status.waits_below(hosted, since);
            moves.then_some((id_of(hosted), since))
        };
        let mut answers = Answers::new();
        led.retain(|partition| match own_since(partition) {
            Some((id, since)) => answers.insert(id, since).is_none(),
            None => {
                // Whoever leads it now tells.
                status.set_horizon_lag(&partition.hosted, 0);
                false
            }
        });
        if led.is_empty() {
            return;
        }
        let mut asked: BTreeMap<BrokerId, Vec<WantedCleaned>> = BTreeMap::new();
        for partition in &led {
            let local = partition.hosted.group.replica();
            for member in members(partition).into_iter().filter(|member| *member != local) {
                asked.entry(member.broker).or_default().push(WantedCleaned {
                    group: partition.hosted.id().get(),
                    delete_retention_ms: partition.config().delete_retention_ms,
                });
            }
        }
        let calls = asked
            .into_iter()
            .map(|(broker, wanted)| ask(self.cleaner.shared.registry.clone(), broker, wanted));
        answers.extend(join_all(calls).await.into_iter().flatten());
        for partition in led {
            self.move_horizon(&partition, &answers).await;
        }
    }

    async fn move_horizon(&self, partition: &Arc<Partition>, answers: &Answers) {
        let group = partition.hosted.id();
        let own = id_of(&partition.hosted);
        let own_since = answers.get(&own).copied().unwrap_or(Offset(0));
        // As of now: who has joined meanwhile has not answered, and keeps the horizon where it is.
        let since = |member: ReplicaId| answers.get(&(group, member)).copied().unwrap_or(Offset(0));
        let Some(upto) = members(partition).into_iter().map(since).min() else {
            return;
        };
        let upto = match planted::is(Bug::TombstoneBeforeItsValue) {
            true => own_since,
            false => upto,
        };
        let lag = (own_since.get() - upto.get()).max(0).unsigned_abs();
        self.cleaner.status.set_horizon_lag(&partition.hosted, lag);
        if upto <= partition.view.clean_horizon() {
            return;
        }
        let command = PartitionCommand::AdvanceHorizon {
            upto,
            now_ms: self.cleaner.shared.clock.now_ms(),
        };
        let proposed = partition
            .hosted
            .group
            .propose::<PartitionState>(command, PROPOSE_TIMEOUT)
            .await;
        if let Err(error) = proposed {
            tracing::debug!(partition = %partition.hosted.name, %error, "the horizon of tombstones was not moved");
        }
    }
}

/// All members, learners among them.
fn members(partition: &Partition) -> Vec<ReplicaId> {
    let members = partition.hosted.group.members();
    members.voters.into_iter().chain(members.learners).collect()
}

/// Up to where a replica here has been clean for so long. `None`: it is not compacted here, or the clock is not trusted.
fn clean_since(
    status: &CompactionStatus,
    clock: &ClockGuard,
    hosted: &Arc<Hosted>,
    delete_retention_ms: u64,
) -> Option<Offset> {
    status.since_before(hosted, clock.old_before_ms(delete_retention_ms)?)
}

async fn ask(registry: Arc<Registry>, broker: BrokerId, wanted: Vec<WantedCleaned>) -> Answers {
    let Some(address) = registry.peer_address(broker) else {
        return Answers::new();
    };
    let request = CleanedSinceRequest {
        hello: Some(registry.hello(broker)),
        partitions: wanted,
    };
    let asked = |channel| async move { transport::internal_client(channel).cleaned_since(request).await };
    match registry.dialer().call(&address, ANSWER_TIMEOUT, asked).await {
        Ok(response) => {
            let of = |answer: CleanedPartition| {
                let replica = ReplicaId {
                    broker,
                    incarnation: Incarnation(answer.incarnation),
                };
                ((GroupId(answer.group), replica), Offset(answer.offset))
            };
            response.partitions.into_iter().map(of).collect()
        }
        Err(error) => {
            tracing::debug!(%broker, %error, "it is not known since when its replicas are compacted");
            Answers::new()
        }
    }
}

/// Answers another broker's question.
pub(crate) fn cleaned_since(
    status: &CompactionStatus,
    clock: &ClockGuard,
    replicas: &Replicas,
    request: &CleanedSinceRequest,
) -> CleanedSinceResponse {
    let of = |wanted: &WantedCleaned| {
        let group = GroupId(wanted.group);
        let hosted = replicas.get(group)?;
        let replica = hosted.group.replica();
        let since = clean_since(status, clock, &hosted, wanted.delete_retention_ms)?;
        Some(CleanedPartition {
            group: wanted.group,
            incarnation: replica.incarnation.get(),
            offset: since.get(),
        })
    };
    CleanedSinceResponse {
        partitions: request.partitions.iter().filter_map(of).collect(),
    }
}
