//! What a scrape of `GET /metrics` shows: what is counted where things happen ([`crate::metrics`]), and what the broker
//! knows at that moment, which is read here from those that know it.
//!
//! - [`broker`]: the broker and its cluster. [`replication`]: its replicas.

mod broker;
mod replication;

use self::broker::BrokerSample;
use self::replication::CommitLooks;
use crate::metrics::Form;
use crate::node::Node;
use crate::partition::Partition;

/// What is kept from one scrape to the next.
#[derive(Default)]
pub(crate) struct Scrape {
    looks: CommitLooks,
}

impl Scrape {
    /// The text for one scrape. It reads some files of the kernel's, and takes a moment when there are many replicas.
    pub fn render(&self, node: &Node, form: Form) -> String {
        let partitions = node.replicas.fronts::<Partition>();
        let kept = partitions.iter().map(|partition| {
            let topic = &partition.hosted.name.topic;
            (topic, partition.traffic(), partition.view.retained_bytes())
        });
        let topics = node.metrics.topics.sample(kept);
        let broker = BrokerSample::take(node, &self.looks);
        node.metrics.render(vec![Box::new(broker), Box::new(topics)], form)
    }
}
