//! Which brokers new replicas can be placed on.

use jangada_controller::{BrokerView, Image};
use jangada_replication::Registry;

/// The brokers that a partition with so many replicas can be placed on. Those that are down only when there are too
/// few others.
pub(crate) fn can_take_replicas(registry: &Registry, image: &Image, replicas: usize) -> Vec<BrokerView> {
    let mut brokers = image.broker_views();
    let is_alive = |view: &BrokerView| registry.is_alive(view.replica.broker);
    if brokers.iter().filter(|view| is_alive(view)).count() >= replicas {
        brokers.retain(is_alive);
    }
    brokers
}
