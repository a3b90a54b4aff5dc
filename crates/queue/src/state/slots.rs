//! The slots of a partition.

use std::collections::BTreeMap;

use jangada_types::planted::{self, Bug};
use jangada_types::{LogPosition, Offset};

use super::held::{DoneCause, SlotKind};
use super::schedules::{Schedule, ScheduleKey};
use super::slot::Slot;
use super::transactions::UndecidedSet;
use crate::ids::{QueueId, SlotId};
use crate::limits::STATE_BYTES_MAX;
use crate::runs::number;

/// What the partition's log says of itself where a command is applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Context {
    /// The place of the entry in the log.
    pub at: LogPosition,
    /// The log start offset.
    pub log_start: Offset,
    /// The offset that the next record gets.
    pub next_offset: Offset,
}

impl Context {
    /// The log start offset as a number.
    pub(crate) fn start(&self) -> u64 {
        number(self.log_start)
    }

    /// The next offset as a number.
    pub(crate) fn next(&self) -> u64 {
        number(self.next_offset)
    }
}

/// The slots of a partition: equal on every replica that applied the same commands. A clone shares what is large.
///
/// A partition without queues has the default, which has no bytes in the partition's state.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Slots {
    pub(crate) slots: BTreeMap<SlotId, Slot>,
    /// The number of the slot that was opened last.
    pub(crate) last_slot: u32,
    /// The offset behind the last record that has marks; what lies at or above has none.
    pub(crate) marks_end: u64,
    /// The offset behind the highest record that was appended again: what a token of below names may be elsewhere now.
    pub(crate) carried_end: u64,
    pub(crate) schedules: BTreeMap<ScheduleKey, Schedule>,
    /// The transactions that are not over. Kept while there is a slot.
    pub(crate) undecided: UndecidedSet,
    /// What the state is counted with, bytes. Kept with each change; follows from the slots and transactions.
    pub(crate) bytes: usize,
}

impl Slots {
    /// There is no slot, and never was one, and no record has marks.
    pub fn is_unused(&self) -> bool {
        self.last_slot == 0 && self.marks_end == 0
    }

    /// The slot with the number.
    pub fn slot(&self, slot: SlotId) -> Option<&Slot> {
        self.slots.get(&slot)
    }

    /// The slots by their number.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (SlotId, &Slot)> {
        self.slots.iter().map(|(id, slot)| (*id, slot))
    }

    /// The slot of a queue.
    pub fn slot_of(&self, queue: QueueId) -> Option<SlotId> {
        let mut of_queue = self.slots.iter().filter(|(_, slot)| slot.queue == queue);
        of_queue.next().map(|(id, _)| *id)
    }

    /// What the state is counted with, bytes.
    pub fn state_bytes(&self) -> usize {
        self.bytes
    }

    /// Nothing is granted any more: what makes the state smaller is still taken.
    pub fn is_full(&self) -> bool {
        self.bytes >= STATE_BYTES_MAX
    }

    /// The schedules, by slot and name.
    pub fn schedules(&self) -> impl ExactSizeIterator<Item = (&ScheduleKey, &Schedule)> {
        self.schedules.iter()
    }

    /// The schedule of a name, and how far it is.
    pub fn schedule(&self, key: &ScheduleKey) -> Option<&Schedule> {
        self.schedules.get(key)
    }

    /// The number of the slot that was opened last; 0: none ever was.
    pub fn last_slot(&self) -> u32 {
        self.last_slot
    }

    /// The offset behind the last record that has marks.
    pub fn marks_end(&self) -> u64 {
        self.marks_end
    }

    /// The offset behind the highest record that was appended again.
    pub fn carried_end(&self) -> u64 {
        self.carried_end
    }

    /// The lowest floor of the slots that let the log be cut: below it no queue needs a record. None: no slot does.
    pub fn floor(&self) -> Option<u64> {
        let cuts = self.slots.values().filter(|slot| slot.kind != SlotKind::Group);
        cuts.map(needed_from).min()
    }

    /// The offset that the log must not begin above, whatever its retention says: the floor of the queue whose own it is. None: there is
    /// no such queue.
    pub fn kept_from(&self) -> Option<u64> {
        let keeps = self.slots.values().filter(|slot| slot.kind == SlotKind::Owned);
        keeps.map(needed_from).min()
    }

    /// The log begins at this offset from now on. What a slot had not done below it is lost, and counted as that.
    pub fn cut_off(&mut self, log_start: Offset) {
        for slot in self.slots.values_mut() {
            let before = slot.state_bytes();
            slot.finish_below(number(log_start), DoneCause::CutOff);
            self.bytes = self.bytes + slot.state_bytes() - before;
        }
        let ids: Vec<SlotId> = self.undecided.slots().collect();
        for id in ids {
            self.forget_staged(id, number(log_start));
        }
    }

    /// Changes a slot, and keeps the count of bytes.
    pub(crate) fn change<T>(&mut self, slot: SlotId, change: impl FnOnce(&mut Slot) -> T) -> Option<T> {
        let slot = self.slots.get_mut(&slot)?;
        let before = slot.state_bytes();
        let changed = change(slot);
        self.bytes = self.bytes + slot.state_bytes() - before;
        Some(changed)
    }
}

/// The first record that a slot needs.
fn needed_from(slot: &Slot) -> u64 {
    match planted::is(Bug::LogStartPassesLeased) {
        true => slot.next_free(slot.floor(), u32::MAX).0,
        false => slot.floor(),
    }
}
