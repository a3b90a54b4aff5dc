//! The queues whose partitions this broker leads, at a scrape. At most `metrics.topics_max` queues have series of their own, the first
//! by name.

use std::collections::BTreeMap;
use std::fmt::Error;
use std::sync::Arc;

use jangada_queue::engine::SlotCounts;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;

use crate::metrics::Writer;
use crate::partition::Partition;

/// What the queues have here, each over all of its partitions that are led here.
#[derive(Debug, Default)]
pub(super) struct QueueSample {
    queues: BTreeMap<Arc<str>, Depth>,
    left_out: usize,
}

#[derive(Debug, Default)]
struct Depth {
    ready: u64,
    delayed: u64,
    leased: u64,
    waiting: u64,
    dead: u64,
    bytes: u64,
    consumers: u64,
    /// Partitions in which most messages fail, and only a few go out.
    tripped: u64,
    /// Messages that the topic's retention has taken unsettled.
    cut_off: u64,
}

impl Depth {
    fn add(&mut self, counts: &SlotCounts) {
        self.ready += counts.ready;
        self.delayed += counts.delayed;
        self.leased += counts.leased;
        self.waiting += counts.waiting;
        self.dead += counts.dead;
        self.bytes += counts.bytes;
        self.consumers += counts.consumers;
        self.tripped += u64::from(counts.tripped.is_some());
    }
}

impl QueueSample {
    pub fn take(partitions: &[Arc<Partition>], queues_max: usize) -> Self {
        let mut sample = Self::default();
        for desk in partitions.iter().filter_map(|partition| partition.view.desk.get()) {
            for queue in desk.queues() {
                if let Some(counts) = desk.counts(queue.id) {
                    let depth = sample.queues.entry(queue.name).or_default();
                    depth.add(&counts);
                    depth.cut_off += desk.messages_cut_off(queue.id).unwrap_or(0);
                }
            }
        }
        while sample.queues.len() > queues_max {
            sample.queues.pop_last();
            sample.left_out += 1;
        }
        sample
    }
}

impl Collector for QueueSample {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> Result<(), Error> {
        let mut to = Writer(encoder);
        let by_state = self.queues.iter().flat_map(|(name, depth)| {
            let states = [
                ("ready", depth.ready),
                ("delayed", depth.delayed),
                ("leased", depth.leased),
                ("waiting", depth.waiting),
                ("dead", depth.dead),
            ];
            states.map(|(state, count)| ([("queue", &**name), ("state", state)], count))
        });
        let help = "Messages of the queues whose partitions this broker leads, by queue and state";
        to.gauges("queue_messages", help, by_state)?;
        let by_queue = |of: fn(&Depth) -> u64| {
            let queues = self.queues.iter();
            queues.map(move |(name, depth)| ([("queue", &**name)], of(depth)))
        };
        let help = "Bytes of their messages that are neither done nor dead, about, by queue";
        to.gauges("queue_size_bytes", help, by_queue(|depth| depth.bytes))?;
        let help = "Consumers that have a stream there or wait with a receive, by queue";
        to.gauges("queue_consumers", help, by_queue(|depth| depth.consumers))?;
        let help = "Their partitions led here in which most messages fail, so that only a few go out, by queue";
        to.gauges("queue_partitions_tripped", help, by_queue(|depth| depth.tripped))?;
        let help =
            "Messages that the topic's retention has taken there although the queue had not settled them, by queue";
        let cut_off = self
            .queues
            .iter()
            .map(|(name, depth)| ([("queue", &**name)], depth.cut_off));
        to.counters("queue_messages_cut_off", help, cut_off)?;
        let help = "Queues here without series of their own";
        to.gauge("queues_left_out", help, self.left_out as u64)
    }
}
