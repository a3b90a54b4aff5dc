//! Who waits for room, and to whom others leave it.
//!
//! What is given back goes to whichever call asks first. A connection with many calls would so get most of it, and one with a
//! single call might wait for as long as it is allowed to. So connections take turns:
//!
//! - While a connection that holds nothing waits, those that hold something take no more.
//! - Of those that hold nothing none takes what one that has waited longer, for no more than it wants, could have.
//!
//! A small fetch never waits behind a large one, then; a large one may be overtaken by small ones. Only those that compete leave
//! room to each other: connections of one address while that address has its share, and all while everything is taken. A
//! connection that waits for its own share keeps nobody out.

use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::SeqCst;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::sync::futures::Notified;

use super::budget::Whose;

/// Those that wait for one resource.
#[derive(Default)]
pub(super) struct Waits {
    given_back: Notify,
    /// How many calls wait.
    waiting: AtomicUsize,
    /// How many connections are in the list: while there are none nobody looks.
    hungry: AtomicUsize,
    list: Mutex<List>,
}

#[derive(Default)]
struct List {
    next: u64,
    /// In the order in which they began to wait.
    hungry: Vec<Hungry>,
}

/// A connection that waits and holds nothing.
struct Hungry {
    number: u64,
    /// Where it comes from.
    address: usize,
    amount: usize,
    whose: Whose,
}

/// What a call wants.
#[derive(Clone, Copy)]
pub(super) struct Wish {
    /// Tells addresses apart.
    pub address: usize,
    /// What its connection holds.
    pub held: usize,
    pub amount: usize,
}

impl Waits {
    /// Whoever waits looks again.
    pub fn wake(&self) {
        if self.waiting.load(SeqCst) > 0 {
            self.given_back.notify_waiters();
        }
    }

    /// When something is given back, or left by one that does not need it any more.
    pub fn given_back(&self) -> Notified<'_> {
        self.given_back.notified()
    }

    /// A call begins to wait.
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
    /// In the list of those that hold nothing.
    number: Option<u64>,
}

impl Waiter<'_> {
    /// Whether the room is to be left to another one, and what that one lacks.
    pub fn leaves_it(&self, wish: Wish) -> Option<Whose> {
        if self.waits.hungry.load(SeqCst) == 0 {
            return None;
        }
        let list = self.waits.list.lock();
        let earlier = |hungry: &Hungry| self.number.is_none_or(|number| hungry.number < number);
        let first = list.hungry.iter().find(|hungry| {
            let competes = hungry.whose == Whose::Broker || hungry.address == wish.address;
            let goes_first = wish.held > 0 || (earlier(hungry) && hungry.amount <= wish.amount);
            self.number != Some(hungry.number) && competes && goes_first
        });
        first.map(|hungry| hungry.whose)
    }

    /// It did not get what it wants. Others leave it to this one, as long as its connection holds nothing.
    pub fn lacks(&mut self, wish: Wish, whose: Whose) {
        if wish.held > 0 || whose == Whose::Connection {
            self.leave();
            return;
        }
        let mut list = self.waits.list.lock();
        if let Some(number) = self.number {
            let hungry = list.hungry.iter_mut().find(|hungry| hungry.number == number);
            hungry.expect("it leaves the list by itself").whose = whose;
            return;
        }
        let number = list.next;
        list.next += 1;
        list.hungry.push(Hungry {
            number,
            address: wish.address,
            amount: wish.amount,
            whose,
        });
        self.waits.hungry.fetch_add(1, SeqCst);
        self.number = Some(number);
    }

    fn leave(&mut self) {
        if let Some(number) = self.number.take() {
            self.waits.list.lock().hungry.retain(|hungry| hungry.number != number);
            self.waits.hungry.fetch_sub(1, SeqCst);
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

    fn wish(address: usize, held: usize, amount: usize) -> Wish {
        Wish { address, held, amount }
    }

    #[test]
    fn who_holds_something_leaves_room_to_one_that_waits_with_nothing() {
        let waits = Waits::default();
        let mut waiter = waits.begin();
        assert_eq!(waits.begin().leaves_it(wish(1, 10, 1)), None);
        waiter.lacks(wish(1, 0, 100), Whose::Address);
        assert_eq!(waits.begin().leaves_it(wish(1, 10, 1)), Some(Whose::Address));
        assert_eq!(waits.begin().leaves_it(wish(2, 10, 1)), None, "of another address");
        assert_eq!(waiter.leaves_it(wish(1, 0, 100)), None, "its own");
        waiter.lacks(wish(1, 0, 100), Whose::Broker);
        assert_eq!(waits.begin().leaves_it(wish(2, 10, 1)), Some(Whose::Broker));
        // It waits for its own share from now on.
        waiter.lacks(wish(1, 10, 100), Whose::Connection);
        assert_eq!(waits.begin().leaves_it(wish(1, 10, 1)), None);
        drop(waiter);
        assert_eq!((waits.waiting.load(SeqCst), waits.hungry.load(SeqCst)), (0, 0));
    }

    #[test]
    fn of_those_with_nothing_none_takes_what_an_earlier_one_could_have() {
        let waits = Waits::default();
        let (mut first, mut second) = (waits.begin(), waits.begin());
        first.lacks(wish(1, 0, 100), Whose::Address);
        second.lacks(wish(1, 0, 50), Whose::Address);
        assert_eq!(first.leaves_it(wish(1, 0, 100)), None, "it is the first");
        assert_eq!(second.leaves_it(wish(1, 0, 50)), None, "it wants less");
        assert_eq!(waits.begin().leaves_it(wish(1, 0, 49)), None, "so does this");
        assert_eq!(waits.begin().leaves_it(wish(1, 0, 50)), Some(Whose::Address));
        drop(second);
        assert_eq!(waits.begin().leaves_it(wish(1, 0, 50)), None);
        assert_eq!(waits.begin().leaves_it(wish(1, 0, 100)), Some(Whose::Address));
    }
}
