//! How a message is routed, in words of bindings. Each binding is asked by itself, not the compiled tables, so what is told here and what
//! [`Router::resolve`] gives come about in two ways; tests hold them equal.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use jangada_types::{ExchangeId, QueueId};

use crate::binding::{Binding, Destination};
use crate::exchange::Exchange;
use crate::headers::Headers;
use crate::router::{Message, RouteError, Router};

/// The way of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trace {
    /// The exchanges that it passes, the first one first. An exchange comes behind one that leads to it.
    pub hops: Vec<Hop>,
    /// The queues that it is for, each once, ascending by id.
    pub queues: Vec<QueueId>,
}

/// An exchange that a message passes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hop {
    /// The exchange as it is.
    pub exchange: Arc<Exchange>,
    /// What leads to it.
    pub came_by: CameBy,
    /// The bindings that match, in their order.
    pub matched: Vec<Binding>,
    /// The alternate exchange that is meant to get the message, as nothing matches, and that is not there.
    pub missing_alternate: Option<Arc<str>>,
}

/// The way by which a message comes to an exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CameBy {
    /// It was published there.
    Published,
    /// A binding of the hop of this number leads there.
    Binding(usize),
    /// The exchange is the alternate one of the hop of this number.
    Alternate(usize),
}

impl Router {
    /// The way of a message.
    pub fn trace<H: Headers + ?Sized>(&self, message: &Message<'_, H>) -> Result<Trace, RouteError> {
        let begin = self.begin(message.exchange)?;
        let by_id: BTreeMap<ExchangeId, u32> = (0u32..)
            .zip(&self.nodes)
            .map(|(at, node)| (node.exchange.id, at))
            .collect();
        let mut visited = BTreeSet::from([begin]);
        let mut next = std::collections::VecDeque::from([(begin, CameBy::Published)]);
        let mut hops: Vec<Hop> = Vec::new();
        let mut queues = BTreeSet::new();
        while let Some((at, came_by)) = next.pop_front() {
            let node = &self.nodes[at as usize];
            let exchange = &node.exchange;
            let hop = hops.len();
            let leads = |binding: &&Binding| match binding.destination {
                Destination::Queue(_) => true,
                Destination::Exchange(id) => by_id.contains_key(&id),
            };
            let matches = |binding: &&Binding| binding.matches(exchange.kind, message.routing_key, message.headers);
            let matched: Vec<Binding> = exchange
                .bindings
                .iter()
                .filter(leads)
                .filter(matches)
                .cloned()
                .collect();
            for binding in &matched {
                match binding.destination {
                    Destination::Queue(id) => drop(queues.insert(id)),
                    Destination::Exchange(id) => {
                        let onward = by_id[&id];
                        if visited.insert(onward) {
                            next.push_back((onward, CameBy::Binding(hop)));
                        }
                    }
                }
            }
            let mut missing_alternate = None;
            if matched.is_empty() {
                match node.alternate {
                    Some(alternate) if visited.insert(alternate) => next.push_back((alternate, CameBy::Alternate(hop))),
                    Some(_) => {}
                    None => missing_alternate.clone_from(&exchange.alternate),
                }
            }
            hops.push(Hop {
                exchange: Arc::clone(exchange),
                came_by,
                matched,
                missing_alternate,
            });
        }
        Ok(Trace {
            hops,
            queues: queues.into_iter().collect(),
        })
    }
}
