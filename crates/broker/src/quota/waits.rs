//! The order in which waiting calls get what is given back.
//!
//! Without an order, a connection with many calls would get most of what is given back, and one with a single call might wait until
//! its timeout. So calls yield to each other:
//!
//! - While a connection that holds nothing waits, connections that hold something take no more.
//! - A connection that holds nothing yields to one that has waited longer and wants no more than it does.
//!
//! So a small fetch never waits behind a large one, while small ones may overtake a large one. Calls yield only to those they
//! compete with: connections of one address while that address's share is used up, all connections while the whole is used up. A
//! connection that waits for its own share holds up no other.

use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::SeqCst;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::sync::futures::Notified;

use super::resource::Scope;

/// The calls that wait for one resource.
#[derive(Default)]
pub(super) struct Waits {
    given_back: Notify,
    /// The number of calls that wait.
    waiting: AtomicUsize,
    /// The length of the list, so that calls need not lock it while it is empty.
    starving: AtomicUsize,
    list: Mutex<List>,
}

#[derive(Default)]
struct List {
    next: u64,
    /// In the order in which they began to wait.
    starving: Vec<Starving>,
}

/// A connection that waits and holds nothing.
struct Starving {
    number: u64,
    /// See [`Demand::address`].
    address: usize,
    amount: usize,
    /// The scope whose limit it met last.
    scope: Scope,
}

/// What a call wants to take.
#[derive(Clone, Copy)]
pub(super) struct Demand {
    /// Identifies the address that the connection belongs to.
    pub address: usize,
    /// What the connection holds already.
    pub held: usize,
    pub amount: usize,
}

impl Waits {
    /// Makes all waiting calls try again.
    pub fn wake(&self) {
        if self.waiting.load(SeqCst) > 0 {
            self.given_back.notify_waiters();
        }
    }

    /// Completes when something is given back, or when a starving connection has left the list.
    pub fn given_back(&self) -> Notified<'_> {
        self.given_back.notified()
    }

    /// Registers a call that waits.
    pub fn begin(&self) -> Waiter<'_> {
        self.waiting.fetch_add(1, SeqCst);
        Waiter {
            waits: self,
            number: None,
        }
    }
}

/// A call that waits, until this is dropped.
pub(super) struct Waiter<'a> {
    waits: &'a Waits,
    /// Its number in the list, while its connection holds nothing.
    number: Option<u64>,
}

impl Waiter<'_> {
    /// Whether this call must yield to another one. If so, returns the scope whose limit holds that one up.
    pub fn yields_to(&self, demand: Demand) -> Option<Scope> {
        if self.waits.starving.load(SeqCst) == 0 {
            return None;
        }
        let list = self.waits.list.lock();
        let earlier = |other: &Starving| self.number.is_none_or(|number| other.number < number);
        let first = list.starving.iter().find(|other| {
            let competes = other.scope == Scope::Broker || other.address == demand.address;
            let goes_first = demand.held > 0 || (earlier(other) && other.amount <= demand.amount);
            self.number != Some(other.number) && competes && goes_first
        });
        first.map(|other| other.scope)
    }

    /// Records that this call did not get what it wants. Other calls yield to it from now on, for as long as its connection holds
    /// nothing.
    pub fn found_none(&mut self, demand: Demand, scope: Scope) {
        if demand.held > 0 || scope == Scope::Connection {
            self.leave();
            return;
        }
        let mut list = self.waits.list.lock();
        if let Some(number) = self.number {
            let own = list.starving.iter_mut().find(|other| other.number == number);
            own.expect("only this waiter removes it").scope = scope;
            return;
        }
        let number = list.next;
        list.next += 1;
        list.starving.push(Starving {
            number,
            address: demand.address,
            amount: demand.amount,
            scope,
        });
        self.waits.starving.fetch_add(1, SeqCst);
        self.number = Some(number);
    }

    fn leave(&mut self) {
        if let Some(number) = self.number.take() {
            self.waits.list.lock().starving.retain(|other| other.number != number);
            self.waits.starving.fetch_sub(1, SeqCst);
            self.waits.wake();
        }
    }
}

impl Drop for Waiter<'_> {
    fn drop(&mut self) {
        self.waits.waiting.fetch_sub(1, SeqCst);
        self.leave();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn demand(address: usize, held: usize, amount: usize) -> Demand {
        Demand { address, held, amount }
    }

    #[test]
    fn a_connection_that_holds_something_yields_to_one_that_waits_with_nothing() {
        let waits = Waits::default();
        let mut waiter = waits.begin();
        assert_eq!(waits.begin().yields_to(demand(1, 10, 1)), None);
        waiter.found_none(demand(1, 0, 100), Scope::Address);
        assert_eq!(waits.begin().yields_to(demand(1, 10, 1)), Some(Scope::Address));
        assert_eq!(waits.begin().yields_to(demand(2, 10, 1)), None, "of another address");
        assert_eq!(waiter.yields_to(demand(1, 0, 100)), None, "its own");
        waiter.found_none(demand(1, 0, 100), Scope::Broker);
        assert_eq!(waits.begin().yields_to(demand(2, 10, 1)), Some(Scope::Broker));
        // It waits for its own share from now on.
        waiter.found_none(demand(1, 10, 100), Scope::Connection);
        assert_eq!(waits.begin().yields_to(demand(1, 10, 1)), None);
        drop(waiter);
        assert_eq!((waits.waiting.load(SeqCst), waits.starving.load(SeqCst)), (0, 0));
    }

    #[test]
    fn a_connection_with_nothing_yields_to_an_earlier_one_that_wants_no_more() {
        let waits = Waits::default();
        let (mut first, mut second) = (waits.begin(), waits.begin());
        first.found_none(demand(1, 0, 100), Scope::Address);
        second.found_none(demand(1, 0, 50), Scope::Address);
        assert_eq!(first.yields_to(demand(1, 0, 100)), None, "it is the first");
        assert_eq!(second.yields_to(demand(1, 0, 50)), None, "it wants less");
        assert_eq!(waits.begin().yields_to(demand(1, 0, 49)), None, "so does this");
        assert_eq!(waits.begin().yields_to(demand(1, 0, 50)), Some(Scope::Address));
        drop(second);
        assert_eq!(waits.begin().yields_to(demand(1, 0, 50)), None);
        assert_eq!(waits.begin().yields_to(demand(1, 0, 100)), Some(Scope::Address));
    }
}
