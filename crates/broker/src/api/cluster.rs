//! The cluster as a whole: what tools are shown of it, and taking brokers out of it.

use std::collections::BTreeMap;
use std::sync::Arc;

use jangada_controller::{Broker, Reply, TopicKind, admission};
use jangada_storage::StoreCondition;
use jangada_types::{BrokerId, GroupId, Incarnation, Reason, TopicId};

use super::call::cluster::{Damage, GroupList, PartitionState, WriteRefusal};
use super::gathering::Gathering;
use super::topics::count;
use super::{damage, group_list, partition_states};
use crate::error::RequestError;
use crate::node::Node;

/// What only many brokers know together. It is gathered for all who ask at a time: asking all of them is work.
pub(crate) struct ClusterView {
    states: Gathering<Option<TopicId>, Arc<Vec<PartitionState>>>,
    cluster: Gathering<(), Arc<ClusterDescription>>,
    groups: Gathering<(), Arc<GroupList>>,
}

/// The cluster at one moment.
#[derive(Clone)]
pub(crate) struct ClusterDescription {
    pub cluster_id: String,
    /// The version of the metadata.
    pub version: u64,
    /// The broker that leads the metadata.
    pub controller: Option<BrokerId>,
    pub brokers: Vec<BrokerDescription>,
    /// Topics of records.
    pub topics: u32,
    pub partitions: u32,
    pub leaderless_partitions: u32,
    pub under_replicated_partitions: u32,
    /// One for each reason and leader, with the first partition's message.
    pub write_refusals: Vec<WriteRefusal>,
    pub damage: Damage,
}

/// A broker at one moment.
#[derive(Clone)]
pub(crate) struct BrokerDescription {
    pub broker: Broker,
    pub is_alive: bool,
    pub metadata_role: MetadataRole,
    /// Partitions that it leads.
    pub leaders: u32,
    /// Partitions that it has a replica of.
    pub replicas: u32,
    pub is_disk_low: bool,
}

/// The part of a broker in the metadata group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MetadataRole {
    Voter,
    Learner,
    None,
}

impl ClusterView {
    /// The cluster as this broker sees it.
    pub fn of(node: &Arc<Node>) -> Arc<Self> {
        let (of_states, of_cluster, of_groups) = (node.clone(), node.clone(), node.clone());
        Arc::new(Self {
            states: Gathering::new(move |topic| {
                let node = of_states.clone();
                async move { Arc::new(partition_states::of_all_brokers(&node, topic).await) }
            }),
            cluster: Gathering::new(move |()| {
                let node = of_cluster.clone();
                async move { Arc::new(describe(&node).await) }
            }),
            groups: Gathering::new(move |()| {
                let node = of_groups.clone();
                async move { Arc::new(group_list::of_all_brokers(&node).await) }
            }),
        })
    }

    /// The state of the partitions of a topic, or of all.
    ///
    /// # Errors
    /// INTERNAL: it could not be gathered.
    pub async fn partitions(&self, topic: Option<TopicId>) -> Result<Arc<Vec<PartitionState>>, RequestError> {
        gathered(self.states.get(topic).await, "looking at the partitions")
    }

    /// The cluster as a whole.
    ///
    /// # Errors
    /// INTERNAL: it could not be gathered.
    pub async fn describe(&self) -> Result<Arc<ClusterDescription>, RequestError> {
        gathered(self.cluster.get(()).await, "looking at the cluster")
    }

    /// The consumer groups of all shards, as far as their brokers answer.
    ///
    /// # Errors
    /// INTERNAL: they could not be gathered.
    pub async fn groups(&self) -> Result<Arc<GroupList>, RequestError> {
        gathered(self.groups.get(()).await, "listing the groups")
    }
}

fn gathered<T>(gathered: Option<T>, what: &str) -> Result<T, RequestError> {
    gathered.ok_or_else(|| RequestError::new(Reason::Internal, format!("{what} failed")))
}

async fn describe(node: &Arc<Node>) -> ClusterDescription {
    let image = node.metadata.image();
    let partitions = partition_states::of_all_brokers(node, None).await;
    let damage = damage::of_all_brokers(node).await;
    let members = node.metadata.hosted.group.members();
    let low_disks = node.registry().low_disks();
    let is_low_here = matches!(node.store().condition(), StoreCondition::DiskLow { .. });
    let leads = |state: &PartitionState, broker| state.leader.is_some_and(|(leader, _)| leader == broker);
    let brokers = image.brokers().map(|broker| {
        let (id, replica) = (broker.id, broker.replica());
        BrokerDescription {
            broker: broker.clone(),
            is_alive: node.registry().is_alive(id),
            metadata_role: match () {
                () if members.voters.contains(&replica) => MetadataRole::Voter,
                () if members.learners.contains(&replica) => MetadataRole::Learner,
                () => MetadataRole::None,
            },
            leaders: count(partitions.iter().filter(|state| leads(state, id)).count()),
            replicas: count(partitions.iter().filter(|state| state.replicas.contains(&id)).count()),
            is_disk_low: match id == node.broker() {
                true => is_low_here,
                false => low_disks.contains(&id),
            },
        }
    });
    let is_under_replicated = |state: &&PartitionState| {
        let in_sync = state.seen.as_ref().map_or(0, |seen| seen.in_sync.len());
        in_sync < state.replicas.len()
    };
    let controller = node.replicas.live_leader_of(GroupId::METADATA);
    ClusterDescription {
        cluster_id: node.registry().identity().cluster_id.clone(),
        version: image.version(),
        controller: controller.map(|(broker, _)| broker),
        brokers: brokers.collect(),
        topics: count(
            image
                .topics_by_name()
                .filter(|topic| topic.kind == TopicKind::Log)
                .count(),
        ),
        partitions: count(partitions.len()),
        leaderless_partitions: count(partitions.iter().filter(|state| state.leader.is_none()).count()),
        under_replicated_partitions: count(partitions.iter().filter(is_under_replicated).count()),
        write_refusals: write_refusals(&partitions),
        damage,
    }
}

/// Why partitions refuse records: one for each reason and leader, with the first partition's message.
fn write_refusals(partitions: &[PartitionState]) -> Vec<WriteRefusal> {
    let mut refusals: BTreeMap<(Option<BrokerId>, &str), WriteRefusal> = BTreeMap::new();
    for state in partitions {
        if let Some(refusal) = state.seen.as_ref().and_then(|seen| seen.write_refusal.as_ref()) {
            let leader = state.leader.map(|(leader, _)| leader);
            let all = refusals.entry((leader, &refusal.reason));
            let all = all.or_insert_with(|| WriteRefusal {
                partitions: 0,
                ..refusal.clone()
            });
            all.partitions += 1;
        }
    }
    refusals.into_values().collect()
}

/// Takes a broker without replicas out of the cluster: the version of the metadata that has it no more.
///
/// # Errors
/// Those of `RemoveBroker` in the contract.
pub(crate) async fn remove_broker(node: &Node, broker: BrokerId) -> Result<u64, RequestError> {
    let command = admission::validate_remove_broker(&node.metadata.image(), broker)?;
    let (_, version) = node.metadata.propose(&command).await?;
    tracing::info!(%broker, "took a broker out of the cluster");
    Ok(version)
}

/// Lets a broker that lost its disk come back empty, as this incarnation.
///
/// # Errors
/// Those of `ReplaceBroker` in the contract.
pub(crate) async fn replace_broker(node: &Node, broker: BrokerId) -> Result<Incarnation, RequestError> {
    let is_alive = node.registry().is_alive(broker);
    let command = admission::validate_replace_broker(&node.metadata.image(), broker, is_alive)?;
    match node.metadata.propose(&command).await?.0 {
        Reply::BrokerReplaced { incarnation, .. } => Ok(incarnation),
        other => Err(RequestError::new(
            Reason::Internal,
            format!("not the reply to a replacement: {other:?}"),
        )),
    }
}
