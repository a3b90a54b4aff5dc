//! All exchanges together, and the way of a message through them.

use std::collections::HashMap;
use std::sync::Arc;

use jangada_types::{ExchangeId, QueueId, Reason, Rejection};

use crate::exchange::Exchange;
use crate::headers::Headers;
use crate::marks::Stamps;
use crate::table::{Look, Table};

/// What is looked at of a message.
#[derive(Debug)]
pub struct Message<'a, H: ?Sized> {
    /// The exchange that it was published to.
    pub exchange: &'a str,
    /// The routing key, which may be empty.
    pub routing_key: &'a str,
    /// The headers of the message.
    pub headers: &'a H,
}

/// The reason why a message is not looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RouteError {
    /// There is no exchange of the name.
    UnknownExchange,
    /// The exchange takes messages from other exchanges only.
    Internal,
}

impl RouteError {
    /// The refusal of a message to the exchange of this name.
    pub fn rejection(&self, exchange: &str) -> Rejection {
        match self {
            Self::UnknownExchange => Rejection::new(
                Reason::UnknownExchange,
                format!("there is no exchange {exchange:?}: list the exchanges to see what exists"),
            ),
            Self::Internal => Rejection::new(
                Reason::ExchangeInternal,
                format!("exchange {exchange:?} is internal: publish to an exchange that is bound to it"),
            ),
        }
    }
}

/// What resolving needs beside the router: one for each thread, or connection, used for one message after another, with any router.
#[derive(Debug, Default)]
pub struct Scratch {
    look: Look,
    visited: Stamps,
    next: Vec<u32>,
    queues: Vec<QueueId>,
    by_alternate: bool,
}

impl Scratch {
    /// Whether the last message that was resolved came to an alternate exchange on its way.
    pub fn by_alternate(&self) -> bool {
        self.by_alternate
    }
}

/// The compiled exchanges of one version of the metadata.
#[derive(Debug, Default)]
pub struct Router {
    pub(crate) nodes: Vec<Node>,
    by_name: HashMap<Arc<str>, u32>,
}

#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) exchange: Arc<Exchange>,
    table: Arc<Table>,
    /// The nodes of the table's exchanges, by their numbers there.
    onward: Box<[Option<u32>]>,
    pub(crate) alternate: Option<u32>,
}

impl Router {
    /// The router of these exchanges, of which each has its own name and id. Tables of exchanges whose kinds and bindings are those that
    /// this router has are taken over, which is seen by the place where the bindings are; the others are compiled.
    #[must_use]
    pub fn updated<'a>(&self, exchanges: impl IntoIterator<Item = &'a Arc<Exchange>>) -> Self {
        let before: HashMap<ExchangeId, &Node> = self.nodes.iter().map(|node| (node.exchange.id, node)).collect();
        let table = |exchange: &Exchange| {
            let is_same = |node: &&&Node| {
                let was = &node.exchange;
                was.kind == exchange.kind && Arc::ptr_eq(&was.bindings, &exchange.bindings)
            };
            let kept = before.get(&exchange.id).filter(is_same);
            kept.map_or_else(
                || Arc::new(Table::new(exchange.kind, &exchange.bindings)),
                |node| Arc::clone(&node.table),
            )
        };
        let mut nodes: Vec<Node> = exchanges
            .into_iter()
            .map(|exchange| Node {
                exchange: Arc::clone(exchange),
                table: table(exchange),
                onward: Box::default(),
                alternate: None,
            })
            .collect();
        let numbered = || (0u32..).zip(&nodes);
        let by_name: HashMap<_, _> = numbered()
            .map(|(at, node)| (Arc::clone(&node.exchange.name), at))
            .collect();
        let by_id: HashMap<_, _> = numbered().map(|(at, node)| (node.exchange.id, at)).collect();
        for node in &mut nodes {
            node.onward = node.table.exchanges.iter().map(|id| by_id.get(id).copied()).collect();
            let alternate = node.exchange.alternate.as_ref();
            node.alternate = alternate.and_then(|name| by_name.get(name).copied());
        }
        Self { nodes, by_name }
    }

    /// The number of exchanges.
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Whether there are no exchanges.
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// The exchange of this name.
    pub fn exchange(&self, name: &str) -> Option<&Arc<Exchange>> {
        self.by_name.get(name).map(|at| &self.nodes[*at as usize].exchange)
    }

    /// Where a message begins.
    pub(crate) fn begin(&self, exchange: &str) -> Result<u32, RouteError> {
        let at = *self.by_name.get(exchange).ok_or(RouteError::UnknownExchange)?;
        if self.nodes[at as usize].exchange.is_internal {
            return Err(RouteError::Internal);
        }
        Ok(at)
    }

    /// The queues that a message is for, each once, ascending by id. None: it is unroutable.
    pub fn resolve<'s, H: Headers + ?Sized>(
        &self,
        message: &Message<'_, H>,
        scratch: &'s mut Scratch,
    ) -> Result<&'s [QueueId], RouteError> {
        let begin = self.begin(message.exchange)?;
        let Scratch {
            look,
            visited,
            next,
            queues,
            by_alternate,
        } = scratch;
        *by_alternate = false;
        queues.clear();
        next.clear();
        visited.reset(self.nodes.len());
        visited.add(begin);
        next.push(begin);
        let mut is_merged = false;
        while let Some(at) = next.pop() {
            let node = &self.nodes[at as usize];
            let own = node.table.queues.len();
            let before = queues.len();
            let mut is_matched = false;
            node.table.look(message.routing_key, message.headers, look);
            for number in look.marks.iter() {
                if let Some(queue) = node.table.queues.get(number) {
                    is_matched = true;
                    queues.push(*queue);
                } else if let Some(onward) = node.onward[number - own] {
                    is_matched = true;
                    if visited.add(onward) {
                        next.push(onward);
                    }
                }
            }
            is_merged |= before > 0 && queues.len() > before;
            if let Some(alternate) = node.alternate.filter(|_| !is_matched)
                && visited.add(alternate)
            {
                *by_alternate = true;
                next.push(alternate);
            }
        }
        if is_merged {
            queues.sort_unstable();
            queues.dedup();
        }
        Ok(queues)
    }
}
