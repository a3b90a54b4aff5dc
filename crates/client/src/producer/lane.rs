//! The batches of one partition between being closed and being settled: which may be sent next, under which number, and what an
//! answer means. Pure: no clock, no I/O. Called by the driver only.
//!
//! ```text
//!            oldest                                        newest
//! window:    [3 in flight] [4 in flight] [5 held] [6 held]        numbered, at most `in_flight_max` apart
//! requeued:  [7] [8]                                              proven absent, to be numbered anew
//! ```
//!
//! # Order
//! An entry is *held* when its last attempt failed. Held entries are sent again, oldest first, when no younger one is in
//! flight any more: so at each moment the window is some entries in flight, then some held, or the lane waits. Nothing new is
//! numbered while anything is held.
//!
//! # Holes
//! When an entry is given up, the sequences of those behind it no longer follow. Such a *hole* is `sealed` if the entry given up
//! certainly has no attempt under way that could still fill it. Behind a hole
//! - an entry that was never in doubt is absent for good and is numbered anew, and with it all behind it, for they could only
//!   have been appended after it;
//! - the same goes for one in doubt if all holes before it are sealed;
//! - one in doubt behind an open hole is sent once more under its old number: if it is there, the hole was filled after all
//!   and the numbers are whole again; if not, its outcome stays unknown, for an attempt may be under way behind one that fills
//!   the hole.
//!
//! Numbering anew takes the producer's next epoch. In each partition the first batch of an epoch fences the ones before it, in
//! the order of the log, so what is still under way can no longer come between.
//!
//! # Splitting
//! A batch that is refused as too large, and was never in doubt, took no sequence: nothing of it is in the log, and nothing
//! numbered behind it can be. So its parts take its place and its numbers, and those behind keep theirs. With more entries than may
//! be in flight the window is sent in steps.

use std::collections::VecDeque;

use jangada_types::Sequence;
use jangada_types::planted::{self, Bug};

use super::identity::{Identity, Stamp};

pub(crate) struct Lane<B> {
    idempotent: bool,
    in_flight_max: u64,
    window: VecDeque<Entry<B>>,
    requeued: VecDeque<Unnumbered<B>>,
    holes: Vec<Hole>,
    /// The identity that the window's entries are numbered under, and the next sequence.
    numbering: Option<(Identity, Sequence)>,
    next_ordinal: u64,
    next_id: u64,
}

struct Unnumbered<B> {
    batch: B,
    records: i32,
}

struct Entry<B> {
    batch: B,
    records: i32,
    /// The entry's id, which it keeps when it is numbered anew.
    id: u64,
    /// The entry's place among all batches that the lane numbered.
    ordinal: u64,
    stamp: Stamp,
    attempt: u32,
    in_flight: bool,
    /// Whether an attempt ended without an answer, so that the batch may be in the log or on its way there.
    in_doubt: bool,
}

struct Hole {
    /// The entries from this ordinal on are behind the hole.
    before: u64,
    sealed: bool,
}

/// Names one attempt to send one batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ticket {
    id: u64,
    attempt: u32,
}

/// The next action of the lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Do nothing until an answer comes.
    Wait,
    /// Send the oldest held entry again.
    Resend,
    /// Number and send the first of those that lost their number.
    Readmit,
    /// Number and send a new batch.
    Admit,
    /// Get an identity first.
    Identify,
    /// Get an identity newer than this one first, then [`Lane::renumber`].
    Renumber(Identity),
}

/// The answer to an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// The batch is in the log.
    Appended,
    /// The batch is in the log from an earlier attempt, at offsets that are not known.
    AppendedBefore,
    /// The attempt had no effect; another one may succeed.
    Retry,
    /// The answer was lost, or the broker does not know the outcome.
    Unknown,
    /// The attempt had no effect: an earlier sequence is missing.
    OutOfOrder,
    /// The attempt had no effect: the partition does not know the producer.
    UnknownProducer,
    /// The attempt had no effect: the partition knows a newer epoch, which is this producer's own.
    FencedByUs,
    /// The attempt had no effect, and no later one will have.
    Refused,
    /// Like [`Answer::Refused`], and the sequence was not used: the next batch may have it.
    ConditionFailed,
}

/// The outcome of a batch that leaves the lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    Appended,
    /// The batch is certainly not in the log.
    Absent,
    /// The batch may be in the log.
    InDoubt,
}

impl<B> Lane<B> {
    pub fn new(idempotent: bool, in_flight_max: usize) -> Self {
        assert!(
            idempotent || in_flight_max == 1,
            "without sequences a refused batch would be overtaken"
        );
        Self {
            idempotent,
            in_flight_max: in_flight_max as u64,
            window: VecDeque::new(),
            requeued: VecDeque::new(),
            holes: Vec::new(),
            numbering: None,
            next_ordinal: 0,
            next_id: 0,
        }
    }

    /// Whether no batch is in the lane.
    pub fn is_empty(&self) -> bool {
        self.window.is_empty() && self.requeued.is_empty()
    }

    /// Whether the answer to an attempt is outstanding.
    pub fn is_in_flight(&self) -> bool {
        self.window.iter().any(|entry| entry.in_flight)
    }

    /// Whether its batches are numbered under an identity that is no longer the producer's newest.
    pub fn is_behind(&self, newest: Option<Identity>) -> bool {
        let numbered = self.numbering.map(|(identity, _)| identity.generation);
        newest.is_some_and(|newest| numbered < Some(newest.generation))
    }

    /// Whether this attempt is the one that is under way for its batch.
    pub fn is_current(&self, ticket: Ticket) -> bool {
        let current = |entry: &Entry<B>| {
            entry.in_flight
                && Ticket {
                    id: entry.id,
                    attempt: entry.attempt,
                } == ticket
        };
        self.window.iter().any(current)
    }

    /// All batches, oldest first.
    pub fn batches(&self) -> impl Iterator<Item = &B> {
        self.window
            .iter()
            .map(|e| &e.batch)
            .chain(self.requeued.iter().map(|u| &u.batch))
    }

    /// The batches whose answer is outstanding, oldest first.
    pub fn in_flight(&self) -> impl Iterator<Item = &B> {
        let in_flight = self.window.iter().filter(|entry| entry.in_flight);
        in_flight.map(|entry| &entry.batch)
    }

    /// The batches that have a number, oldest first.
    pub fn numbered(&self) -> impl Iterator<Item = &B> {
        self.window.iter().map(|entry| &entry.batch)
    }

    /// Whether the batch to be numbered anew next is of this kind, and whether none has a number now.
    pub fn next_requeued(&self, kind: impl Fn(&B) -> bool) -> (bool, bool) {
        let next = self.requeued.front().is_some_and(|unnumbered| kind(&unnumbered.batch));
        (next, self.window.is_empty())
    }

    /// The next action, given the newest identity that the producer has.
    pub fn step(&self, newest: Option<Identity>) -> Step {
        if let Some(held) = self.window.iter().position(|entry| !entry.in_flight) {
            if self.window.range(held + 1..).any(|entry| entry.in_flight) {
                return Step::Wait;
            }
            let entry = &self.window[held];
            return match self.holes_before(entry.ordinal) {
                // More entries than may be in flight occur only where a batch was split.
                Holes::None if entry.ordinal - self.window[0].ordinal >= self.in_flight_max => Step::Wait,
                Holes::None => Step::Resend,
                _ if held > 0 => Step::Wait,
                Holes::Open if entry.in_doubt => Step::Resend,
                _ => self.renumbering(),
            };
        }
        if !self.holes.is_empty() {
            return if self.window.is_empty() {
                self.renumbering()
            } else {
                Step::Wait
            };
        }
        if self
            .window
            .front()
            .is_some_and(|oldest| self.next_ordinal - oldest.ordinal >= self.in_flight_max)
        {
            return Step::Wait;
        }
        if self.idempotent && self.numbering.is_none() && newest.is_none() {
            return Step::Identify;
        }
        if self.requeued.is_empty() {
            Step::Admit
        } else {
            Step::Readmit
        }
    }

    fn renumbering(&self) -> Step {
        let (identity, _) = self.numbering.expect("only numbered batches leave holes");
        Step::Renumber(identity)
    }

    fn holes_before(&self, ordinal: u64) -> Holes {
        let mut found = Holes::None;
        for hole in self.holes.iter().filter(|hole| hole.before <= ordinal) {
            if !hole.sealed {
                return Holes::Open;
            }
            found = Holes::Sealed;
        }
        found
    }

    /// Numbers a new batch and counts it as sent. Only after [`Step::Admit`].
    pub fn admit(&mut self, batch: B, records: i32, newest: Option<Identity>) -> Ticket {
        assert!(
            self.holes.is_empty() && self.window.iter().all(|entry| entry.in_flight),
            "as step() said"
        );
        let stamp = self.next_stamp(records, newest);
        let ordinal = self.next_ordinal;
        self.next_ordinal += 1;
        let id = self.new_id();
        let entry = Entry {
            batch,
            records,
            id,
            ordinal,
            stamp,
            attempt: 0,
            in_flight: true,
            in_doubt: false,
        };
        self.window.push_back(entry);
        Ticket { id, attempt: 0 }
    }

    fn new_id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    /// Numbers the oldest batch that lost its number, and counts it as sent. Only after [`Step::Readmit`].
    pub fn readmit(&mut self, newest: Option<Identity>) -> Ticket {
        let Unnumbered { batch, records } = self.requeued.pop_front().expect("as step() said");
        self.admit(batch, records, newest)
    }

    /// Counts the oldest held entry as sent again. Only after [`Step::Resend`].
    pub fn resend(&mut self) -> Ticket {
        let entry = self
            .window
            .iter_mut()
            .find(|entry| !entry.in_flight)
            .expect("as step() said");
        entry.in_flight = true;
        entry.attempt += 1;
        Ticket {
            id: entry.id,
            attempt: entry.attempt,
        }
    }

    fn next_stamp(&mut self, records: i32, newest: Option<Identity>) -> Stamp {
        if !self.idempotent {
            return Stamp::NONE;
        }
        // With nothing unsettled the lane may adopt a newer identity that another lane needed.
        let adopt = match self.numbering {
            None => newest,
            Some((now, _)) if self.window.is_empty() => newest.filter(|newest| newest.generation > now.generation),
            Some(_) => None,
        };
        if let Some(identity) = adopt {
            self.numbering = Some((identity, Sequence(0)));
        }
        let (identity, next) = self.numbering.as_mut().expect("step() asked for an identity");
        let stamp = Stamp {
            id: identity.id,
            epoch: identity.epoch,
            sequence: *next,
        };
        *next = next.advance(records);
        stamp
    }

    /// A batch that was just sent, and its number.
    pub fn sent(&mut self, ticket: Ticket) -> (&mut B, Stamp) {
        let entry = self
            .window
            .iter_mut()
            .find(|entry| entry.id == ticket.id)
            .expect("just sent");
        (&mut entry.batch, entry.stamp)
    }

    /// Adopts a newer identity: the batches left in the window are absent and will be numbered anew, from sequence 0
    /// on.
    pub fn renumber(&mut self, identity: Identity) {
        assert!(!self.is_in_flight(), "nothing is renumbered while it is under way");
        assert!(
            self.numbering
                .is_none_or(|(before, _)| before.generation < identity.generation),
            "a newer identity"
        );
        while let Some(Entry { batch, records, .. }) = self.window.pop_back() {
            self.requeued.push_front(Unnumbered { batch, records });
        }
        self.holes.clear();
        self.numbering = Some((identity, Sequence(0)));
    }

    /// Takes an answer. `None`: the batch stays; otherwise it leaves. An answer to an attempt that was given up is ignored.
    pub fn answer(&mut self, ticket: Ticket, answer: Answer) -> Option<(B, End)> {
        let place = self.window.iter().position(|entry| entry.id == ticket.id)?;
        let entry = &mut self.window[place];
        if !entry.in_flight || entry.attempt != ticket.attempt {
            return None;
        }
        entry.in_flight = false;
        let (ordinal, in_doubt, first) = (entry.ordinal, entry.in_doubt, entry.stamp.sequence == Sequence(0));
        match answer {
            Answer::Appended => {
                // Batches before it are in the log, too, or it would not be.
                self.holes.retain(|hole| hole.before > ordinal);
                self.settle(place, End::Appended)
            }
            Answer::AppendedBefore => {
                if !in_doubt {
                    // The batch was never sent under this number, so the number is another batch's. The next answer is
                    // not to be trusted either.
                    self.open_hole(ordinal + 1, false);
                }
                self.settle(place, End::Appended)
            }
            Answer::Retry => None,
            Answer::Unknown => {
                entry.in_doubt = !planted::is(Bug::UnknownTakenForFailure);
                None
            }
            Answer::OutOfOrder | Answer::UnknownProducer if place > 0 => None,
            Answer::OutOfOrder => match self.holes_before(ordinal) {
                Holes::Open if in_doubt => self.give_up(place),
                Holes::Open | Holes::Sealed => None,
                Holes::None => self.give_up(place),
            },
            Answer::UnknownProducer if in_doubt || first => self.give_up(place),
            // The partition forgot the producer before this batch was settled: all are numbered anew.
            Answer::UnknownProducer => {
                self.open_hole(ordinal, true);
                None
            }
            Answer::FencedByUs if in_doubt => self.give_up(place),
            Answer::FencedByUs => {
                self.open_hole(ordinal, true);
                None
            }
            // Nothing was numbered behind it, and no attempt is left that could still use its number.
            Answer::ConditionFailed if !in_doubt && ordinal + 1 == self.next_ordinal && self.holes.is_empty() => {
                if let Some((_, next)) = &mut self.numbering {
                    *next = self.window[place].stamp.sequence;
                }
                self.settle(place, End::Absent)
            }
            Answer::Refused | Answer::ConditionFailed => self.give_up(place),
        }
    }

    /// Whether the batch of this attempt, which was refused as too large, may be sent in parts: nothing of it is in the log.
    pub fn is_absent(&self, ticket: Ticket) -> bool {
        let entry = self.window.iter().find(|entry| entry.id == ticket.id);
        self.is_current(ticket) && entry.is_some_and(|entry| !entry.in_doubt)
    }

    /// Puts the batch's parts, with their numbers of records, in its place. Only if [`Lane::is_absent`].
    pub fn split(&mut self, ticket: Ticket, split: impl FnOnce(B) -> Vec<(B, i32)>) {
        assert!(self.is_absent(ticket), "what may be in the log stays whole");
        let place = self.window.iter().position(|entry| entry.id == ticket.id);
        let place = place.expect("it is under way");
        let Entry {
            batch,
            records: whole,
            mut ordinal,
            mut stamp,
            ..
        } = self.window.remove(place).expect("just found");
        let parts = split(batch);
        let sum: i32 = parts.iter().map(|(_, records)| records).sum();
        assert_eq!(sum, whole, "the parts have the numbers of the whole");
        let more = parts.len() as u64 - 1;
        let behind = self.window.iter_mut().skip(place);
        behind.for_each(|entry| entry.ordinal += more);
        let holes = self.holes.iter_mut().filter(|hole| hole.before > ordinal);
        holes.for_each(|hole| hole.before += more);
        self.next_ordinal += more;
        for (nth, (batch, records)) in parts.into_iter().enumerate() {
            let entry = Entry {
                batch,
                records,
                id: self.new_id(),
                ordinal,
                stamp,
                attempt: 0,
                in_flight: false,
                in_doubt: false,
            };
            self.window.insert(place + nth, entry);
            ordinal += 1;
            if self.idempotent {
                stamp.sequence = stamp.sequence.advance(records);
            }
        }
    }

    /// Counts all attempts under way as lost.
    pub fn lose_in_flight(&mut self) {
        for entry in self.window.iter_mut().filter(|entry| entry.in_flight) {
            entry.in_flight = false;
            entry.in_doubt = true;
        }
    }

    /// Gives up the batches, oldest first, whose time is over.
    pub fn expire(&mut self, is_over: impl Fn(&B) -> bool) -> Vec<(B, End)> {
        let mut given_up = Vec::new();
        while self.window.front().is_some_and(|entry| is_over(&entry.batch)) {
            // An attempt that is under way may still arrive.
            self.window[0].in_doubt |= self.window[0].in_flight;
            given_up.extend(self.give_up(0));
        }
        if self.window.is_empty() {
            while self
                .requeued
                .front()
                .is_some_and(|unnumbered| is_over(&unnumbered.batch))
            {
                given_up.extend(
                    self.requeued
                        .pop_front()
                        .map(|unnumbered| (unnumbered.batch, End::Absent)),
                );
            }
        }
        given_up
    }

    /// Gives up everything, oldest first.
    pub fn clear(&mut self) -> Vec<(B, End)> {
        self.expire(|_| true)
    }

    /// Gives up everything, oldest first, and begins anew with the next identity: what is still under way is fenced by that.
    pub fn reset(&mut self) -> Vec<(B, End)> {
        let given_up = self.clear();
        self.holes.clear();
        self.numbering = None;
        given_up
    }

    fn settle(&mut self, place: usize, end: End) -> Option<(B, End)> {
        self.window.remove(place).map(|entry| (entry.batch, end))
    }

    fn give_up(&mut self, place: usize) -> Option<(B, End)> {
        let Entry { ordinal, in_doubt, .. } = self.window[place];
        self.open_hole(ordinal + 1, !in_doubt);
        self.settle(place, if in_doubt { End::InDoubt } else { End::Absent })
    }

    fn open_hole(&mut self, before: u64, sealed: bool) {
        if self.idempotent {
            self.holes.push(Hole { before, sealed });
        }
    }
}

/// The kind of hole before an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Holes {
    None,
    /// Only sealed holes: nothing can fill them any more.
    Sealed,
    /// An open hole: an attempt under way may still fill it.
    Open,
}

#[cfg(test)]
#[path = "lane_tests.rs"]
mod tests;
