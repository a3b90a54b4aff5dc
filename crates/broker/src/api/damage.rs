//! The damaged replicas and stores of the cluster: each broker knows its own.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use jangada_controller::RENEWAL_FEATURE_LEVEL;
use jangada_types::BrokerId;

use super::call::cluster::{Damage, DamagedStore, DescribeDamage};
use super::passing::ask;
use crate::node::Node;

/// Calls to other brokers at once.
const MAX_CONCURRENT: usize = 16;
/// How long a broker may take to tell of its damage.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);

/// This broker's own damage.
pub(super) fn of_this_broker(node: &Node) -> Damage {
    let broker = node.broker();
    let store = node.store().damaged_file();
    Damage {
        replicas: node
            .repairs
            .all()
            .into_iter()
            .map(|(_, case)| case.shown(broker))
            .collect(),
        stores: store
            .map(|damage| DamagedStore { broker, damage })
            .into_iter()
            .collect(),
    }
}

/// The damage of all brokers that are alive. One that does not answer in time is left out, as it is of an older version.
pub(super) async fn of_all_brokers(node: &Arc<Node>) -> Damage {
    let image = node.metadata.image();
    let others = image.brokers().filter(|broker| {
        broker.id != node.broker()
            && broker.feature_level >= RENEWAL_FEATURE_LEVEL
            && node.registry().is_alive(broker.id)
    });
    let others: Vec<BrokerId> = others.map(|broker| broker.id).collect();
    let asked = futures::stream::iter(others)
        .map(|broker| ask(node, broker, DescribeDamage, ANSWER_TIMEOUT))
        .buffer_unordered(MAX_CONCURRENT);
    let answers: Vec<Option<Damage>> = asked.collect().await;
    let mut all = of_this_broker(node);
    for damage in answers.into_iter().flatten() {
        all.replicas.extend(damage.replicas);
        all.stores.extend(damage.stores);
    }
    let replicas = &mut all.replicas;
    replicas.sort_by(|a, b| (&a.topic, a.partition, a.broker).cmp(&(&b.topic, b.partition, b.broker)));
    all.stores.sort_by_key(|store| store.broker);
    all
}
