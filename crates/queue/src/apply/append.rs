//! What an append does to the slots: rows of its marks; and of a carry, that messages go on under new offsets.

use jangada_machine::Effects;

use crate::command::{Carry, CarryRefused, IdWindow, Mark, Marks};
use crate::ids::SlotId;
use crate::state::{Context, HeldState, MessageState, SlotKind, Slots};
use crate::tables::{self, put_rows};

impl Slots {
    /// A batch with marks was appended, its first record at `base`. Writes its rows.
    pub fn appended(&mut self, base: u64, marks: &Marks, ids: Option<(IdWindow, u64)>, effects: &mut Effects) {
        if marks.is_empty() {
            return;
        }
        put_rows(base, marks, |at| Some(base + at), effects);
        if let Some((window, now_ms)) = ids {
            tables::put_ids(base, marks, window, now_ms, effects);
        }
        self.marks_end = base + marks.0.len() as u64;
    }

    /// Whether a carry may be applied. To be asked before its batch is appended.
    ///
    /// # Errors
    /// The batch must not be appended.
    pub fn judge_carry(&self, context: &Context, carry: &Carry) -> Result<(), CarryRefused> {
        if carry.term != context.at.term {
            return Err(CarryRefused::LeaderChanged);
        }
        if self.slots.is_empty() {
            return Err(CarryRefused::NoSlot);
        }
        if self.slots.values().any(|slot| slot.kind == SlotKind::Group) {
            return Err(CarryRefused::GroupSlot);
        }
        let next = context.next();
        let stable = self.stable(next);
        for offset in carry.messages.offsets() {
            if offset >= next || offset < context.start() {
                return Err(CarryRefused::Unknown { offset });
            }
            let is_out = self.slots.values().any(|slot| match slot.state(offset, next) {
                MessageState::Held(held) => matches!(held.state, HeldState::Moving | HeldState::Staged),
                // What is not decided would go out from its new place.
                MessageState::Free => offset >= stable,
                MessageState::Beyond | MessageState::Done => false,
            });
            if is_out {
                return Err(CarryRefused::Out { offset });
            }
        }
        Ok(())
    }

    /// The batch of a carry was appended, its first record at `base`: its messages go on there. What is done of them meanwhile is
    /// done there, too. [`Slots::judge_carry`] has allowed it.
    pub fn carry(&mut self, carry: &Carry, base: u64, effects: &mut Effects) {
        let next = base + carry.messages.len();
        let plain = Mark::default();
        let moves: Vec<(u64, u64)> = carry.messages.offsets().zip(base..next).collect();
        // The places in the order of what goes on in some slot; what is done everywhere already is found by no row.
        let mut origins: Vec<Option<u64>> = vec![None; moves.len()];
        let ids: Vec<SlotId> = self.slots.keys().copied().collect();
        for id in ids {
            self.change(id, |slot| {
                for (at, (old, new)) in moves.iter().copied().enumerate() {
                    if matches!(slot.state(old, next), MessageState::Done) {
                        slot.repeat(new);
                    } else {
                        slot.carry(old, new, carry.marks.0.get(at).unwrap_or(&plain));
                        let origin = slot.carried(new).map_or(old, |carried| carried.origin);
                        origins[at] = Some(origins[at].map_or(origin, |known| known.min(origin)));
                    }
                }
                slot.raise_floor();
            });
        }
        for ((old, new), _) in moves.iter().zip(&origins).filter(|(_, origin)| origin.is_some()) {
            tables::put_origin(*old, *new, effects);
        }
        if !carry.marks.is_empty() {
            put_rows(base, &carry.marks, |at| origins[at as usize], effects);
            self.marks_end = next;
        }
        self.carried_end = self.carried_end.max(moves.last().map_or(0, |(old, _)| old + 1));
    }
}
