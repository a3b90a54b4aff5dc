//! Waiting until every broker knows who leads a new topic, or what was changed of the metadata: clients may ask any of them next.

use std::sync::Arc;
use std::time::Duration;

use jangada_controller::Partition;
use jangada_types::{BrokerId, Reason, TopicId};
use tokio::time::{Instant, timeout_at};

use super::call::cluster::{KnowsLeaders, KnowsVersion};
use super::passing::{QUESTION_TIMEOUT, ask};
use crate::error::RequestError;
use crate::node::Node;

/// How long a change waits until all brokers know it, and all leaders of a topic.
const KNOWN_TIMEOUT: Duration = Duration::from_secs(30);
/// Between two questions to a broker that does not know all leaders yet: at first, and at most.
const BACKOFF_MIN: Duration = Duration::from_millis(25);
const BACKOFF_MAX: Duration = Duration::from_millis(500);
/// Between two checks here, while leaders are elected.
const CHECK_INTERVAL: Duration = Duration::from_millis(20);

/// Returns when every live broker knows a leader for every partition of the topic, or the topic is gone.
///
/// # Errors
/// LEADER_NOT_AVAILABLE, not definite: a broker does not know them after 30 s.
pub(super) async fn await_leaders(
    node: &Arc<Node>,
    name: &str,
    topic: TopicId,
    version: u64,
) -> Result<(), RequestError> {
    let deadline = Instant::now() + KNOWN_TIMEOUT;
    let lacks = |broker: BrokerId| {
        RequestError::new(
            Reason::LeaderNotAvailable,
            format!(
                "topic {name:?} exists, but broker {broker} does not know all its leaders after {KNOWN_TIMEOUT:?}; \
                 see `jangada cluster health`"
            ),
        )
        .unknown()
    };
    // Leaders announce themselves to all brokers at once: when this one knows them, the others do, or will in a moment.
    timeout_at(deadline, known_here(node, topic))
        .await
        .map_err(|_| lacks(node.broker()))?;
    let waits = live_others(node).into_iter().map(|broker| async move {
        let known = timeout_at(deadline, known_by(node, broker, topic, version)).await;
        known.map_err(|_| lacks(broker))
    });
    futures::future::try_join_all(waits).await.map(drop)
}

/// Returns when every live broker has this version of the metadata. `what`: what it brings, for the error.
///
/// # Errors
/// NOT_READY, not definite: a broker does not have it after 30 s.
pub(super) async fn await_version(node: &Arc<Node>, what: &str, version: u64) -> Result<(), RequestError> {
    let deadline = Instant::now() + KNOWN_TIMEOUT;
    let waits = live_others(node).into_iter().map(|broker| async move {
        let known = timeout_at(deadline, version_known_by(node, broker, version)).await;
        known.map_err(|_| {
            let message = format!(
                "{what} is in the metadata, version {version}, but broker {broker} does not know it after {KNOWN_TIMEOUT:?}; see \
                 `jangada cluster health`"
            );
            RequestError::new(Reason::NotReady, message).unknown()
        })
    });
    futures::future::try_join_all(waits).await.map(drop)
}

/// The other brokers that are alive, as far as this one knows.
fn live_others(node: &Node) -> Vec<BrokerId> {
    let image = node.metadata.image();
    let others = image.brokers().map(|broker| broker.id);
    let is_live = |broker: &BrokerId| *broker != node.broker() && node.registry().is_alive(*broker);
    others.filter(is_live).collect()
}

/// Returns when this broker knows them.
async fn known_here(node: &Node, topic: TopicId) {
    let mut image = node.metadata.watch();
    let mut leaders = node.registry().leaders().watch();
    // Each change of a leader wakes this: those that were seen to have one are checked once more at the end.
    let mut led = 0;
    loop {
        leaders.borrow_and_update();
        let topic = image.borrow_and_update().topic(topic).cloned();
        let Some(topic) = topic else { return };
        let is_led = |partition: &Partition| node.replicas.leader_of(partition.group).is_some();
        led += topic
            .partitions
            .iter()
            .skip(led)
            .take_while(|partition| is_led(partition))
            .count();
        if led >= topic.partitions.len() {
            led = topic
                .partitions
                .iter()
                .take_while(|partition| is_led(partition))
                .count();
            if led == topic.partitions.len() {
                return;
            }
        }
        tokio::select! {
            changed = image.changed() => if changed.is_err() { return },
            changed = leaders.changed() => {
                if changed.is_err() { return }
                // A topic of one partition needs no burst to be awaited.
                if topic.partitions.len() > 1 {
                    tokio::time::sleep(CHECK_INTERVAL).await;
                }
            }
        }
    }
}

/// Returns when another broker knows them. It says so only when it is asked: from here there is nothing to watch.
async fn known_by(node: &Node, broker: BrokerId, topic: TopicId, min_version: u64) {
    let mut pause = BACKOFF_MIN;
    loop {
        let asked = KnowsLeaders { topic, min_version };
        let knows = ask(node, broker, asked, QUESTION_TIMEOUT).await;
        // A broker that died meanwhile need not know.
        if knows.unwrap_or_else(|| !node.registry().is_alive(broker)) {
            return;
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(BACKOFF_MAX);
    }
}

/// Returns when another broker has this version of the metadata.
async fn version_known_by(node: &Node, broker: BrokerId, min_version: u64) {
    let mut pause = BACKOFF_MIN;
    loop {
        let known = ask(node, broker, KnowsVersion { min_version }, QUESTION_TIMEOUT).await;
        // A broker that died meanwhile need not know.
        if known.is_some() || !node.registry().is_alive(broker) {
            return;
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(BACKOFF_MAX);
    }
}
