//! The log of a topic is cut by its retention, or by its owner, whatever its groups have not done: nothing is known here any more of
//! what was cut off.

use crate::engine::desk::Desk;
use crate::engine::step::Engine;
use crate::state::{Slot, SlotKind, Slots};

impl Engine {
    /// The log begins elsewhere. The slots have it already.
    pub(super) fn cut_off(&mut self, slots: &Slots) {
        for (id, desk) in &mut self.desks {
            // Below the floor of an owned queue nothing is known anyway.
            if let Some(slot) = slots.slot(*id).filter(|slot| slot.kind() != SlotKind::Owned) {
                desk.cut_off(slot);
            }
        }
    }
}

impl Desk {
    /// Nothing below the floor is there any more. What a command under way says of it is refused, which ends that.
    fn cut_off(&mut self, slot: &Slot) {
        let floor = slot.floor();
        let out: Vec<u64> = self.out_below(floor);
        for offset in out {
            self.take_back(offset, true);
        }
        self.retries_left.retain(|(_, offset)| *offset >= floor);
        self.retries.retain(|(_, offset)| *offset >= floor);
        self.returned.retain(|_, ready| ready.offset >= floor);
        self.alone.retain(|_, ready| ready.offset >= floor);
        self.timers.cut_off(floor);
        if let Some(last) = floor.checked_sub(1) {
            self.elsewhere.done(0, last);
        }
        self.expiries.cut_off(floor);
        self.forwarder.too_large.retain(|offset| *offset >= floor);
        self.cursor = self.cursor.max(floor);
        for (key, origin) in self.keys.cut_off(floor) {
            self.free_key(slot, key, origin);
        }
    }
}
