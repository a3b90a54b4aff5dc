//! Exchanges with their bindings, as the metadata has them.
//!
//! Invariants:
//! - An exchange id and a name each belong to one exchange.
//! - What a binding leads to is there: bindings go with their queue, and with the exchange at either end.
//! - No exchange is the alternate one of itself, not over others either.
//! - A message passes at most [`EXCHANGES_PER_MESSAGE_MAX`] exchanges, whatever matches, wherever it begins.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use jangada_routing::{Binding, Destination, Exchange};
use jangada_types::ExchangeId;
use jangada_types::limits::EXCHANGES_PER_MESSAGE_MAX;

/// All exchanges. A clone costs a few reference counts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Exchanges {
    by_id: Arc<BTreeMap<ExchangeId, Arc<Exchange>>>,
    /// Derived: ids by name.
    by_name: Arc<BTreeMap<Arc<str>, ExchangeId>>,
    /// Derived: the exchanges with bindings that lead to a queue or an exchange.
    sources: Arc<BTreeMap<Destination, Arc<BTreeSet<ExchangeId>>>>,
    /// Derived: the number of all bindings, and their bytes as they are counted.
    bindings: usize,
    bytes: usize,
}

impl Exchanges {
    /// All exchanges, by id.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &Arc<Exchange>> {
        self.by_id.values()
    }

    /// All exchanges, by name.
    pub fn by_name(&self) -> impl ExactSizeIterator<Item = &Arc<Exchange>> {
        self.by_name.values().map(|id| &self.by_id[id])
    }

    /// The exchange with this id.
    pub fn get(&self, id: ExchangeId) -> Option<&Arc<Exchange>> {
        self.by_id.get(&id)
    }

    /// The exchange with this name.
    pub fn named(&self, name: &str) -> Option<&Arc<Exchange>> {
        self.by_id.get(self.by_name.get(name)?)
    }

    /// The exchanges that have bindings to this queue or exchange, by id.
    pub fn sources(&self, destination: Destination) -> impl Iterator<Item = &Arc<Exchange>> {
        let ids = self.sources.get(&destination).into_iter().flat_map(|ids| ids.iter());
        ids.filter_map(|id| self.by_id.get(id))
    }

    /// The number of all bindings.
    pub fn bindings(&self) -> usize {
        self.bindings
    }

    /// Bytes of all bindings, as they are counted.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether both have their exchanges in the same place: then nothing has changed from one to the other.
    pub fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.by_id, &other.by_id)
    }

    /// Adds an exchange that is not there, with the bindings that it has.
    pub(crate) fn insert(&mut self, exchange: Exchange) {
        let id = exchange.id;
        let bindings = Arc::clone(&exchange.bindings);
        Arc::make_mut(&mut self.by_name).insert(Arc::clone(&exchange.name), id);
        Arc::make_mut(&mut self.by_id).insert(id, Arc::new(exchange));
        self.bindings += bindings.len();
        self.bytes += bindings.iter().map(Binding::bytes).sum::<usize>();
        for binding in &*bindings {
            self.add_source(binding.destination, id);
        }
    }

    /// Adds bindings to an exchange that is there and does not have them.
    pub(crate) fn bind(&mut self, id: ExchangeId, added: &BTreeSet<Binding>) {
        for binding in added {
            self.add_source(binding.destination, id);
        }
        self.bindings += added.len();
        self.bytes += added.iter().map(Binding::bytes).sum::<usize>();
        let bindings = self.bindings_mut(id);
        bindings.extend(added.iter().cloned());
    }

    /// Takes those of the bindings away that the exchange has, and says how many. It goes with its last one if it says so of itself.
    pub(crate) fn unbind(&mut self, id: ExchangeId, bindings: &BTreeSet<Binding>) -> usize {
        let Some(exchange) = self.by_id.get(&id) else {
            return 0;
        };
        let removed: Vec<&Binding> = bindings
            .iter()
            .filter(|binding| exchange.bindings.contains(*binding))
            .collect();
        if removed.is_empty() {
            return 0;
        }
        self.bindings -= removed.len();
        self.bytes -= removed.iter().map(|binding| binding.bytes()).sum::<usize>();
        let had = self.bindings_mut(id);
        for binding in &removed {
            had.remove(*binding);
        }
        let destinations: BTreeSet<Destination> = removed.iter().map(|binding| binding.destination).collect();
        for destination in destinations {
            if !leads_to(&self.by_id[&id], destination) {
                self.remove_source(destination, id);
            }
        }
        let count = removed.len();
        self.remove_unused(vec![id]);
        count
    }

    /// Removes an exchange, its bindings, and those that lead to it.
    pub(crate) fn remove(&mut self, id: ExchangeId) {
        let losers = self.take_out(id);
        self.remove_unused(losers);
    }

    /// Removes the bindings that lead to a queue or exchange that is no longer there.
    pub(crate) fn remove_destination(&mut self, destination: Destination) {
        let losers = self.take_bindings_to(destination);
        self.remove_unused(losers);
    }

    /// Removes those of the exchanges, and of those that lead to them, that go with their last binding and have none.
    fn remove_unused(&mut self, mut losers: Vec<ExchangeId>) {
        while let Some(id) = losers.pop() {
            let is_unused = |exchange: &&Arc<Exchange>| exchange.auto_delete && exchange.bindings.is_empty();
            if self.by_id.get(&id).filter(is_unused).is_some() {
                losers.extend(self.take_out(id));
            }
        }
    }

    /// Removes an exchange with all bindings at either end, and names the exchanges that lost some.
    fn take_out(&mut self, id: ExchangeId) -> Vec<ExchangeId> {
        let Some(exchange) = Arc::make_mut(&mut self.by_id).remove(&id) else {
            return Vec::new();
        };
        Arc::make_mut(&mut self.by_name).remove(&exchange.name);
        self.bindings -= exchange.bindings.len();
        self.bytes -= exchange.bindings.iter().map(Binding::bytes).sum::<usize>();
        let destinations: BTreeSet<Destination> = exchange.bindings.iter().map(|binding| binding.destination).collect();
        for destination in destinations {
            self.remove_source(destination, id);
        }
        self.take_bindings_to(Destination::Exchange(id))
    }

    /// Takes all bindings to a destination away, and names the exchanges that had them.
    fn take_bindings_to(&mut self, destination: Destination) -> Vec<ExchangeId> {
        if !self.sources.contains_key(&destination) {
            return Vec::new();
        }
        let sources = Arc::make_mut(&mut self.sources).remove(&destination);
        let sources: Vec<ExchangeId> = sources
            .into_iter()
            .flat_map(|ids| ids.iter().copied().collect::<Vec<_>>())
            .collect();
        for id in &sources {
            let gone: Vec<Binding> = leading_to(&self.by_id[id], destination).cloned().collect();
            self.bindings -= gone.len();
            self.bytes -= gone.iter().map(Binding::bytes).sum::<usize>();
            let bindings = self.bindings_mut(*id);
            for binding in &gone {
                bindings.remove(binding);
            }
        }
        sources
    }

    fn bindings_mut(&mut self, id: ExchangeId) -> &mut BTreeSet<Binding> {
        let exchange = Arc::make_mut(&mut self.by_id)
            .get_mut(&id)
            .expect("the exchange is there");
        Arc::make_mut(&mut Arc::make_mut(exchange).bindings)
    }

    fn add_source(&mut self, destination: Destination, id: ExchangeId) {
        if self.sources.get(&destination).is_some_and(|ids| ids.contains(&id)) {
            return;
        }
        let of_destination = Arc::make_mut(&mut self.sources).entry(destination).or_default();
        Arc::make_mut(of_destination).insert(id);
    }

    fn remove_source(&mut self, destination: Destination, id: ExchangeId) {
        let sources = Arc::make_mut(&mut self.sources);
        let Some(ids) = sources.get_mut(&destination) else {
            return;
        };
        Arc::make_mut(ids).remove(&id);
        if ids.is_empty() {
            sources.remove(&destination);
        }
    }

    /// The exchanges that a message may come to from this one at once: by its bindings, and the alternate one.
    fn onward(&self, exchange: &Exchange) -> Vec<ExchangeId> {
        let mut onward: Vec<ExchangeId> = exchange_destinations(exchange).collect();
        let alternate = exchange.alternate.as_ref();
        onward.extend(alternate.and_then(|name| self.by_name.get(name)));
        onward
    }

    /// The exchanges from which a message may come to this one, itself among them.
    fn upstream(&self, id: ExchangeId) -> BTreeSet<ExchangeId> {
        let mut alternates: BTreeMap<&str, Vec<ExchangeId>> = BTreeMap::new();
        for exchange in self.by_id.values() {
            if let Some(alternate) = &exchange.alternate {
                alternates.entry(alternate).or_default().push(exchange.id);
            }
        }
        let mut seen = BTreeSet::from([id]);
        let mut next = vec![id];
        while let Some(id) = next.pop() {
            let by_binding = self
                .sources
                .get(&Destination::Exchange(id))
                .into_iter()
                .flat_map(|ids| ids.iter());
            let name = self.by_id.get(&id).map_or("", |exchange| &exchange.name);
            let by_alternate = alternates.get(name).into_iter().flatten();
            next.extend(by_binding.chain(by_alternate).copied().filter(|id| seen.insert(*id)));
        }
        seen
    }

    /// An exchange from which a message may pass more exchanges than it may, among those from which it may come to this one.
    pub(crate) fn too_far(&self, id: ExchangeId) -> Option<&Exchange> {
        let upstream = self.upstream(id);
        let is_too_far = |begin: &&Arc<Exchange>| {
            let mut seen = BTreeSet::from([begin.id]);
            let mut next = vec![begin.id];
            while let Some(exchange) = next.pop().and_then(|id| self.by_id.get(&id)) {
                next.extend(self.onward(exchange).into_iter().filter(|id| seen.insert(*id)));
                if seen.len() > EXCHANGES_PER_MESSAGE_MAX {
                    return true;
                }
            }
            false
        };
        let begins = upstream.iter().filter_map(|id| self.by_id.get(id));
        begins.into_iter().find(is_too_far).map(|exchange| &**exchange)
    }
}

/// The bindings of an exchange from a destination on. They are ordered by it first.
fn from_destination(exchange: &Exchange, destination: Destination) -> impl Iterator<Item = &Binding> {
    let first = Binding {
        destination,
        routing_key: Arc::from(""),
        headers: None,
    };
    exchange.bindings.range(first..)
}

fn leading_to(exchange: &Exchange, destination: Destination) -> impl Iterator<Item = &Binding> {
    from_destination(exchange, destination).take_while(move |binding| binding.destination == destination)
}

fn leads_to(exchange: &Exchange, destination: Destination) -> bool {
    leading_to(exchange, destination).next().is_some()
}

/// The exchanges that an exchange has bindings to. Queues come before exchanges in the order of destinations.
fn exchange_destinations(exchange: &Exchange) -> impl Iterator<Item = ExchangeId> {
    let id = |binding: &Binding| match binding.destination {
        Destination::Exchange(id) => Some(id),
        Destination::Queue(_) => None,
    };
    from_destination(exchange, Destination::Exchange(ExchangeId(0))).filter_map(id)
}
