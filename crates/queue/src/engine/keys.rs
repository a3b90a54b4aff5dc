//! Order by key: at most one message of a key is out.
//!
//! Held: of a key that is not busy, every undone message that is not dead has the cursor still to come, or is parked here. Of a key that
//! is busy, what the cursor passed meanwhile is found again when the key is free: the first of it here, the others by rows. So a key
//! costs the same however many of its messages wait, and holds up no other. A message that is not due keeps its key busy, too: it holds up
//! what was sent after it with the same key, and nothing else.

use std::collections::{BTreeMap, BTreeSet};

/// A message of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    /// Its place in the order.
    pub origin: u64,
    /// Where it is.
    pub offset: u64,
    /// Not before this time, milliseconds since the Unix epoch; 0: at once.
    pub deliver_at_ms: u64,
}

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
    parked: BTreeMap<(u64, u64), Place>,
}

impl Keys {
    pub(super) fn is_busy(&self, key: u64) -> bool {
        self.busy.contains_key(&key)
    }

    /// Whether the message at a place in the order keeps the key busy.
    pub(super) fn is_kept_by(&self, key: u64, origin: u64) -> bool {
        self.busy.get(&key).is_some_and(|busy| busy.origin == origin)
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
    pub(super) fn park(&mut self, key: u64, place: Place) {
        self.parked.insert((key, place.origin), place);
    }

    pub(super) fn unpark(&mut self, key: u64, origin: u64) {
        self.parked.remove(&(key, origin));
    }

    fn first_parked(&self, key: u64) -> Option<Place> {
        let mut of_key = self.parked.range((key, 0)..=(key, u64::MAX));
        of_key.next().map(|(_, place)| *place)
    }

    /// How many keys are busy.
    pub(super) fn len(&self) -> usize {
        self.busy.len()
    }

    /// The first parked messages of keys that are not busy.
    pub(super) fn idle_parked(&self) -> Vec<u64> {
        let keys: BTreeSet<u64> = self.parked.keys().map(|(key, _)| *key).collect();
        keys.into_iter().filter(|key| !self.is_busy(*key)).collect()
    }

    /// Nothing below an offset is there any more: the keys that a message there kept busy, with its place in the order. Only where
    /// nothing is carried, so that places are offsets.
    pub(super) fn cut_off(&mut self, floor: u64) -> Vec<(u64, u64)> {
        self.parked.retain(|_, place| place.offset >= floor);
        let mut cut = Vec::new();
        for (key, busy) in &mut self.busy {
            // While rows are looked up it says where others begin, and is passed over when it is next.
            if busy.seeks {
                continue;
            }
            // There may be others among the rows, behind the one that was found.
            if busy.first.take_if(|place| place.offset < floor).is_some() {
                busy.has_more = true;
            }
            if busy.origin < floor {
                cut.push((*key, busy.origin));
            }
        }
        cut
    }

    /// The keys that messages with these places in the order keep busy.
    pub(super) fn kept_by(&self, origins: &BTreeSet<u64>) -> Vec<(u64, u64)> {
        let kept = self
            .busy
            .iter()
            .filter(|(_, busy)| !busy.seeks && origins.contains(&busy.origin));
        kept.map(|(key, busy)| (*key, busy.origin)).collect()
    }

    /// The message that kept the key busy is done, or dead and does not block: what is next. Another message frees nothing.
    pub(super) fn freed(&mut self, key: u64, origin: u64) -> Next {
        let parked = self.first_parked(key);
        if self.busy.get(&key).is_some_and(|busy| busy.origin != origin) {
            return Next::Idle;
        }
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
        match earlier(busy.first, parked) {
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
        busy.origin = place.origin;
        busy.first.take_if(|first| first.origin == place.origin);
        self.parked.remove(&(key, place.origin));
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
        match earlier(first, self.first_parked(key)) {
            Some(place) => self.next(key, place),
            None => {
                self.busy.remove(&key);
                Next::Idle
            }
        }
    }
}

/// The earlier one. Of the same message the parked place counts: it was carried since the cursor passed it.
fn earlier(passed: Option<Place>, parked: Option<Place>) -> Option<Place> {
    match (passed, parked) {
        (Some(passed), Some(parked)) if passed.origin < parked.origin => Some(passed),
        (passed, parked) => parked.or(passed),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(origin: u64, offset: u64) -> Place {
        Place {
            origin,
            offset,
            deliver_at_ms: 0,
        }
    }

    impl Keys {
        /// Whatever keeps it busy is done.
        fn free(&mut self, key: u64) -> Next {
            let origin = self.busy.get(&key).map_or(0, |busy| busy.origin);
            self.freed(key, origin)
        }
    }

    #[test]
    fn only_what_keeps_a_key_busy_frees_it() {
        let mut keys = Keys::default();
        keys.take(7, 1);
        keys.pass(7, at(2, 2));
        assert_eq!(keys.freed(7, 1), Next::Message(at(2, 2)));
        assert_eq!(keys.freed(7, 1), Next::Idle, "it was freed before");
        assert!(keys.is_kept_by(7, 2));
        keys.pass(7, at(3, 3));
        keys.pass(7, at(4, 4));
        assert_eq!(keys.cut_off(4), [(7, 2)], "the log was cut");
        assert_eq!(keys.freed(7, 2), Next::Seek(2), "4 is among the rows");
        assert_eq!(keys.found(7, &[at(4, 4)], Some(4), true), Next::Message(at(4, 4)));
    }

    #[test]
    fn a_key_goes_on_with_what_the_cursor_passed() {
        let mut keys = Keys::default();
        keys.take(7, 1);
        keys.pass(7, at(2, 2));
        keys.pass(7, at(5, 5));
        keys.pass(7, at(9, 9));
        assert_eq!(keys.free(7), Next::Message(at(2, 2)));
        assert_eq!(keys.free(7), Next::Seek(2), "the others are rows");
        // Passed while the rows are read, and not in them.
        keys.pass(7, at(11, 11));
        assert_eq!(
            keys.found(7, &[at(5, 5), at(9, 9)], Some(9), true),
            Next::Message(at(5, 5))
        );
        assert_eq!(keys.free(7), Next::Seek(5));
        assert_eq!(
            keys.found(7, &[at(9, 9), at(11, 11)], Some(11), true),
            Next::Message(at(9, 9))
        );
        assert_eq!(keys.free(7), Next::Seek(9));
        assert_eq!(keys.found(7, &[at(11, 11)], Some(11), true), Next::Message(at(11, 11)));
        assert_eq!(keys.free(7), Next::Idle);
        assert!(!keys.is_busy(7));
    }

    #[test]
    fn what_is_passed_while_rows_are_read_is_not_lost() {
        let mut keys = Keys::default();
        keys.take(7, 1);
        keys.pass(7, at(2, 2));
        keys.pass(7, at(5, 5));
        assert_eq!(keys.free(7), Next::Message(at(2, 2)));
        assert_eq!(keys.free(7), Next::Seek(2));
        // The rows are from before it was appended.
        keys.pass(7, at(11, 11));
        assert_eq!(keys.found(7, &[at(5, 5)], Some(5), true), Next::Message(at(5, 5)));
        assert_eq!(keys.free(7), Next::Seek(5));
        keys.pass(7, at(12, 12));
        assert_eq!(keys.found(7, &[at(11, 11)], Some(11), true), Next::Message(at(11, 11)));
        assert_eq!(keys.free(7), Next::Seek(11));
        assert_eq!(keys.found(7, &[], None, true), Next::Idle);
        keys.take(7, 20);
        keys.pass(7, at(21, 21));
        keys.pass(7, at(22, 22));
        assert_eq!(keys.free(7), Next::Message(at(21, 21)));
        assert_eq!(keys.free(7), Next::Seek(21));
        keys.pass(7, at(30, 30));
        assert_eq!(keys.found(7, &[], Some(22), true), Next::Message(at(30, 30)));
    }

    #[test]
    fn what_is_parked_goes_in_its_order() {
        let mut keys = Keys::default();
        keys.park(7, at(3, 30));
        assert_eq!(keys.idle_parked(), [7]);
        assert_eq!(keys.free(7), Next::Message(at(3, 30)));
        keys.pass(7, at(8, 8));
        keys.park(7, at(4, 31));
        assert_eq!(keys.free(7), Next::Message(at(4, 31)));
        assert_eq!(keys.free(7), Next::Message(at(8, 8)));
        assert_eq!(keys.free(7), Next::Idle);
    }

    #[test]
    fn what_is_cut_off_while_rows_are_read_hides_nothing_behind_it() {
        let mut keys = Keys::default();
        keys.take(7, 1);
        keys.pass(7, at(2, 2));
        keys.pass(7, at(3, 3));
        assert_eq!(keys.free(7), Next::Message(at(2, 2)));
        assert_eq!(keys.free(7), Next::Seek(2));
        keys.pass(7, at(4, 4));
        keys.pass(7, at(5, 5));
        assert_eq!(keys.cut_off(5), []);
        keys.pass(7, at(6, 6));
        assert_eq!(keys.found(7, &[], Some(4), true), Next::Message(at(4, 4)), "it is done");
        assert_eq!(keys.free(7), Next::Seek(4), "and 5 is among the rows");
    }

    #[test]
    fn what_was_passed_and_carried_goes_from_its_new_place() {
        let mut keys = Keys::default();
        keys.take(7, 1);
        keys.pass(7, at(2, 2));
        keys.park(7, at(2, 30));
        assert_eq!(keys.free(7), Next::Message(at(2, 30)));
        assert_eq!(keys.free(7), Next::Idle, "once");
    }

    #[test]
    fn rows_that_no_longer_count_are_passed_over() {
        let mut keys = Keys::default();
        keys.take(7, 1);
        keys.pass(7, at(2, 2));
        keys.pass(7, at(5, 5));
        assert_eq!(keys.free(7), Next::Message(at(2, 2)));
        assert_eq!(keys.free(7), Next::Seek(2));
        assert_eq!(keys.found(7, &[], Some(5), false), Next::Seek(5));
        assert_eq!(keys.found(7, &[], None, true), Next::Idle);
    }
}
