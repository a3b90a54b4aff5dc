//! What has come of a slot's messages since its leader began.

use crate::state::{DeadReason, DoneCause};

/// Counts that only grow while one leader has a slot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Messages that were appended for the slot.
    pub sent: u64,
    /// Messages that were refused, as the queue was full.
    pub refused_full: u64,
    /// Messages that were handed out.
    pub delivered: u64,
    /// Of these, messages that were handed out before.
    pub redelivered: u64,
    /// Messages that became dead, by reason, in the order of [`DeadReason::ALL`].
    pub dead: [u64; DeadReason::ALL.len()],
    /// Messages that became done one by one, by cause, in the order of [`DoneCause::ALL`]; not those of a purge.
    pub done: [u64; DoneCause::ALL.len()],
    /// Bytes of records that were appended again.
    pub carried_bytes: u64,
    /// Receives that ended without messages, as consumers had as many as they may.
    pub in_flight_full: u64,
}

impl Tally {
    /// Every count with its place, to compare two tallies or to add one up.
    pub fn each_mut(&mut self) -> impl Iterator<Item = &mut u64> {
        let Self {
            sent,
            refused_full,
            delivered,
            redelivered,
            dead,
            done,
            carried_bytes,
            in_flight_full,
        } = self;
        let single = [
            sent,
            refused_full,
            delivered,
            redelivered,
            carried_bytes,
            in_flight_full,
        ];
        single.into_iter().chain(dead).chain(done)
    }

    /// What was added since an earlier tally of the same leader.
    #[must_use]
    pub fn since(mut self, mut before: Self) -> Self {
        for (count, before) in self.each_mut().zip(before.each_mut()) {
            *count = count.saturating_sub(*before);
        }
        self
    }

    /// Adds what another one counted.
    pub fn add(&mut self, mut more: Self) {
        for (count, more) in self.each_mut().zip(more.each_mut()) {
            *count += *more;
        }
    }

    /// How many became dead for a reason.
    pub fn dead(&self, reason: DeadReason) -> u64 {
        let known = DeadReason::ALL.iter().zip(self.dead);
        known
            .filter(|(known, _)| **known == reason)
            .map(|(_, count)| count)
            .sum()
    }

    /// How many became done by a cause.
    pub fn done(&self, cause: DoneCause) -> u64 {
        let known = DoneCause::ALL.iter().zip(self.done);
        known
            .filter(|(known, _)| **known == cause)
            .map(|(_, count)| count)
            .sum()
    }

    /// A message was handed out, so often in all.
    pub(super) fn delivered(&mut self, deliveries: u16) {
        self.delivered += 1;
        self.redelivered += u64::from(deliveries > 1);
    }

    /// A message became dead.
    pub(super) fn died(&mut self, reason: DeadReason) {
        let mut known = DeadReason::ALL.iter().zip(&mut self.dead);
        if let Some((_, count)) = known.find(|(known, _)| **known == reason) {
            *count += 1;
        }
    }

    /// A message became done.
    pub(super) fn ended(&mut self, cause: DoneCause) {
        let mut known = DoneCause::ALL.iter().zip(&mut self.done);
        if let Some((_, count)) = known.find(|(known, _)| **known == cause) {
            *count += 1;
        }
    }
}
