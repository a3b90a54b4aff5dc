//! Tells the leaders of partitions which group of this broker's shards is the slowest there, so that they can bound how far groups lag
//! (`max.group.lag.records`, judged in `partition::group_lag`).
//!
//! ```text
//!   shard's leader: committed offsets -- the slowest group in each such partition, each 500 ms --> the partition's leader
//! ```
//!
//! Only topics with that setting are looked at, and without one this task waits for a change of the metadata. One call to each broker
//! that leads such partitions says it of all shards here; a broker that does not answer holds up no other. Each shard's word has its
//! term and a number, so that a call that was late, or a leader that was deposed, changes nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use jangada_controller::{Image, Topic, TopicKind};
use jangada_coordinator::TopicPartition;
use jangada_proto::internal::{ShardSlowest, SlowestGroup, SlowestGroups};
use jangada_replication::{Registry, transport};
use jangada_types::topic_config::key;
use jangada_types::{BrokerId, GroupId, Offset};
use tokio::task::JoinHandle;
use tokio::time::MissedTickBehavior;

use super::replica::CoordinatorReplica;
use crate::cluster::metadata::Metadata;
use crate::partition::{Partition, SaidAt, Slowest};
use crate::replica::Replicas;

/// How often the slowest groups are told.
const TELL_EVERY: Duration = Duration::from_millis(500);
/// How long a broker may take to answer; until then it is told nothing more.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);

/// A topic that bounds the lag of groups.
#[derive(Clone)]
pub(super) struct BoundedTopic {
    pub topic: Arc<Topic>,
    /// The groups that count; empty: all.
    pub groups: Arc<BTreeSet<Arc<str>>>,
}

/// By partition the slowest group, and the offset that it has committed.
pub(super) type SlowestByPartition = BTreeMap<GroupId, (Arc<str>, Offset)>;

/// What one shard has to say.
#[derive(Clone)]
struct ShardSays {
    shard: GroupId,
    order: SaidAt,
    slowest: Arc<SlowestByPartition>,
}

/// Runs until the metadata is gone. `started_ms`: a time that is later than that of any earlier start of this broker, for a leader that
/// comes back may still have its term.
pub(crate) async fn tell(metadata: Metadata, replicas: Arc<Replicas>, started_ms: i64) {
    let mut image = metadata.watch();
    let mut tick = tokio::time::interval(TELL_EVERY);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut teller = Teller {
        registry: metadata.registry.clone(),
        replicas,
        sequence: u64::try_from(started_ms).unwrap_or(0),
        calls: BTreeMap::new(),
    };
    let mut bounded = bounded_topics(&image.borrow_and_update());
    loop {
        tokio::select! {
            changed = image.changed() => {
                if changed.is_err() { return }
                bounded = bounded_topics(&image.borrow_and_update());
            }
            _ = tick.tick(), if !bounded.is_empty() => teller.tell(bounded.clone()).await,
        }
    }
}

/// The topics that bound the lag of groups.
fn bounded_topics(image: &Image) -> Vec<BoundedTopic> {
    let topics = image
        .topics()
        .filter(|topic| topic.kind == TopicKind::Log && topic.config.contains_key(key::MAX_GROUP_LAG));
    let bounded = topics.filter_map(|topic| {
        let settings = topic.settings().ok()?;
        settings.max_group_lag?;
        Some(BoundedTopic {
            topic: topic.clone(),
            groups: Arc::new(settings.max_group_lag_groups),
        })
    });
    bounded.collect()
}

struct Teller {
    registry: Arc<Registry>,
    replicas: Arc<Replicas>,
    sequence: u64,
    /// The last call to each broker.
    calls: BTreeMap<BrokerId, JoinHandle<()>>,
}

impl Teller {
    async fn tell(&mut self, bounded: Vec<BoundedTopic>) {
        let shards: Vec<_> = self.replicas.fronts::<CoordinatorReplica>();
        let leads = |shard: &Arc<CoordinatorReplica>| shard.hosted.is_ready() && !shard.hosted.check_quorum.is_lost();
        let shards: Vec<_> = shards.into_iter().filter(leads).collect();
        if shards.is_empty() {
            return;
        }
        self.sequence += 1;
        let (sequence, topics) = (self.sequence, bounded.clone());
        // Walks the offsets of all groups in these topics.
        let says = self.registry.blocking().run(move || {
            let says = shards.iter().map(|shard| ShardSays {
                shard: shard.hosted.id(),
                order: SaidAt {
                    term: shard.hosted.group.status().term,
                    sequence,
                },
                slowest: Arc::new(shard.slowest(&topics)),
            });
            says.collect::<Vec<_>>()
        });
        let Ok(says) = says.await else { return };
        let mut by_broker: BTreeMap<BrokerId, Vec<GroupId>> = BTreeMap::new();
        for partition in bounded.iter().flat_map(|bounded| &bounded.topic.partitions) {
            match self.replicas.ready::<Partition>(partition.group) {
                Some(here) => take(&here, &says),
                None => {
                    if let Some((broker, _)) = self.replicas.live_leader_of(partition.group) {
                        by_broker.entry(broker).or_default().push(partition.group);
                    }
                }
            }
        }
        by_broker.remove(&self.registry.identity().broker);
        self.calls.retain(|_, call| !call.is_finished());
        for (broker, partitions) in by_broker {
            if self.calls.contains_key(&broker) {
                continue;
            }
            let call = tokio::spawn(call(self.registry.clone(), broker, request_of(partitions, &says)));
            self.calls.insert(broker, call);
        }
    }
}

impl Drop for Teller {
    fn drop(&mut self) {
        self.calls.values().for_each(JoinHandle::abort);
    }
}

/// Gives a partition that is led here what the shards say of it.
fn take(partition: &Partition, says: &[ShardSays]) {
    for ShardSays { shard, order, slowest } in says {
        let slowest = slowest.get(&partition.hosted.id()).cloned();
        partition.told_of_groups(*shard, *order, slowest);
    }
}

fn request_of(partitions: Vec<GroupId>, says: &[ShardSays]) -> SlowestGroups {
    let of_shard = |says: &ShardSays| {
        let slowest = partitions.iter().filter_map(|partition| {
            let (group, offset) = says.slowest.get(partition)?;
            Some(SlowestGroup {
                partition: partition.get(),
                group: group.to_string(),
                offset: offset.get(),
            })
        });
        ShardSlowest {
            shard: says.shard.get(),
            term: says.order.term,
            sequence: says.order.sequence,
            slowest: slowest.collect(),
        }
    };
    SlowestGroups {
        hello: None,
        shards: says.iter().map(of_shard).collect(),
        partitions: partitions.iter().map(|partition| partition.get()).collect(),
    }
}

async fn call(registry: Arc<Registry>, broker: BrokerId, mut request: SlowestGroups) {
    let Some(address) = registry.peer_address(broker) else {
        return;
    };
    request.hello = Some(registry.hello(broker));
    let told = |channel| async move { transport::internal_client(channel).tell_slowest_groups(request).await };
    if let Err(error) = registry.dialer().call(&address, ANSWER_TIMEOUT, told).await {
        tracing::debug!(%broker, %error, "the slowest groups could not be told");
    }
}

/// Takes what another broker says of its shards.
pub(crate) fn told(replicas: &Replicas, request: SlowestGroups) {
    let SlowestGroups { shards, partitions, .. } = request;
    let led: Vec<Arc<Partition>> = partitions
        .into_iter()
        .filter_map(|partition| replicas.ready(GroupId(partition)))
        .collect();
    for says in shards {
        let order = SaidAt {
            term: says.term,
            sequence: says.sequence,
        };
        let slowest = says.slowest.into_iter().map(|slowest| {
            let found = (Arc::from(slowest.group), Offset(slowest.offset));
            (GroupId(slowest.partition), found)
        });
        let slowest: SlowestByPartition = slowest.collect();
        for partition in &led {
            let of_partition: Slowest = slowest.get(&partition.hosted.id()).cloned();
            partition.told_of_groups(GroupId(says.shard), order, of_partition);
        }
    }
}

/// The slowest group of a shard in each partition of these topics in which one of its groups that count has committed.
pub(super) fn slowest_of(image: &jangada_coordinator::Image, bounded: &[BoundedTopic]) -> SlowestByPartition {
    let mut slowest = SlowestByPartition::new();
    for BoundedTopic {
        topic,
        groups: counting,
    } in bounded
    {
        let mut look = |name: &Arc<str>, group: &jangada_coordinator::Group| {
            let all = TopicPartition::new(topic.id, 0)..=TopicPartition::new(topic.id, u32::MAX);
            for (place, committed) in group.offsets.range(all) {
                let Some(partition) = topic.partition(place.partition) else {
                    continue;
                };
                let known = slowest.entry(partition.group);
                let known = known.or_insert_with(|| (name.clone(), committed.offset));
                if committed.offset < known.1 {
                    *known = (name.clone(), committed.offset);
                }
            }
        };
        if counting.is_empty() {
            image.groups().for_each(|(name, group)| look(name, group));
        }
        for name in counting.iter() {
            if let Some(group) = image.group(name) {
                look(name, group);
            }
        }
    }
    slowest
}
