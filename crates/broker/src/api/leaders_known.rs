//! Waiting until every broker knows who leads a new topic, or what was changed of the metadata: clients may ask any of them next.
//!
//! A broker that this one does not hear of may be cut off from it alone, and answer clients: it is waited for as long as another broker
//! hears of it.

use std::collections::BTreeSet;
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
    let live = known_by_all(node, version, deadline).await.map_err(lacks)?;
    let waits = live.into_iter().map(|broker| async move {
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
    let known = known_by_all(node, version, deadline).await;
    known.map(drop).map_err(|broker| {
        let message = format!(
            "{what} is in the metadata, version {version}, but broker {broker} does not know it after {KNOWN_TIMEOUT:?}; see \
             `jangada cluster health`"
        );
        RequestError::new(Reason::NotReady, message).unknown()
    })
}

/// Returns when all other brokers that this one or one of them hears of have a version of the metadata: those brokers.
///
/// # Errors
/// One of them does not have it by then.
async fn known_by_all(node: &Node, version: u64, deadline: Instant) -> Result<BTreeSet<BrokerId>, BrokerId> {
    let hears =
        |broker| async move { ask(node, broker, KnowsVersion { min_version: version }, QUESTION_TIMEOUT).await };
    let is_alive = |broker| node.registry().is_alive(broker);
    known_by_whom_somebody_hears((node.broker(), live_others(node)), hears, is_alive, deadline).await
}

/// Asks the brokers `others`, and those that they hear of, until each has answered with whom it hears of. One that does not answer is
/// not asked again when nobody hears of it any more.
async fn known_by_whom_somebody_hears<F: Future<Output = Option<Vec<BrokerId>>>>(
    (own, others): (BrokerId, Vec<BrokerId>),
    ask: impl Fn(BrokerId) -> F,
    is_alive: impl Fn(BrokerId) -> bool,
    deadline: Instant,
) -> Result<BTreeSet<BrokerId>, BrokerId> {
    let (ask, is_alive) = (&ask, &is_alive);
    let answer_of = |broker| async move {
        let mut pause = BACKOFF_MIN;
        let answered = timeout_at(deadline, async {
            loop {
                match ask(broker).await {
                    Some(hears) => return Some(hears),
                    // One that died meanwhile need not know.
                    None if !is_alive(broker) => return None,
                    None => {}
                }
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(BACKOFF_MAX);
            }
        });
        answered.await.map(|hears| (broker, hears)).map_err(|_| broker)
    };
    let mut known = BTreeSet::new();
    let (mut asked, mut pause) = (others, BACKOFF_MIN);
    loop {
        let mut heard_of = BTreeSet::new();
        for (broker, hears) in futures::future::try_join_all(asked.into_iter().map(&answer_of)).await? {
            let Some(hears) = hears else { continue };
            known.insert(broker);
            heard_of.extend(hears);
        }
        let is_left = |broker: &&BrokerId| **broker != own && !known.contains(broker);
        let Some(lacks) = heard_of.iter().find(is_left).copied() else {
            return Ok(known);
        };
        if Instant::now() + pause >= deadline {
            return Err(lacks);
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(BACKOFF_MAX);
        // Those that know are asked once more: whether they hear of them still.
        asked = known
            .iter()
            .copied()
            .chain(heard_of.into_iter().filter(|broker| *broker != own))
            .collect();
        asked.sort_unstable();
        asked.dedup();
    }
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

#[cfg(test)]
mod tests {
    use std::cell::{Cell, RefCell};

    use super::*;

    fn brokers<const N: usize>(ids: [u32; N]) -> [BrokerId; N] {
        ids.map(BrokerId)
    }

    fn deadline() -> Instant {
        Instant::now() + KNOWN_TIMEOUT
    }

    #[tokio::test(start_paused = true)]
    async fn a_broker_that_only_others_hear_of_is_waited_for() {
        let asked = RefCell::new(Vec::new());
        let tries = Cell::new(0);
        let ask = |broker| {
            asked.borrow_mut().push(broker);
            if broker == BrokerId(3) {
                tries.set(tries.get() + 1);
            }
            let answers = broker == BrokerId(2) || tries.get() == 3;
            async move { answers.then(|| brokers([1, 2, 3]).to_vec()) }
        };
        let others = (BrokerId(1), vec![BrokerId(2)]);
        let known = known_by_whom_somebody_hears(others, ask, |broker| broker == BrokerId(2), deadline()).await;
        assert_eq!(known, Ok(brokers([2, 3]).into()));
        assert_eq!(tries.get(), 3, "until it knew: {:?}", asked.borrow());
    }

    #[tokio::test(start_paused = true)]
    async fn a_broker_that_others_hear_of_and_that_never_answers_is_named() {
        let ask = |broker| async move { (broker == BrokerId(2)).then(|| brokers([2, 3]).to_vec()) };
        let others = (BrokerId(1), vec![BrokerId(2)]);
        let known = known_by_whom_somebody_hears(others, ask, |broker| broker == BrokerId(2), deadline()).await;
        assert_eq!(known, Err(BrokerId(3)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_broker_that_nobody_hears_of_any_more_is_not_waited_for() {
        let rounds = Cell::new(0);
        let ask = |broker| {
            let answer = (broker == BrokerId(2)).then(|| {
                rounds.set(rounds.get() + 1);
                brokers([2, if rounds.get() < 4 { 3 } else { 2 }]).to_vec()
            });
            async move { answer }
        };
        let others = (BrokerId(1), vec![BrokerId(2)]);
        let known = known_by_whom_somebody_hears(others, ask, |broker| broker == BrokerId(2), deadline()).await;
        assert_eq!(known, Ok(brokers([2]).into()));
        assert_eq!(rounds.get(), 4);
    }

    #[tokio::test(start_paused = true)]
    async fn who_answers_without_saying_whom_it_hears_of_is_enough() {
        let known = known_by_whom_somebody_hears(
            (BrokerId(1), brokers([2, 3]).to_vec()),
            |_| async { Some(Vec::new()) },
            |_| true,
            deadline(),
        );
        assert_eq!(known.await, Ok(brokers([2, 3]).into()));
    }
}
