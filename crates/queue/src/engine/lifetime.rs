//! What has an end besides its settlement: dead messages, the time to live of messages that come back, and a queue that nobody uses.

use std::cmp::Reverse;

use jangada_machine::Now;

use crate::engine::acts::{ACTS_MAX, Act, Change};
use crate::engine::desk::{Desk, Ready};
use crate::engine::io::{Input, Output, Rows};
use crate::engine::step::Engine;
use crate::engine::walk::View;
use crate::ids::SlotId;
use crate::state::{DoneCause, HeldState, Slot, Slots};
use crate::tables::MarkRow;

/// Dead messages are looked at so often, milliseconds.
const SWEEP_MS: u64 = 60_000;
/// Held messages that one step looks at.
const SWEEP_MESSAGES: usize = 10_000;

impl Desk {
    /// A row with the time to live of a message that came back.
    pub(super) fn expiry_read(&mut self, slot: &Slot, offset: u64, rows: &Rows) {
        let of_row = |row: &MarkRow| match row {
            MarkRow::Batch { base, marks } if *base <= offset => {
                marks.unpack().0.get((offset - base) as usize).cloned()
            }
            _ => None,
        };
        let mark = rows.rows.first().and_then(of_row).unwrap_or_default();
        self.expiries.read(offset, mark.expires_at_ms);
        let lane = if self.policy.has_lanes { mark.lane } else { 0 };
        let place = (Reverse(lane), slot.origin(offset));
        if let Some(ready) = self.returned.get_mut(&place).filter(|ready| ready.offset == offset) {
            ready.expires_at_ms = mark.expires_at_ms;
        }
    }

    /// Messages that wait to go out alone expire like others.
    pub(super) fn expire_alone(&mut self, view: &View<'_>, acts: &mut Vec<Act>) {
        let timed = self
            .alone
            .values()
            .filter(|ready| ready.expires_at_ms != 0 && !self.busy.contains(&ready.offset));
        let over = timed.filter_map(|ready| Some((*ready, self.verdict(view, ready)?)));
        let over: Vec<(Ready, Change)> = over.collect();
        for (ready, change) in over {
            self.withhold(&ready);
            self.turn_into(view, ready, change, acts);
        }
    }

    /// Dead messages beyond the limit, and those that have been dead for too long, are done. Says whether there are more.
    pub(super) fn sweep(&mut self, view: &View<'_>, acts: &mut Vec<Act>) -> bool {
        self.expiries.forget_done(view.slot);
        let dead = view.slot.counts().dead;
        let most = self.policy.dead_max.unwrap_or(u64::MAX);
        let (ttl_ms, has_ttl) = (
            self.policy.dead_ttl_ms.unwrap_or(u64::MAX),
            self.policy.dead_ttl_ms.is_some(),
        );
        if dead <= most {
            self.sweep_over_from = 0;
        }
        if dead == 0 || (dead <= most && !has_ttl) {
            self.sweep_at_ms = None;
            return false;
        }
        if acts.len() >= ACTS_MAX {
            // The next command is under way by then.
            return false;
        }
        let monotonic_ms = view.now.monotonic_ms;
        // What a command under way does about it is not known here, and what is on its way to another topic goes by itself.
        let mut over = if self.purging == 0 {
            dead.saturating_sub(most.saturating_add(self.forwarder.moving.len() as u64))
        } else {
            0
        };
        if over == 0 && self.sweep_at_ms.is_some_and(|at| at > monotonic_ms) {
            return false;
        }
        // The oldest go, wherever the walk for those that are too old is.
        let is_over = over > 0;
        let from = if is_over { self.sweep_over_from } else { self.sweep_from };
        let (mut looked, mut last) = (0, None);
        let mut over_ripe: Vec<Ready> = Vec::new();
        for (offset, held) in view.slot.held_from(from).take(SWEEP_MESSAGES) {
            (looked, last) = (looked + 1, Some(offset));
            if held.state != HeldState::Dead || self.busy.contains(&offset) || self.carrying.contains(&offset) {
                continue;
            }
            let is_old = view
                .wall_ms
                .is_some_and(|wall_ms| held.at_ms.saturating_add(ttl_ms) <= wall_ms);
            if is_old || over > 0 {
                over = over.saturating_sub(1);
                over_ripe.push(Self::ready_of(view.slot, offset, Some(held)));
            }
        }
        self.purging += over_ripe.len();
        for ready in over_ripe {
            self.turn_into(view, ready, Change::Done(DoneCause::Purged), acts);
        }
        let has_more = looked == SWEEP_MESSAGES;
        let next = last.filter(|_| has_more).map_or(0, |last| last + 1);
        if is_over {
            // It goes on from here, and not before what it has found is done.
            let has_found = self.purging > 0;
            self.sweep_over_from = if has_found { from } else { next };
            return has_more && !has_found;
        }
        self.sweep_from = next;
        if !has_more {
            self.sweep_at_ms = Some(monotonic_ms + SWEEP_MS);
        }
        has_more
    }

    /// A purge of the engine itself is over.
    pub(super) fn purged(&mut self, change: Change) {
        if change == Change::Done(DoneCause::Purged) {
            self.purging = self.purging.saturating_sub(1);
        }
    }

    /// Somebody uses the queue: who consumes, settles, sends, administers it, or changes its settings.
    pub(super) fn used(&mut self, monotonic_ms: u64) {
        (self.used_at_ms, self.is_told_unused) = (monotonic_ms, false);
    }

    /// Somebody waits for messages, has some, or sends some right now.
    fn is_in_use(&self, slot: &Slot) -> bool {
        self.consumers.iter().next().is_some()
            || slot.counts().leased + slot.counts().staged > 0
            || self.sending.messages > 0
    }

    /// When the queue has not been used for so long that it is to go.
    pub(super) fn unused_at_ms(&self) -> Option<u64> {
        let after_ms = self.policy.unused_max_ms.filter(|_| !self.is_told_unused)?;
        Some(self.used_at_ms.saturating_add(after_ms))
    }

    /// Says once that nobody has used the queue for as long as its setting says.
    pub(super) fn tell_unused(&mut self, view: &View<'_>, out: &mut Vec<Output>) {
        let monotonic_ms = view.now.monotonic_ms;
        if self.policy.unused_max_ms.is_some() && self.is_in_use(view.slot) {
            return self.used(monotonic_ms);
        }
        if self.unused_at_ms().is_some_and(|at| at <= monotonic_ms) {
            self.is_told_unused = true;
            out.push(Output::Unused { slot: view.id });
        }
    }
}

impl Engine {
    /// Nobody uses the queue of a slot, as [`Output::Unused`] has said of it, and nobody has since.
    pub fn is_unused(&self, slots: &Slots, id: SlotId) -> bool {
        let (Some(desk), Some(slot)) = (self.desks.get(&id), slots.slot(id)) else {
            return false;
        };
        desk.is_told_unused && !desk.is_in_use(slot)
    }

    /// An input shows that somebody uses a queue.
    pub(super) fn note_use(&mut self, input: &Input, now: Now) {
        let slot = match input {
            Input::Attach { slot, .. } | Input::Receive { slot, .. } | Input::Settle { slot, .. } => Some(*slot),
            Input::Sent {
                slot,
                is_appended: true,
                ..
            } => Some(*slot),
            Input::Administer { section, .. } => section.slot(),
            _ => None,
        };
        if let Some(desk) = slot.and_then(|slot| self.desks.get_mut(&slot)) {
            desk.used(now.monotonic_ms);
        }
    }
}
