//! Metrics by topic, of the replicas on this broker. At most `metrics.topics_max` topics have series of their own, those that were
//! opened first; the others share one. A topic keeps its series for as long as it has a replica here, so that no counter ever
//! decreases.

use std::collections::HashMap;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Error;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;

use super::writer::Writer;

/// The label value of topics and groups that have no series of their own. It is not a valid topic name.
pub(super) const OTHERS: &str = "(others)";

/// The counters of one topic, or of all topics without series of their own.
#[derive(Debug, Default)]
pub(crate) struct TopicTraffic {
    produced_bytes: AtomicU64,
    produced_records: AtomicU64,
    fetched_bytes: AtomicU64,
}

impl TopicTraffic {
    pub fn produced(&self, bytes: u64, records: u64) {
        self.produced_bytes.fetch_add(bytes, Relaxed);
        self.produced_records.fetch_add(records, Relaxed);
    }

    pub fn fetched(&self, bytes: u64) {
        self.fetched_bytes.fetch_add(bytes, Relaxed);
    }
}

/// The counters of all topics with a replica on this broker.
pub(crate) struct TopicMetrics {
    topics_max: usize,
    by_name: Mutex<HashMap<Arc<str>, Weak<TopicTraffic>>>,
    others: Arc<TopicTraffic>,
}

impl TopicMetrics {
    pub fn new(topics_max: usize) -> Self {
        Self {
            topics_max,
            by_name: Mutex::default(),
            others: Arc::default(),
        }
    }

    /// The counters for a replica of this topic, which holds them for as long as it is open.
    pub fn join(&self, topic: &Arc<str>) -> Arc<TopicTraffic> {
        let mut by_name = self.by_name.lock();
        if let Some(known) = by_name.get(topic).and_then(Weak::upgrade) {
            return known;
        }
        if by_name.len() >= self.topics_max {
            by_name.retain(|_, traffic| traffic.strong_count() > 0);
        }
        if by_name.len() >= self.topics_max {
            return self.others.clone();
        }
        let traffic = Arc::<TopicTraffic>::default();
        by_name.insert(topic.clone(), Arc::downgrade(&traffic));
        traffic
    }

    /// The values for a scrape, from the open replicas: each with its topic's name, its counters and its retained bytes.
    pub fn sample<'a>(
        &self,
        replicas: impl Iterator<Item = (&'a Arc<str>, &'a Arc<TopicTraffic>, u64)>,
    ) -> TopicSample {
        let mut sample = TopicSample::default();
        let mut left_out = BTreeSet::new();
        for (topic, traffic, kept_bytes) in replicas {
            let name: Arc<str> = if Arc::ptr_eq(traffic, &self.others) {
                left_out.insert(topic.clone());
                OTHERS.into()
            } else {
                topic.clone()
            };
            let topic = sample.topics.entry(name).or_insert_with(|| Topic {
                size_bytes: 0,
                traffic: traffic.clone(),
            });
            topic.size_bytes += kept_bytes;
        }
        sample.left_out = left_out.len();
        sample
    }
}

/// The topics at the moment of a scrape.
#[derive(Debug, Default)]
pub(crate) struct TopicSample {
    topics: BTreeMap<Arc<str>, Topic>,
    left_out: usize,
}

#[derive(Debug)]
struct Topic {
    size_bytes: u64,
    traffic: Arc<TopicTraffic>,
}

impl Collector for TopicSample {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> Result<(), Error> {
        let mut to = Writer(encoder);
        let count = |of: fn(&TopicTraffic) -> &AtomicU64| {
            let topics = self.topics.iter();
            topics.map(move |(name, topic)| ([("topic", &**name)], of(&topic.traffic).load(Relaxed)))
        };
        to.counters(
            "topic_produced_bytes",
            "Bytes of acknowledged batches, by topic",
            count(|traffic| &traffic.produced_bytes),
        )?;
        to.counters(
            "topic_produced_records",
            "Acknowledged records, by topic",
            count(|traffic| &traffic.produced_records),
        )?;
        to.counters(
            "topic_fetched_bytes",
            "Bytes of batches read by consumers, by topic",
            count(|traffic| &traffic.fetched_bytes),
        )?;
        let sizes = self.topics.iter();
        to.gauges(
            "topic_size_bytes",
            "Bytes of retained batches of the replicas on this broker, by topic",
            sizes.map(|(name, topic)| ([("topic", &**name)], topic.size_bytes)),
        )?;
        to.gauge(
            "topics_left_out",
            "Topics on this broker that have no series of their own",
            self.left_out as u64,
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn topics_beyond_the_bound_share_and_a_place_is_free_again_when_its_topic_is_gone() {
        let metrics = TopicMetrics::new(2);
        let join = |name: &str| metrics.join(&name.into());
        let (a, b, c) = (join("a"), join("b"), join("c"));
        assert!(Arc::ptr_eq(&a, &join("a")) && !Arc::ptr_eq(&a, &b));
        assert!(Arc::ptr_eq(&c, &metrics.others) && Arc::ptr_eq(&c, &join("d")));
        drop(a);
        let e = join("e");
        assert!(!Arc::ptr_eq(&e, &metrics.others) && Arc::ptr_eq(&join("f"), &metrics.others));
    }
}
