//! Order by key: at most one message of a key is out.
//!
//! Held: of a key that is not busy, every undone message that is not dead has the cursor still to come, or is parked here. Of a key that
//! is busy, what the cursor passed meanwhile is found again when the key is free: the first of it here, the others by rows. So a key
//! costs the same however many of its messages wait, and holds up no other.

use std::collections::{BTreeMap, BTreeSet};

/// A message of a key: its place in the order, and where it is.
pub(super) type Place = (u64, u64);

/// A key of which a message is out, or goes out next, or is dead and blocks.
#[derive(Debug, Default)]
struct Busy {
    /// The place in the order of the message that keeps it busy.
    origin: u64,
    /// The first message that the cursor passed since.
    first: Option<Place>,
    /// It passed more behind that: they are found by rows.
    has_more: bool,
    /// Rows are being looked up; the cursor may pass messages that they do not have yet.
    seeks: bool,
}

/// What comes after a message of a key.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Nothing: the key is free.
    Idle,
    /// This message, which keeps the key busy.
    Message(Place),
    /// The rows of the key behind this place are to be looked up. The key stays busy.
    Seek(u64),
}

#[derive(Debug, Default)]
pub(super) struct Keys {
    busy: BTreeMap<u64, Busy>,
    /// Messages behind the cursor that it does not find again: carried ones, redriven ones, those that fell due while the key was busy.
    parked: BTreeSet<(u64, u64, u64)>,
}

impl Keys {
    pub(super) fn is_busy(&self, key: u64) -> bool {
        self.busy.contains_key(&key)
    }

    /// A message of the key is out, or next.
    pub(super) fn take(&mut self, key: u64, origin: u64) {
        self.busy.entry(key).or_default().origin = origin;
    }

    /// The cursor passes a message of a busy key.
    pub(super) fn pass(&mut self, key: u64, place: Place) {
        let busy = self.busy.get_mut(&key).expect("only a busy key is passed");
        // Without a known first one there may be earlier ones among the rows.
        if busy.first.is_none() && (!busy.has_more || busy.seeks) {
            busy.first = Some(place);
        } else {
            busy.has_more = true;
        }
    }

    /// A message that the cursor does not find again.
    pub(super) fn park(&mut self, key: u64, (origin, offset): Place) {
        self.parked.insert((key, origin, offset));
    }

    pub(super) fn unpark(&mut self, key: u64, (origin, offset): Place) {
        self.parked.remove(&(key, origin, offset));
    }

    fn first_parked(&self, key: u64) -> Option<Place> {
        let mut of_key = self.parked.range((key, 0, 0)..=(key, u64::MAX, u64::MAX));
        of_key.next().map(|(_, origin, offset)| (*origin, *offset))
    }

    /// The first parked messages of keys that are not busy.
    pub(super) fn idle_parked(&self) -> Vec<u64> {
        let keys: BTreeSet<u64> = self.parked.iter().map(|(key, _, _)| *key).collect();
        keys.into_iter().filter(|key| !self.is_busy(*key)).collect()
    }

    /// The message that kept the key busy is done, or dead and does not block: what is next.
    pub(super) fn freed(&mut self, key: u64) -> Next {
        let parked = self.first_parked(key);
        let Some(busy) = self.busy.get_mut(&key) else {
            return match parked {
                Some(place) => self.next(key, place),
                None => Next::Idle,
            };
        };
        if busy.first.is_none() && busy.has_more {
            (busy.seeks, busy.has_more) = (true, false);
            return Next::Seek(busy.origin);
        }
        match busy.first.into_iter().chain(parked).min() {
            Some(place) => self.next(key, place),
            None => {
                self.busy.remove(&key);
                Next::Idle
            }
        }
    }

    /// Whether the rows of a key are being looked up.
    pub(super) fn seeks(&self, key: u64) -> bool {
        self.busy.get(&key).is_some_and(|busy| busy.seeks)
    }

    /// This message keeps the key busy from now on.
    fn next(&mut self, key: u64, place: Place) -> Next {
        let busy = self.busy.entry(key).or_default();
        busy.origin = place.0;
        busy.first.take_if(|first| *first == place);
        self.parked.remove(&(key, place.0, place.1));
        Next::Message(place)
    }

    /// Rows of a key that was sought: those that may go out, in their order; `last`, the place of the last row that was read; and
    /// whether none can be behind it.
    pub(super) fn found(&mut self, key: u64, rows: &[Place], last: Option<u64>, is_all: bool) -> Next {
        let Some(busy) = self.busy.get_mut(&key) else {
            return Next::Idle;
        };
        if let (true, false, Some(last)) = (rows.is_empty(), is_all, last) {
            return Next::Seek(last);
        }
        busy.seeks = false;
        if let Some(row) = rows.first() {
            // What the cursor passed meanwhile lies behind it, and is found by rows again.
            let passed = busy.first.replace(*row).is_some_and(|passed| passed != *row);
            busy.has_more |= passed || rows.len() > 1 || !is_all;
        }
        let first = busy.first;
        match first.into_iter().chain(self.first_parked(key)).min() {
            Some(place) => self.next(key, place),
            None => {
                self.busy.remove(&key);
                Next::Idle
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_goes_on_with_what_the_cursor_passed() {
        let mut keys = Keys::default();
        keys.take(7, 1);
        keys.pass(7, (2, 2));
        keys.pass(7, (5, 5));
        keys.pass(7, (9, 9));
        assert_eq!(keys.freed(7), Next::Message((2, 2)));
        assert_eq!(keys.freed(7), Next::Seek(2), "the others are rows");
        // Passed while the rows are read, and not in them.
        keys.pass(7, (11, 11));
        assert_eq!(keys.found(7, &[(5, 5), (9, 9)], Some(9), true), Next::Message((5, 5)));
        assert_eq!(keys.freed(7), Next::Seek(5));
        assert_eq!(
            keys.found(7, &[(9, 9), (11, 11)], Some(11), true),
            Next::Message((9, 9))
        );
        assert_eq!(keys.freed(7), Next::Seek(9));
        assert_eq!(keys.found(7, &[(11, 11)], Some(11), true), Next::Message((11, 11)));
        assert_eq!(keys.freed(7), Next::Idle);
        assert!(!keys.is_busy(7));
    }

    #[test]
    fn what_is_passed_while_rows_are_read_is_not_lost() {
        let mut keys = Keys::default();
        keys.take(7, 1);
        keys.pass(7, (2, 2));
        keys.pass(7, (5, 5));
        assert_eq!(keys.freed(7), Next::Message((2, 2)));
        assert_eq!(keys.freed(7), Next::Seek(2));
        // The rows are from before it was appended.
        keys.pass(7, (11, 11));
        assert_eq!(keys.found(7, &[(5, 5)], Some(5), true), Next::Message((5, 5)));
        assert_eq!(keys.freed(7), Next::Seek(5));
        keys.pass(7, (12, 12));
        assert_eq!(keys.found(7, &[(11, 11)], Some(11), true), Next::Message((11, 11)));
        assert_eq!(keys.freed(7), Next::Seek(11));
        assert_eq!(keys.found(7, &[], None, true), Next::Idle);
        keys.take(7, 20);
        keys.pass(7, (21, 21));
        keys.pass(7, (22, 22));
        assert_eq!(keys.freed(7), Next::Message((21, 21)));
        assert_eq!(keys.freed(7), Next::Seek(21));
        keys.pass(7, (30, 30));
        assert_eq!(keys.found(7, &[], Some(22), true), Next::Message((30, 30)));
    }

    #[test]
    fn what_is_parked_goes_in_its_order() {
        let mut keys = Keys::default();
        keys.park(7, (3, 30));
        assert_eq!(keys.idle_parked(), [7]);
        assert_eq!(keys.freed(7), Next::Message((3, 30)));
        keys.pass(7, (8, 8));
        keys.park(7, (4, 31));
        assert_eq!(keys.freed(7), Next::Message((4, 31)));
        assert_eq!(keys.freed(7), Next::Message((8, 8)));
        assert_eq!(keys.freed(7), Next::Idle);
    }

    #[test]
    fn rows_that_no_longer_count_are_passed_over() {
        let mut keys = Keys::default();
        keys.take(7, 1);
        keys.pass(7, (2, 2));
        keys.pass(7, (5, 5));
        assert_eq!(keys.freed(7), Next::Message((2, 2)));
        assert_eq!(keys.freed(7), Next::Seek(2));
        assert_eq!(keys.found(7, &[], Some(5), false), Next::Seek(5));
        assert_eq!(keys.found(7, &[], None, true), Next::Idle);
    }
}
