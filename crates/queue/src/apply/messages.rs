//! What becomes of single messages of a slot.
//!
//! ```text
//!            grant              Done: acked
//!   free ------------> leased ---------------> done
//!    ^ |                | | |
//!    | +- expired,      | | +-- failed too often, rejected --> dead -- Moving, Moved --> done
//!    |    cancelled     | |                                     |
//!    |    --> done      | +-- Retry --> waiting -- grant --> leased
//!    +---- Release -----+                                       |
//!    +---------------------------- Redrive ---------------------+
//! ```

use jangada_types::planted::{self, Bug};

use crate::ids::{AttemptId, LeaseId, SessionId};
use crate::limits::SPAN_MAX;
use crate::reply::SectionRefused;
use crate::runs::Runs;
use crate::state::{DeadReason, DoneCause, Forwarding, Held, HeldState, Lease, MessageState, Slot};

/// Who is granted messages, and how.
pub(super) struct Grant<'a> {
    pub id: LeaseId,
    pub session: SessionId,
    pub attempt: AttemptId,
    pub now_ms: u64,
    pub duration_ms: u64,
    pub keys: &'a [u64],
    pub lanes: &'a [u32],
}

/// How messages die.
pub(super) struct Death {
    pub reason: DeadReason,
    pub now_ms: u64,
    pub failed: bool,
}

impl Slot {
    /// Takes each message, or says which were refused.
    pub(super) fn each(&mut self, messages: &Runs, mut take: impl FnMut(&mut Self, usize, u64) -> bool) -> Runs {
        let mut refused = Runs::default();
        for (at, offset) in messages.offsets().enumerate() {
            if !take(self, at, offset) {
                refused.push(offset);
            }
        }
        refused
    }

    pub(super) fn grant(&mut self, ends: (u64, u64), grant: &Grant<'_>, messages: &Runs) -> Runs {
        let lease = Lease {
            session: grant.session,
            attempt: grant.attempt,
            duration_ms: grant.duration_ms,
            left: 0,
        };
        let mut left = 0;
        let refused = self.each(messages, |slot, at, offset| {
            if offset.saturating_sub(slot.floor) >= SPAN_MAX {
                return false;
            }
            let (failures, deliveries, reason) = match slot.decided_state(offset, ends) {
                MessageState::Free => (0, 0, None),
                MessageState::Held(held) => match held.state {
                    HeldState::Waiting => (held.failures, held.deliveries, held.reason),
                    // The lease ran out: only then the leader grants it again.
                    HeldState::Leased if planted::is(Bug::AttemptsForgotten) => (0, 0, None),
                    HeldState::Leased => (held.failures.saturating_add(1), held.deliveries, held.reason),
                    HeldState::Dead | HeldState::Moving | HeldState::Staged => return false,
                },
                MessageState::Beyond | MessageState::Done => return false,
            };
            let held = Held {
                lease: grant.id,
                key: grant.keys.get(at).copied().unwrap_or(0),
                at_ms: grant.now_ms.saturating_add(grant.duration_ms),
                failures,
                deliveries: deliveries.saturating_add(1),
                state: HeldState::Leased,
                lane: grant.lanes.get(at).map_or(0, |lane| *lane as u8),
                reason,
            };
            slot.hold(offset, held);
            left += 1;
            true
        });
        if left > 0 {
            self.leases.insert(grant.id.get(), Lease { left, ..lease });
        }
        refused
    }

    pub(super) fn settle(&mut self, ends: (u64, u64), cause: DoneCause, messages: &Runs) -> Runs {
        self.each(messages, |slot, _, offset| {
            let fits = match slot.decided_state(offset, ends) {
                // Its sender may cancel what is not decided, and it is for no slot whatever is decided.
                MessageState::Beyond if offset < ends.1 => {
                    matches!(cause, DoneCause::Cancelled | DoneCause::NotRouted)
                }
                MessageState::Free => !matches!(cause, DoneCause::Acked | DoneCause::Forwarded | DoneCause::Purged),
                MessageState::Held(held) => match held.state {
                    // One whose lease has run out may expire.
                    HeldState::Leased => matches!(cause, DoneCause::Acked | DoneCause::Expired | DoneCause::Void),
                    HeldState::Waiting => matches!(
                        cause,
                        DoneCause::Expired | DoneCause::Cancelled | DoneCause::Length | DoneCause::Void
                    ),
                    HeldState::Dead => cause == DoneCause::Purged,
                    HeldState::Moving | HeldState::Staged => false,
                },
                MessageState::Beyond | MessageState::Done => false,
            };
            if fits {
                slot.finish(offset, cause);
            }
            fits
        })
    }

    fn leased(&self, offset: u64) -> Option<Held> {
        let held = self.held.get(offset)?;
        (held.state == HeldState::Leased).then_some(*held)
    }

    pub(super) fn retry(&mut self, messages: &Runs, delays_ms: &[u64], now_ms: u64, failed: bool) -> Runs {
        self.each(messages, |slot, at, offset| {
            let Some(held) = slot.leased(offset) else {
                return false;
            };
            let waiting = Held {
                lease: LeaseId::NONE,
                at_ms: now_ms.saturating_add(delays_ms[at]),
                failures: held.failures.saturating_add(u16::from(failed)),
                state: HeldState::Waiting,
                ..held
            };
            slot.hold(offset, waiting);
            true
        })
    }

    pub(super) fn release(&mut self, messages: &Runs, now_ms: u64, unseen: bool) -> Runs {
        self.each(messages, |slot, _, offset| {
            let Some(held) = slot.leased(offset) else {
                return false;
            };
            slot.give_back(offset, held, now_ms, unseen);
            true
        })
    }

    /// A message that somebody had goes out again at once.
    pub(super) fn give_back(&mut self, offset: u64, held: Held, now_ms: u64, unseen: bool) {
        let deliveries = held.deliveries - u16::from(unseen);
        if deliveries == 0 && held.failures == 0 && held.reason.is_none() {
            self.unhold(offset);
            return;
        }
        let waiting = Held {
            lease: LeaseId::NONE,
            at_ms: now_ms,
            deliveries,
            state: HeldState::Waiting,
            ..held
        };
        self.hold(offset, waiting);
    }

    pub(super) fn extend(&mut self, messages: &Runs, deadline_ms: u64) -> Runs {
        self.each(messages, |slot, _, offset| match slot.held.get_mut(offset) {
            Some(held) if held.state == HeldState::Leased => {
                held.at_ms = deadline_ms;
                true
            }
            _ => false,
        })
    }

    pub(super) fn kill(
        &mut self,
        ends: (u64, u64),
        messages: &Runs,
        death: &Death,
        (keys, lanes): (&[u64], &[u32]),
    ) -> Runs {
        self.each(messages, |slot, at, offset| {
            let before = match slot.decided_state(offset, ends) {
                MessageState::Free => Held {
                    lease: LeaseId::NONE,
                    key: keys.get(at).copied().unwrap_or(0),
                    at_ms: 0,
                    failures: 0,
                    deliveries: 0,
                    state: HeldState::Dead,
                    lane: lanes.get(at).map_or(0, |lane| *lane as u8),
                    reason: None,
                },
                MessageState::Held(held) => match held.state {
                    HeldState::Leased | HeldState::Waiting => *held,
                    HeldState::Dead | HeldState::Moving | HeldState::Staged => return false,
                },
                MessageState::Beyond | MessageState::Done => return false,
            };
            let dead = Held {
                lease: LeaseId::NONE,
                at_ms: death.now_ms,
                failures: before.failures.saturating_add(u16::from(death.failed)),
                state: HeldState::Dead,
                reason: Some(death.reason),
                ..before
            };
            slot.hold(offset, dead);
            true
        })
    }

    /// A batch of dead messages goes to another topic: of those on their way the same again, by another producer or sequence.
    pub(super) fn forward(&mut self, messages: &Runs, producer: i64, sequence: u32) -> Runs {
        let from = match self.forwarding {
            None => HeldState::Dead,
            Some(_) => HeldState::Moving,
        };
        let refused = self.each(messages, |slot, _, offset| match slot.held.get(offset) {
            Some(held) if held.state == from => {
                let moving = Held {
                    state: HeldState::Moving,
                    ..*held
                };
                slot.hold(offset, moving);
                true
            }
            _ => false,
        });
        if refused.len() < messages.len() {
            self.forwarding = Some(Forwarding { producer, sequence });
        }
        refused
    }

    pub(super) fn forwarded(&mut self, arrived: bool) -> Result<Runs, SectionRefused> {
        self.forwarding.take().ok_or(SectionRefused::NotMoving)?;
        let moving = self.held.iter().filter(|(_, held)| held.state == HeldState::Moving);
        let moving: Vec<(u64, Held)> = moving.map(|(offset, held)| (offset, *held)).collect();
        for (offset, held) in moving {
            if arrived {
                self.finish(offset, DoneCause::Forwarded);
            } else {
                let dead = Held {
                    state: HeldState::Dead,
                    ..held
                };
                self.hold(offset, dead);
            }
        }
        Ok(Runs::default())
    }

    /// Letters are messages again, as if they had never been handed out. One that had expired would do so at once: it keeps the reason,
    /// and has no time to live any more.
    pub(super) fn redrive(&mut self, messages: &Runs, now_ms: u64) -> Runs {
        self.each(messages, |slot, _, offset| match slot.held.get(offset) {
            Some(held) if held.state == HeldState::Dead && held.reason == Some(DeadReason::Expired) => {
                let waiting = Held {
                    at_ms: now_ms,
                    failures: 0,
                    deliveries: 0,
                    state: HeldState::Waiting,
                    ..*held
                };
                slot.hold(offset, waiting);
                true
            }
            Some(held) if held.state == HeldState::Dead => {
                slot.unhold(offset);
                true
            }
            _ => false,
        })
    }

    /// What is free below the offset is not this slot's.
    pub(super) fn skip(&mut self, to: u64) -> Runs {
        let mut at = self.next_undone(self.floor);
        while at < to {
            if self.held.get(at).is_none() {
                self.finish(at, DoneCause::NotRouted);
            }
            at = self.next_undone(at + 1);
        }
        Runs::default()
    }
}
