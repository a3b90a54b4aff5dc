//! The shards of the coordinator, which hold consumer groups and transactional ids: which one holds a name, and who leads it.

use std::sync::Arc;
use std::time::Duration;

use jangada_controller::{Broker, Topic};
use jangada_types::{Reason, partition_for_key};

use crate::error::RequestError;
use crate::node::Node;
use crate::replica::LEADER_RETRY;
use crate::target::Target;

/// How long finding a coordinator waits for its leader: shards may just have been created.
const FIND_TIMEOUT: Duration = Duration::from_secs(10);

/// The shard that holds a group or an id of this name, wherever it is led. The first call of a cluster creates the shards.
///
/// # Errors
/// NOT_READY while the shards cannot be created.
pub(super) async fn shard_of_name(node: &Node, name: &str) -> Result<Target, RequestError> {
    Ok(shard_in(&node.coordinator.get().await?, name))
}

/// The same, if there are shards.
pub(super) fn known_shard_of_name(node: &Node, name: &str) -> Option<Target> {
    let image = node.metadata.image();
    image.coordinator().map(|topic| shard_in(topic, name))
}

fn shard_in(topic: &Arc<Topic>, name: &str) -> Target {
    let shards = u32::try_from(topic.partitions.len()).expect("a topic has few partitions");
    let index = partition_for_key(name.as_bytes(), shards);
    Target::of(topic, index).expect("the index was chosen among the topic's")
}

/// The broker that leads a shard. `name`: the group or id that is looked for, and `kind` what it is.
///
/// # Errors
/// LEADER_NOT_AVAILABLE: no live leader was known for 10 s.
pub(super) async fn leader_of_shard(
    node: &Node,
    shard: &Target,
    (kind, name): (&str, &str),
) -> Result<Broker, RequestError> {
    let registry = node.registry();
    let mut leaders = registry.leaders().watch();
    let find = async {
        loop {
            leaders.borrow_and_update();
            if node.replicas.has_lost_quorum(shard.group) {
                // This broker cannot learn of the next leader; others may know it.
                return None;
            }
            let leader = node.replicas.leader_of(shard.group).map(|(broker, _)| broker);
            let image = node.metadata.image();
            if let Some(leader) = leader.filter(|leader| registry.is_alive(*leader))
                && let Some(broker) = image.broker(leader)
            {
                return Some(broker.clone());
            }
            if leaders.changed().await.is_err() {
                return None;
            }
        }
    };
    let index = shard.index;
    let find = tokio::time::timeout(FIND_TIMEOUT, find);
    find.await.ok().flatten().ok_or_else(|| {
        let message = format!(
            "{kind} {name:?}: shard {index} has no leader that broker {} knows of; see `jangada cluster health`",
            node.broker()
        );
        RequestError::new(Reason::LeaderNotAvailable, message).retry_after(LEADER_RETRY)
    })
}
