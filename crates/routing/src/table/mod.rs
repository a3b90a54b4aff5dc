//! The bindings of one exchange, compiled by its kind. Destinations have numbers: those of the queues first, ascending by their ids, then
//! those of the exchanges. So the set of numbers that a message marks has the queues in the order of their ids, each once.

mod direct;
mod headers;
mod look;
mod topic;

use std::collections::BTreeSet;

use jangada_types::{ExchangeId, QueueId};

use crate::binding::{Binding, Destination};
use crate::exchange::ExchangeKind;
use crate::headers::Headers;

pub(crate) use look::Look;

/// The compiled bindings of one exchange.
#[derive(Debug)]
pub(crate) struct Table {
    pub(crate) queues: Box<[QueueId]>,
    pub(crate) exchanges: Box<[ExchangeId]>,
    matcher: Matcher,
}

#[derive(Debug)]
enum Matcher {
    Direct(direct::DirectTable),
    Fanout(Box<[u32]>),
    Topic(topic::TopicTable),
    Headers(headers::HeadersTable),
}

impl Table {
    pub(crate) fn new(kind: ExchangeKind, bindings: &BTreeSet<Binding>) -> Self {
        let destinations: BTreeSet<Destination> = bindings.iter().map(|binding| binding.destination).collect();
        let queue = |destination: &Destination| match destination {
            Destination::Queue(id) => Some(*id),
            Destination::Exchange(_) => None,
        };
        let exchange = |destination: &Destination| match destination {
            Destination::Exchange(id) => Some(*id),
            Destination::Queue(_) => None,
        };
        let queues: Box<[QueueId]> = destinations.iter().filter_map(queue).collect();
        let exchanges: Box<[ExchangeId]> = destinations.iter().filter_map(exchange).collect();
        let number = |destination: Destination| {
            let number = match destination {
                Destination::Queue(id) => queues.binary_search(&id).expect("it was collected above"),
                Destination::Exchange(id) => {
                    queues.len() + exchanges.binary_search(&id).expect("it was collected above")
                }
            };
            u32::try_from(number).expect("the bindings of an exchange are limited")
        };
        let numbered = bindings.iter().map(|binding| (binding, number(binding.destination)));
        let matcher = match kind {
            ExchangeKind::Direct => Matcher::Direct(direct::DirectTable::new(numbered)),
            ExchangeKind::Fanout => Matcher::Fanout((0u32..).take(destinations.len()).collect()),
            ExchangeKind::Topic => Matcher::Topic(topic::TopicTable::new(numbered)),
            ExchangeKind::Headers => Matcher::Headers(headers::HeadersTable::new(numbered)),
        };
        Self {
            queues,
            exchanges,
            matcher,
        }
    }

    /// Marks the destinations of a message.
    pub(crate) fn look(&self, routing_key: &str, headers: &(impl Headers + ?Sized), look: &mut Look) {
        look.marks.reset(self.queues.len() + self.exchanges.len());
        match &self.matcher {
            Matcher::Direct(table) => look.marks.set_each(table.get(routing_key)),
            Matcher::Fanout(all) => look.marks.set_each(all),
            Matcher::Topic(table) => table.look(routing_key, look),
            Matcher::Headers(table) => table.look(headers, look),
        }
    }
}
