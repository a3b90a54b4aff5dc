//! The state of partitions: what every broker knows, and what only the leader does.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use jangada_controller::{Image, PartitionRef, Topic};
use jangada_replication::Group;
use jangada_types::{BrokerId, GroupId, LeaderEpoch, Offset, PartitionIndex, ReplicaId, TopicId};
use tokio::time::Instant;

use super::call::cluster::{DescribePartitions, LeadersView, PartitionState, Voter, WriteRefusal};
use super::passing::{QUESTION_TIMEOUT, ask};
use crate::node::Node;
use crate::partition::Partition;
use crate::replica::Hosted;

/// Calls to other brokers at once.
const MAX_CONCURRENT: usize = 16;
/// Partitions that are checked before others have a turn.
const CHECKS_CONCURRENT_MAX: usize = 128;

/// The state of the partitions of a topic or of all, by topic and index: those led here from memory, the others from their leaders. Of a
/// topic that is gone there are none.
pub(super) async fn of_all_brokers(node: &Arc<Node>, topic: Option<TopicId>) -> Vec<PartitionState> {
    let image = node.metadata.image();
    let bare = bare_states(node, &image, topic);
    let others: BTreeSet<BrokerId> = bare
        .iter()
        .filter(|(state, led)| led.is_none() && state.leader.is_some_and(|(leader, _)| leader != node.broker()))
        .filter_map(|(state, _)| state.leader.map(|(leader, _)| leader))
        .collect();
    let mut states = seen_here(node, bare).await;
    let asked = futures::stream::iter(others)
        .map(|broker| ask(node, broker, DescribePartitions { topic }, QUESTION_TIMEOUT))
        .buffer_unordered(MAX_CONCURRENT);
    let answers: Vec<Option<Vec<PartitionState>>> = asked.collect().await;
    for state in answers.into_iter().flatten().flatten() {
        if state.seen.is_some()
            && let Some(known) = states.get_mut(&(state.topic.clone(), state.partition))
        {
            *known = state;
        }
    }
    states.into_values().collect()
}

/// The state of the same partitions as far as this broker knows it.
pub(super) async fn of_this_broker(node: &Arc<Node>, topic: Option<TopicId>) -> Vec<PartitionState> {
    let bare = bare_states(node, &node.metadata.image(), topic);
    seen_here(node, bare).await.into_values().collect()
}

/// Who leads a partition, and who votes in it as that one sees it; none if no leader answers.
pub(crate) async fn voters_of(node: &Arc<Node>, partition: &PartitionRef<'_>) -> Option<(BrokerId, Vec<Voter>)> {
    let bare = bare_state(node, partition.topic, partition.index, partition.group);
    if let Some(led) = led_here(node, partition.group) {
        let seen = leaders_view(node, vec![(bare, led)]).await;
        let view = seen.into_iter().next()?.seen?;
        return Some((node.broker(), view.voters));
    }
    let (leader, _) = node.replicas.live_leader_of(partition.group)?;
    let wanted = DescribePartitions {
        topic: Some(partition.topic.id),
    };
    let states = ask(node, leader, wanted, QUESTION_TIMEOUT).await?;
    let state = states.into_iter().find(|state| state.partition == partition.index)?;
    Some((leader, state.seen?.voters))
}

fn led_here(node: &Node, group: GroupId) -> Option<Arc<Hosted>> {
    node.replicas.get(group).filter(|replica| replica.is_ready())
}

/// What every broker knows of partitions, with the replicas here that lead them.
fn bare_states(node: &Node, image: &Image, topic: Option<TopicId>) -> Vec<(PartitionState, Option<Arc<Hosted>>)> {
    let topics: Vec<&Arc<Topic>> = match topic {
        Some(topic) => image.topic(topic).into_iter().collect(),
        None => image.topics_by_name().collect(),
    };
    let partitions = topics.into_iter().flat_map(|topic| {
        topic.indexed().map(|(index, partition)| {
            let state = bare_state(node, topic, index, partition.group);
            (state, led_here(node, partition.group))
        })
    });
    partitions.collect()
}

/// What every broker knows of a partition.
fn bare_state(node: &Node, topic: &Topic, index: PartitionIndex, group: GroupId) -> PartitionState {
    let leader = node.replicas.live_leader_of(group);
    let replicas = topic
        .partition(index)
        .map(|partition| partition.replicas.iter().map(|replica| replica.broker).collect())
        .unwrap_or_default();
    PartitionState {
        topic: topic.name.to_string().into(),
        topic_id: topic.id,
        partition: index,
        leader: leader.map(|(broker, term)| (broker, LeaderEpoch::from_term(term))),
        replicas,
        seen: None,
    }
}

/// The states by topic and index, with what this broker knows of what it leads.
async fn seen_here(
    node: &Arc<Node>,
    bare: Vec<(PartitionState, Option<Arc<Hosted>>)>,
) -> BTreeMap<(Arc<str>, PartitionIndex), PartitionState> {
    let mut states = BTreeMap::new();
    let mut led = Vec::new();
    for (state, replica) in bare {
        match replica {
            Some(replica) => led.push((state, replica)),
            None => {
                states.insert((state.topic.clone(), state.partition), state);
            }
        }
    }
    for state in leaders_view(node, led).await {
        states.insert((state.topic.clone(), state.partition), state);
    }
    states
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
            if at % CHECKS_CONCURRENT_MAX == CHECKS_CONCURRENT_MAX - 1 {
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
            state.seen = Some(view_of(node, &replica, in_sync, voters));
            seen.push(state);
        }
        if behind.is_empty() {
            return seen;
        }
        // Silence, which counts against a replica, is no event, and how far each one is only a check tells: there is nothing to
        // watch.
        tokio::time::sleep(heartbeat / 4).await;
    }
}

/// With what the leader knows of the log.
fn view_of(node: &Arc<Node>, replica: &Hosted, in_sync: Vec<BrokerId>, voters: Vec<Voter>) -> LeadersView {
    let partition = node.replicas.front::<Partition>(replica.id());
    let view = partition.as_ref().map(|partition| &partition.view);
    let refused = node.partitions.check_disk(replica).err();
    LeadersView {
        in_sync,
        voters,
        high_watermark: view.map_or(Offset(0), |view| view.high_watermark()),
        log_start: view.map_or(Offset(0), |view| view.log_start()),
        size_bytes: partition.as_ref().map_or(0, |partition| partition.stored_bytes()),
        write_refusal: refused.map(|error| WriteRefusal {
            reason: error.reason.as_str().to_owned(),
            message: error.message,
            partitions: 1,
        }),
    }
}

/// The voters of a group that is led here; none while they change.
fn voters(node: &Node, group: &Group, committed: u64, heard_within: Duration) -> Vec<Voter> {
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
    let voters = members.voters.iter().map(|voter| Voter {
        replica: *voter,
        in_sync: is_in_sync(voter),
        is_damaged: node.registry().is_unfit(group.id(), voter.broker),
    });
    voters.collect()
}

/// The brokers of the listed replicas that are in sync. It is the replica's id that counts: what was given up is heard for a moment
/// after it was closed, and is not the one that has its place on its broker now.
fn in_sync(voters: &[Voter], listed: &[ReplicaId]) -> Vec<BrokerId> {
    let is_in_sync = |replica: &&ReplicaId| voters.iter().any(|voter| voter.in_sync && voter.replica == **replica);
    let listed = listed.iter().filter(is_in_sync);
    listed.map(|replica| replica.broker).collect()
}

#[cfg(test)]
mod tests {
    use jangada_types::Incarnation;

    use super::*;

    #[test]
    fn a_voter_that_gave_its_place_to_a_new_replica_is_not_in_sync() {
        let replica = |broker, incarnation| ReplicaId::new(BrokerId(broker), Incarnation(incarnation));
        let voter = |broker, incarnation, in_sync| Voter {
            replica: replica(broker, incarnation),
            in_sync,
            is_damaged: false,
        };
        let voters = [voter(1, 1, true), voter(2, 1, true), voter(3, 1, false)];
        let listed = [replica(2, 1), replica(1, 1), replica(3, 1)];
        assert_eq!(in_sync(&voters, &listed), [BrokerId(2), BrokerId(1)]);
        let renewed = [replica(1, 2), replica(2, 1), replica(3, 1)];
        assert_eq!(in_sync(&voters, &renewed), [BrokerId(2)]);
        assert_eq!(in_sync(&voters, &[]), []);
    }
}
