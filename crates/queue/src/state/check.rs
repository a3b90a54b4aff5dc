//! What holds of every state, whatever commands made it.

use super::held::{DeadReason, HeldState, SlotKind};
use super::slot::{Counts, Slot};
use super::slots::Slots;
use crate::ids::SlotId;
use std::collections::BTreeMap;

impl Slots {
    /// Checks the invariants of the state against each other, with the partition's next offset. For tests, and for whoever doubts.
    ///
    /// # Errors
    /// The first invariant that does not hold, with the slot.
    pub fn check(&self, log_start: u64, next: u64) -> Result<(), String> {
        for (id, slot) in &self.slots {
            slot.check(next).map_err(|error| format!("slot {id}: {error}"))?;
            let mut staged: Vec<u64> = self.undecided.staged_of(*id).collect();
            staged.sort_unstable();
            let are_held = slot.held.iter().filter(|(_, held)| held.state == HeldState::Staged);
            if !are_held.map(|(offset, _)| offset).eq(staged.iter().copied()) {
                return Err(format!(
                    "slot {id}: {staged:?} are staged, and not all of them are held so"
                ));
            }
            let mut beyond = slot.held.from(self.undecided.first().unwrap_or(next));
            if let Some((offset, held)) = beyond.find(|(offset, _)| self.undecided.has_sent(*offset)) {
                return Err(format!("slot {id}: {offset} is not decided, and is {held:?}"));
            }
            if slot.kind != SlotKind::Group && slot.floor < log_start {
                return Err(format!(
                    "slot {id}: the log starts at {log_start}, above the floor {}",
                    slot.floor
                ));
            }
            if id.get() > self.last_slot {
                return Err(format!("slot {id} is above the last number {}", self.last_slot));
            }
        }
        self.undecided.check(next)?;
        let is_open = |id: SlotId| self.slots.contains_key(&id);
        if (self.slots.is_empty() && !self.undecided.is_empty()) || !self.undecided.slots().all(is_open) {
            return Err("a transaction is known of no slot".to_owned());
        }
        let bytes: usize = self.slots.values().map(Slot::state_bytes).sum();
        let bytes = bytes + self.undecided.bytes();
        if bytes != self.bytes {
            return Err(format!("{} bytes are counted, there are {bytes}", self.bytes));
        }
        if let Some((key, _)) = self
            .schedules
            .iter()
            .find(|((slot, _), _)| !self.slots.contains_key(slot))
        {
            return Err(format!("the schedule {key:?} is of no slot"));
        }
        if self.marks_end > next || self.carried_end > next {
            return Err(format!(
                "marks to {}, carried to {} of {next}",
                self.marks_end, self.carried_end
            ));
        }
        Ok(())
    }
}

impl Slot {
    fn check(&self, next: u64) -> Result<(), String> {
        if self.floor < self.start || self.floor > next {
            return Err(format!("the floor {} is outside of {}..{next}", self.floor, self.start));
        }
        if self.done.contains(self.floor) {
            return Err(format!("the floor {} is done", self.floor));
        }
        if self.done.last().is_some_and(|last| last >= next) {
            return Err("what is beyond the end is done".to_owned());
        }
        if self.floor > 0 && self.done.count(0, self.floor - 1) > 0 {
            return Err("what is below the floor is done by itself".to_owned());
        }
        let mut counts = Counts::default();
        let mut left = BTreeMap::new();
        for (offset, held) in self.held.iter() {
            if offset < self.floor || offset >= next || self.done.contains(offset) {
                return Err(format!("{offset} is held, and done or not there"));
            }
            match held.state {
                HeldState::Leased => {
                    counts.leased += 1;
                    *left.entry(held.lease.get()).or_insert(0) += 1;
                }
                HeldState::Waiting => counts.waiting += 1,
                HeldState::Dead | HeldState::Moving => counts.dead += 1,
                HeldState::Staged => counts.staged += 1,
            }
            let is_dead = matches!(held.state, HeldState::Dead | HeldState::Moving);
            // One that had expired when it was dead, and lives again, keeps that.
            let is_right = match held.reason {
                None => !is_dead,
                Some(reason) => is_dead || reason == DeadReason::Expired,
            };
            if !is_right {
                return Err(format!(
                    "{offset} is {:?} with the reason {:?}",
                    held.state, held.reason
                ));
            }
            if held.state == HeldState::Moving && self.forwarding.is_none() {
                return Err(format!("{offset} moves, and nothing is forwarded"));
            }
        }
        if counts != self.counts {
            return Err(format!("{:?} are counted, there are {counts:?}", self.counts));
        }
        let leases: BTreeMap<u64, u32> = self.leases.iter().map(|(id, lease)| (id, lease.left)).collect();
        if leases != left {
            return Err(format!("leases {leases:?}, messages {left:?}"));
        }
        for (offset, place) in self.aliases.iter() {
            let is_leased = self.held.get(place).is_some_and(|held| held.state == HeldState::Leased);
            if offset >= place || !is_leased {
                return Err(format!("{offset} leads to {place}, which is not leased, or before it"));
            }
        }
        for (offset, origin) in self.origins.iter() {
            if !self.keeps_order() || origin.origin >= offset || offset < self.floor || self.done.contains(offset) {
                return Err(format!("{offset} has the origin {}", origin.origin));
            }
        }
        // Of a damaged state they may be any numbers.
        let settled = self.settled.iter().copied().fold(0, u64::saturating_add);
        let all = next - self.start;
        if self.undone(next).saturating_add(settled) != all {
            return Err(format!(
                "{all} messages, {} undone, {settled} settled",
                self.undone(next)
            ));
        }
        Ok(())
    }
}
