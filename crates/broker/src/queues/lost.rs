//! How many messages slots have lost to retention.

use std::collections::BTreeMap;

use jangada_log::PartitionState;
use jangada_queue::{DoneCause, SlotId};

/// What the slots had lost when the desk looked last.
pub(super) type LostBefore = BTreeMap<SlotId, u64>;

/// How many messages each slot has lost so far.
pub(super) fn lost_so_far(state: &PartitionState) -> LostBefore {
    let slots = state.slots().iter();
    slots.map(|(id, slot)| (id, slot.settled(DoneCause::CutOff))).collect()
}
