//! What was published to exchanges on this broker, as counters, and what their router costs. At most `metrics.topics_max` exchanges have
//! series of their own, those that were published to first; the others share one. An exchange keeps its series while it is there.

use std::collections::HashMap;
use std::fmt::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use jangada_storage::Latency;
use parking_lot::RwLock;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;

use super::topics::OTHERS;
use super::writer::Writer;

/// The label value of the exchange without a name. It is not a valid name.
pub(crate) const DEFAULT_EXCHANGE: &str = "(default)";

/// Where a message was routed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Routing {
    /// To queues, by bindings.
    Bound,
    /// To queues, over an alternate exchange.
    Alternate,
    /// To no queue, and it is dropped.
    Dropped,
    /// To no queue, and it is refused, as it is mandatory.
    Refused,
}

impl Routing {
    /// Those of messages that match no binding of an exchange, with their names as a label.
    const UNROUTABLE: [(Self, &'static str); 3] = [
        (Self::Alternate, "alternate"),
        (Self::Dropped, "dropped"),
        (Self::Refused, "refused"),
    ];
}

/// The counters of one exchange, or of all exchanges without series of their own.
#[derive(Debug, Default)]
pub(crate) struct ExchangeTraffic {
    routed: [AtomicU64; 4],
    copies: AtomicU64,
}

impl ExchangeTraffic {
    /// Counts a message.
    pub fn routed(&self, to: Routing) {
        self.routed[to as usize].fetch_add(1, Relaxed);
    }

    /// Counts the queues that a message goes to.
    pub fn copied(&self, queues: usize) {
        self.copies.fetch_add(queues as u64, Relaxed);
    }

    fn messages(&self) -> u64 {
        self.routed.iter().map(|count| count.load(Relaxed)).sum()
    }
}

/// The counters of all exchanges that were published to on this broker.
pub(crate) struct ExchangeMetrics {
    exchanges_max: usize,
    by_name: RwLock<HashMap<Arc<str>, Arc<ExchangeTraffic>>>,
    others: Arc<ExchangeTraffic>,
    compile: Latency,
}

impl ExchangeMetrics {
    pub fn new(exchanges_max: usize) -> Self {
        Self {
            exchanges_max,
            by_name: RwLock::default(),
            others: Arc::default(),
            compile: Latency::default(),
        }
    }

    /// The counters of an exchange.
    pub fn of(&self, name: &Arc<str>) -> Arc<ExchangeTraffic> {
        if let Some(known) = self.by_name.read().get(name) {
            return known.clone();
        }
        let mut by_name = self.by_name.write();
        if by_name.len() >= self.exchanges_max && !by_name.contains_key(name) {
            return self.others.clone();
        }
        by_name.entry(name.clone()).or_default().clone()
    }

    /// Records how long a router took to be compiled.
    pub fn compiled(&self, took: Duration) {
        self.compile.record(took);
    }

    /// The values for a scrape, without those of exchanges that are gone.
    pub fn sample(&self, is_there: impl Fn(&str) -> bool) -> ExchangeSample {
        let mut by_name = self.by_name.write();
        by_name.retain(|name, _| is_there(name));
        let mut exchanges: Vec<_> = by_name
            .iter()
            .map(|(name, traffic)| (name.clone(), traffic.clone()))
            .collect();
        exchanges.sort_by(|a, b| a.0.cmp(&b.0));
        if self.others.messages() > 0 {
            exchanges.push((OTHERS.into(), self.others.clone()));
        }
        ExchangeSample {
            exchanges,
            compile: self.compile.read(),
        }
    }
}

/// The exchanges at the moment of a scrape, by name.
#[derive(Debug)]
pub(crate) struct ExchangeSample {
    exchanges: Vec<(Arc<str>, Arc<ExchangeTraffic>)>,
    compile: jangada_storage::LatencyHistogram,
}

impl Collector for ExchangeSample {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> Result<(), Error> {
        let mut to = Writer(encoder);
        let exchanges = || self.exchanges.iter().map(|(name, traffic)| (&**name, traffic));
        to.counters(
            "exchange_messages",
            "Messages that clients of this broker published and that were looked at, by exchange",
            exchanges().map(|(name, traffic)| ([("exchange", name)], traffic.messages())),
        )?;
        to.counters(
            "exchange_unroutable_messages",
            "Messages that matched no binding, by exchange and by what became of them",
            exchanges().flat_map(|(name, traffic)| {
                Routing::UNROUTABLE.map(|(routing, outcome)| {
                    let count = traffic.routed[routing as usize].load(Relaxed);
                    ([("exchange", name), ("outcome", outcome)], count)
                })
            }),
        )?;
        to.counters(
            "exchange_copies",
            "Messages that were sent to queues, one for each queue of a message, by exchange",
            exchanges().map(|(name, traffic)| ([("exchange", name)], traffic.copies.load(Relaxed))),
        )?;
        to.latency(
            "router_compile_duration_seconds",
            "How long the bindings took to be compiled after they had changed",
            &self.compile,
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exchanges_beyond_the_bound_share_and_a_place_is_free_when_its_exchange_is_gone() {
        let metrics = ExchangeMetrics::new(1);
        let (orders, audit): (Arc<str>, Arc<str>) = ("orders".into(), "audit".into());
        metrics.of(&orders).routed(Routing::Bound);
        metrics.of(&audit).routed(Routing::Dropped);
        assert!(Arc::ptr_eq(&metrics.of(&audit), &metrics.others));
        let names = |sample: ExchangeSample| {
            let names = sample
                .exchanges
                .into_iter()
                .map(|(name, traffic)| (name.to_string(), traffic.messages()));
            names.collect::<Vec<_>>()
        };
        let expected = [("orders", 1), ("(others)", 1)];
        assert_eq!(
            names(metrics.sample(|_| true)),
            expected.map(|(name, count)| (name.to_owned(), count))
        );
        drop(metrics.sample(|name| name != "orders"));
        assert!(!Arc::ptr_eq(&metrics.of(&audit), &metrics.others));
    }
}
