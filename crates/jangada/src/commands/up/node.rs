//! One node of the cluster that `up` runs.

use jangada_broker::settings::BrokerSettings;

use super::super::node::NodeDir;

/// A node with its settings as the file, the environment and the defaults make them.
pub struct Node {
    pub directory: NodeDir,
    pub settings: BrokerSettings,
}

impl Node {
    /// The addresses that the node listens on, by key.
    pub fn addresses(&self) -> Vec<(&str, String)> {
        let listeners = self.settings.listeners.iter();
        listeners
            .map(|(name, listener)| (name, listener.bind.clone()))
            .collect()
    }
}
