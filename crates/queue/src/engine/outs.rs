//! The messages of a slot that are leased: until when, and who has them. There may be 100,000, so what is equal for all messages of a
//! grant is kept once, and there is no list of deadlines beside: each block of messages knows a time before which none of its leases runs
//! out.

use crate::engine::consumers::Waiter;
use crate::ids::SessionId;
use crate::state::blocks::{Blocks, Timed};

/// The deadline of a lease that has run out.
pub(super) const PASSED: u64 = u64::MAX;

/// A message that is leased.
#[derive(Clone, Copy, Debug)]
pub(super) struct Out {
    /// On the monotonic clock, milliseconds; [`PASSED`]: it goes out again.
    pub deadline: u64,
    /// Whom it was given to, if that is known.
    pub waiter: Option<Waiter>,
    pub session: SessionId,
}

/// What is kept of it: 12 bytes, for a word of eight is aligned to four here.
#[derive(Clone, Copy, Debug)]
#[repr(C, packed(4))]
struct Kept {
    deadline: u64,
    grant: u32,
}

impl Timed for Kept {
    fn time(&self) -> u64 {
        self.deadline
    }
}

/// What messages were given together.
#[derive(Clone, Copy, Debug)]
struct Given {
    session: SessionId,
    waiter: Option<Waiter>,
    /// So many of them are leased still. None: the place is free.
    left: u32,
}

/// Names messages that were given together.
#[derive(Clone, Copy, Debug)]
pub(super) struct GrantId(u32);

/// The messages that are leased.
#[derive(Debug, Default)]
pub(super) struct Outs {
    messages: Blocks<Kept>,
    grants: Vec<Given>,
    free: Vec<u32>,
    /// Leases that have run out.
    run_out: usize,
}

impl Outs {
    /// How many leases have run out, of messages that nobody has settled or got since.
    pub(super) fn run_out(&self) -> usize {
        self.run_out
    }

    fn shown(&self, kept: Kept) -> Out {
        let Given { session, waiter, .. } = self.grants[kept.grant as usize];
        Out {
            deadline: kept.deadline,
            waiter,
            session,
        }
    }

    pub(super) fn get(&self, offset: u64) -> Option<Out> {
        self.messages.get(offset).map(|kept| self.shown(*kept))
    }

    /// All of them, in ascending order.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u64, Out)> {
        self.messages.iter().map(|(offset, kept)| (offset, self.shown(*kept)))
    }

    /// Messages are given together, to be put with what this gives.
    pub(super) fn give(&mut self, session: SessionId, waiter: Option<Waiter>) -> GrantId {
        let given = Given {
            session,
            waiter,
            left: 0,
        };
        if let Some(at) = self.free.pop() {
            self.grants[at as usize] = given;
            return GrantId(at);
        }
        let at = u32::try_from(self.grants.len()).expect("a slot has fewer leases");
        if self.grants.len() == self.grants.capacity() {
            // Not the double: what lies unused counts as much as what is used.
            self.grants.reserve_exact(self.grants.len() / 4 + 4);
        }
        self.grants.push(given);
        GrantId(at)
    }

    /// Puts a message that is not there.
    pub(super) fn insert(&mut self, offset: u64, deadline: u64, grant: GrantId) {
        let kept = Kept {
            deadline,
            grant: grant.0,
        };
        self.grants[grant.0 as usize].left += 1;
        let before = self.messages.insert(offset, kept);
        debug_assert!(before.is_none(), "a message is with one session");
    }

    pub(super) fn remove(&mut self, offset: u64) -> Option<Out> {
        let kept = self.messages.remove(offset)?;
        let out = self.shown(kept);
        self.run_out -= usize::from(out.deadline == PASSED);
        let given = &mut self.grants[kept.grant as usize];
        given.left -= 1;
        if self.messages.len() == 0 {
            (self.grants, self.free) = (Vec::new(), Vec::new());
        } else if given.left == 0 {
            self.free.push(kept.grant);
        }
        Some(out)
    }

    /// A message has another offset now.
    pub(super) fn carry(&mut self, old: u64, new: u64) {
        if let Some(kept) = self.messages.remove(old) {
            self.messages.insert(new, kept);
        }
    }

    /// The deadline of a message is another one.
    pub(super) fn set_deadline(&mut self, offset: u64, deadline: u64) {
        if let Some(kept) = self.messages.get(offset).copied() {
            self.run_out -= usize::from(kept.deadline == PASSED);
            self.run_out += usize::from(deadline == PASSED);
            self.messages.insert(offset, Kept { deadline, ..kept });
        }
    }

    /// No lease runs out earlier; it may be that none does just then.
    pub(super) fn next_ms(&self) -> Option<u64> {
        Some(self.messages.least_time()).filter(|at| *at != PASSED)
    }

    /// The messages whose leases run out by now, by their deadlines. They have from now on.
    pub(super) fn run_out_by(&mut self, monotonic_ms: u64) -> Vec<u64> {
        let over = self.messages.take_times(monotonic_ms);
        over.into_iter()
            .map(|(_, offset)| {
                self.set_deadline(offset, PASSED);
                offset
            })
            .collect()
    }

    /// Whoever has a message gives way to another stream or receive of its session, with all that was given together with it. Says who it
    /// was, and how many messages these are.
    pub(super) fn hand_to(&mut self, offset: u64, waiter: Waiter) -> Option<(Option<Waiter>, u32)> {
        let grant = self.messages.get(offset)?.grant;
        let given = &mut self.grants[grant as usize];
        Some((given.waiter.replace(waiter), given.left))
    }

    /// The same of all that a session has.
    pub(super) fn hand_all_to(&mut self, session: SessionId, waiter: Waiter) -> Vec<(Option<Waiter>, u32)> {
        let grants = self.grants.iter_mut();
        let theirs = grants.filter(|given| given.left > 0 && given.session == session);
        theirs.map(|given| (given.waiter.replace(waiter), given.left)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::io::{ConsumerId, RequestId};

    #[test]
    fn what_is_given_together_is_kept_once() {
        let mut outs = Outs::default();
        let (one, other) = (Waiter::Stream(ConsumerId(1)), Waiter::Once(RequestId(2)));
        let first = outs.give(SessionId(1), Some(one));
        (0..3).for_each(|offset| outs.insert(offset, 10 + offset, first));
        let second = outs.give(SessionId(2), None);
        outs.insert(7, 11, second);
        assert_eq!((outs.next_ms(), outs.run_out_by(9)), (Some(10), vec![]));
        assert_eq!(
            (outs.run_out_by(11), outs.run_out()),
            (vec![0, 1, 7], 3),
            "by their deadlines"
        );
        assert_eq!(outs.next_ms(), Some(12));
        outs.set_deadline(0, 20);
        assert_eq!((outs.run_out(), outs.next_ms()), (2, Some(12)));
        assert_eq!(outs.hand_to(1, other), Some((Some(one), 3)));
        assert_eq!(outs.get(2).and_then(|out| out.waiter), Some(other));
        outs.carry(2, 12);
        assert!(outs.get(2).is_none() && outs.get(12).is_some_and(|out| out.deadline == 12));
        outs.carry(12, 2);
        assert_eq!(outs.hand_all_to(SessionId(1), one), vec![(Some(other), 3)]);
        (0..3).for_each(|offset| assert!(outs.remove(offset).is_some_and(|out| out.session == SessionId(1))));
        let third = outs.give(SessionId(3), None);
        assert_eq!(
            (third.0, outs.iter().count(), outs.run_out()),
            (first.0, 1, 1),
            "its place is free"
        );
        assert!(outs.remove(7).is_some() && outs.remove(7).is_none());
        assert_eq!((outs.grants.len(), outs.run_out()), (0, 0));
    }
}
