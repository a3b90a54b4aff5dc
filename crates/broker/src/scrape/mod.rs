//! A scrape of `GET /metrics`: the counters of [`crate::metrics`], and values that are read at that moment from the parts of the
//! broker that own them.
//!
//! - [`broker`]: values of the broker and its cluster. [`replication`]: values of its replicas. [`queues`]: what its queues have.
//!   [`transactions`]: what is open in its partitions and shards.

mod broker;
mod queues;
mod replication;
mod transactions;

use self::broker::BrokerSample;
pub(crate) use self::queues::QueueSample;
use self::replication::CommitSamples;
use self::transactions::TransactionSample;
use crate::groups::CoordinatorReplica;
use crate::metrics::{DEFAULT_EXCHANGE, Form};
use crate::node::Node;
use crate::partition::Partition;

/// The state that is kept from one scrape to the next.
#[derive(Default)]
pub(crate) struct Scrape {
    commits: CommitSamples,
}

impl Scrape {
    /// The text of a scrape. Reads a few files in /proc, and takes some milliseconds with thousands of replicas.
    pub fn render(&self, node: &Node, queues: QueueSample, form: Form) -> String {
        let partitions = node.replicas.fronts::<Partition>();
        let kept = partitions.iter().map(|partition| {
            let topic = &partition.hosted.name.topic;
            (topic, partition.traffic(), partition.stored_bytes())
        });
        let topics = node.metrics.topics.sample(kept);
        let image = node.metadata.image();
        let is_there = |name: &str| name == DEFAULT_EXCHANGE || image.exchange_table().named(name).is_some();
        let exchanges = node.metrics.exchanges.sample(is_there);
        let transactions = TransactionSample::take(
            &partitions,
            &node.replicas.fronts::<CoordinatorReplica>(),
            node.env.clock.now_ms(),
        );
        let broker = BrokerSample::take(node, &self.commits);
        node.metrics.render(
            vec![
                Box::new(broker),
                Box::new(topics),
                Box::new(exchanges),
                Box::new(transactions),
                Box::new(queues),
            ],
            form,
        )
    }
}
