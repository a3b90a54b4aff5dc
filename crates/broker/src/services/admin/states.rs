//! The state of partitions: what every broker knows, and what only the leader does.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use jangada_controller::{Image, PartitionRef, Topic};
use jangada_proto::v1::{DescribePartitionsRequest, PartitionState, PartitionVoter, WriteRefusal};
use jangada_replication::Group;
use jangada_types::{BrokerId, GroupId, Incarnation, LeaderEpoch, PartitionIndex, ReplicaId, TopicId};
use tokio::time::Instant;

use super::fields::topic_id;
use crate::forward::{CALL_TIMEOUT, forward};
use crate::node::Node;
use crate::partition::Partition;
use crate::replica::Hosted;

/// Calls to other brokers at once.
const PARALLEL: usize = 16;
/// Partitions that are looked at before others have a turn.
const LOOKS_AT_ONCE: usize = 128;

/// What is asked for.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(super) struct Asked {
    /// The partitions of one topic, or all.
    pub topic: Option<TopicId>,
    /// Nothing that only other brokers know.
    pub only_local: bool,
}

/// The state of the partitions that are asked for; of a topic that is gone there are none.
pub(super) async fn states_of(node: &Arc<Node>, asked: Asked) -> Vec<PartitionState> {
    let image = node.metadata.image();
    let topics: Vec<Arc<Topic>> = match asked.topic {
        Some(topic) => image.topic(topic).cloned().into_iter().collect(),
        None => image.topics_by_name().cloned().collect(),
    };
    partition_states(node, &image, &topics, asked.only_local).await
}

/// The state of all partitions of the topics: those led here from memory, the others from their leaders.
pub(super) async fn partition_states(
    node: &Arc<Node>,
    image: &Arc<Image>,
    topics: &[Arc<Topic>],
    only_local: bool,
) -> Vec<PartitionState> {
    let mut states: BTreeMap<(String, u32), PartitionState> = BTreeMap::new();
    let mut led_elsewhere: BTreeSet<BrokerId> = BTreeSet::new();
    let mut local = Vec::new();
    for topic in topics {
        for (index, partition) in topic.indexed() {
            let state = bare_state(node, topic, index, partition.group);
            match node.replicas.get(partition.group).filter(|replica| replica.is_ready()) {
                Some(led) => local.push((state, led)),
                None => {
                    led_elsewhere.extend(
                        node.replicas
                            .live_leader_of(partition.group)
                            .map(|(broker, _)| broker)
                            .filter(|broker| *broker != node.broker()),
                    );
                    states.insert((state.topic.clone(), state.partition), state);
                }
            }
        }
    }
    for state in leaders_view(node, local).await {
        states.insert((state.topic.clone(), state.partition), state);
    }
    if !only_local {
        let request = match topics {
            [topic] => DescribePartitionsRequest {
                topic: topic.name.to_string(),
                topic_id: topic_id(topic),
            },
            _ => DescribePartitionsRequest::default(),
        };
        let asked = futures::stream::iter(led_elsewhere)
            .map(|broker| ask_leader(node, image, broker, request.clone()))
            .buffer_unordered(PARALLEL);
        let answers: Vec<Vec<PartitionState>> = asked.collect().await;
        for state in answers.into_iter().flatten().filter(|state| state.high_watermark >= 0) {
            states
                .entry((state.topic.clone(), state.partition))
                .and_modify(|known| *known = state);
        }
    }
    states.into_values().collect()
}

/// Who leads a partition, and who votes in it as that one sees it; none if no leader answers.
pub(crate) async fn voters_of(
    node: &Arc<Node>,
    partition: &PartitionRef<'_>,
) -> Option<(BrokerId, Vec<PartitionVoter>)> {
    let bare = bare_state(node, partition.topic, partition.index, partition.group);
    if let Some(led) = node.replicas.get(partition.group).filter(|replica| replica.is_ready()) {
        let seen = leaders_view(node, vec![(bare, led)]).await;
        return seen.into_iter().next().map(|state| (node.broker(), state.voters));
    }
    let (leader, _) = node.replicas.live_leader_of(partition.group)?;
    let request = DescribePartitionsRequest {
        topic: partition.topic.name.to_string(),
        topic_id: topic_id(partition.topic),
    };
    let answer = ask_leader(node, &node.metadata.image(), leader, request).await;
    let state = answer.into_iter().find(|state| state.partition == bare.partition)?;
    (state.high_watermark >= 0).then_some((leader, state.voters))
}

/// What the leader of partitions knows of them; nothing if it does not answer: they are shown without.
async fn ask_leader(
    node: &Node,
    image: &Image,
    leader: BrokerId,
    request: DescribePartitionsRequest,
) -> Vec<PartitionState> {
    let Some(leader) = image.broker(leader) else {
        return Vec::new();
    };
    let answer = forward(node.registry(), leader, None, request, CALL_TIMEOUT).await;
    answer.map(|answer| answer.partitions).unwrap_or_default()
}

/// What every broker knows.
fn bare_state(node: &Node, topic: &Topic, index: PartitionIndex, group: GroupId) -> PartitionState {
    let leader = node.replicas.live_leader_of(group);
    let replicas = topic
        .partition(index)
        .map(|partition| partition.replicas.iter().map(|replica| replica.broker.get()).collect())
        .unwrap_or_default();
    PartitionState {
        topic: topic.name.to_string(),
        topic_id: topic_id(topic),
        partition: index.get(),
        leader_id: leader.map_or(0, |(broker, _)| broker.get()),
        leader_epoch: leader.map_or(0, |(_, term)| LeaderEpoch::from_term(term).get()),
        replicas,
        in_sync: Vec::new(),
        high_watermark: -1,
        log_start_offset: -1,
        size_bytes: 0,
        write_refusal: None,
        voters: Vec::new(),
    }
}

/// What the leader of these partitions knows. In sync is who has a vote and reaches what is committed now within two
/// heartbeats: a replica that is only being filled keeps nothing from being lost. They are waited for together.
async fn leaders_view(node: &Arc<Node>, led: Vec<(PartitionState, Arc<Hosted>)>) -> Vec<PartitionState> {
    let heartbeat = node.registry().heartbeat_interval();
    let deadline = Instant::now() + 2 * heartbeat;
    let mut seen = Vec::with_capacity(led.len());
    let led = led
        .into_iter()
        .map(|(state, replica)| (state, replica.group.committed_next(), replica));
    let mut behind: Vec<(PartitionState, u64, Arc<Hosted>)> = led.collect();
    loop {
        let is_over = Instant::now() >= deadline;
        let image = node.metadata.image();
        for (at, (mut state, committed, replica)) in std::mem::take(&mut behind).into_iter().enumerate() {
            if at % LOOKS_AT_ONCE == LOOKS_AT_ONCE - 1 {
                tokio::task::yield_now().await;
            }
            let voters = voters(node, &replica.group, committed, 2 * heartbeat + heartbeat / 2);
            let listed = image.partition_of_group(replica.id());
            let in_sync = in_sync(&voters, listed.as_ref().map_or(&[], |listed| &listed.replicas));
            let all = state.replicas.iter().all(|broker| in_sync.contains(broker));
            if !all && !is_over {
                behind.push((state, committed, replica));
                continue;
            }
            state.in_sync = in_sync;
            state.voters = voters;
            seen.push(with_log(node, state, &replica));
        }
        if behind.is_empty() {
            return seen;
        }
        // Silence, which counts against a replica, is no event, and how far each one is only a look tells: there is nothing to
        // watch.
        tokio::time::sleep(heartbeat / 4).await;
    }
}

/// The state with what the leader knows of the log.
fn with_log(node: &Arc<Node>, mut state: PartitionState, replica: &Hosted) -> PartitionState {
    // Other kinds of groups have no offsets; 0 says that the leader answered.
    let partition = node.replicas.front::<Partition>(replica.id());
    let view = partition.as_ref().map(|partition| &partition.view);
    state.high_watermark = view.map_or(0, |view| view.high_watermark().get());
    state.log_start_offset = view.map_or(0, |view| view.log_start().get());
    state.size_bytes = view.map_or(0, |view| view.retained_bytes());
    let refused = node.partitions.check_disk(replica).err();
    state.write_refusal = refused.map(|error| WriteRefusal {
        reason: error.reason.as_str().to_owned(),
        message: error.message,
        partitions: 1,
    });
    state
}

/// The voters of a group that is led here; none while they change.
fn voters(node: &Node, group: &Group, committed: u64, heard_within: Duration) -> Vec<PartitionVoter> {
    let members = group.members();
    if members.changing {
        return Vec::new();
    }
    let progress = group.progress().unwrap_or_default();
    let is_in_sync = |voter: &ReplicaId| {
        let progress = progress.iter().find(|progress| progress.replica == *voter);
        progress
            .is_some_and(|p| p.matched_next >= committed && p.silent_for.is_some_and(|silent| silent <= heard_within))
    };
    let voters = members.voters.iter().map(|voter| PartitionVoter {
        broker_id: voter.broker.get(),
        incarnation: voter.incarnation.get(),
        in_sync: is_in_sync(voter),
        damaged: node.registry().is_unfit(group.id(), voter.broker),
    });
    voters.collect()
}

/// The brokers of the listed replicas that are in sync. It is the replica's id that counts: what was given up is heard for a moment
/// after it was closed, and is not the one that has its place on its broker now.
fn in_sync(voters: &[PartitionVoter], listed: &[ReplicaId]) -> Vec<u32> {
    let is_in_sync = |replica: &&ReplicaId| {
        let mut voters = voters.iter();
        voters.any(|voter| voter.in_sync && id_of(voter) == **replica)
    };
    listed
        .iter()
        .filter(is_in_sync)
        .map(|replica| replica.broker.get())
        .collect()
}

/// A voter's id.
pub(crate) fn id_of(voter: &PartitionVoter) -> ReplicaId {
    ReplicaId::new(BrokerId(voter.broker_id), Incarnation(voter.incarnation))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_voter_that_gave_its_place_to_a_new_replica_is_not_in_sync() {
        let voter = |broker_id, incarnation, in_sync| PartitionVoter {
            broker_id,
            incarnation,
            in_sync,
            damaged: false,
        };
        let replica = |broker, incarnation| ReplicaId::new(BrokerId(broker), Incarnation(incarnation));
        let voters = [voter(1, 1, true), voter(2, 1, true), voter(3, 1, false)];
        let listed = [replica(2, 1), replica(1, 1), replica(3, 1)];
        assert_eq!(in_sync(&voters, &listed), [2, 1]);
        assert_eq!(in_sync(&voters, &[replica(1, 2), replica(2, 1), replica(3, 1)]), [2]);
        assert_eq!(in_sync(&voters, &[]), [0u32; 0]);
    }
}
